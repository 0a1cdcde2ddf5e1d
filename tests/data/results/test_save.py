"""SaveResultsd and its writers: files in the grid of the input, named after it, all or nothing."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import (
    AsDiscreted,
    Compose,
    Flipd,
    Invertd,
    LoadImaged,
    MapTransform,
    Orientationd,
    Resized,
    ScaleIntensityRanged,
    Spacingd,
)
from PIL import Image
from pydicom import dcmread

from medseg_monai.data import (
    LUNG_LOBES,
    LUNGS,
    DicomSegWriter,
    LobeTableWriter,
    NIfTIWriter,
    PNGWriter,
    RadiographReader,
    SaveResultsd,
    VolumeReader,
)
from medseg_monai.data.results import masks as masks_module
from medseg_monai.data.results.case import SavedCase
from medseg_monai.data.results.save import PartlySavedError
from tests.data.dicom_files import OBLIQUE, tags, write_series
from tests.data.radiograph_files import asymmetric, write_radiograph

NAMES = [lobe.name for lobe in LUNG_LOBES]
LIDC = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "chest_ct" / "lidc_idri_1011"

SHAPE = (7, 5, 6)
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.diag((-1, -1, 1)) @ OBLIQUE * (0.7, 0.9, 2.5)  # a voxel has 1.575 mm^3
AFFINE[:3, 3] = (110.5, 90.25, 40)


@pytest.fixture
def hu() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, -900, SHAPE).astype(np.int16)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 6, SHAPE).astype(np.uint8)


@pytest.fixture
def scan(tmp_path: Path, hu: np.ndarray) -> Path:
    path = tmp_path / "in" / "scan.v2.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(hu, AFFINE), path)
    return path


def preprocessing(spacing: tuple[float, float, float] | None = None) -> Compose:
    steps: list[MapTransform] = [
        LoadImaged("image", reader=VolumeReader(), ensure_channel_first=True),
        Orientationd("image", axcodes="SPL", labels=None),
        ScaleIntensityRanged("image", -1200, 400, 0, 1, clip=True),
    ]
    return Compose(steps if spacing is None else [*steps, Spacingd("image", pixdim=spacing)])


def predicted(path: Path, labels: np.ndarray) -> dict:
    """An item as a bundle's postprocessing has it before the savers: through collation, Orientationd and back."""
    transform = preprocessing()
    batch = list_data_collate([transform({"image": str(path)})])
    plain = MetaTensor(torch.from_numpy(labels)[None], affine=batch["image"][0].meta["original_affine"])
    turned = Orientationd("pred", axcodes="SPL", labels=None)({"pred": plain})["pred"]
    batch["pred"] = MetaTensor(turned.as_tensor()[None].float(), meta=batch["image"].meta)
    (item,) = decollate_batch(batch)
    return Invertd("pred", transform=transform, orig_keys="image", nearest_interp=True)(item)


def lobe_results(folder: Path) -> SaveResultsd:
    writers = [
        NIfTIWriter(),
        DicomSegWriter(LUNG_LOBES, algorithm_name="CTSU-Net", algorithm_version="0.1.0"),
        LobeTableWriter(NAMES, VolumeReader()),
    ]
    return SaveResultsd("pred", folder, writers)


def label_map(folder: Path) -> SaveResultsd:
    return SaveResultsd("pred", folder, [NIfTIWriter()])


def lobe_table_of(folder: Path, masks: Path) -> SaveResultsd:
    return SaveResultsd("pred", folder, [LobeTableWriter(NAMES, VolumeReader(), infection_dir=masks)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_nifti_scan_gets_a_label_map_in_its_grid_and_a_lobe_table_but_no_dicom(tmp_path, scan, labels, hu):
    out = tmp_path / "out"
    item = predicted(scan, labels)
    written = lobe_results(out).save(item)
    expected = ["scan.v2.nii.gz", "scan.v2_lobes.csv", "scan.v2_lobes.json"]
    assert sorted(path.name for path in written) == names(out) == expected
    image = nib.load(out / "scan.v2.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    assert image.header.get_xyzt_units() == nib.load(scan).header.get_xyzt_units()
    rows = json.loads((out / "scan.v2_lobes.json").read_text())["lobes"]
    for number, row in enumerate(rows, start=1):
        values = hu[labels == number].astype(np.float64)
        assert row["volume_ml"] == pytest.approx(values.size * 0.7 * 0.9 * 2.5 / 1000, rel=1e-5)
        assert row["mean_hu"] == pytest.approx(values.mean(), abs=1e-9)
        assert row["percent_below_950_hu"] == pytest.approx(100 * (values < -950).mean(), abs=1e-9)
    with (out / "scan.v2_lobes.csv").open(newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == [*NAMES, "all lobes"]


def test_a_dicom_series_gets_all_results_named_after_its_folder(tmp_path, labels):
    series = write_series(tmp_path / "1.2.840.77", shape=SHAPE)
    out = tmp_path / "out"
    item = predicted(tmp_path / "1.2.840.77", labels)
    lobe_results(out).save(item)
    stem = "1.2.840.77"
    assert names(out) == [f"{stem}.nii.gz", f"{stem}.seg.dcm", f"{stem}_lobes.csv", f"{stem}_lobes.json"]
    image = nib.load(out / f"{stem}.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    np.testing.assert_allclose(image.affine, series.affine, atol=1e-5)
    segmentation = dcmread(out / f"{stem}.seg.dcm")
    order = [dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in series.files]
    back = np.zeros(SHAPE, dtype=np.uint8)
    for frame, group in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        slab = back[:, :, order.index(reference.ReferencedSOPInstanceUID)]
        slab[frame.T > 0] = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(back, labels)
    rows = json.loads((out / f"{stem}_lobes.json").read_text())["lobes"]
    for number, row in enumerate(rows, start=1):
        assert row["mean_hu"] == pytest.approx(series.volume[labels == number].mean(dtype=np.float64), abs=1e-9)


def test_a_series_chosen_by_its_uid_is_read_again_for_the_table(tmp_path, labels):
    first = write_series(tmp_path / "study" / "a", shape=SHAPE)
    write_series(tmp_path / "study" / "b", shape=SHAPE)
    item = predicted(tmp_path / "study" / first.uid, labels)
    lobe_results(tmp_path / "out").save(item)
    table = json.loads((tmp_path / "out" / f"{first.uid}_lobes.json").read_text())
    expected = first.volume[labels > 0].mean(dtype=np.float64)
    assert table["all_lobes"]["mean_hu"] == pytest.approx(expected, abs=1e-9)
    assert len(names(tmp_path / "out")) == 4


PLACE = ("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d")
PLACE += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1000), ("meter", 0.001), ("unknown", 1)])
@pytest.mark.parametrize(("qcode", "scode"), [(1, 2), (2, 0), (0, 4), (0, 0), (1, 1)])
def test_a_mask_has_both_forms_codes_and_units_of_its_scan_and_the_table_is_in_ml(
    tmp_path, hu, labels, qcode, scode, unit, factor
):
    place = AFFINE.copy()
    place[:3] *= factor
    moved = place.copy()
    moved[2, 3] += 25 * factor
    image = nib.Nifti1Image(hu, None)
    image.set_qform(moved, qcode)
    image.set_sform(place, scode)
    image.header.set_zooms(np.multiply((0.7, 0.9, 2.5), factor))
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "scan.nii")
    lobe_results(tmp_path / "out").save(predicted(tmp_path / "scan.nii", labels))
    scan, mask = (nib.load(path).header for path in (tmp_path / "scan.nii", tmp_path / "out" / "scan.nii.gz"))
    for entry in PLACE:
        np.testing.assert_array_equal(mask[entry], scan[entry], err_msg=entry)
    np.testing.assert_array_equal(mask["pixdim"][:4], scan["pixdim"][:4])
    for form in ("qform", "sform"):
        np.testing.assert_array_equal(getattr(mask, f"get_{form}")(), getattr(scan, f"get_{form}")())
    assert mask.get_data_dtype() == np.uint8
    table = json.loads((tmp_path / "out" / "scan_lobes.json").read_text())
    expected = (labels > 0).sum() * 0.7 * 0.9 * 2.5 / 1000
    assert table["all_lobes"]["volume_ml"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prefer", ["scan", "mask"])
def test_itk_places_a_mask_on_its_scan_where_the_forms_disagree(tmp_path, hu, labels, prefer):
    moved = AFFINE.copy()
    moved[2, 3] += 25
    image = nib.Nifti1Image(hu, AFFINE)
    image.set_qform(moved, 1 if prefer == "scan" else 2)
    image.set_sform(AFFINE, 2)
    nib.save(image, tmp_path / "scan.nii")
    label_map(tmp_path / "out").save(predicted(tmp_path / "scan.nii", labels))
    scan, mask = (itk.imread(str(path)) for path in (tmp_path / "scan.nii", tmp_path / "out" / "scan.nii.gz"))
    np.testing.assert_allclose(mask.GetOrigin(), scan.GetOrigin())
    np.testing.assert_allclose(itk.array_from_matrix(mask.GetDirection()), itk.array_from_matrix(scan.GetDirection()))


def test_a_metaimage_gives_the_same_label_map_and_table_as_the_nifti_scan(tmp_path, scan, labels, hu):
    image = itk.image_view_from_array(np.ascontiguousarray(hu.T))
    lps = np.diag((-1, -1, 1, 1)) @ AFFINE
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / (0.7, 0.9, 2.5))))
    image.SetOrigin(lps[:3, 3].tolist())
    itk.imwrite(image, str(tmp_path / "meta.mha"))
    for path in (scan, tmp_path / "meta.mha"):
        lobe_results(tmp_path / "out").save(predicted(path, labels))
    mine, other = (nib.load(tmp_path / "out" / name) for name in ("meta.nii.gz", "scan.v2.nii.gz"))
    np.testing.assert_array_equal(np.asarray(mine.dataobj), labels)
    np.testing.assert_allclose(mine.affine, other.affine, atol=1e-5)
    tables = [json.loads((tmp_path / "out" / name).read_text()) for name in ("meta_lobes.json", "scan.v2_lobes.json")]
    assert tables[0]["all_lobes"]["mean_hu"] == tables[1]["all_lobes"]["mean_hu"]


def test_as_a_transform_it_writes_and_returns_the_item_as_it_is(tmp_path, scan, labels):
    item = predicted(scan, labels)
    result = label_map(tmp_path / "out")(item)
    assert result == item
    assert result["pred"] is item["pred"]
    assert names(tmp_path / "out") == ["scan.v2.nii.gz"]


def test_another_output_folder_can_be_given_for_a_case(tmp_path, scan, labels):
    written = lobe_results(tmp_path / "configured").save(predicted(scan, labels), tmp_path / "later")
    assert {path.parent for path in written} == {tmp_path / "later"}
    assert not (tmp_path / "configured").exists()


def test_the_same_labels_give_the_same_bytes(tmp_path, scan, labels):
    item = predicted(scan, labels)
    (first,) = label_map(tmp_path / "a").save(item)
    (second,) = label_map(tmp_path / "b").save(item)
    assert first.read_bytes() == second.read_bytes()


def test_an_infection_mask_adds_percentages_and_scores(tmp_path, scan, hu):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[0, 0], labels[1, :4] = 1, 2
    infection = np.zeros(SHAPE, dtype=np.uint8)
    infection[0, 0, :3], infection[1, 0, 0] = 1, 1
    (tmp_path / "masks").mkdir()
    nib.save(nib.Nifti1Image(infection, AFFINE), tmp_path / "masks" / "scan.v2.nii")
    nib.save(nib.Nifti1Image(infection * 0, AFFINE), tmp_path / "masks" / "scan.nii.gz")
    saver = lobe_table_of(tmp_path, tmp_path / "masks")
    as_json, _ = saver.save(predicted(scan, labels))
    table = json.loads(as_json.read_text())
    assert [row["percent_infected"] for row in table["lobes"]] == [50, 100 / 24, None, None, None]
    assert [row["severity_score"] for row in table["lobes"]] == [3, 1, None, None, None]
    assert table["all_lobes"]["severity_score"] == 4


def test_a_folder_of_infection_masks_that_is_not_there_is_refused_before_any_case(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        lobe_table_of(tmp_path, tmp_path / "nowhere")


def test_an_infection_mask_that_is_missing_doubled_or_elsewhere_is_refused(tmp_path, scan, labels):
    masks = tmp_path / "masks"
    masks.mkdir()
    saver = lobe_table_of(tmp_path / "out", masks)
    item = predicted(scan, labels)
    with pytest.raises(FileNotFoundError, match=r"masks: no infection mask for 'scan\.v2'"):
        saver.save(item)
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.7
    nib.save(nib.Nifti1Image(labels * 0, shifted), masks / "scan.v2.nii.gz")
    with pytest.raises(ValueError, match=r"scan\.v2\.nii\.gz: .*not in the grid of the scan"):
        saver.save(item)
    nib.save(nib.Nifti1Image(labels * 0, AFFINE), masks / "scan.v2.nii")
    with pytest.raises(ValueError, match=r"several infection masks for 'scan\.v2': scan\.v2\.nii, scan\.v2\.nii\.gz"):
        saver.save(item)
    assert names(tmp_path / "out") == []


def test_a_writer_that_fails_does_not_keep_the_others_from_writing(tmp_path, labels):
    write_series(tmp_path / "ct", shape=SHAPE, edit=tags(1, 4, SOPInstanceUID="1.2.3"))
    item = predicted(tmp_path / "ct", labels)
    with pytest.raises(PartlySavedError, match=r"^DicomSegWriter: .*SOPInstanceUID of .* is the same.*") as error:
        lobe_results(tmp_path / "out").save(item)
    assert {path.name for path in error.value.files} == set(names(tmp_path / "out"))
    assert names(tmp_path / "out") == ["ct.nii.gz", "ct_lobes.csv", "ct_lobes.json"]
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out" / "ct.nii.gz").dataobj), labels)


def test_every_writer_that_fails_is_named_also_if_a_fault_of_the_program_stopped_it(tmp_path, scan, labels):
    class Broken(NIfTIWriter):
        def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
            raise TypeError("a fault of ours")

    class Full(NIfTIWriter):
        def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
            raise OSError("no space left")

    saver = SaveResultsd("pred", tmp_path / "out", [Broken(), NIfTIWriter(), Full()])
    with pytest.raises(PartlySavedError) as error:
        saver.save(predicted(scan, labels))
    assert str(error.value) == "Broken: a fault of ours; Full: no space left"
    assert names(tmp_path / "out") == ["scan.v2.nii.gz"]


def test_what_a_result_needs_is_told_of_the_input_alone(tmp_path, scan, labels):
    write_series(tmp_path / "ct", shape=SHAPE, edit=tags(1, 4, SOPInstanceUID="1.2.3"))
    assert lobe_results(tmp_path).check(preprocessing()({"image": str(scan)})) == ["", "", ""]
    nothing, of_seg, of_table = lobe_results(tmp_path).check(preprocessing()({"image": str(tmp_path / "ct")}))
    assert (nothing, of_table) == ("", "")
    assert of_seg.startswith(f"DicomSegWriter: {tmp_path / 'ct'}: SOPInstanceUID of ")
    radiograph = write_radiograph(tmp_path / "x.dcm", asymmetric(9, 13), SeriesInstanceUID=None)
    image = LoadImaged("image", reader=RadiographReader(), ensure_channel_first=True)({"image": radiograph})
    seg = DicomSegWriter(LUNGS, algorithm_name="a", algorithm_version="1")
    (of_radiograph,) = SaveResultsd("pred", tmp_path, [seg]).check(image)
    assert of_radiograph.startswith(f"DicomSegWriter: {radiograph}: no usable SeriesInstanceUID")


@pytest.mark.parametrize(
    ("value", "shift", "text"),
    [
        (0, 0.7, "not in the grid of the scan"),
        (2, 0.0, "must have the values 0 and 1"),
        (None, 0.0, "no infection"),
    ],
)
def test_an_infection_mask_is_looked_at_before_there_is_a_label_map(tmp_path, scan, value, shift, text):
    masks = tmp_path / "masks"
    masks.mkdir()
    if value is not None:
        place = AFFINE.copy()
        place[0, 3] += shift
        nib.save(nib.Nifti1Image(np.full(SHAPE, value, np.uint8), place), masks / "scan.v2.nii.gz")
    (fault,) = lobe_table_of(tmp_path, masks).check(preprocessing()({"image": str(scan)}))
    assert fault.startswith("LobeTableWriter: ")
    assert text in fault


def test_a_label_map_that_is_not_back_in_the_grid_of_its_input_is_refused(tmp_path, scan, labels):
    item = predicted(scan, labels)
    turned = Orientationd("pred", axcodes="SPL", labels=None)(item)
    mirrored = dict(item, pred=item["pred"].clone())
    mirrored["pred"].affine = item["pred"].affine @ torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    saver = lobe_results(tmp_path / "out")
    with pytest.raises(ValueError, match=r"label map of .*scan\.v2\.nii\.gz: .*not in the grid .* Invertd"):
        saver.save(turned)
    with pytest.raises(ValueError, match="not in the grid"):
        saver.save(mirrored)
    assert not (tmp_path / "out").exists()


def test_a_map_with_other_values_than_labels_is_refused(tmp_path, scan, labels):
    item = predicted(scan, labels)
    for value in (0.5, -1.0, 256.0):
        with pytest.raises(ValueError, match=r"scan\.v2\.nii\.gz: expected integer labels from 0 to 255"):
            label_map(tmp_path / "out").save({**item, "pred": item["pred"] * 0 + value})
    with pytest.raises(ValueError, match=r"expected one label map \[1, X, Y, Z\], got \[2, 7, 5, 6\]"):
        label_map(tmp_path / "out").save({**item, "pred": torch.cat([item["pred"]] * 2)})
    with pytest.raises(ValueError, match="one label map per case, got keys="):
        SaveResultsd(["pred", "label"], tmp_path / "out", [NIfTIWriter()])


def test_resampling_and_back_stays_within_the_tolerance_of_the_grid(tmp_path, scan, labels):
    transform = preprocessing(spacing=(1.3, 1.1, 0.8))
    batch = list_data_collate([transform({"image": str(scan)})])
    batch["pred"] = MetaTensor((batch["image"] > 0.15).float(), meta=batch["image"].meta)
    (item,) = decollate_batch(batch)
    item = Invertd("pred", transform=transform, orig_keys="image", nearest_interp=True)(item)
    (path,) = label_map(tmp_path / "out").save(item)
    image = nib.load(path)
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    assert set(np.unique(image.dataobj)) == {0, 1}


def test_a_file_that_cannot_be_finished_leaves_the_older_one(tmp_path, scan, labels, monkeypatch):
    item = predicted(scan, labels)
    out = tmp_path / "out"
    out.mkdir()
    (out / "scan.v2.nii.gz").write_bytes(b"older")

    def full(self: nib.Nifti1Image, stream: object) -> None:
        stream.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full)
    with pytest.raises(OSError, match="no space left"):
        label_map(out).save(item)
    assert (out / "scan.v2.nii.gz").read_bytes() == b"older"
    assert names(out) == ["scan.v2.nii.gz"]


def test_an_interrupt_leaves_no_half_written_file(tmp_path, scan, labels, monkeypatch):
    def interrupted(path: Path, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(masks_module.gzip.GzipFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        label_map(tmp_path / "out").save(predicted(scan, labels))
    assert names(tmp_path / "out") == []


def test_a_real_chest_ct_gets_all_results_in_its_own_grid(tmp_path):
    if not LIDC.is_dir():
        pytest.skip(f"no series at {LIDC}; set MEDSEG_DATA.")
    image = LoadImaged("image", reader=VolumeReader(), ensure_channel_first=True)({"image": str(LIDC)})["image"]
    block = torch.zeros_like(image, dtype=torch.uint8)
    block[:, 150:170, 200:240, 60:70] = 3
    item = {"image": image, "pred": MetaTensor(block.as_tensor(), meta=image.meta)}
    lobe_results(tmp_path).save(item)
    stem = LIDC.name
    assert names(tmp_path) == [f"{stem}.nii.gz", f"{stem}.seg.dcm", f"{stem}_lobes.csv", f"{stem}_lobes.json"]
    frames = dcmread(tmp_path / f"{stem}.seg.dcm").pixel_array
    assert frames.shape[0] == 10
    assert frames.sum() == 20 * 40 * 10
    assert frames[:, 200:240, 150:170].all()
    row = json.loads((tmp_path / f"{stem}_lobes.json").read_text())["lobes"][2]
    assert row["volume_ml"] == pytest.approx(8000 * abs(np.linalg.det(image.affine)) / 1000, rel=1e-9)
    assert row["mean_hu"] == pytest.approx(float(image[block > 0].double().mean()), abs=1e-3)


def test_a_scan_that_its_reader_kept_is_not_read_again_for_the_table(tmp_path, scan, labels, hu, monkeypatch):
    reader = VolumeReader(keep_last=True)
    read = []
    monkeypatch.setattr(
        VolumeReader, "_load", lambda self, path, load=VolumeReader._load: read.append(path) or load(self, path)
    )
    reader.get_data(reader.read(scan))
    saver = SaveResultsd("pred", tmp_path / "out", [LobeTableWriter(NAMES, reader)])
    as_json, _ = saver.save(predicted(scan, labels))
    assert read == [scan, scan]  # once here, once by ``predicted``, which has a reader of its own
    table = json.loads(as_json.read_text())
    assert table["all_lobes"]["mean_hu"] == pytest.approx(hu[labels > 0].mean(dtype=np.float64), abs=1e-9)


def test_a_scan_that_is_not_the_last_one_read_is_read_for_the_table(tmp_path, scan, labels, hu):
    other = tmp_path / "in" / "other.nii.gz"
    nib.save(nib.Nifti1Image(hu * 0, AFFINE), other)
    reader = VolumeReader(keep_last=True)
    reader.get_data(reader.read(other))
    as_json, _ = SaveResultsd("pred", tmp_path / "out", [LobeTableWriter(NAMES, reader)]).save(predicted(scan, labels))
    table = json.loads(as_json.read_text())
    assert table["all_lobes"]["mean_hu"] == pytest.approx(hu[labels > 0].mean(dtype=np.float64), abs=1e-9)


CHEST = asymmetric(331, 417, highest=255).astype(np.uint8)


def save_lungs(output: Path) -> SaveResultsd:
    seg = DicomSegWriter(LUNGS, algorithm_name="Res-CR-Net", algorithm_version="0.1.0")
    return SaveResultsd("pred", output, [PNGWriter(scale=255), seg])


def predict_bright(path: Path, output: Path) -> dict:
    """What a bundle does, with "brighter than grey" for the network: resized, flipped, predicted, inverted, saved."""
    before = Compose(
        [
            LoadImaged("image", reader=RadiographReader(), ensure_channel_first=True),
            Flipd("image", spatial_axis=0),
            Resized("image", (120, 136)),
        ]
    )
    after = Compose(
        [
            Invertd("pred", before, orig_keys="image", nearest_interp=False),
            AsDiscreted("pred", threshold=127.5),
            save_lungs(output),
        ]
    )
    batch = list_data_collate([before({"image": path})])
    batch["pred"] = batch["image"] * 1
    return after(decollate_batch(batch)[0])


def test_a_dicom_radiograph_gives_a_png_and_a_seg_of_its_matrix_upright(tmp_path):
    source = write_radiograph(tmp_path / "in" / "x.dcm", CHEST)
    predict_bright(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.png", "x.seg.dcm"]
    png = np.asarray(Image.open(tmp_path / "out" / "x.png"))
    assert png.shape == CHEST.shape
    assert ((png > 0) == (CHEST > 127)).mean() > 0.98
    np.testing.assert_array_equal(dcmread(tmp_path / "out" / "x.seg.dcm").pixel_array * 255, png)


def test_a_png_gives_the_same_mask_as_the_dicom_of_the_same_picture_and_no_seg(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(CHEST).save(tmp_path / "in" / "x.png")
    predict_bright(tmp_path / "in" / "x.png", tmp_path / "png")
    predict_bright(write_radiograph(tmp_path / "in" / "x.dcm", CHEST), tmp_path / "dicom")
    assert [path.name for path in (tmp_path / "png").iterdir()] == ["x.png"]
    assert (tmp_path / "png" / "x.png").read_bytes() == (tmp_path / "dicom" / "x.png").read_bytes()


def test_a_mask_that_is_not_back_in_the_matrix_of_its_radiograph_is_refused(tmp_path):
    source = write_radiograph(tmp_path / "x.dcm", CHEST)
    item = LoadImaged("image", reader=RadiographReader(), ensure_channel_first=True)({"image": source})
    lungs = {**item, "pred": (item["image"] > 127).float()}
    saver = save_lungs(tmp_path / "out")
    flipped = Flipd("pred", spatial_axis=1)(lungs)
    with pytest.raises(ValueError, match=r"x\.dcm: \(331, 417\), not in the grid .*Invertd"):
        saver(flipped)
    with pytest.raises(ValueError, match=r"x\.dcm: \(40, 50\), not in the grid of the scan or image with \(331, 417\)"):
        saver(Resized("pred", (40, 50), mode="nearest")(lungs))
    with pytest.raises(ValueError, match=r"one label map \[1, H, W\], got \[2, 331, 417\]"):
        saver({**lungs, "pred": lungs["pred"].repeat(2, 1, 1)})
    with pytest.raises(ValueError, match="expected integer labels"):
        saver({**lungs, "pred": lungs["pred"] / 2})
    assert not (tmp_path / "out").exists()
    assert saver.save(lungs) == [tmp_path / "out" / "x.png", tmp_path / "out" / "x.seg.dcm"]
