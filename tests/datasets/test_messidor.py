import numpy as np
import pytest

from medseg_monai.datasets import read_messidor

NAMES = [f"20051019_{number}_0100_PP" for number in range(38557, 38567)]
# the corners of the test mask's rectangle: columns 4-14, rows 3-8
CONTOUR = "4 3\n14 3\n14 8\n4 8\n"


@pytest.fixture
def messidor(tmp_path, draw_image):
    root = tmp_path / "published"
    for index, name in enumerate(NAMES):
        folder = root / ("Base11" if index < 5 else "Base12")
        draw_image(folder / f"{name}.tif")
        (folder / f"{name}.txt").write_text(CONTOUR)
    (root / "readme.txt").write_text("optic disc boundaries")
    return root


def test_the_split_is_seeded_and_complete(messidor, tmp_path):
    found = read_messidor(messidor, derived=tmp_path / "derived", seed=1)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [6, 2, 2]
    assert sorted(item["patient"] for section in found.values() for item in section) == NAMES
    assert read_messidor(messidor, derived=tmp_path / "derived", seed=2) != found


def test_the_contour_is_filled_column_first(messidor, tmp_path, read_mask, disc):
    item = read_messidor(messidor, derived=tmp_path / "derived")["test"][0]
    label = read_mask(item["label"])
    assert label.shape == disc.shape
    assert not (label & ~disc).any()
    assert label[4:8, 5:14].all()


@pytest.mark.parametrize("text", [CONTOUR.replace(" ", ", "), "x y\n" + CONTOUR.replace("\n", ".0\r\n")])
def test_commas_and_a_line_of_words_are_understood(messidor, tmp_path, read_mask, text):
    expected = read_mask(read_messidor(messidor, derived=tmp_path / "derived")["test"][0]["label"])
    for path in messidor.glob("Base*/*.txt"):
        path.write_text(text)
    item = read_messidor(messidor, derived=tmp_path / "again")["test"][0]
    np.testing.assert_array_equal(read_mask(item["label"]), expected)


def test_boundaries_in_another_folder_and_with_a_longer_name_are_found(messidor, tmp_path):
    (messidor / "boundaries").mkdir()
    for path in messidor.glob("Base*/*.txt"):
        path.rename(messidor / "boundaries" / f"{path.stem}-edge.txt")
    found = read_messidor(messidor, derived=tmp_path / "derived")
    assert sum(len(section) for section in found.values()) == 10


def test_derived_masks_below_the_data_are_not_taken_for_images(messidor):
    first = read_messidor(messidor, derived=messidor)
    assert read_messidor(messidor, derived=messidor) == first


def test_missing_files_are_named_in_one_error(messidor, tmp_path):
    (messidor / "Base11" / f"{NAMES[0]}.txt").unlink()
    (messidor / "Base12" / f"{NAMES[9]}.tif").unlink()
    with pytest.raises(ValueError, match="2 missing or doubtful files in messidor") as caught:
        read_messidor(messidor, derived=tmp_path / "derived")
    assert f"Base11/{NAMES[0]}.tif: image without boundary" in str(caught.value)
    assert f"Base12/{NAMES[9]}.txt: boundary without image" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("4 3\n14 3\n14 25\n", "contour leaves its image of 31x20"),
        ("4 3\n14 3\n", "2 points are no contour"),
        ("4 3 9\n14 3 9\n14 8 9\n", "not a list of points"),
        ("4 3\n14 3\n14 8\nend\n", "not a point: 'end'"),
        ("", "not a list of points"),
        ("4 3\n4 3\n4 3\n", "contour encloses no pixel"),
    ],
)
def test_a_contour_that_makes_no_sense_is_named(messidor, tmp_path, text, wrong):
    (messidor / "Base11" / f"{NAMES[2]}.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"{NAMES[2]}\.txt: {wrong}"):
        read_messidor(messidor, derived=tmp_path / "derived")


def test_a_fraction_that_leaves_nothing_to_train_on_is_refused(messidor, tmp_path):
    with pytest.raises(ValueError, match=r"below 0\.8"):
        read_messidor(messidor, derived=tmp_path / "derived", validation_fraction=0.8)
