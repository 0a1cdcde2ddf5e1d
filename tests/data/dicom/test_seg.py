"""write_dicom_seg: read back voxel for voxel by pydicom alone and by highdicom, whatever the source lacks."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from nibabel.affines import apply_affine
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage
from skimage.color import lab2rgb

from medseg_monai.data import (
    ABDOMINAL_ORGANS,
    LUNG_LOBES,
    LUNGS,
    OPTIC_DISC,
    RETINAL_VESSEL,
    find_organ,
    write_dicom_seg,
    write_radiograph_seg,
)
from medseg_monai.data.dicom.seg import check_seg_source
from tests.data.dicom_files import WrittenSeries, find_segment, tags, write_series
from tests.data.photograph_files import scenery, write_photograph
from tests.data.radiograph_files import asymmetric, write_radiograph

SHAPE = (7, 5, 6)
SEVERAL_EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime")


@pytest.fixture
def labels() -> np.ndarray:
    """All five lobes and background at random, and a slice with nothing."""
    labels = np.random.default_rng(1).integers(0, 6, SHAPE).astype(np.uint8)
    labels[:, :, 2] = 0
    return labels


def write(path: Path, labels: np.ndarray, series: WrittenSeries, **options: object) -> Path:
    arguments = {"source_files": series.files, "segments": LUNG_LOBES} | options
    write_dicom_seg(path, labels, algorithm_name="CTSU-Net", algorithm_version="0.1.0", **arguments)
    return path


def read_by_pydicom(path: Path, series: WrittenSeries) -> np.ndarray:
    """The label map, each frame put to the slice whose source instance it names; positions must be those of it."""
    file = dcmread(path)
    frames = file.pixel_array
    frames = frames[None] if frames.ndim == 2 else frames
    sources = [dcmread(source, stop_before_pixels=True) for source in series.files]
    index = {source.SOPInstanceUID: z for z, source in enumerate(sources)}
    shared = file.SharedFunctionalGroupsSequence[0]
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == list(sources[0].PixelSpacing)
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(orientation, sources[0].ImageOrientationPatient, atol=1e-9)
    labels = np.zeros((len(sources), *frames.shape[1:]), dtype=np.uint8)
    for frame, group in zip(frames, file.PerFrameFunctionalGroupsSequence, strict=True):
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        z = index[reference.ReferencedSOPInstanceUID]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, sources[z].ImagePositionPatient, atol=1e-9)
        assert not labels[z][frame > 0].any()
        labels[z][frame > 0] = segment
    return labels.T


def test_a_label_map_is_read_back_voxel_for_voxel_by_pydicom_alone(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    path = write(tmp_path / "lobes.seg.dcm", labels, series)
    np.testing.assert_array_equal(read_by_pydicom(path, series), labels)


def test_each_segment_is_read_back_voxel_for_voxel_by_highdicom(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    segmentation = hd.seg.segread(write(tmp_path / "lobes.seg.dcm", labels, series))
    sources = [dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in series.files]
    for number in range(1, 6):
        mask = segmentation.get_pixels_by_source_instance(
            sources, segment_numbers=[number], assert_missing_frames_are_empty=True
        )[..., 0]
        np.testing.assert_array_equal(mask.T, labels == number)


def test_each_voxel_lies_where_it_lies_in_the_source(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    path = write(tmp_path / "lobes.seg.dcm", labels, series)
    for number in range(1, 6):
        expected = apply_affine(np.diag((-1, -1, 1, 1)) @ series.affine, np.argwhere(labels == number))
        found = find_segment(path, number)
        np.testing.assert_allclose(in_order(found), in_order(expected), atol=1e-4)


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(2).T)]


def test_the_frames_stand_segment_by_segment_in_the_order_of_the_slices_from_the_last_to_the_first(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    file = dcmread(write(tmp_path / "lobes.seg.dcm", labels, series))
    order = [dcmread(source, stop_before_pixels=True).SOPInstanceUID for source in series.files]
    found = [
        (
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            order.index(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID),
        )
        for group in file.PerFrameFunctionalGroupsSequence
    ]
    expected = [
        (number, z) for number in range(1, 6) for z in reversed(range(SHAPE[2])) if (labels[..., z] == number).any()
    ]
    assert found == expected


def test_the_lobes_are_coded_and_the_algorithm_is_named(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    file = dcmread(write(tmp_path / "lobes.seg.dcm", labels, series))
    assert file.SOPClassUID == file.file_meta.MediaStorageSOPClassUID == SegmentationStorage
    assert (file.Modality, file.SegmentationType, file.BitsAllocated) == ("SEG", "BINARY", 1)
    described = {
        item.SegmentNumber: (
            item.SegmentLabel,
            item.SegmentedPropertyTypeCodeSequence[0].CodeValue,
            item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning,
        )
        for item in file.SegmentSequence
    }
    assert described == {
        1: ("left upper lobe", "44714003", "Upper lobe of left lung"),
        2: ("left lower lobe", "41224006", "Lower lobe of left lung"),
        3: ("right upper lobe", "42400003", "Upper lobe of right lung"),
        4: ("right lower lobe", "266005", "Lower lobe of right lung"),
        5: ("right middle lobe", "72481006", "Middle lobe of right lung"),
    }
    for item in file.SegmentSequence:
        assert item.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "SCT"
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("CTSU-Net", "0.1.0")
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == codes.DCM.ArtificialIntelligence.value
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        shown = np.multiply(item.RecommendedDisplayCIELabValue, (100 / 0xFFFF, 255 / 0xFFFF, 255 / 0xFFFF))
        expected = LUNG_LOBES[item.SegmentNumber - 1].colour
        np.testing.assert_allclose(lab2rgb(shown - (0, 128, 128)) * 255, expected, atol=0.5)
    assert (LUNG_LOBES[0].type, LUNG_LOBES[4].type) == (
        codes.SCT.StructureOfUpperLobeOfLeftLung,
        codes.SCT.MiddleLobeOfRightLung,
    )


def test_it_belongs_to_the_patient_study_and_frame_of_reference_of_the_source_in_a_series_of_its_own(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE, edit=tags(PatientAge="063Y", PatientSex="F"))
    source = dcmread(series.files[0])
    file = dcmread(write(tmp_path / "lobes.seg.dcm", labels, series))
    for keyword in ("PatientName", "PatientID", "PatientSex", "PatientAge", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert file[keyword].value == source[keyword].value, keyword
    assert file.SeriesInstanceUID != source.SeriesInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in file.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in series.files}
    assert file.ReferencedSeriesSequence[0].SeriesInstanceUID == series.uid


def patient_data(file: Dataset) -> dict[str, object]:
    """Values of the patient's and the study's group that are not empty, but for UIDs and dates that the SEG makes."""
    groups = (0x0010, 0x0032, 0x0038, 0x0040)
    return {element.keyword: element.value for element in file if element.tag.group in groups and element.value}


def test_a_source_without_patient_or_study_data_is_written_and_nothing_is_made_up(tmp_path, labels):
    removed = dict.fromkeys((*SEVERAL_EMPTY, "AccessionNumber", "ReferringPhysicianName"))
    series = write_series(tmp_path / "ct", shape=SHAPE, edit=tags(**removed))
    path = write(tmp_path / "lobes.seg.dcm", labels, series)
    file = dcmread(path)
    assert patient_data(file) == {}
    for keyword in removed:
        assert file[keyword].is_empty, keyword
    np.testing.assert_array_equal(read_by_pydicom(path, series), labels)
    assert hd.seg.segread(path).number_of_segments == 5


# the second as most devices in Japan write it: the default characters, and others after an escape sequence
@pytest.mark.parametrize(
    ("characters", "name"),
    [("ISO_IR 192", "山田^太郎"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 100", "Gößl^Zoë")],
)
def test_empty_values_and_a_name_in_another_script_stay_as_they_are(tmp_path, labels, characters, name):
    edit = tags(SpecificCharacterSet=characters, PatientName=name, PatientBirthDate="", StudyTime="")
    series = write_series(tmp_path / "ct", shape=SHAPE, edit=edit)
    file = dcmread(write(tmp_path / "lobes.seg.dcm", labels, series))
    assert str(file.PatientName) == name
    assert not file.PatientBirthDate
    assert not file.StudyTime


def test_no_warning_prints_the_patients_name(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE, edit=tags(PatientName="Doe"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write(tmp_path / "lobes.seg.dcm", labels, series)
    assert not [warning for warning in caught if "Doe" in str(warning.message)]


def test_a_lobe_that_is_absent_is_described_and_has_no_frame(tmp_path, labels):
    labels[labels == 5] = 0
    labels[labels == 1] = 0
    series = write_series(tmp_path / "ct", shape=SHAPE)
    path = write(tmp_path / "lobes.seg.dcm", labels, series)
    file = dcmread(path)
    assert [item.SegmentNumber for item in file.SegmentSequence] == [1, 2, 3, 4, 5]
    numbers = {
        g.SegmentIdentificationSequence[0].ReferencedSegmentNumber for g in file.PerFrameFunctionalGroupsSequence
    }
    assert numbers == {2, 3, 4}
    np.testing.assert_array_equal(read_by_pydicom(path, series), labels)
    segmentation = hd.seg.segread(path)
    sources = [dcmread(source, stop_before_pixels=True).SOPInstanceUID for source in series.files]
    absent = segmentation.get_pixels_by_source_instance(
        sources, segment_numbers=[5], assert_missing_frames_are_empty=True
    )
    assert not absent.any()


def test_a_map_without_any_lobe_is_a_valid_file_of_empty_frames(tmp_path):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    path = write(tmp_path / "lobes.seg.dcm", np.zeros(SHAPE, dtype=np.uint8), series)
    assert not read_by_pydicom(path, series).any()
    sources = [dcmread(source, stop_before_pixels=True).SOPInstanceUID for source in series.files]
    assert not hd.seg.segread(path).get_pixels_by_source_instance(sources, combine_segments=True).any()


def test_rounding_of_the_orientation_from_file_to_file_is_no_reason_to_refuse(tmp_path, labels):
    def edit(z: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [round(float(v), 6 + z % 2) for v in dataset.ImageOrientationPatient]

    series = write_series(tmp_path / "ct", shape=SHAPE, edit=edit)
    file = dcmread(write(tmp_path / "lobes.seg.dcm", labels, series))
    assert len(file.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[2]


def pixel_measures(path: Path) -> Dataset:
    return dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


@pytest.mark.parametrize("stated", [{}, {"SpacingBetweenSlices": "-3"}, {"SpacingBetweenSlices": "0.5"}])
@pytest.mark.parametrize("thickness", ["5", "0", None])
def test_the_distance_of_slices_is_that_of_their_positions_whatever_the_source_states(
    tmp_path, labels, stated, thickness
):
    series = write_series(tmp_path / "ct", shape=SHAPE, edit=tags(SliceThickness="5", **stated))
    for file in series.files if thickness != "5" else ():
        source = dcmread(file)
        source.SliceThickness = thickness
        source.save_as(file)
    measures = pixel_measures(write(tmp_path / "lobes.seg.dcm", labels, series))
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5, abs=1e-6)
    assert float(measures.SliceThickness) == pytest.approx(2.5, abs=1e-6)


def spoil(series: WrittenSeries, keyword: str, value: str | None, *which: int) -> None:
    """Give slices, all if none is named, a value that pydicom would not let us set."""
    for file in [series.files[z] for z in which] or series.files:
        source = dcmread(file)
        if value is None:
            delattr(source, keyword)
        else:
            tag = tag_for_keyword(keyword)
            source[tag] = RawDataElement(Tag(tag), dictionary_VR(tag), len(value), value.encode(), 0, False, True)
        source.save_as(file)


# value of the source, and what a SEG has instead
SPOILT = {
    "sex_u": ("PatientSex", "U ", ""),
    "sex_small": ("PatientSex", "m ", "M"),
    "sex_word": ("PatientSex", "FEMALE", "F"),
    "birth_zeros": ("PatientBirthDate", "00000000", ""),
    "birth_year": ("PatientBirthDate", "1970", ""),
    "birth_word": ("PatientBirthDate", "ANONYMIZED", ""),
    "birth_dots": ("PatientBirthDate", "1970.02.03", "19700203"),
    "date_month": ("StudyDate", "20241301", ""),
    "date_day": ("StudyDate", "20230231", ""),
    "time_colons": ("StudyTime", "10:11:12", "101112"),
    "name_backslash": ("PatientName", "DOE\\JOHN", ""),
    "number_backslash": ("PatientID", "12\\34 ", ""),
}


@pytest.mark.parametrize(("keyword", "value", "expected"), SPOILT.values(), ids=SPOILT)
def test_a_value_that_dicom_does_not_allow_is_repaired_or_left_empty_with_one_warning(
    tmp_path, labels, caplog, keyword, value, expected
):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    spoil(series, keyword, value)
    with caplog.at_level(logging.WARNING, logger="medseg_monai"), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of pydicom, which may print the value
        path = write(tmp_path / "lobes.seg.dcm", labels, series)
    assert str(dcmread(path)[keyword].value or "") == expected
    (message,) = our_messages(caplog)
    verb = "corrects" if expected else "leaves empty"
    assert message == f"{series.files[0]}: has values that DICOM does not allow; the DICOM SEG {verb} {keyword}."
    np.testing.assert_array_equal(read_by_pydicom(path, series), labels)


def our_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("medseg_monai")]


def test_optional_values_that_cannot_be_read_are_left_out_and_a_comma_in_the_thickness_makes_no_difference(
    tmp_path, labels, caplog
):
    series = write_series(tmp_path / "ct", shape=SHAPE, edit=tags(PatientWeight="70", SliceThickness="5"))
    spoil(series, "PatientWeight", "70,5")
    spoil(series, "SliceThickness", "2,5 ")
    path = write(tmp_path / "lobes.seg.dcm", labels, series)
    assert "PatientWeight" not in dcmread(path)
    assert "leaves empty PatientWeight" in our_messages(caplog)[0]
    assert float(pixel_measures(path).SliceThickness) == pytest.approx(2.5, abs=1e-6)


@pytest.mark.parametrize("value", [None, "1.2.3"])
def test_slices_without_one_frame_of_reference_get_one_that_only_the_seg_has(tmp_path, labels, caplog, value):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    spoil(series, "FrameOfReferenceUID", value, *((2,) if value else ()))
    path = write(tmp_path / "lobes.seg.dcm", labels, series)
    own = dcmread(path).FrameOfReferenceUID
    assert own not in {dcmread(file).get("FrameOfReferenceUID") for file in series.files}
    assert our_messages(caplog)[0].endswith("the DICOM SEG corrects FrameOfReferenceUID.")
    np.testing.assert_array_equal(read_by_pydicom(path, series), labels)


def test_nothing_is_said_of_a_source_that_is_as_dicom_wants_it(tmp_path, labels, caplog):
    write(tmp_path / "lobes.seg.dcm", labels, write_series(tmp_path / "ct", shape=SHAPE, edit=tags(PatientAge="063Y")))
    assert our_messages(caplog) == []


def test_every_seg_has_the_name_of_its_creator_though_empty(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    source = write_radiograph(tmp_path / "x.dcm", asymmetric(31, 47))
    paths = [write(tmp_path / "lobes.seg.dcm", labels, series)]
    paths.append(write_lungs(tmp_path / "x.seg.dcm", np.ones((31, 47), np.uint8), source))
    assert [dcmread(path)["ContentCreatorName"].value for path in paths] == ["", ""]


def test_a_source_is_checked_without_a_label_map_as_it_is_for_writing(tmp_path, caplog):
    good = write_series(tmp_path / "good", shape=SHAPE)
    spoil(good, "PatientSex", "U ")
    with caplog.at_level(logging.WARNING):
        check_seg_source(good.files, LUNG_LOBES, volume=True)
    assert not caplog.records  # what is repaired is told when it is written
    mixed = write_series(tmp_path / "mixed", shape=SHAPE, edit=tags(4, StudyInstanceUID="1.2.3"))
    with pytest.raises(ValueError, match="mixed: several values of StudyInstanceUID"):
        check_seg_source(mixed.files, LUNG_LOBES, volume=True)
    radiograph = write_radiograph(tmp_path / "x.dcm", asymmetric(31, 47))
    check_seg_source([radiograph], LUNGS, volume=False)
    odd = write_radiograph(tmp_path / "z.dcm", asymmetric(31, 47), SOPClassUID="1.2.3.4")
    with pytest.raises(ValueError, match=r"z\.dcm: no DICOM SEG can refer to this source"):
        check_seg_source([odd], LUNGS, volume=False)


def test_types_and_memory_layouts_of_the_labels_make_no_difference(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    for number, variant in enumerate((labels.astype(np.int64), np.asfortranarray(labels), labels.astype(np.uint16))):
        path = write(tmp_path / f"{number}.seg.dcm", variant, series)
        np.testing.assert_array_equal(read_by_pydicom(path, series), labels)


def test_labels_that_do_not_fit_the_source_are_refused_and_nothing_is_written(tmp_path, labels):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    target = tmp_path / "out" / "lobes.seg.dcm"
    with pytest.raises(ValueError, match=r"the label map is \(5, 7, 6\), its DICOM series \(7, 5, 6\)"):
        write(target, labels.transpose(1, 0, 2), series)
    with pytest.raises(ValueError, match=r"labels 0 to 5, but segments for 1 to 4"):
        write(target, labels, series, segments=LUNG_LOBES[:4])
    with pytest.raises(ValueError, match="no source files"):
        write(target, labels, series, source_files=[])
    assert not target.parent.exists()


def test_a_source_that_no_seg_can_refer_to_is_refused_with_its_file(tmp_path, labels):
    target = tmp_path / "lobes.seg.dcm"
    lost = write_series(tmp_path / "lost", shape=SHAPE, edit=tags(3, SOPInstanceUID=None))
    with pytest.raises(ValueError, match=f"{lost.files[3].name}: no usable SOPInstanceUID"):
        write(target, labels, lost)
    same = write_series(tmp_path / "same", shape=SHAPE, edit=tags(1, 4, SOPInstanceUID="1.2.3"))
    with pytest.raises(
        ValueError, match=f"SOPInstanceUID of {same.files[1].name} and {same.files[4].name} is the same"
    ):
        write(target, labels, same)
    turned = write_series(tmp_path / "turned", shape=SHAPE, edit=tags(2, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    with pytest.raises(ValueError, match="turned: several orientations"):
        write(target, labels, turned)
    mixed = write_series(tmp_path / "mixed", shape=SHAPE, edit=tags(4, SeriesInstanceUID="1.2.3"))
    with pytest.raises(ValueError, match="mixed: several values of SeriesInstanceUID in one series"):
        write(target, labels, mixed)
    with pytest.raises(FileNotFoundError):
        write(target, labels, mixed, source_files=[tmp_path / "gone.dcm"])
    assert not target.exists()


def test_a_file_that_cannot_be_finished_leaves_the_older_one(tmp_path, labels, monkeypatch):
    series = write_series(tmp_path / "ct", shape=SHAPE)
    target = tmp_path / "out" / "lobes.seg.dcm"
    target.parent.mkdir()
    target.write_bytes(b"older")

    def full(self: Dataset, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", full)
    with pytest.raises(OSError, match="no space left"):
        write(target, labels, series)
    assert target.read_bytes() == b"older"
    assert [path.name for path in target.parent.iterdir()] == ["lobes.seg.dcm"]


@pytest.fixture
def lungs() -> np.ndarray:
    """A mask ``[331, 417]`` that no flip or transposition leaves as it is."""
    mask = asymmetric(331, 417) > 2000
    mask[20:200, 30:90] = True
    return mask.astype(np.uint8)


def write_lungs(path: Path, mask: np.ndarray, source: Path, **options: object) -> Path:
    arguments = {"source_file": source, "segments": LUNGS} | options
    write_radiograph_seg(path, mask, algorithm_name="Res-CR-Net", algorithm_version="0.1.0", **arguments)
    return path


# what a radiograph may say of its place; none of it makes it a slice
PLACES = {
    "none": {},
    "spacing": {"PixelSpacing": [0.2, 0.3]},
    "detector": {"ImagerPixelSpacing": [0.2, 0.3]},
    "frame of reference": {"FrameOfReferenceUID": "1.2.3", "PixelSpacing": [0.2, 0.3]},
    "position": {
        "FrameOfReferenceUID": "1.2.3",
        "PixelSpacing": [0.2, 0.3],
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SliceThickness": 1,
    },
}


@pytest.mark.parametrize("modality", ["CR", "DX"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_mask_of_a_radiograph_is_read_back_pixel_for_pixel(tmp_path, lungs, modality, place):
    source = write_radiograph(tmp_path / "x.dcm", asymmetric(331, 417), modality=modality, **place)
    path = write_lungs(tmp_path / "x.seg.dcm", lungs, source)
    file = dcmread(path)
    np.testing.assert_array_equal(file.pixel_array, lungs)
    instance = dcmread(source, stop_before_pixels=True).SOPInstanceUID
    (group,) = file.PerFrameFunctionalGroupsSequence
    assert group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID == instance
    assert file.get("FrameOfReferenceUID") == place.get("FrameOfReferenceUID")
    read = hd.seg.segread(path).get_pixels_by_source_instance([instance], segment_numbers=[1])
    np.testing.assert_array_equal(read[0, ..., 0], lungs)


@pytest.mark.parametrize("tags_of_one", [{}, {"NumberOfFrames": 1}, *PLACES.values()], ids=str)
@pytest.mark.parametrize(
    ("segments", "code", "region"), [(OPTIC_DISC, "81016008", None), (RETINAL_VESSEL, "59820001", "5665001")]
)
def test_the_mask_of_a_photograph_refers_to_it_in_its_matrix(tmp_path, lungs, segments, code, region, tags_of_one):
    source = write_photograph(tmp_path / "x.dcm", scenery(331, 417), **tags_of_one)
    path = tmp_path / "x.seg.dcm"
    check_seg_source([source], segments, volume=False)
    described = {"segments": segments, "algorithm_name": "CE-Net", "algorithm_version": "0.1.0"}
    write_radiograph_seg(path, lungs, source_file=source, **described)
    file, known = dcmread(path), dcmread(source, stop_before_pixels=True)
    np.testing.assert_array_equal(file.pixel_array, lungs)
    assert "PixelMeasuresSequence" not in file.SharedFunctionalGroupsSequence[0]
    ((referenced,),) = [group.ReferencedInstanceSequence for group in file.ReferencedSeriesSequence]
    assert referenced.ReferencedSOPClassUID == known.SOPClassUID
    assert referenced.ReferencedSOPInstanceUID == known.SOPInstanceUID
    (segment,) = file.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == code
    regions = segment.get("AnatomicRegionSequence", [])
    assert [one.CodeValue for one in regions] == ([region] if region else [])
    read = hd.seg.segread(path).get_pixels_by_source_instance([known.SOPInstanceUID], segment_numbers=[1])
    np.testing.assert_array_equal(read[0, ..., 0], lungs)


def test_the_lungs_are_coded_in_snomed(tmp_path, lungs):
    source = write_radiograph(tmp_path / "x.dcm", asymmetric(331, 417))
    file = dcmread(write_lungs(tmp_path / "x.seg.dcm", lungs, source))
    (segment,) = file.SegmentSequence
    (kind,), (category,) = segment.SegmentedPropertyTypeCodeSequence, segment.SegmentedPropertyCategoryCodeSequence
    assert (segment.SegmentNumber, segment.SegmentLabel, file.SegmentationType) == (1, "lungs", "BINARY")
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("39607008", "SCT", "Lung")
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("91723000", "SCT")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Res-CR-Net", "0.1.0")


def test_the_seg_of_a_radiograph_holds_the_sources_patient_data_and_nothing_else(tmp_path, lungs):
    known = {"PatientSex": "F", "PatientAge": "063Y", "AccessionNumber": "A7"}
    source = write_radiograph(tmp_path / "x.dcm", asymmetric(331, 417), **known)
    file = dcmread(write_lungs(tmp_path / "x.seg.dcm", lungs, source))
    assert patient_data(file) == {"PatientName": "Phantom", "PatientID": "P1", "PatientSex": "F", "PatientAge": "063Y"}
    assert file.StudyInstanceUID == dcmread(source).StudyInstanceUID
    assert file.SeriesInstanceUID != dcmread(source).SeriesInstanceUID
    anonymous = write_radiograph(tmp_path / "y.dcm", asymmetric(331, 417), PatientName=None, PatientID="")
    assert patient_data(dcmread(write_lungs(tmp_path / "y.seg.dcm", lungs, anonymous))) == {}


def test_an_empty_mask_of_a_radiograph_is_a_valid_file_without_a_word_of_the_library(tmp_path, caplog):
    caplog.set_level("WARNING")  # other tests run MONAI's program, whose logging configuration stays
    source = write_radiograph(tmp_path / "x.dcm", asymmetric(31, 47))
    file = dcmread(write_lungs(tmp_path / "x.seg.dcm", np.zeros((31, 47), dtype=np.int64), source))
    assert file.pixel_array.shape[-2:] == (31, 47)
    assert not file.pixel_array.any()
    assert caplog.text == ""


def test_a_mask_that_does_not_fit_its_radiograph_is_refused_and_nothing_is_written(tmp_path, lungs):
    source = write_radiograph(tmp_path / "x.dcm", asymmetric(331, 417))
    target = tmp_path / "out" / "x.seg.dcm"
    with pytest.raises(ValueError, match=r"the label map is \(417, 331\), its image \(331, 417\)"):
        write_lungs(target, lungs.T, source)
    with pytest.raises(ValueError, match="labels 0 to 2, but segments for 1 to 1"):
        write_lungs(target, lungs * 2, source)
    lost = write_radiograph(tmp_path / "y.dcm", asymmetric(331, 417), SeriesInstanceUID=None)
    with pytest.raises(ValueError, match=r"y\.dcm: no usable SeriesInstanceUID, which a DICOM SEG must repeat"):
        write_lungs(target, lungs, lost)
    odd = write_radiograph(tmp_path / "z.dcm", asymmetric(331, 417), SOPClassUID="1.2.3.4")
    with pytest.raises(ValueError, match=r"z\.dcm: no DICOM SEG can refer to this source"):
        write_lungs(target, lungs, odd)
    with pytest.raises(FileNotFoundError):
        write_lungs(target, lungs, tmp_path / "gone.dcm")
    assert not target.parent.exists()


@pytest.mark.parametrize(("organ", "code"), [("liver", "10200004"), ("spleen", "78961009"), ("kidney", "64033007")])
def test_an_organ_is_named_by_its_snomed_code(organ, code, tmp_path):
    series = write_series(tmp_path / "mr", shape=SHAPE, modality="MR")
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 2:, 3] = 1
    path = write(tmp_path / "organ.seg.dcm", mask, series, segments=[find_organ(organ, trained_for=organ)])
    (segment,) = dcmread(path).SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == code
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "SCT"


def test_an_organ_that_is_unknown_missing_or_not_the_models_is_refused():
    assert list(ABDOMINAL_ORGANS) == ["liver", "spleen", "kidney"]
    with pytest.raises(ValueError, match="organ='heart' is unknown: choose from liver, spleen, kidney"):
        find_organ("heart", trained_for="heart")
    with pytest.raises(ValueError, match=r"does not say which organ .* liver, spleen, kidney"):
        find_organ(None)
    with pytest.raises(ValueError, match="organ='liver', but the model was trained for 'spleen'"):
        find_organ("liver", trained_for="spleen")
