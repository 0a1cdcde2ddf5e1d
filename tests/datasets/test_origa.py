import numpy as np
import pytest
from scipy.io import savemat

from medseg_monai.datasets import read_origa

NUMBERS = ("001", "002", "003", "004", "005", "006", "007", "008", "009", "010")
SETS = dict(zip(NUMBERS, "ABAABABBAB", strict=True))


@pytest.fixture
def write_mat(disc):
    def write(path, values=None, *, name="mask"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is None:
            values = disc.astype(np.uint8)
            values[5:7, 6:9] = 2
        savemat(path, {name: values}, do_compression=True)

    return write


@pytest.fixture
def origa(tmp_path, draw_image, write_mat):
    root = tmp_path / "published"
    for number in NUMBERS:
        draw_image(root / "Images" / f"{number}.jpg")
        write_mat(root / "Semi-automatic-annotations" / f"{number}.mat")
    rows = [f"OD,{number}.jpg,0.7,{name},0" for number, name in SETS.items()]
    (root / "OrigaList.csv").write_text("\n".join(["Eye,Filename,ExpCDR,Set,Glaucoma", *rows]))
    return root


def test_set_a_trains_and_set_b_tests(origa, tmp_path):
    found = read_origa(origa, derived=tmp_path / "derived")
    assert [item["patient"] for item in found["test"]] == [number for number in NUMBERS if SETS[number] == "B"]
    assert [len(found[name]) for name in ("training", "validation")] == [4, 1]


def test_values_in_quotes_are_understood(origa, tmp_path):
    path = origa / "OrigaList.csv"
    path.write_text(path.read_text().replace(",A,", ",'A',").replace(".jpg", ".jpg'").replace("OD,", "OD,'"))
    assert len(read_origa(origa, derived=tmp_path / "derived")["test"]) == 5


def test_without_the_list_the_split_is_seeded(origa, tmp_path):
    (origa / "OrigaList.csv").unlink()
    found = read_origa(origa, derived=tmp_path / "derived", seed=1)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [6, 2, 2]
    assert read_origa(origa, derived=tmp_path / "derived", seed=1) == found
    assert read_origa(origa, derived=tmp_path / "derived", seed=2) != found


def test_the_disc_is_rim_and_cup_in_the_orientation_of_the_image(origa, tmp_path, read_mask, disc):
    item = read_origa(origa, derived=tmp_path / "derived")["test"][0]
    np.testing.assert_array_equal(read_mask(item["label"]), disc)


def test_missing_and_doubtful_files_are_named_in_one_error(origa, tmp_path, write_mat):
    annotations = origa / "Semi-automatic-annotations"
    (annotations / "001.mat").unlink()
    write_mat(annotations / "002.mat", np.ones((31, 20)))
    write_mat(annotations / "003.mat", name="disc")
    (annotations / "004.mat").write_bytes(b"no matlab")
    (origa / "Images" / "005.jpg").unlink()
    with pytest.raises(ValueError, match="6 missing or doubtful files in origa") as caught:
        read_origa(origa, derived=tmp_path / "derived")
    message = str(caught.value)
    assert "Images/001.jpg: image without mask" in message
    assert "002.mat: is 20x31, its image 31x20" in message
    assert "003.mat: has no variable 'mask', but disc" in message
    assert "004.mat: can't be read as a Matlab file" in message
    assert "005.mat: mask without image" in message
    assert "Images/005.jpg: missing, but in OrigaList.csv" in message


def test_an_image_that_the_list_does_not_know_is_named(origa, tmp_path):
    path = origa / "OrigaList.csv"
    path.write_text(path.read_text().replace("002.jpg,0.7,B", "002.jpg,0.7,C"))
    with pytest.raises(ValueError, match=r"002\.jpg: OrigaList\.csv has no Set"):
        read_origa(origa, derived=tmp_path / "derived")


def test_an_empty_mask_is_named(origa, tmp_path, write_mat):
    write_mat(origa / "Semi-automatic-annotations" / "007.mat", np.zeros((20, 31), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"007\.mat: mask is empty"):
        read_origa(origa, derived=tmp_path / "derived")
