import numpy as np
import pytest
from PIL import Image

from medseg_monai.datasets import read_montgomery

NAMES = [f"MCUCXR_{number:04d}_{number % 2}" for number in range(1, 11)]
SIDES = ("leftMask", "rightMask")


@pytest.fixture
def lungs(disc):
    """Left and right lung; neither is the other's mirror image."""
    left, right = np.zeros_like(disc), np.zeros_like(disc)
    left[2:9, 18:26] = True
    right[3:14, 4:12] = True
    return left, right


@pytest.fixture
def published(tmp_path, draw_image, draw_mask, lungs):
    root = tmp_path / "MontgomerySet"
    for name in NAMES:
        draw_image(root / "CXR_png" / f"{name}.png")
        for side, lung in zip(SIDES, lungs, strict=True):
            draw_mask(root / "ManualMask" / side / f"{name}.png", lung)
    (root / "ClinicalReadings").mkdir()
    return root


@pytest.fixture
def flat(tmp_path, draw_image, draw_mask):
    root = tmp_path / "flat"
    for name in NAMES:
        draw_image(root / "images" / f"{name}.png")
        draw_mask(root / "masks" / f"{name}.png")
    return root


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


def test_left_and_right_are_merged_in_the_size_of_the_image(published, tmp_path, read_mask, lungs):
    items = every(read_montgomery(published, derived=tmp_path / "derived"))
    assert [set(item) for item in items] == [{"image", "label", "patient", "source"}] * len(NAMES)
    assert items[0]["label"] == str(tmp_path / "derived" / "montgomery" / "label" / f"{NAMES[0]}.png")
    for item in items:
        np.testing.assert_array_equal(read_mask(item["label"]), lungs[0] | lungs[1])


def test_masks_of_one_bit_are_understood(published, tmp_path, read_mask, lungs):
    for side, lung in zip(SIDES, lungs, strict=True):
        Image.fromarray(lung).save(published / "ManualMask" / side / f"{NAMES[0]}.png")
    item = every(read_montgomery(published, derived=tmp_path / "derived"))[0]
    np.testing.assert_array_equal(read_mask(item["label"]), lungs[0] | lungs[1])


def test_the_patient_is_the_number_without_the_finding(published, tmp_path):
    found = read_montgomery(published, derived=tmp_path / "derived", validation_fraction=0.2)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [6, 2, 2]
    assert [item["patient"] for item in every(found)] == [name[:-2] for name in NAMES]
    assert {item["source"] for item in every(found)} == {"montgomery"}


def test_the_flat_layout_is_split_too_and_takes_the_masks_as_they_are(flat, tmp_path, draw_mask, disc):
    soft = np.where(disc, 255, 0)
    soft[2, 4:15] = 100
    path = draw_mask(flat / "masks" / f"{NAMES[0]}.png", soft, value=1)
    found = read_montgomery(flat, derived=tmp_path / "derived")
    assert [len(found[name]) for name in ("training", "validation", "test")] == [6, 2, 2]
    assert every(found)[0]["label"] == str(path)
    assert not (tmp_path / "derived").exists()


def test_the_folder_above_is_understood(published, tmp_path):
    assert len(every(read_montgomery(tmp_path, derived=tmp_path / "derived"))) == len(NAMES)


def test_missing_and_doubtful_files_are_named_in_one_error(published, tmp_path, draw_image, draw_mask, disc):
    (published / "ManualMask" / "leftMask" / f"{NAMES[0]}.png").unlink()
    (published / "CXR_png" / f"{NAMES[1]}.png").unlink()
    draw_image(published / "CXR_png" / f"{NAMES[2]}.png", size=(20, 31))
    draw_image(published / "CXR_png" / "overview.png")
    with pytest.raises(ValueError, match="missing or doubtful files in montgomery") as caught:
        read_montgomery(published, derived=tmp_path / "derived")
    message = str(caught.value)
    assert f"CXR_png/{NAMES[0]}.png: image without left mask" in message
    assert f"ManualMask/rightMask/{NAMES[1]}.png: right mask without image" in message
    assert f"ManualMask/leftMask/{NAMES[2]}.png: is 31x20, its image 20x31" in message
    assert "CXR_png/overview.png: unexpected name" in message


def test_an_empty_or_broken_mask_is_named(published, tmp_path, draw_mask, disc):
    draw_mask(published / "ManualMask" / "leftMask" / f"{NAMES[0]}.png", np.zeros_like(disc))
    broken = published / "ManualMask" / "rightMask" / f"{NAMES[1]}.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match="2 missing or doubtful files") as caught:
        read_montgomery(published, derived=tmp_path / "derived")
    assert f"leftMask/{NAMES[0]}.png: mask is empty" in str(caught.value)
    assert f"rightMask/{NAMES[1]}.png: " in str(caught.value)


def test_the_real_copy_has_138_pairs_of_138_patients(real_data, tmp_path, read_mask):
    found = read_montgomery(real_data("lung_cxr/montgomery"), derived=tmp_path)
    items = every(found)
    assert len(items) == len({item["patient"] for item in items}) == 138
    assert [len(found[name]) for name in ("training", "validation", "test")] == [83, 28, 27]
    assert 0.1 < np.mean([read_mask(item["label"]).mean() for item in items[:5]]) < 0.5
