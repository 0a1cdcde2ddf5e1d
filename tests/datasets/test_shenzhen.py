import logging
import shutil

import numpy as np
import pytest

from medseg_monai.datasets import read_shenzhen

NAMES = [f"CHNCXR_{number:04d}_{number % 2}" for number in range(1, 13)]
WITHOUT = NAMES[3], NAMES[7]


@pytest.fixture
def published(tmp_path, draw_image, draw_mask):
    """Images of which two have no mask."""
    root = tmp_path / "ChinaSet_AllFiles"
    for name in NAMES:
        draw_image(root / "CXR_png" / f"{name}.png")
        if name not in WITHOUT:
            draw_mask(root / "mask" / f"{name}_mask.png")
    return root


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


def test_images_without_mask_are_left_out_and_listed_once(published, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = read_shenzhen(published, derived=tmp_path / "derived")
    assert [item["patient"] for item in every(found)] == [name[:-2] for name in NAMES if name not in WITHOUT]
    assert [record.message for record in caplog.records] == [
        f"{published}: 2 of 12 images have no mask and are left out: {', '.join(WITHOUT)}."
    ]


def test_nothing_is_said_when_every_image_has_its_mask(published, tmp_path, caplog):
    for name in WITHOUT:
        (published / "CXR_png" / f"{name}.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(every(read_shenzhen(published, derived=tmp_path / "derived"))) == 10
    assert not caplog.records


def test_items_have_the_normal_form_and_the_published_masks(published, tmp_path, read_mask, disc):
    found = read_shenzhen(published, derived=tmp_path / "derived")
    assert [len(found[name]) for name in ("training", "validation", "test")] == [6, 2, 2]
    item = every(found)[0]
    assert item == {
        "image": str(published / "CXR_png" / f"{NAMES[0]}.png"),
        "label": str(published / "mask" / f"{NAMES[0]}_mask.png"),
        "patient": "CHNCXR_0001",
        "source": "shenzhen",
    }
    np.testing.assert_array_equal(read_mask(item["label"]), disc)


@pytest.mark.parametrize("place", ["../mask", "mask/mask", "../mask/mask"])
def test_the_mask_set_may_lie_beside_the_images_as_it_is_unpacked(published, tmp_path, place):
    shutil.move(published / "mask", tmp_path / "aside")
    (published / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(tmp_path / "aside", published / place)
    assert len(every(read_shenzhen(published, derived=tmp_path / "derived"))) == 10


def test_the_folder_above_is_understood(published, tmp_path):
    assert len(every(read_shenzhen(tmp_path, derived=tmp_path / "derived"))) == 10


def test_the_flat_layout_is_read_with_its_own_mask_names(tmp_path, draw_image, draw_mask):
    for name in NAMES:
        draw_image(tmp_path / "flat" / "images" / f"{name}.png")
        draw_mask(tmp_path / "flat" / "masks" / f"{name}.png")
    found = read_shenzhen(tmp_path / "flat", derived=tmp_path / "derived")
    assert [len(found[name]) for name in ("training", "validation", "test")] == [7, 3, 2]
    assert every(found)[0]["label"] == str(tmp_path / "flat" / "masks" / f"{NAMES[0]}.png")


def test_a_set_without_any_mask_is_refused_with_where_they_belong(published, tmp_path):
    shutil.rmtree(published / "mask")
    with pytest.raises(ValueError, match="mask: no masks; they are a data set of their own"):
        read_shenzhen(published, derived=tmp_path / "derived")


def test_doubtful_files_are_named_in_one_error(published, tmp_path, draw_image, draw_mask):
    draw_mask(published / "mask" / "CHNCXR_0099_0_mask.png")
    draw_mask(published / "mask" / "CHNCXR_0001.png")
    draw_image(published / "CXR_png" / f"{NAMES[2]}.png", size=(20, 31))
    with pytest.raises(ValueError, match="3 missing or doubtful files in shenzhen") as caught:
        read_shenzhen(published, derived=tmp_path / "derived")
    message = str(caught.value)
    assert "mask/CHNCXR_0099_0_mask.png: mask without image" in message
    assert "mask/CHNCXR_0001.png: unexpected name" in message
    assert f"mask/{NAMES[2]}_mask.png: is 31x20, its image 20x31" in message


def test_the_real_copy_has_200_pairs_of_200_patients(real_data, tmp_path, read_mask):
    found = read_shenzhen(real_data("lung_cxr/shenzhen"), derived=tmp_path)
    items = every(found)
    assert len(items) == len({item["patient"] for item in items}) == 200
    assert [len(found[name]) for name in ("training", "validation", "test")] == [120, 40, 40]
    assert 0.1 < np.mean([read_mask(item["label"]).mean() for item in items[:5]]) < 0.5
