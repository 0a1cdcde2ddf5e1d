import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import Compose, LoadImaged, Orientationd

from medseg_monai.data.dicom import find_faults, find_series
from medseg_monai.phantoms import PHANTOMS, draw_thorax, phantom_writer, write_thorax_phantoms
from medseg_monai.phantoms.thorax_dataset import DISEASE_CYCLE, STORED_AXES

SIZE = (34, 38, 46)
SEED = 4
COUNTS = {"training": 3, "validation": 1, "test": 1}


@pytest.fixture(scope="module", params=["nii.gz", "dicom"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "new" / "folder"
    write_thorax_phantoms(folder, counts=COUNTS, size=SIZE, seed=SEED, image_format=request.param)
    return request.param, folder


def read(folder):
    """All items with absolute paths, in the order of their numbers."""
    sections = json.loads((folder / "datalist.json").read_text())
    items = [item for section in ("training", "validation", "test") for item in sections[section]]
    return [{k: str(folder / v) if k.startswith(("image", "label")) else v for k, v in item.items()} for item in items]


def load(item, image_format):
    reader = "ITKReader" if image_format == "dicom" else "NibabelReader"
    keys = ["image", "label", "label_infection"]
    return Compose(
        [
            LoadImaged("image", reader=reader, ensure_channel_first=True),
            LoadImaged(keys[1:], ensure_channel_first=True),
            Orientationd(keys, axcodes="SPL", labels=None),
        ]
    )(item)


def test_what_is_read_back_is_what_was_drawn_and_image_and_masks_share_one_grid(written):
    image_format, folder = written
    diseases = [*DISEASE_CYCLE[:3], DISEASE_CYCLE[0], DISEASE_CYCLE[0]]
    for number, (item, disease) in enumerate(zip(read(folder), diseases, strict=True), start=1):
        loaded = load(item, image_format)
        spacing = tuple(np.round(loaded["label"].pixdim.tolist(), 4))
        drawn = draw_thorax(size=SIZE, spacing=spacing, seed=(SEED, number), disease=disease)
        assert np.abs(loaded["image"][0].numpy() - drawn.image).max() == 0
        np.testing.assert_array_equal(loaded["label"][0].numpy(), drawn.label)
        np.testing.assert_array_equal(loaded["label_infection"][0].numpy(), drawn.infection)
        for key in ("label", "label_infection"):
            np.testing.assert_allclose(loaded[key].affine, loaded["image"].affine, atol=1e-3)


def test_the_patients_left_is_left_and_up_is_up_in_the_world(written):
    image_format, folder = written
    for item in read(folder):
        loaded = load(item, image_format)
        label, affine = loaded["label"][0].numpy(), loaded["label"].affine.numpy()

        def centre(*values, label=label, affine=affine):
            return (affine @ [*np.argwhere(np.isin(label, values)).mean(axis=0), 1])[:3]

        right, anterior, superior = centre(1, 2) - centre(3, 4, 5)
        assert right < -80, "RAS: the left lung lies to the negative"
        assert max(abs(anterior), abs(superior)) < 60
        assert (centre(1) - centre(2))[2] > 20
        assert (centre(1) - centre(2))[1] > 20


def test_grids_are_anisotropic_oblique_and_different(written):
    image_format, folder = written
    affines = [load(item, image_format)["image"].affine.numpy() for item in read(folder)]
    for affine in affines:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        directions = affine[:3, :3] / spacing
        assert np.ptp(spacing) > 0.3
        assert 0.5 < np.rad2deg(np.arccos(np.abs(directions).max(axis=0))).max() < 20
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-4)
    assert len({tuple(np.round(affine[:3, 3], 1)) for affine in affines}) == len(affines)


def test_nifti_files_are_stored_in_different_axis_orders(tmp_path):
    write_thorax_phantoms(tmp_path, counts={"training": 4}, size=SIZE, seed=1)
    items = read(tmp_path)
    stored = [tuple(nib.aff2axcodes(nib.load(item["image"]).affine)) for item in items]
    assert stored == [tuple(axes) for axes in STORED_AXES]
    for item in items:
        image, label = (nib.load(item[key]) for key in ("image", "label"))
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)


def test_a_dicom_phantom_is_one_regular_series_of_hounsfield_units(tmp_path):
    write_thorax_phantoms(tmp_path, counts={"training": 2}, size=SIZE, seed=1, image_format="dicom")
    uids = set()
    for item in read(tmp_path):
        (series,) = find_series(item["image"])
        assert find_faults(series) == []
        assert len(series.files) == SIZE[0]
        uids.add(series.uid)
        first = pydicom.dcmread(series.files[0])
        assert (first.RescaleIntercept, first.RescaleSlope, first.Modality) == (-1024, 1, "CT")
        assert (first.Rows, first.Columns) == SIZE[1:]
        assert first.PatientID == item["patient"]
    assert len(uids) == 2


def test_no_rotation_and_a_spacing_can_be_asked_for(tmp_path):
    write_thorax_phantoms(tmp_path, counts={"test": 1}, size=SIZE, seed=1, spacing=(5.0, 3.0, 4.0), oblique=0)
    affine = load(read(tmp_path)[0], "nii.gz")["image"].affine.numpy()
    np.testing.assert_allclose(affine[:3, :3], [[0, 0, -4], [0, -3, 0], [5, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("image_format", ["nii.gz", "dicom"])
def test_the_same_seed_writes_the_same_files(tmp_path, image_format):
    def digests(name):
        order = {"counts": {"training": 1}, "size": (32, 32, 32), "seed": 3, "image_format": image_format}
        write_thorax_phantoms(tmp_path / name, **order)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert digests("one") == digests("two")


def test_the_data_list_names_patients_and_diseases(written):
    _, folder = written
    items = read(folder)
    assert [item["patient"] for item in items] == [f"phantom_{number:04d}" for number in range(1, 6)]
    sources = ["phantom_healthy", "phantom_ground_glass", "phantom_emphysema", "phantom_healthy", "phantom_healthy"]
    assert [item["source"] for item in items] == sources
    for item in items:
        assert set(item) == {"image", "label", "label_infection", "patient", "source"}
        assert all(Path(item[key]).exists() for key in ("image", "label", "label_infection"))


def test_a_lobe_bundle_finds_its_phantoms_by_its_name():
    assert phantom_writer("lung_lobe_ct_ctsunet") is PHANTOMS["lung_lobe_ct"] is write_thorax_phantoms


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_format": "mha"}, r"image_format='mha'.*nii\.gz, dicom"),
        ({"counts": {"train": 1}}, "unknown sections train: choose from training, validation, test"),
        ({"counts": {"training": 0}}, "no phantom"),
        ({"counts": {"training": 2, "test": -1}}, "no phantom"),
        ({"size": (64, 64)}, "not a 3D size"),
        ({"oblique": 60.0}, "oblique=60.0"),
        ({"diseases": []}, "diseases is empty"),
        ({"diseases": [["asthma"]]}, "asthma"),
        ({"size": (16, 64, 64)}, "at least 32"),
    ],
)
def test_a_mistaken_order_is_refused_before_anything_is_written(tmp_path, wrong, message):
    order = {"counts": {"training": 1}, "size": (32, 32, 32), "seed": 0, **wrong}
    with pytest.raises(ValueError, match=message):
        write_thorax_phantoms(tmp_path / "out", **order)
    assert not (tmp_path / "out").exists()
