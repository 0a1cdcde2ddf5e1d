"""Readers of layers in OCT: tiny folders in their layouts, and the real ones where they lie."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from medseg_monai.data import BoundaryTableWriter
from medseg_monai.data.results.case import SavedCase
from medseg_monai.datasets import DATASETS
from medseg_monai.datasets.nr206 import COLOURS
from medseg_monai.layers import boundaries_of_labels, disordered_columns, labels_of_boundaries

HEIGHT, WIDTH = 40, 23
EIGHT = np.arange(4, 36, 4)[:, None] + np.arange(WIDTH)[None] // 8


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def grey(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH))


def read(name: str, folder: Path, tmp_path: Path, **options: object) -> dict:
    return DATASETS[name](folder, derived=tmp_path / "derived", **options)


def every(datalist: dict) -> list[dict]:
    return [item for section in ("training", "validation", "test") for item in datalist[section]]


def label_of(item: dict, key: str = "label") -> np.ndarray:
    return np.asarray(Image.open(item[key]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five B-scans with labels and an index: two scans of one eye under two names of subjects."""
    root = tmp_path / "oct"
    lines = ["file,patient,split_group"]
    for number in range(6):
        write(root / "images" / f"eye{number}.png", grey(number))
        write(root / "masks" / f"eye{number}.png", labels_of_boundaries(EIGHT, HEIGHT))
        lines.append(f"eye{number}.png,S{number},{'S0+S1' if number < 2 else f'S{number}'}")
    (root / "index.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("name", ["oct_labels", "healthy_spectralis"])
def test_scans_of_one_eye_stay_in_one_section(name, folder, tmp_path):
    datalist = read(name, folder, tmp_path)
    sections = {item["patient"]: section for section in datalist for item in datalist[section]}
    assert len(every(datalist)) == 6
    assert sorted(sections) == ["S0+S1", "S2", "S3", "S4", "S5"]
    assert not (tmp_path / "derived").exists()


def test_spectralis_rows_are_known_and_those_of_any_folder_only_from_its_index(folder, tmp_path):
    assert {item["axial_um"] for item in every(read("healthy_spectralis", folder, tmp_path))} == {3.87}
    assert not any("axial_um" in item for item in every(read("oct_labels", folder, tmp_path)))


def test_without_an_index_each_scan_is_a_patient_where_that_may_be(folder, tmp_path):
    (folder / "index.csv").unlink()
    assert len({item["patient"] for item in every(read("oct_labels", folder, tmp_path))}) == 6
    with pytest.raises(ValueError, match=r"index\.csv: missing"):
        read("healthy_spectralis", folder, tmp_path)


def test_an_index_without_a_scan_or_a_column_is_refused(folder, tmp_path):
    (folder / "index.csv").write_text("file,patient\neye0.png,S0\n")
    with pytest.raises(ValueError, match=r"images/eye1\.png: not in index\.csv"):
        read("oct_labels", folder, tmp_path)
    with pytest.raises(ValueError, match=r"index\.csv: has no column split_group"):
        read("healthy_spectralis", folder, tmp_path)


def test_a_spacing_in_the_index_goes_first_and_must_be_one(folder, tmp_path):
    rows = [f"eye{number}.png,S{number},S{number},{2.5}" for number in range(6)]
    (folder / "index.csv").write_text("\n".join(["file,patient,split_group,axial_um", *rows]))
    assert {item["axial_um"] for item in every(read("healthy_spectralis", folder, tmp_path))} == {2.5}
    (folder / "index.csv").write_text("\n".join(["file,patient,split_group,axial_um", *rows[:-1], "eye5.png,a,a,wide"]))
    with pytest.raises(ValueError, match=r"index\.csv: axial_um 'wide' of eye5 is no spacing"):
        read("oct_labels", folder, tmp_path)


def test_classes_out_of_order_are_refused_with_file_and_column(folder, tmp_path):
    labels = labels_of_boundaries(EIGHT, HEIGHT)
    labels[30, 17] = 1
    write(folder / "masks" / "eye3.png", labels)
    with pytest.raises(ValueError, match=r"masks/eye3\.png: classes out of order in column 17"):
        read("oct_labels", folder, tmp_path)


def test_a_label_of_another_size_of_colours_or_of_other_classes_is_refused(folder, tmp_path):
    write(folder / "masks" / "eye0.png", labels_of_boundaries(EIGHT, HEIGHT + 1))
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "masks" / "eye1.png")
    write(folder / "masks" / "eye2.png", np.full((HEIGHT, WIDTH), 9))
    with pytest.raises(ValueError, match=f"eye0.png: is {WIDTH}x{HEIGHT + 1}, its image {WIDTH}x{HEIGHT}"):
        read("healthy_spectralis", folder, tmp_path)
    write(folder / "masks" / "eye0.png", labels_of_boundaries(EIGHT, HEIGHT))
    with pytest.raises(ValueError, match=r"eye1\.png: colour mode 'RGB'.*eye2\.png: has values 9 besides 0 to 8"):
        read("healthy_spectralis", folder, tmp_path)


# --- tables of boundaries --------------------------------------------------------------------------------------------


def write_table(path: Path, boundaries: np.ndarray, head: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(str(value) for value in column) for column in boundaries.T]
    path.write_text("\n".join([head, *lines]) + "\n")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    root = tmp_path / "tables"
    for number in range(5):
        write(root / "images" / f"eye{number}.png", grey(number))
        write_table(root / "boundaries" / f"eye{number}.csv", EIGHT[:2] + 0.25, "ILM,BM")
    return root


def test_a_table_becomes_the_label_between_its_boundaries(tables, tmp_path):
    column = np.arange(WIDTH)[None]
    opened = np.vstack([column, EIGHT[:2]]).astype(object)
    opened[2, 5] = ""
    write_table(tables / "boundaries" / "eye2.csv", opened, "column,ILM,BM")
    found = {item["patient"]: label_of(item) for item in every(read("oct_boundaries", tables, tmp_path))}
    expected = EIGHT[:2].astype(float)
    np.testing.assert_array_equal(boundaries_of_labels(found["eye0"], 3), np.rint(expected))
    expected[:, 5] = np.nan
    np.testing.assert_array_equal(boundaries_of_labels(found["eye2"], 3), expected)


def test_the_table_of_a_prediction_is_read_as_it_was_written(tables, tmp_path):
    labels = labels_of_boundaries(EIGHT[:2], HEIGHT)
    case = SavedCase("eye4", "eye4.png", labels, np.eye(4), {})
    (tables / "boundaries" / "eye4.csv").unlink()
    BoundaryTableWriter(3, ["ILM", "BM"])(case, tables / "boundaries")
    found = {item["patient"]: label_of(item) for item in every(read("oct_boundaries", tables, tmp_path))}
    np.testing.assert_array_equal(found["eye4"], labels)


READ = "can't be read as a table of boundaries"
COLUMNS = np.arange(WIDTH)[None]


@pytest.mark.parametrize(
    ("boundaries", "head", "message"),
    [
        (EIGHT[:2][:, :-1], "ILM,BM", f"{READ}: 2 boundaries in {WIDTH - 1} columns, its image has {WIDTH}"),
        (EIGHT[[1, 0]], "ILM,BM", f"{READ}: boundaries cross in column 0"),
        (EIGHT[:2] + 20 * (np.arange(WIDTH) > 4), "ILM,BM", ""),
        (EIGHT[:2] + 60 * (np.arange(WIDTH) == 4), "ILM,BM", f"{READ}: boundaries leave the image in column 4"),
        (EIGHT[:3], "ILM,BM", f"{READ}: it has lines of other lengths"),
        (EIGHT[:2].astype(str) + np.str_("px"), "ILM,BM", f"{READ}: '[0-9.]+px' is no place of a boundary"),
        (np.vstack([COLUMNS[:, ::-1], EIGHT[:2]]), "column,ILM,BM", f"{READ}: its columns are not numbered 0, 1"),
        (np.vstack([0 * COLUMNS, EIGHT[:2]]), "column,ILM,BM", f"{READ}: its columns are not numbered 0, 1"),
        (np.vstack([0 * COLUMNS, COLUMNS, EIGHT[:2]]), "bscan,column,ILM,BM", f"{READ}: it is of a volume"),
        (EIGHT[:2], "ILM,ILM", f"{READ}: boundaries: 2 names"),
        (EIGHT[:2], "inner limiting,BM", f"{READ}: boundaries: inner limiting: a name has letters"),
        (EIGHT[:2], "2,5.5", f"{READ}: its first line does not name the boundaries"),
        (EIGHT[:2], "ILM,RPE", "boundaries ILM, RPE, but not all tables have these"),
    ],
)
def test_a_doubtful_table_is_refused_by_name(boundaries, head, message, tables, tmp_path):
    write_table(tables / "boundaries" / "eye3.csv", boundaries, head)
    if not message:
        read("oct_boundaries", tables, tmp_path)
        return
    with pytest.raises(ValueError, match=rf"boundaries/eye3\.csv: {message}"):
        read("oct_boundaries", tables, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "it is empty"), ("ILM\n1".encode("utf-16"), "is not UTF-8 text")]
)
def test_a_file_that_is_no_table_is_refused_by_name(content, message, tables, tmp_path):
    (tables / "boundaries" / "eye3.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"boundaries/eye3\.csv: {READ}: {message}"):
        read("oct_boundaries", tables, tmp_path)


# --- NR206 -----------------------------------------------------------------------------------------------------------


def colour_mask() -> np.ndarray:
    palette = np.array([(0, 0, 0), *COLOURS, (0, 0, 0)], dtype=np.uint8)
    edges = np.vstack([EIGHT, EIGHT[-1:] + 1])
    return palette[labels_of_boundaries(edges, HEIGHT)]


@pytest.fixture
def nr206(tmp_path: Path) -> Path:
    root = tmp_path / "nr206"
    for number in range(5):
        write(root / "images" / f"NORMAL{number}.png", grey(number))
        rgba = np.dstack([colour_mask(), np.full((HEIGHT, WIDTH), 255)]).astype(np.uint8)
        write(root / "masks" / f"NORMAL{number}.png", rgba)
    return root


def test_the_background_of_nr206_is_two_classes(nr206, tmp_path):
    for item in every(read("nr206", nr206, tmp_path)):
        labels = label_of(item)
        assert np.unique(labels).tolist() == list(range(10))
        np.testing.assert_array_equal(boundaries_of_labels(labels, 10)[:8], EIGHT)
        assert labels[0].max() == 0
        assert labels[-1].min() == 9


def test_an_unknown_colour_is_refused_with_its_file(nr206, tmp_path):
    mask = colour_mask()
    mask[7, 3] = (1, 2, 3)
    write(nr206 / "masks" / "NORMAL2.png", mask)
    with pytest.raises(ValueError, match=r"masks/NORMAL2\.png: colours that stand for no layer: #010203"):
        read("nr206", nr206, tmp_path)


def test_a_background_that_is_one_is_refused(nr206, tmp_path):
    mask = colour_mask()
    mask[:, 11] = 0
    write(nr206 / "masks" / "NORMAL1.png", mask)
    with pytest.raises(ValueError, match=r"NORMAL1\.png: the background above and below the layers is one .*column 11"):
        read("nr206", nr206, tmp_path)


def test_a_hole_makes_its_column_one_without_truth_and_is_named(nr206, tmp_path, caplog):
    mask = colour_mask()
    mask[9, 6] = 0
    write(nr206 / "masks" / "NORMAL4.png", mask)
    with caplog.at_level(logging.WARNING):
        datalist = read("nr206", nr206, tmp_path)
    (item,) = (item for item in every(datalist) if item["patient"] == "NORMAL4")
    assert np.flatnonzero((label_of(item) == 255).any(axis=0)).tolist() == [6]
    assert "NORMAL4.png: classes out of order in column 6" in caplog.text


def test_official_sections_of_nr206_are_kept(nr206, tmp_path):
    for kind in ("images", "masks"):
        for section, numbers in {"train": (0, 1), "val": (2,), "test": (3, 4)}.items():
            for number in numbers:
                target = nr206 / section / kind / f"NORMAL{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                (nr206 / kind / f"NORMAL{number}.png").rename(target)
        (nr206 / kind).rmdir()
    datalist = read("nr206", nr206, tmp_path)
    assert [len(datalist[section]) for section in ("training", "validation", "test")] == [2, 1, 2]


# --- Duke ------------------------------------------------------------------------------------------------------------


def volume(**changes: object) -> dict[str, object]:
    first = np.full((8, WIDTH, 3), np.nan)
    first[:, 2:20, 1] = EIGHT[:, 2:20] + 1  # MATLAB counts rows from 1
    first[3, 9, 1] = np.nan
    second = np.full((8, WIDTH, 3), np.nan)
    second[:, 2:20, 1] = EIGHT[:, 2:20] + 2
    images = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return {"images": images, "manualLayers1": first, "manualLayers2": second, **changes}


@pytest.fixture
def duke(tmp_path: Path) -> Path:
    root = tmp_path / "duke"
    root.mkdir()
    for number in range(1, 6):
        savemat(root / f"Subject_{number:02d}.mat", volume())
    return root


def test_the_drawn_bscans_of_a_mat_file_become_pictures_with_two_graders(duke, tmp_path):
    items = every(read("duke_dme", duke, tmp_path))
    assert sorted(item["patient"] for item in items) == [f"Subject_{number:02d}" for number in range(1, 6)]
    for item in items:
        np.testing.assert_array_equal(np.asarray(Image.open(item["image"])), volume()["images"][..., 1])
        expected = EIGHT.astype(float)
        expected[:, [0, 1, 9, 20, 21, 22]] = np.nan
        np.testing.assert_array_equal(boundaries_of_labels(label_of(item), 9), expected)
        second = boundaries_of_labels(label_of(item, "label_expert2"), 9)
        np.testing.assert_array_equal(second[:, 2:20], EIGHT[:, 2:20] + 1)
        assert item["axial_um"] == 3.87


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": np.zeros((4, 5))}, "has no manualLayers1, manualLayers2"),
        (volume(manualLayers2=np.zeros((7, WIDTH, 3))), "manualLayers2: another shape than 8 boundaries"),
        (volume(images=np.full((HEIGHT, WIDTH, 3), 4000)), "grey values above 255"),
    ],
)
def test_a_mat_file_of_another_form_is_refused(content, message, duke, tmp_path):
    savemat(duke / "Subject_03.mat", content)
    with pytest.raises(ValueError, match=rf"Subject_03\.mat: {message}"):
        read("duke_dme", duke, tmp_path)


def test_a_damaged_mat_file_is_refused(duke, tmp_path):
    (duke / "Subject_04.mat").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"Subject_04\.mat: can't be read as a MATLAB file"):
        read("duke_dme", duke, tmp_path)


# --- Cirrus ----------------------------------------------------------------------------------------------------------


def test_the_ten_classes_of_cirrus_become_nine_for_testing_alone(tmp_path, caplog):
    nine = np.vstack([EIGHT, EIGHT[-1:] + 2])
    labels = labels_of_boundaries(nine, HEIGHT)
    labels[30, 4] = 0
    write(tmp_path / "cirrus" / "images" / "a.png", grey())
    write(tmp_path / "cirrus" / "masks" / "a.png", labels)
    with caplog.at_level(logging.WARNING):
        datalist = read("cirrus_onh", tmp_path / "cirrus", tmp_path)
    (item,) = datalist["test"]
    assert datalist["training"] == datalist["validation"] == []
    kept = np.delete(nine, 5, axis=0).astype(float)  # the boundary between ONL and IS is not among the eight
    kept[:, 4] = np.nan
    np.testing.assert_array_equal(boundaries_of_labels(label_of(item), 9), kept)
    assert "a.png: classes out of order in column 4" in caplog.text


# --- real files ------------------------------------------------------------------------------------------------------

REAL = {
    "duke_dme": ("duke_dme_chiu2015", 40, 9),
    "healthy_spectralis": ("healthy10_spectralis", 32, 9),
    "cirrus_onh": ("cirrus_onh_example", 3, 9),
    "nr206": ("nr206", 6, 10),
    "oct_labels": ("healthy10_spectralis", 32, 9),
}


@pytest.mark.parametrize("name", REAL)
def test_real_folders_are_read_whole(name, real_data, tmp_path):
    folder, count, classes = REAL[name]
    items = every(read(name, real_data(f"retinal_layer_oct/{folder}"), tmp_path))
    assert len(items) == count
    for item in items:
        labels = label_of(item)
        assert set(np.unique(labels)) <= {*range(classes), 255}
        assert not disordered_columns(labels).size
        with Image.open(item["image"]) as image:
            assert image.size == labels.shape[::-1]


def test_the_boundaries_of_real_labels_are_those_that_were_drawn(real_data, tmp_path):
    folder = real_data("retinal_layer_oct/duke_dme_chiu2015")
    drawn = np.load(folder / "boundaries.npz")
    for item in every(read("duke_dme", folder, tmp_path)):
        found = boundaries_of_labels(label_of(item), 9)
        expected = drawn[Path(item["image"]).stem]
        known = np.isfinite(found).all(axis=0)
        assert np.abs(found - expected)[:, known].max() <= 0.5
