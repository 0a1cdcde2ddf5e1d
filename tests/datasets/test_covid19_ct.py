import numpy as np
import pytest
from PIL import Image

from medseg_monai.datasets import DATASETS, read_covid19_ct

NAMES = ("0000", "0016", "0033")


@pytest.fixture
def published(tmp_path, disc):
    folder = tmp_path / "covid"
    for kind, values in (("images", np.where(disc, 30, 200)), ("masks_lungs", disc * 255)):
        (folder / kind).mkdir(parents=True)
        for name in NAMES:
            Image.fromarray(values.astype(np.uint8)).save(folder / kind / f"{name}.png")
    rows = "".join(f"{name}.png,{number // 2},{name}\n" for number, name in enumerate(NAMES))
    (folder / "index.csv").write_text(f"file,guessed_case,full_sequence_index\n{rows}")
    return folder


def test_all_slices_are_for_testing_and_know_their_guessed_case(published, tmp_path, read_mask, disc):
    found = DATASETS["covid19_ct"](published, derived=tmp_path / "derived", validation_fraction=0.2, seed=1)
    assert found["training"] == found["validation"] == []
    assert [item["patient"] for item in found["test"]] == ["case_0", "case_0", "case_1"]
    assert found["test"][0]["image"] == str(published / "images" / "0000.png")
    for item in found["test"]:
        np.testing.assert_array_equal(read_mask(item["label"]), disc)


def test_doubtful_files_are_named_in_one_error(published, tmp_path):
    (published / "masks_lungs" / "0000.png").unlink()
    Image.new("L", (20, 31)).save(published / "masks_lungs" / "0016.png")
    (published / "index.csv").write_text("file,guessed_case\n0016.png,0\n")
    with pytest.raises(ValueError, match="3 missing or doubtful files in covid19_ct") as caught:
        read_covid19_ct(published, derived=tmp_path)
    assert "images/0000.png: image without mask" in str(caught.value)
    assert "masks_lungs/0016.png: is 20x31, its image 31x20" in str(caught.value)
    assert "images/0033.png: not in index.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, "index.csv: no such file"),
        (b"file,case\n0000.png,1\n", "index.csv: no column guessed_case"),
        (b"\xff\xfe\x00", "index.csv: not a table of UTF-8"),
    ],
)
def test_an_index_that_cannot_be_read_is_named(content, wrong, published, tmp_path):
    (published / "index.csv").unlink()
    if content is not None:
        (published / "index.csv").write_bytes(content)
    with pytest.raises(ValueError, match=wrong):
        read_covid19_ct(published, derived=tmp_path)


def test_the_real_slices_are_100_of_19_guessed_cases(real_data, tmp_path, read_mask):
    found = read_covid19_ct(real_data("lung_ct2d/covid19_ct"), derived=tmp_path)["test"]
    assert (len(found), len({item["patient"] for item in found})) == (100, 19)
    assert all(read_mask(item["label"]).any() for item in found)
