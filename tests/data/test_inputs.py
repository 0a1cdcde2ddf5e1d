"""What a user points at, turned into cases."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from medseg_monai.data import (
    RadiographReader,
    RasterReader,
    VolumeReader,
    find_images,
    find_oct,
    find_photographs,
    find_radiographs,
    find_sections,
    find_slices,
    find_volumes,
)
from medseg_monai.data.readers.raster import RASTER_SUFFIXES

from .dicom_files import tags, write_series
from .oct_files import bscans, reflectivity, write_e2e, write_img, write_opt, write_vol, write_xml
from .photograph_files import scenery, write_photograph
from .radiograph_files import asymmetric, write_radiograph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in an order that is neither that of their making nor of their suffixes, and what lies about beside."""
    folder = tmp_path / "eyes"
    (folder / "more").mkdir(parents=True)
    (folder / "mask.png").mkdir()
    for name in ("c.png", "a.TIF", "b.JPeG", "notes.txt", ".hidden.png", "._a.TIF", "more/d.png"):
        (folder / name).touch()
    return folder


def names(items: list[dict]) -> list[str]:
    return [Path(item["image"]).name for item in items]


def case_names(items: list[dict]) -> list[str]:
    return [item["name"] for item in items]


def test_a_folder_stands_for_the_images_directly_in_it_sorted_by_name(folder):
    items = find_images(folder)
    assert names(items) == ["a.TIF", "b.JPeG", "c.png"]
    assert all(item["image"] == str(folder / Path(item["image"]).name) for item in items)
    assert case_names(items) == ["a", "b", "c"]


def test_a_file_stands_for_itself_whatever_its_suffix(folder):
    assert find_images(str(folder / "notes.txt")) == [{"image": str(folder / "notes.txt"), "name": "notes.txt"}]


def test_files_and_folders_keep_the_order_in_which_they_are_given(folder):
    assert names(find_images([folder / "more", folder / "c.png", folder / "a.TIF"])) == ["d.png", "c.png", "a.TIF"]


def test_a_file_that_is_named_twice_is_one_case(folder):
    items = find_images([folder / "c.png", folder, folder / "more" / ".." / "a.TIF"])
    assert names(items) == ["c.png", "a.TIF", "b.JPeG"]


def test_paths_become_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_images(["c.png", "more"]) == [
        {"image": str(folder / "c.png"), "name": "c"},
        {"image": str(folder / "more" / "d.png"), "name": "d"},
    ]


def test_two_files_that_differ_in_their_endings_alone_are_refused_with_both(folder):
    (folder / "c.tif").touch()
    with pytest.raises(ValueError, match="both predictions would be named c;") as error:
        find_images(folder)
    assert str(folder / "c.png") in str(error.value)
    assert str(folder / "c.tif") in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_one_name_in_two_folders_are_told_apart_by_the_folders(folder):
    (folder / "more" / "c.tif").touch()
    assert case_names(find_images([folder / "c.png", folder / "more"])) == ["eyes_c", "more_c", "d"]


def test_what_pillow_reads_is_an_image_whatever_its_ending(tmp_path):
    picture = Image.fromarray(asymmetric(5, 7, highest=255).astype(np.uint8))
    formats = {"jpe": "JPEG", "jfif": "JPEG", "pnm": "PPM", "jpx": "JPEG2000", "j2c": "JPEG2000", "jpf": "JPEG2000"}
    endings = [ending for ending in RASTER_SUFFIXES if ending not in ("jpc", "pbm", "pfm")]
    for ending in endings:
        picture.save(tmp_path / f"{ending}.{ending.upper()}", format=formats.get(ending))
    found = find_images(tmp_path)
    assert sorted(names(found)) == sorted(f"{ending}.{ending.upper()}" for ending in endings)
    load = LoadImaged("image", reader=RasterReader(channels=1), image_only=False)
    assert {load(item)["image"].shape for item in found} == {(1, 5, 7)}
    assert found.left_out == []


@pytest.mark.parametrize("ending", RASTER_SUFFIXES)
def test_every_ending_of_an_image_is_one_that_pillow_opens(ending):
    assert Image.registered_extensions()[f".{ending}"] in Image.OPEN


@pytest.mark.parametrize("ending", ["jp2", "pgm"])
def test_deep_pictures_of_other_formats_keep_their_values(ending, tmp_path):
    values = np.random.default_rng(1).integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    reader = RasterReader(channels=1)
    image, _ = reader.get_data(reader.read(tmp_path / f"deep.{ending}"))
    np.testing.assert_allclose(image[0], values / 257, rtol=1e-5)


def test_what_a_folder_of_images_has_besides_is_named_in_one_line(folder, caplog):
    (folder / "e.heic").touch()
    (folder / "f.png").symlink_to("/not/mounted/f.png")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "DICOMDIR"):
        (folder / name).touch()
    with caplog.at_level(logging.WARNING):
        items = find_images(folder)
    assert names(items) == ["a.TIF", "b.JPeG", "c.png"]
    assert [record.message for record in caplog.records] == [
        f"{folder}: left out, as they are not images: e.heic, f.png (a broken link), more (a folder), notes.txt."
    ]
    assert items.left_out == [str(folder / name) for name in ("e.heic", "f.png", "more", "notes.txt")]


def test_a_file_that_is_named_beside_its_folder_is_not_left_out(folder, caplog):
    with caplog.at_level(logging.WARNING):
        items = find_images([folder, folder / "notes.txt", folder / "more"])
    assert names(items) == ["a.TIF", "b.JPeG", "c.png", "notes.txt", "d.png"]
    assert (items.left_out, caplog.records) == ([], [])


def test_a_folder_of_nothing_but_broken_links_names_them(tmp_path):
    (tmp_path / "eye.png").symlink_to("/not/mounted/eye.png")
    with pytest.raises(ValueError, match=r"no image in this folder \(.*\); left out: eye\.png \(a broken link\)\.$"):
        find_images(tmp_path)


def test_found_cases_travel_to_the_workers_of_a_loader(folder):
    copied = pickle.loads(pickle.dumps(find_images(folder)))
    assert (names(copied), len(copied.left_out)) == (["a.TIF", "b.JPeG", "c.png"], 2)


@pytest.mark.parametrize(("find", "file"), [(find_images, "eye.png"), (find_volumes, "ct.nii.gz")])
def test_case_folders_name_what_lies_beside_their_images_and_their_broken_links(find, file, tmp_path, caplog):
    case_folders(tmp_path / "set", file)
    (tmp_path / "set" / "s0003").mkdir()
    (tmp_path / "set" / "s0003" / file).symlink_to(f"/not/mounted/{file}")
    with caplog.at_level(logging.WARNING):
        found = find(tmp_path / "set")
    notes = [f"s{number}/notes.txt" for number in ("0001", "0002")]
    expected = ["meta.csv", *notes, f"s0003/{file} (a broken link)", "s0010/notes.txt"]
    assert caplog.records[0].message.partition("s: ")[2] == ", ".join(expected) + "."
    assert len(found.left_out) == 5


FINDERS = [
    (find_images, "eye.png"),
    (find_photographs, "eye.png"),
    (find_radiographs, "chest.png"),
    (find_volumes, "ct.nii.gz"),
]


def case_folders(root: Path, file: str) -> list[Path]:
    """The layout of TotalSegmentator: a folder a case, with other things beside and below the image."""
    images = [root / case / file for case in ("s0002", "s0001", "s0010")]
    for image in images:
        (image.parent / "segmentations").mkdir(parents=True)
        for path in (image, image.parent / "notes.txt", image.parent / "segmentations" / file):
            path.touch()
    (root / "meta.csv").touch()
    (root / "empty").mkdir()
    (root / ".cache").mkdir()
    (root / ".cache" / file).touch()
    return images


@pytest.mark.parametrize(("find", "file"), FINDERS)
def test_a_folder_of_case_folders_stands_for_the_one_image_in_each_named_by_its_folder(find, file, tmp_path):
    expected = sorted(case_folders(tmp_path / "set", file))
    items = find(tmp_path / "set")
    stem = file.split(".")[0]
    assert images(items) == [str(path) for path in expected]
    assert case_names(items) == [f"s0001_{stem}", f"s0002_{stem}", f"s0010_{stem}"]
    assert case_names(find(expected[:2])) == [f"s0001_{stem}", f"s0002_{stem}"]


@pytest.mark.parametrize(("find", "file"), FINDERS)
def test_a_case_folder_with_several_images_is_refused_with_their_names(find, file, tmp_path):
    case_folders(tmp_path / "set", file)
    (tmp_path / "set" / "s0002" / f"seg_{file}").touch()
    expected = rf"set: no \w+ directly in it, and 2 in s0002 \({file}, seg_{file}\), .*; name the folders or files"
    with pytest.raises(ValueError, match=expected):
        find(tmp_path / "set")


@pytest.mark.parametrize(("find", "file"), FINDERS)
def test_the_results_of_an_earlier_run_are_no_cases_of_the_next(find, file, tmp_path):
    case_folders(tmp_path / "set", file)
    before = find(tmp_path / "set")
    results = tmp_path / "set" / "predictions"
    results.mkdir()
    for name in ("report.json", "report.csv", file):
        (results / name).touch()
    assert find(tmp_path / "set") == before


@pytest.mark.parametrize(("find", "file"), FINDERS)
def test_case_folders_do_not_count_beside_an_image(find, file, tmp_path):
    case_folders(tmp_path / "set", file)
    (tmp_path / "set" / file).touch()
    assert images(find(tmp_path / "set")) == [str(tmp_path / "set" / file)]


def test_a_folder_without_an_image_is_refused_with_the_suffixes_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    with pytest.raises(ValueError, match=r"no image in this folder.*png, tif") as error:
        find_images(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such file or folder"):
        find_images([tmp_path / "gone.png"])


def test_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "eye.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"eye\.png: no such file or folder"):
        find_images(tmp_path / "eye.png")


def images(items: list[dict]) -> list[str]:
    return [item["image"] for item in items]


def test_a_folder_stands_for_the_volumes_directly_in_it_sorted_by_name(tmp_path):
    for name in ("b.nii.gz", "a.MHA", "c.nrrd", "notes.txt", ".hidden.nii", "d.raw", "more/e.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert images(find_volumes(tmp_path)) == [str(tmp_path / name) for name in ("a.MHA", "b.nii.gz", "c.nrrd")]


def test_what_a_folder_of_volumes_has_besides_is_named_but_not_what_belongs_to_it(tmp_path, caplog):
    write_series(tmp_path / "case")
    image = tmp_path / "case" / "a.mhd"
    image.write_text("NDims = 3\nElementSpacing = 1 1 2\nElementDataFile = a.zraw\n")
    for name in ("a.zraw", "b.npz"):
        (tmp_path / "case" / name).write_text("values")
    write_radiograph(tmp_path / "case" / "report.dcm", asymmetric(5, 7), modality="SEG")
    with caplog.at_level(logging.WARNING):
        found = find_volumes(tmp_path / "case")
    assert images(found) == [str(image), str(tmp_path / "case")]
    assert found.left_out == [str(tmp_path / "case" / "b.npz")]
    assert caplog.records[0].message == f"{tmp_path / 'case'}: left out, as they are not volumes: b.npz."


def test_a_broken_link_beside_slices_is_a_slice_that_is_missing(tmp_path):
    write_series(tmp_path)
    (tmp_path / "IM99").symlink_to("/not/mounted/IM99")
    with pytest.raises(ValueError, match=r"beside the slices: IM99; copy it again or remove it"):
        find_volumes(tmp_path)


def test_a_folder_stands_for_the_one_series_below_it(tmp_path):
    write_series(tmp_path / "case", name=lambda z: f"disc{z % 2}/IM{z}")
    assert find_volumes(tmp_path / "case") == [{"image": str(tmp_path / "case"), "name": "case"}]


def test_a_folder_may_hold_volumes_and_a_series(tmp_path):
    write_series(tmp_path / "scans" / "dicom")
    (tmp_path / "scans" / "a.nii.gz").touch()
    assert images(find_volumes(tmp_path / "scans")) == [str(tmp_path / "scans" / "a.nii.gz"), str(tmp_path / "scans")]


def test_every_item_is_what_the_reader_loads(tmp_path):
    first = write_series(tmp_path / "case", uid="1.2.3")
    second = write_series(tmp_path / "case", uid="1.2.4", shape=(4, 5, 3), name=lambda z: f"second{z}")
    load = LoadImaged("image", reader=VolumeReader())
    for item, written in zip(find_volumes(tmp_path, series=["1.2.3", "1.2.4"]), (first, second), strict=True):
        np.testing.assert_array_equal(load(item)["image"], written.volume)


def test_two_series_one_of_them_with_a_missing_slice_are_refused_with_both_facts(tmp_path):
    write_series(tmp_path / "a", uid="1.2.3", description="LUNG")
    write_series(tmp_path / "b", uid="1.2.4", description="BONE", skip=(2,))
    with pytest.raises(ValueError, match="2 DICOM series, choose with --series") as error:
        find_volumes(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: ")
    assert "(1) 1.2.3 'LUNG' (CT), 6 slices, 0.7 x 0.9 x 2.5 mm; (2) 1.2.4 'BONE' (CT), 5 slices" in message
    assert "unusable: 1 missing slice between 0005.dcm" in message
    assert "\n" not in message


def test_a_series_that_is_named_is_taken_and_only_that(tmp_path):
    write_series(tmp_path / "a", uid="1.2.3")
    write_series(tmp_path / "b", uid="1.2.4", skip=(2,))
    (tmp_path / "other.nii").touch()
    assert find_volumes(tmp_path, series="1.2.3") == [{"image": str(tmp_path / "1.2.3"), "name": "1.2.3"}]


def test_the_only_series_may_be_named_too(tmp_path):
    write_series(tmp_path / "case", uid="1.2.3")
    assert images(find_volumes(tmp_path / "case", series="1.2.3")) == [str(tmp_path / "case" / "1.2.3")]


def test_series_of_several_folders_are_named_together(tmp_path):
    write_series(tmp_path / "a", uid="1.2.3")
    write_series(tmp_path / "b", uid="1.2.4")
    folders = [tmp_path / "a", tmp_path / "b"]
    expected = [str(tmp_path / "a" / "1.2.3"), str(tmp_path / "b" / "1.2.4")]
    assert images(find_volumes(folders, series=["1.2.4", "1.2.3"])) == expected
    with pytest.raises(FileNotFoundError, match=r"a, .*b: no DICOM series 1\.2\.9\."):
        find_volumes(folders, series=["1.2.3", "1.2.4", "1.2.9"])


def test_a_series_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write_series(tmp_path, uid="1.2.3", description="LUNG")
    with pytest.raises(FileNotFoundError, match=r"no DICOM series 1\.2\.9; found: \(1\) 1\.2\.3 'LUNG'"):
        find_volumes(tmp_path, series="1.2.9")


def test_a_series_can_be_chosen_and_read_beside_one_that_is_damaged(tmp_path):
    written = write_series(tmp_path / "good", uid="1.2.3")
    write_series(tmp_path / "bad", uid="1.2.4", edit=lambda z, dataset: delattr(dataset, "Rows"))
    (item,) = find_volumes(tmp_path, series="1.2.3")
    np.testing.assert_array_equal(LoadImaged("image", reader=VolumeReader())(item)["image"], written.volume)
    with pytest.raises(
        ValueError, match=r"bad/0000\.dcm: empty, damaged or not DICOM; .* choose with --series: 1\.2\.3"
    ):
        find_volumes(tmp_path, series="1.2.4")


@pytest.mark.parametrize("series", [None, "1.2.3"])
def test_a_series_that_is_no_grid_is_refused_with_all_its_faults(tmp_path, series):
    write_series(tmp_path, uid="1.2.3", skip=(2,), edit=tags(4, RescaleSlope=None))
    with pytest.raises(ValueError, match=r"DICOM series 1\.2\.3: 0003\.dcm: no RescaleSlope .*; 1 missing slice"):
        find_volumes(tmp_path, series=series)


def test_another_modality_is_taken_when_it_is_asked_for(tmp_path):
    write_series(tmp_path, modality="MR")
    assert len(find_volumes(tmp_path, modality="MR")) == 1
    with pytest.raises(ValueError, match="modality MR, expected CT"):
        find_volumes(tmp_path)


def test_a_series_of_which_a_folder_of_its_name_holds_a_part_is_refused(tmp_path):
    write_series(tmp_path, uid="1.2.3", name=lambda z: f"{'1.2.3' if z < 4 else 'rest'}/{z}.dcm")
    with pytest.raises(ValueError, match=r"1\.2\.3: only a part of the DICOM series of this name"):
        find_volumes(tmp_path, series="1.2.3")


def test_a_file_that_is_no_volume_by_its_suffix_is_refused(tmp_path):
    written = write_series(tmp_path)
    with pytest.raises(ValueError, match=r"not a volume by its name .*; for a DICOM series, give the folder") as error:
        find_volumes(written.files[0])
    assert str(error.value).startswith(str(written.files[0]))


def test_a_folder_without_a_volume_is_refused_with_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ValueError, match=r"no volume in this folder .*nii, nii\.gz, mha.* and no DICOM series below it"
    ):
        find_volumes(tmp_path)


def test_a_volume_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.nii: no such file or folder"):
        find_volumes(tmp_path / "gone.nii")


def test_a_volume_that_is_named_twice_is_one_case(tmp_path):
    write_series(tmp_path / "case")
    (tmp_path / "a.nii.gz").touch()
    given = [tmp_path / "a.nii.gz", tmp_path / "case", tmp_path / "case" / ".." / "a.nii.gz", str(tmp_path / "case")]
    assert images(find_volumes(given)) == [str(tmp_path / "a.nii.gz"), str(tmp_path / "case")]


@pytest.mark.parametrize("second", ["case.mha", "case"])
def test_two_volumes_that_differ_in_their_endings_alone_are_refused(tmp_path, second):
    first = tmp_path / "case.nii.gz"
    first.touch()
    if "." in second:
        (tmp_path / second).touch()
    else:
        write_series(tmp_path / second)
    with pytest.raises(ValueError, match="both predictions would be named case;") as error:
        find_volumes([first, tmp_path / second])
    assert str(first) in str(error.value)
    assert str(tmp_path / second) in str(error.value)


def test_series_in_folders_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    for patient in ("1", "2"):
        write_series(tmp_path / "CT" / patient / "DICOM_anon")
    given = [tmp_path / "CT" / patient / "DICOM_anon" for patient in ("2", "1")]
    assert case_names(find_volumes(given)) == ["2_DICOM_anon", "1_DICOM_anon"]


@pytest.fixture
def chests(tmp_path: Path) -> Path:
    """Radiographs of each kind, and what lies about beside."""
    folder = tmp_path / "chests"
    (folder / "more").mkdir(parents=True)
    write_radiograph(folder / "d.dcm", asymmetric(5, 7))
    write_radiograph(folder / "IM0001", asymmetric(5, 7), modality="CR")
    write_radiograph(folder / "more" / "e.DCM", asymmetric(5, 7))
    for name in ("b.png", "a.JPG"):
        Image.fromarray(asymmetric(5, 7, highest=255).astype(np.uint8)).save(folder / name)
    for name in (".hidden.png", "notes.txt", "empty"):
        (folder / name).touch()
    write_radiograph(folder / "DICOMDIR", asymmetric(5, 7))
    return folder


def test_a_folder_stands_for_its_images_and_dicom_radiographs_each_a_case(chests):
    items = find_radiographs(chests)
    assert names(items) == ["IM0001", "a.JPG", "b.png", "d.dcm"]
    load = LoadImaged("image", reader=RadiographReader())
    assert all(load(item)["image"].shape == (1, 5, 7) for item in items)


def test_radiographs_that_are_named_keep_their_order_and_are_one_case_each(chests):
    given = [chests / "more", chests / "d.dcm", chests / "more" / ".." / "d.dcm", chests / "notes.txt"]
    assert names(find_radiographs(given)) == ["e.DCM", "d.dcm", "notes.txt"]
    assert names(find_radiographs(str(chests / "IM0001"))) == ["IM0001"]


def test_other_dicom_in_a_folder_is_left_out_and_one_warning_names_it(chests, caplog):
    write_radiograph(chests / "scan.dcm", asymmetric(5, 7), modality="CT")
    write_radiograph(chests / "d.seg.dcm", asymmetric(5, 7), modality="SEG")
    with caplog.at_level(logging.WARNING):
        assert names(find_radiographs(chests)) == ["IM0001", "a.JPG", "b.png", "d.dcm"]
    assert [record.message for record in caplog.records] == [
        f"{chests}: left out, as they are not radiographs: d.seg.dcm (SEG), empty, more (a folder), notes.txt, "
        "scan.dcm (CT)."
    ]


def test_a_folder_with_nothing_but_other_dicom_is_refused_with_its_modalities(tmp_path):
    write_radiograph(tmp_path / "scan.dcm", asymmetric(5, 7), modality="CT")
    with pytest.raises(ValueError, match=r"no radiograph .*DICOM of CR or DX\); left out: scan\.dcm \(CT\)\.$"):
        find_radiographs(tmp_path)


def test_a_folder_without_a_radiograph_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no radiograph in this folder .*png, tif.*DICOM of CR or DX\)\.$"):
        find_radiographs(tmp_path)


def test_dicom_that_is_named_and_no_radiograph_is_refused(tmp_path):
    path = write_radiograph(tmp_path / "scan.dcm", asymmetric(5, 7), modality="CT")
    with pytest.raises(ValueError, match=r"scan\.dcm: modality CT, expected CR or DX"):
        find_radiographs(path)


def test_a_damaged_dicom_file_stays_a_case_so_that_reading_it_says_what_is_wrong(chests):
    (chests / "broken.dcm").write_text("no DICOM")
    items = find_radiographs(chests)
    assert names(items) == ["IM0001", "a.JPG", "b.png", "broken.dcm", "d.dcm"]
    with pytest.raises(ValueError, match="not DICOM"):
        RadiographReader().get_data((Path(items[3]["image"]),))


def test_two_radiographs_that_differ_in_their_endings_alone_are_refused(chests):
    second = write_radiograph(chests / "d.png", asymmetric(5, 7))
    with pytest.raises(ValueError, match="both predictions would be named d;") as error:
        find_radiographs(chests)
    assert str(chests / "d.dcm") in str(error.value)
    assert str(second) in str(error.value)


def test_dicom_in_case_folders_that_is_no_radiograph_is_left_out_with_a_warning(tmp_path, caplog):
    for case in ("b", "a"):
        write_radiograph(tmp_path / case / "IM1", asymmetric(5, 7))
    write_radiograph(tmp_path / "b" / "IM2", asymmetric(5, 7), modality="CT")
    with caplog.at_level(logging.WARNING):
        assert case_names(find_radiographs(tmp_path)) == ["a_IM1", "b_IM1"]
    expected = f"{tmp_path}: left out, as they are not radiographs: b/IM2 (CT)."
    assert [record.message for record in caplog.records] == [expected]


def test_photographs_are_found_as_radiographs_are_by_their_own_modality(tmp_path, caplog):
    write_photograph(tmp_path / "IM0001", scenery(8, 9))
    write_radiograph(tmp_path / "chest.dcm", asymmetric(5, 7))
    (tmp_path / "left.jpe").touch()
    with caplog.at_level(logging.WARNING):
        assert names(find_photographs(tmp_path)) == ["IM0001", "left.jpe"]
        assert names(find_radiographs(tmp_path)) == ["chest.dcm", "left.jpe"]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: left out, as they are not photographs: chest.dcm (DX).",
        f"{tmp_path}: left out, as they are not radiographs: IM0001 (OP).",
    ]
    with pytest.raises(ValueError, match=r"chest\.dcm: modality DX, expected OP; give a photograph\.$"):
        find_photographs(tmp_path / "chest.dcm")


def test_a_radiograph_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.dcm: no such file or folder"):
        find_radiographs(tmp_path / "gone.dcm")


def test_radiographs_named_by_uid_without_ending_keep_their_whole_names(tmp_path):
    for uid in ("1.2.840.1.1", "1.2.840.1.2"):
        write_radiograph(tmp_path / uid, np.zeros((8, 9), np.uint16))
    items = find_radiographs(tmp_path)
    assert names(items) == ["1.2.840.1.1", "1.2.840.1.2"]
    assert case_names(items) == ["1.2.840.1.1", "1.2.840.1.2"]


def test_slices_are_found_as_images_are(folder: Path):
    assert names(find_slices(folder)) == names(find_images(folder))
    assert names(find_slices(folder / "c.png")) == ["c.png"]


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mha"])
def test_a_volume_in_place_of_a_slice_is_refused_with_the_key_for_scans(name: str, tmp_path: Path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name}: a scan, not a picture of one slice; set slices=false\."):
        find_slices(tmp_path / name)
    with pytest.raises(ValueError, match=rf"no picture of a slice, but {name} of a scan; set slices=false\."):
        find_slices(tmp_path)


def test_dicom_in_place_of_slices_is_refused_with_the_key_for_scans(tmp_path: Path):
    written = write_series(tmp_path / "exam" / "series")
    with pytest.raises(ValueError, match=r"no picture of a slice, but series/\S+ of a scan; set slices=false\."):
        find_slices(tmp_path / "exam")
    with pytest.raises(ValueError, match="a scan, not a picture of one slice"):
        find_slices(written.files[0])


def test_a_folder_with_neither_slices_nor_scans_is_refused_as_any(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no slice in this folder \(looked for png, tif"):
        find_slices(tmp_path)


@pytest.fixture
def sections(tmp_path: Path) -> Path:
    """Sections whose numbers have no leading zeros, and a note."""
    folder = tmp_path / "block"
    folder.mkdir()
    for name in ("10.png", "9.png", "0.png", "notes.txt"):
        (folder / name).touch()
    return folder


def test_sections_of_a_folder_come_in_the_order_of_their_numbers(sections):
    found = find_sections(sections)
    assert [item["name"] for item in found] == ["0", "9", "10"]
    assert found.left_out == [str(sections / "notes.txt")]


def test_a_folder_of_sections_is_one_case_if_it_is_a_stack(sections):
    found = find_sections([sections, sections / "9.png"], stack=True)
    assert [(item["image"], item["name"]) for item in found] == [
        (str(sections), "block"),
        (str(sections / "9.png"), "9"),
    ]
    assert found.left_out == [str(sections / "notes.txt")]


@pytest.mark.parametrize("stack", [False, True])
def test_a_folder_without_sections_is_refused(stack, tmp_path):
    with pytest.raises(ValueError, match=r"no section in this folder \(looked for png, tif"):
        find_sections(tmp_path, stack=stack)


def test_a_stack_whose_mask_would_replace_the_probabilities_of_another_is_refused(tmp_path):
    for name in ("a.tif", "A_probability.tif"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"a\.tif and \S+A_probability\.tif: probabilities of the one"):
        find_sections(tmp_path)


class TestOCT:
    """Pictures, files of devices and DICOM OPT."""

    def test_a_folder_stands_for_the_scans_directly_in_it_in_all_formats(self, tmp_path, caplog):
        deep = np.zeros((2, 1024, 6), np.uint8)
        write_vol(tmp_path / "b.VOL", reflectivity(bscans()))
        write_opt(tmp_path / "IM0001", bscans())
        write_radiograph(tmp_path / "chest.dcm", asymmetric(8, 9))
        (tmp_path / "a.png").touch()
        (tmp_path / "c.fda").touch()  # damaged, which reading reports
        (tmp_path / "notes.xml").write_text("<surfaces/>")
        (tmp_path / "brain.img").touch()
        cube = write_img(tmp_path, deep)
        found = find_oct(tmp_path)
        assert names(found) == ["IM0001", cube.name, "a.png", "b.VOL", "c.fda"]
        assert case_names(found) == ["IM0001", cube.stem, "a", "b", "c"]
        assert [Path(path).name for path in found.left_out] == ["brain.img", "chest.dcm", "notes.xml"]
        assert "brain.img (its name does not say the size of a cube), chest.dcm (DX), notes.xml (no XML" in caplog.text

    def test_the_pictures_of_an_xml_export_are_parts_of_its_scan(self, tmp_path):
        write_xml(tmp_path / "eye.xml", {5: bscans()})
        (tmp_path / "other.tif").touch()
        found = find_oct(tmp_path)
        assert names(found) == ["eye.xml", "other.tif"]
        assert found.left_out == []

    def test_the_pictures_of_an_xml_export_are_cases_if_they_are_named_themselves(self, tmp_path):
        write_xml(tmp_path / "eye.xml", {5: bscans()})
        assert names(find_oct([tmp_path / "B5_1.tif", tmp_path])) == ["B5_1.tif", "eye.xml"]

    def test_exports_in_folders_of_their_own_are_cases(self, tmp_path):
        for name in ("s1", "s2"):
            (tmp_path / name).mkdir()
            write_xml(tmp_path / name / "eye.xml", {5: bscans()})
        assert case_names(find_oct(tmp_path)) == ["s1_eye", "s2_eye"]

    @pytest.mark.parametrize("kind", ["e2e", "xml"])
    def test_each_scan_of_a_file_with_several_is_a_case(self, kind, tmp_path):
        if kind == "e2e":
            path = write_e2e(tmp_path / "eyes.e2e", {4: reflectivity(bscans()), 9: reflectivity(bscans(1))})
        else:
            path = write_xml(tmp_path / "eyes.xml", {4: bscans(), 9: bscans(1)})
        (tmp_path / "eye.png").touch()
        expected = [("eyes_4", str(path / "4")), ("eyes_9", str(path / "9"))]
        for given in (path, [path / "4", path / "9"]):
            assert [(item["name"], item["image"]) for item in find_oct(given)] == expected
        assert sorted(case_names(find_oct(tmp_path))) == ["eye", "eyes_4", "eyes_9"]

    def test_a_file_with_one_scan_is_one_case_by_its_own_name(self, tmp_path):
        path = write_e2e(tmp_path / "eye.E2E", {4: reflectivity(bscans())})
        assert find_oct(path) == [{"image": str(path), "name": "eye"}]

    def test_a_damaged_file_is_a_case_so_that_reading_says_what_is_wrong(self, tmp_path):
        (tmp_path / "eye.e2e").write_bytes(b"CMDb")
        (tmp_path / "eye2.xml").write_bytes(b"<HEDX><BODY>")
        assert names(find_oct(tmp_path)) == ["eye.e2e", "eye2.xml"]

    def test_a_folder_without_a_scan_is_refused_with_what_was_looked_for(self, tmp_path):
        (tmp_path / "brain.img").touch()
        with pytest.raises(
            ValueError, match=r"no retinal scan in this folder .*fda, img, DICOM of OPT.*left out: brain"
        ):
            find_oct(tmp_path)

    def test_what_does_not_exist_or_is_of_another_modality_is_refused(self, tmp_path):
        for missing in ("a.vol", "a.e2e/4"):
            with pytest.raises(FileNotFoundError, match=r"a\.\w+: no such file or folder"):
                find_oct(tmp_path / missing)
        with pytest.raises(ValueError, match="modality DX, expected OPT; give a retinal scan"):
            find_oct(write_radiograph(tmp_path / "chest.dcm", asymmetric(8, 9)))
