import numpy as np
import pytest

from medseg_monai.datasets import read_idrid

IMAGES = "1. Original Images"
MASKS = "2. All Segmentation Groundtruths"
SECTIONS = {"a. Training Set": (1, 2, 3, 4, 5), "b. Testing Set": (55, 56)}


@pytest.fixture
def published(tmp_path, draw_image, draw_mask):
    root = tmp_path / "A. Segmentation"
    for section, numbers in SECTIONS.items():
        for number in numbers:
            draw_image(root / IMAGES / section / f"IDRiD_{number:02d}.jpg")
            draw_mask(root / MASKS / section / "5. Optic Disc" / f"IDRiD_{number:02d}_OD.tif", palette=True)
            draw_mask(root / MASKS / section / "1. Microaneurysms" / f"IDRiD_{number:02d}_MA.tif", palette=True)
    return root


@pytest.fixture
def flat(tmp_path, draw_image, draw_mask):
    root = tmp_path / "flat"
    for number in (1, 2, 3):
        draw_image(root / "images" / f"IDRiD_{number:02d}.jpg")
        draw_mask(root / "masks" / f"IDRiD_{number:02d}_OD.png")
    return root


def test_the_official_split_is_kept(published, tmp_path):
    found = read_idrid(published, derived=tmp_path / "derived")
    assert [item["patient"] for item in found["test"]] == ["IDRiD_55", "IDRiD_56"]
    assert [len(found[name]) for name in ("training", "validation")] == [4, 1]


def test_a_palette_mask_becomes_a_png_of_the_same_size_under_derived(published, tmp_path, read_mask, disc):
    item = read_idrid(published, derived=tmp_path / "derived")["test"][0]
    assert item["label"].startswith(str(tmp_path / "derived"))
    np.testing.assert_array_equal(read_mask(item["label"]), disc)


def test_masks_of_zero_and_one_are_understood(published, tmp_path, read_mask, draw_mask, disc):
    draw_mask(published / MASKS / "b. Testing Set" / "5. Optic Disc" / "IDRiD_55_OD.tif", value=1)
    item = read_idrid(published, derived=tmp_path / "derived")["test"][0]
    np.testing.assert_array_equal(read_mask(item["label"]), disc)


def test_a_mask_of_several_small_values_is_refused(published, tmp_path, draw_mask, disc):
    values = disc.astype(np.uint8)
    values[0, 0] = 2
    draw_mask(published / MASKS / "b. Testing Set" / "5. Optic Disc" / "IDRiD_55_OD.tif", values, value=1)
    with pytest.raises(ValueError, match=r"IDRiD_55_OD\.tif: mask has several values and none above 127"):
        read_idrid(published, derived=tmp_path / "derived")


def test_the_flat_layout_is_all_test(flat, tmp_path, read_mask, disc):
    found = read_idrid(flat, derived=tmp_path / "derived")
    assert [len(found[name]) for name in ("training", "validation", "test")] == [0, 0, 3]
    assert found["test"][0]["label"] == str(flat / "masks" / "IDRiD_01_OD.png")
    np.testing.assert_array_equal(read_mask(found["test"][0]["label"]), disc)


def test_the_folder_above_is_understood(published, tmp_path):
    assert len(read_idrid(tmp_path, derived=tmp_path / "derived")["test"]) == 2


def test_missing_and_doubtful_files_are_named_in_one_error(published, tmp_path, draw_image, draw_mask):
    (published / MASKS / "a. Training Set" / "5. Optic Disc" / "IDRiD_03_OD.tif").unlink()
    draw_image(published / IMAGES / "b. Testing Set" / "IDRiD_55.jpg", size=(62, 40))
    with pytest.raises(ValueError, match="2 missing or doubtful files in idrid") as caught:
        read_idrid(published, derived=tmp_path / "derived")
    assert "a. Training Set/IDRiD_03.jpg: image without mask" in str(caught.value)
    assert "IDRiD_55_OD.tif: is 31x20, its image 62x40" in str(caught.value)


def test_a_truncated_mask_is_named(published, tmp_path, draw_mask):
    noise = np.random.default_rng(0).integers(0, 255, (20, 31))
    path = draw_mask(published / MASKS / "b. Testing Set" / "5. Optic Disc" / "IDRiD_55_OD.png", noise, value=1)
    path.with_suffix(".tif").unlink()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"IDRiD_55_OD\.png: "):
        read_idrid(published, derived=tmp_path / "derived")


def test_the_real_subset_has_twenty(real_data, tmp_path, read_mask):
    found = read_idrid(real_data("optic_disc/idrid"), derived=tmp_path)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [0, 0, 20]
    assert 0.005 < read_mask(found["test"][0]["label"]).mean() < 0.1
