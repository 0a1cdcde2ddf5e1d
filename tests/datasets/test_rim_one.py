import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from medseg_monai.datasets import DATASETS, read_rim_one

CASES = [("Normal", number) for number in range(1, 7)] + [("Deep", number) for number in range(1, 5)]


def expert_mask(number):
    """Expert n marks rows 3-8 from column 4 to 10 + n: three or more mark columns 4-13."""
    mask = np.zeros((20, 31), dtype=bool)
    mask[3:9, 4 : 11 + number] = True
    return mask


@pytest.fixture
def rim_one(tmp_path, draw_image, draw_mask):
    root = tmp_path / "published"
    for folder, number in CASES:
        draw_image(root / folder / f"Im{number:03d}.bmp")
        for expert in range(1, 6):
            draw_mask(root / folder / f"Im{number:03d}-exp{expert}.bmp", expert_mask(expert))
    (root / "Normal" / "readme.txt").write_text("release 1")
    return root


def first(found):
    return min((item for section in found.values() for item in section), key=lambda item: item["patient"])


def test_equal_numbers_in_two_classes_are_two_patients(rim_one, tmp_path):
    found = read_rim_one(rim_one, derived=tmp_path / "derived")
    assert [len(found[name]) for name in ("training", "validation", "test")] == [6, 2, 2]
    names = sorted(item["patient"] for section in found.values() for item in section)
    assert names == sorted(f"{folder}_Im{number:03d}" for folder, number in CASES)


def test_every_expert_has_a_label_and_the_label_is_their_majority(rim_one, tmp_path, read_mask):
    item = first(read_rim_one(rim_one, derived=tmp_path / "derived"))
    for expert in range(1, 6):
        np.testing.assert_array_equal(read_mask(item[f"label_expert{expert}"]), expert_mask(expert))
    np.testing.assert_array_equal(read_mask(item["label"]), expert_mask(3))


def test_a_gold_standard_goes_before_the_majority(rim_one, tmp_path, draw_mask, read_mask):
    draw_mask(rim_one / "Deep" / "Im001-gs.bmp", expert_mask(9))
    item = first(read_rim_one(rim_one, derived=tmp_path / "derived"))
    assert item["patient"] == "Deep_Im001"
    np.testing.assert_array_equal(read_mask(item["label"]), expert_mask(9))


@pytest.mark.parametrize(
    ("name", "expert"), [("rim_one", 9), ("rim_one_majority", 3), ("rim_one_expert1", 1)], ids=lambda value: str(value)
)
def test_what_is_trained_on_is_a_choice_and_all_experts_stay_in_the_list(
    rim_one, tmp_path, draw_mask, read_mask, name, expert
):
    draw_mask(rim_one / "Deep" / "Im001-gs.bmp", expert_mask(9))
    DATASETS["rim_one"](rim_one, derived=tmp_path / "derived")
    item = first(DATASETS[name](rim_one, derived=tmp_path / "derived"))
    DATASETS["rim_one_expert1"](rim_one, derived=tmp_path / "derived")  # lists side by side keep their own labels
    assert item["source"] == name
    np.testing.assert_array_equal(read_mask(item["label"]), expert_mask(expert))
    for number in range(1, 6):
        np.testing.assert_array_equal(read_mask(item[f"label_expert{number}"]), expert_mask(number))


def test_an_unknown_choice_and_one_without_its_masks_are_refused(rim_one, tmp_path, draw_mask):
    with pytest.raises(ValueError, match="train_label='expert6' is unknown: choose from gold, majority, expert1"):
        read_rim_one(rim_one, derived=tmp_path, train_label="expert6")
    for path in rim_one.glob("Deep/Im001-exp*.bmp"):
        path.unlink()
    draw_mask(rim_one / "Deep" / "Im001-gs.bmp", expert_mask(2))
    with pytest.raises(ValueError, match=r"Deep/Im001\.bmp: image without mask of exp1, exp2, exp3, exp4, exp5"):
        read_rim_one(rim_one, derived=tmp_path, train_label="expert1")


def test_a_gold_standard_alone_is_enough(rim_one, tmp_path, draw_mask):
    for path in rim_one.glob("Deep/Im001-exp*.bmp"):
        path.unlink()
    draw_mask(rim_one / "Deep" / "Im001-gs.bmp", expert_mask(2))
    assert set(first(read_rim_one(rim_one, derived=tmp_path / "derived"))) == {"image", "label", "patient", "source"}


def test_a_closed_line_is_filled(rim_one, tmp_path, draw_mask, read_mask):
    line = expert_mask(4) & ~binary_erosion(expert_mask(4))
    draw_mask(rim_one / "Deep" / "Im001-exp4.bmp", line)
    item = first(read_rim_one(rim_one, derived=tmp_path / "derived"))
    np.testing.assert_array_equal(read_mask(item["label_expert4"]), expert_mask(4))


@pytest.mark.parametrize(
    "text",
    [
        "4 3\n15 3\n15 8\n4 8\n",
        "Contour\r\n9\r\n6\r\n4\r\n3\r\n15\r\n3\r\n15\r\n8\r\n4\r\n8\r\nEllipse parameters\r\n9\r\n6\r\n11\r\n",
    ],
)
def test_a_contour_as_text_is_filled_without_centre_and_ellipse(rim_one, tmp_path, read_mask, text):
    path = rim_one / "Deep" / "Im001-exp5.bmp"
    path.unlink()
    path.with_suffix(".txt").write_text(text)
    label = read_mask(first(read_rim_one(rim_one, derived=tmp_path / "derived"))["label_expert5"])
    assert label[4:8, 5:15].all()
    assert not (label & ~expert_mask(5)).any()


def test_a_mask_goes_before_a_contour_of_the_same_expert(rim_one, tmp_path, read_mask):
    (rim_one / "Deep" / "Im001-exp1.txt").write_text("1 1\n2 1\n2 2\n")
    item = first(read_rim_one(rim_one, derived=tmp_path / "derived"))
    np.testing.assert_array_equal(read_mask(item["label_expert1"]), expert_mask(1))


def test_missing_and_doubtful_files_are_named_in_one_error(rim_one, tmp_path, draw_image, draw_mask):
    (rim_one / "Deep" / "Im001-exp2.bmp").unlink()
    (rim_one / "Deep" / "Im002.bmp").unlink()
    for path in rim_one.glob("Normal/Im003-exp*.bmp"):
        path.unlink()
    draw_mask(rim_one / "Normal" / "Im004-exp5.bmp", np.ones((31, 20), dtype=bool))
    draw_image(rim_one / "Normal" / "overview.png")
    with pytest.raises(ValueError, match="5 missing or doubtful files in rim_one") as caught:
        read_rim_one(rim_one, derived=tmp_path / "derived")
    message = str(caught.value)
    assert "Deep/Im001.bmp: image without mask of exp2" in message
    assert "Deep/Im002-exp1.bmp: mask without image" in message
    assert "Normal/Im003.bmp: image without mask" in message
    assert "Normal/Im004-exp5.bmp: is 20x31, its image 31x20" in message
    assert "Normal/overview.png: unexpected name" in message


def test_experts_without_any_agreement_are_named(rim_one, tmp_path, draw_mask):
    for expert in range(1, 6):
        mask = np.zeros((20, 31), dtype=bool)
        mask[:, expert] = True
        draw_mask(rim_one / "Deep" / f"Im003-exp{expert}.bmp", mask)
    with pytest.raises(ValueError, match=r"Deep/Im003\.bmp: no pixel is marked by three experts"):
        read_rim_one(rim_one, derived=tmp_path / "derived")


def test_an_empty_expert_mask_is_named(rim_one, tmp_path, draw_mask):
    draw_mask(rim_one / "Deep" / "Im003-exp2.bmp", np.zeros((20, 31), dtype=bool))
    with pytest.raises(ValueError, match=r"Im003-exp2\.bmp: mask is empty"):
        read_rim_one(rim_one, derived=tmp_path / "derived")
