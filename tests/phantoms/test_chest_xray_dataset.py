import hashlib

import highdicom as hd
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from medseg_monai.data import LUNGS
from medseg_monai.data.datalist import load_datalist
from medseg_monai.data.dicom.versions import apply_voi_lut
from medseg_monai.phantoms import (
    MANUFACTURERS,
    OPACITIES,
    PHANTOMS,
    draw_chest_xray,
    phantom_writer,
    write_chest_xray_phantoms,
)
from medseg_monai.phantoms.chest_xray import WHITE
from medseg_monai.phantoms.chest_xray_dataset import OPACITY_CYCLE

SIZE = (66, 80)
SEED = 4
COUNTS = {"training": 3, "validation": 1, "test": 1}


@pytest.fixture(scope="module", params=["png", "dicom"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "new" / "folder"
    path = write_chest_xray_phantoms(folder, counts=COUNTS, size=SIZE, seed=SEED, image_format=request.param)
    assert path == folder / "datalist.json"
    return request.param, [item for section in COUNTS for item in load_datalist(path, section)]


@pytest.fixture(scope="module")
def drawn():
    """What the five phantoms of ``written`` must be."""
    indices = [0, 1, 2, 0, 0]
    return [
        draw_chest_xray(size=SIZE, manufacturer="ab"[index % 2], seed=(SEED, number), opacities=OPACITY_CYCLE[index])
        for number, index in enumerate(indices, start=1)
    ]


def shown(file):
    """The image of a DICOM file with bright as dense, before any window."""
    stored = file.pixel_array.astype(int)
    return WHITE - stored if file.PhotometricInterpretation == "MONOCHROME1" else stored


def test_what_is_read_back_is_what_was_drawn_right_side_up(written, drawn):
    image_format, items = written
    for item, phantom in zip(items, drawn, strict=True):
        if image_format == "png":
            with Image.open(item["image"]) as image:
                assert image.mode == "L"
                values = np.asarray(image)
            np.testing.assert_array_equal(values, np.rint(phantom.image / WHITE * 255))
        else:
            np.testing.assert_array_equal(shown(dcmread(item["image"])), phantom.image)
        with Image.open(item["label"]) as label:
            assert label.mode == "L"
            np.testing.assert_array_equal(np.asarray(label), np.where(phantom.mask, 255, 0))
        for flipped in (np.flipud, np.fliplr):
            assert not np.array_equal(flipped(phantom.mask), phantom.mask)


def test_the_data_list_names_patients_and_manufacturers(written):
    image_format, items = written
    suffix = {"png": "png", "dicom": "dcm"}[image_format]
    assert [item["patient"] for item in items] == [f"phantom_{number:04d}" for number in range(1, 6)]
    assert [item["source"] for item in items] == [f"phantom_manufacturer_{name}" for name in "abaaa"]
    for item in items:
        assert set(item) == {"image", "label", "patient", "source", "name"}
        assert item["image"].endswith(f"images/{item['patient']}.{suffix}")


@pytest.fixture
def dicoms(tmp_path):
    path = write_chest_xray_phantoms(tmp_path, counts={"test": 2}, size=SIZE, seed=SEED, image_format="dicom")
    return {name: dcmread(item["image"]) for name, item in zip("ab", load_datalist(path, "test"), strict=True)}


def test_one_manufacturer_stores_the_inverse(dicoms, drawn):
    assert {name: file.PhotometricInterpretation for name, file in dicoms.items()} == {
        "a": "MONOCHROME1",
        "b": "MONOCHROME2",
    }
    for name, file in dicoms.items():
        stored, mask = file.pixel_array.astype(int), drawn["ab".index(name)].mask
        darker = stored[mask].mean() - stored[SIZE[0] * 2 // 3 :, SIZE[1] // 2 - 5 : SIZE[1] // 2 + 5].mean()
        assert (darker > 0) == (name == "a")
        assert (file.PresentationLUTShape == "INVERSE") == (name == "a")


def test_the_window_takes_black_and_white_of_the_unit_to_the_ends(dicoms):
    for name, file in dicoms.items():
        levels = np.array(MANUFACTURERS[name].levels)
        ends = np.sort(WHITE - levels if name == "a" else levels).astype(np.uint16)
        np.testing.assert_allclose(apply_voi_lut(ends, file), [0, 2**file.BitsStored - 1], atol=1)
        inner = np.array([ends[0] + 200, ends[1] - 200], dtype=np.uint16)
        low, high = apply_voi_lut(inner, file)
        assert 0 < low < high < 2**file.BitsStored - 1


def test_padding_is_the_border_and_nothing_else(dicoms, drawn):
    assert "PixelPaddingValue" not in dicoms["b"]
    padded = dicoms["a"].pixel_array == dicoms["a"].PixelPaddingValue
    np.testing.assert_array_equal(padded, ~drawn[0].field)
    assert padded.any()


def test_a_dicom_phantom_is_a_dx_image_with_its_own_study_and_size(dicoms, drawn):
    for file, phantom in zip(dicoms.values(), drawn, strict=False):
        assert (file.Modality, file.BitsAllocated, file.BitsStored) == ("DX", 16, 12)
        assert (file.Rows, file.Columns) == SIZE
        assert list(file.PatientOrientation) == ["L", "F"]
        np.testing.assert_allclose(file.ImagerPixelSpacing, phantom.spacing, rtol=1e-6)
        assert file.SOPInstanceUID == file.file_meta.MediaStorageSOPInstanceUID
    one, two = dicoms.values()
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "ManufacturerModelName"):
        assert one[keyword].value != two[keyword].value


def test_a_dicom_seg_can_refer_to_a_dicom_phantom(dicoms, drawn, tmp_path):
    for file, phantom in zip(dicoms.values(), drawn, strict=False):
        lungs = hd.seg.SegmentDescription(
            1, "lungs", LUNGS[0].category, LUNGS[0].type, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        segmentation = hd.seg.Segmentation(
            [file],
            phantom.mask.astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[lungs],
            series_instance_uid=hd.UID(),
            series_number=2,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="test",
            manufacturer_model_name="test",
            software_versions="1",
            device_serial_number="1",
        )
        segmentation.save_as(tmp_path / "seg.dcm")
        back = dcmread(tmp_path / "seg.dcm")
        np.testing.assert_array_equal(back.pixel_array.squeeze(), phantom.mask)
        assert back.StudyInstanceUID == file.StudyInstanceUID
        assert back.PatientID == file.PatientID


def test_format_and_manufacturer_change_neither_chests_nor_labels(tmp_path):
    orders = [("alternate", "png"), ("a", "png"), ("b", "dicom")]
    labels, sources = [], []
    for manufacturer, image_format in orders:
        path = write_chest_xray_phantoms(
            tmp_path / manufacturer,
            counts={"training": 2},
            size=(64, 64),
            seed=3,
            manufacturer=manufacturer,
            image_format=image_format,
        )
        items = load_datalist(path, "training")
        labels.append([np.asarray(Image.open(item["label"])) for item in items])
        sources.append([item["source"][-1] for item in items])
    assert sources == [["a", "b"], ["a", "a"], ["b", "b"]]
    np.testing.assert_array_equal(labels[0], labels[1])
    np.testing.assert_array_equal(labels[0], labels[2])


@pytest.mark.parametrize("image_format", ["png", "dicom"])
def test_the_same_seed_writes_the_same_files(tmp_path, image_format):
    def digests(name):
        write_chest_xray_phantoms(
            tmp_path / name, counts={"training": 2}, size=(64, 70), seed=3, image_format=image_format
        )
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    one = digests("one")
    assert one == digests("two")
    assert len(one) == 5


def test_each_manufacturer_gets_each_opacity_in_the_long_run():
    count = len(OPACITY_CYCLE) * len(MANUFACTURERS)
    pairs = {(index % len(MANUFACTURERS), OPACITY_CYCLE[index % len(OPACITY_CYCLE)]) for index in range(count)}
    assert pairs == {(maker, kind) for maker in range(len(MANUFACTURERS)) for kind in ((), *((o,) for o in OPACITIES))}


def test_a_lung_bundle_finds_its_phantoms_by_its_name():
    for bundle in ("lung_cxr_defunet", "lung_cxr_rescrnet"):
        assert phantom_writer(bundle) is PHANTOMS["lung_cxr"] is write_chest_xray_phantoms


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_format": "jpg"}, "image_format='jpg'.*png, dicom"),
        ({"manufacturer": "c"}, "manufacturer='c'.*alternate, a, b"),
        ({"counts": {"train": 1}}, "unknown sections train: choose from training, validation, test"),
        ({"counts": {"training": 0}}, "no phantom"),
        ({"counts": {"training": 2, "test": -1}}, "no phantom"),
        ({"size": (64, 64, 64)}, "not a 2D size"),
        ({"size": (32, 64)}, "at least 64"),
        ({"opacities": []}, "opacities is empty"),
        ({"opacities": [["asthma"]]}, "asthma"),
    ],
)
def test_a_mistaken_order_is_refused_before_anything_is_written(tmp_path, wrong, message):
    order = {"counts": {"training": 1}, "size": (64, 64), "seed": 0, **wrong}
    with pytest.raises(ValueError, match=message):
        write_chest_xray_phantoms(tmp_path / "out", **order)
    assert not (tmp_path / "out").exists()
