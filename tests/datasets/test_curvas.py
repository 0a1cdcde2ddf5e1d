import numpy as np
import pytest
from PIL import Image

from medseg_monai.datasets import DATASETS, read_curvas

WIDTH, HEIGHT = 31, 20
COLOURS = {"liver": (255, 0, 255), "kidney": (255, 255, 0), "pancreas": (0, 255, 255)}
PLACES = {"liver": np.s_[3:9, 4:15], "kidney": np.s_[12:15, 20:24], "pancreas": np.s_[10, 2:9]}
NAMES = {rater: [f"{10000 + case}_{100 * rater + case}" for case in range(1, 7)] for rater in (1, 2, 3)}


def draw(root, rater, name, organs=tuple(PLACES)):
    image = root / f"images_rater{rater}" / f"{name}.png"
    mask = root / f"masks_rater{rater}" / f"{name}.png"
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for organ in organs:
        pixels[PLACES[organ]] = COLOURS[organ]
    for path, picture in ((image, Image.new("L", (WIDTH, HEIGHT), 90)), (mask, Image.fromarray(pixels))):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return mask


@pytest.fixture
def published(tmp_path):
    for rater, names in NAMES.items():
        for name in names:
            draw(tmp_path / "curvas", rater, name)
    return tmp_path / "curvas"


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


@pytest.mark.parametrize("organ", COLOURS)
def test_one_organ_of_all_raters_is_split_by_case(published, tmp_path, read_mask, organ):
    found = DATASETS[f"curvas_{organ}"](published, derived=tmp_path / "derived", validation_fraction=0.2, seed=0)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [12, 3, 3]
    assert every(found)[0] == {
        "image": str(published / "images_rater1" / "10001_101.png"),
        "label": str(tmp_path / "derived" / f"curvas_{organ}" / "label" / "10001_101.png"),
        "patient": "10001",
        "source": f"curvas_{organ}",
    }
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[PLACES[organ]] = True
    for item in every(found):
        np.testing.assert_array_equal(read_mask(item["label"]), expected)


def test_a_slice_without_the_organ_has_an_empty_label(published, tmp_path, read_mask):
    draw(published, 1, NAMES[1][0], organs=("kidney",))
    assert not read_mask(every(read_curvas(published, derived=tmp_path))[0]["label"]).any()


def test_doubtful_files_are_named_in_one_error(published, tmp_path):
    (published / "masks_rater1" / f"{NAMES[1][0]}.png").unlink()
    draw(published, 3, NAMES[2][1])
    Image.new("RGB", (HEIGHT, WIDTH)).save(published / "masks_rater2" / f"{NAMES[2][2]}.png")
    with pytest.raises(ValueError, match="3 missing or doubtful files in curvas_liver") as caught:
        read_curvas(published, derived=tmp_path)
    assert f"images_rater1/{NAMES[1][0]}.png: image without mask" in str(caught.value)
    assert f"images_rater3/{NAMES[2][1]}.png: second file of {NAMES[2][1]} beside images_rater2" in str(caught.value)
    assert f"masks_rater2/{NAMES[2][2]}.png: is 20x31, its image 31x20" in str(caught.value)


def test_another_colour_and_an_unknown_organ_are_refused(published, tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 254)).save(published / "masks_rater2" / f"{NAMES[2][2]}.png")
    with pytest.raises(
        ValueError, match=rf"masks_rater2/{NAMES[2][2]}\.png: 620 pixels of a colour that stands for no"
    ):
        read_curvas(published, derived=tmp_path)
    with pytest.raises(ValueError, match="organ='spleen' is unknown: choose from liver, kidney, pancreas"):
        read_curvas(published, derived=tmp_path, organ="spleen")


def test_the_real_slices_are_108_of_14_cases(real_data, tmp_path, read_mask):
    found = read_curvas(real_data("liver_ct/curvas"), derived=tmp_path)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [77, 14, 17]
    assert [len({item["patient"] for item in found[name]}) for name in found] == [10, 2, 2]
    assert sum(read_mask(item["label"]).any() for item in every(found)) == 95
