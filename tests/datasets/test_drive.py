import shutil

import numpy as np
import pytest
from PIL import Image

from medseg_monai.data.datalist import load_datalist, write_datalist
from medseg_monai.datasets import read_drive
from medseg_monai.datasets._common import field_of_view, foreground


@pytest.fixture
def drive(tmp_path, draw_image, draw_mask):
    root = tmp_path / "published"
    for number in (21, 22, 23, 24, 25):
        draw_image(root / f"training/images/{number}_training.tif")
        draw_mask(root / f"training/1st_manual/{number}_manual1.gif")
    for number in ("01", "02"):
        draw_image(root / f"test/images/{number}_test.tif")
        draw_mask(root / f"test/1st_manual/{number}_manual1.gif")
        draw_mask(root / f"test/2nd_manual/{number}_manual2.gif", palette=True)
        draw_mask(root / f"test/mask/{number}_test_mask.gif")
    return root


def test_the_official_split_is_kept_and_a_part_of_training_held_out(drive, tmp_path):
    found = read_drive(drive, derived=tmp_path / "derived")
    assert [item["patient"] for item in found["test"]] == ["01", "02"]
    assert len(found["training"]) == 4
    assert len(found["validation"]) == 1
    trained = {item["patient"] for section in ("training", "validation") for item in found[section]}
    assert trained == {"21", "22", "23", "24", "25"}


def test_nothing_is_held_out_for_a_fraction_of_zero(drive, tmp_path):
    found = read_drive(drive, derived=tmp_path / "derived", validation_fraction=0)
    assert (len(found["training"]), found["validation"]) == (5, [])


def test_published_masks_are_used_where_they_fit_and_the_palette_is_resolved(drive, tmp_path, read_mask, disc):
    item = read_drive(drive, derived=tmp_path / "derived")["test"][0]
    assert item["image"] == str(drive / "test/images/01_test.tif")
    assert item["label"] == str(drive / "test/1st_manual/01_manual1.gif")
    assert item["fov"] == str(drive / "test/mask/01_test_mask.gif")
    assert item["label_expert2"].startswith(str(tmp_path / "derived"))
    for key in ("label", "fov", "label_expert2"):
        np.testing.assert_array_equal(read_mask(item[key]), disc)


def test_a_missing_field_of_view_is_derived_from_the_image(drive, tmp_path, read_mask):
    photograph = np.zeros((20, 31, 3), dtype=np.uint8)
    photograph[2:15, 5:30] = (150, 60, 20)
    photograph[6:8, 10:12] = 0
    photograph[18, 0] = 200
    Image.fromarray(photograph).save(drive / "training/images/21_training.tif")
    found = read_drive(drive, derived=tmp_path / "derived", validation_fraction=0)
    expected = np.zeros((20, 31), dtype=bool)
    expected[2:15, 5:30] = True
    np.testing.assert_array_equal(read_mask(found["training"][0]["fov"]), expected)


def test_the_folder_above_is_understood_when_it_holds_drive(drive, tmp_path):
    shutil.move(drive, tmp_path / "DRIVE")
    assert len(read_drive(tmp_path, derived=tmp_path / "derived")["test"]) == 2


def test_the_list_can_be_written_and_read_back(drive, tmp_path):
    found = read_drive(drive, derived=tmp_path / "derived")
    write_datalist(found, tmp_path / "lists" / "drive.json")
    read = load_datalist(tmp_path / "lists" / "drive.json", "test")
    assert [{key: item[key] for key in item if key != "name"} for item in read] == found["test"]


def test_everything_missing_or_doubtful_is_named_in_one_error(drive, tmp_path, draw_image, draw_mask):
    (drive / "training/1st_manual/21_manual1.gif").unlink()
    (drive / "training/images/22_training.tif").unlink()
    draw_mask(drive / "test/1st_manual/02_manual1.gif", np.ones((31, 20), dtype=bool))
    draw_image(drive / "test/images/holiday.png")
    (drive / "test/mask/01_test_mask.gif").write_bytes(b"")
    with pytest.raises(ValueError, match="5 missing or doubtful files in drive") as caught:
        read_drive(drive, derived=tmp_path / "derived")
    message = str(caught.value)
    assert "training/images/21_training.tif: image without 1st_manual" in message
    assert "training/1st_manual/22_manual1.gif: 1st_manual without image" in message
    assert "test/1st_manual/02_manual1.gif: is 20x31, its image 31x20" in message
    assert "test/images/holiday.png: unexpected name" in message
    assert "test/mask/01_test_mask.gif: can't be read as an image" in message
    assert "\n" not in message


def test_more_than_ten_problems_are_counted(drive, tmp_path, draw_image):
    for number in range(40, 52):
        draw_image(drive / f"training/images/{number}_training.tif")
    with pytest.raises(ValueError, match=r"12 missing.*49_training.*12 in all") as caught:
        read_drive(drive, derived=tmp_path / "derived")
    assert "50_training" not in str(caught.value)


def test_an_empty_mask_is_named(drive, tmp_path, draw_mask):
    draw_mask(drive / "test/1st_manual/02_manual1.gif", np.zeros((20, 31), dtype=bool))
    with pytest.raises(ValueError, match=r"02_manual1\.gif: mask is empty"):
        read_drive(drive, derived=tmp_path / "derived")


def test_a_black_image_without_field_of_view_is_named(drive, tmp_path):
    Image.new("RGB", (31, 20)).save(drive / "training/images/23_training.tif")
    with pytest.raises(ValueError, match=r"23_training\.tif: image is black"):
        read_drive(drive, derived=tmp_path / "derived")


def test_the_folders_of_a_mac_archive_do_not_disturb(drive, tmp_path):
    (drive / "test/images/._01_test.tif").write_bytes(b"resource fork")
    assert len(read_drive(drive, derived=tmp_path / "derived")["test"]) == 2


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_outside_its_range_is_refused(drive, tmp_path, fraction):
    with pytest.raises(ValueError, match="validation_fraction must be 0 or more and below 1"):
        read_drive(drive, derived=tmp_path / "derived", validation_fraction=fraction)


def test_the_real_drive_has_twenty_and_twenty(real_data, tmp_path, read_mask):
    found = read_drive(real_data("retinal_vessel/drive"), derived=tmp_path)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [16, 4, 20]
    for item in found["training"][:2] + found["test"][:2]:
        assert 0.04 < read_mask(item["label"]).mean() < 0.2
        assert 0.6 < read_mask(item["fov"]).mean() < 0.75
    assert all("label_expert2" in item for item in found["test"])


def test_the_derived_field_of_view_agrees_with_the_real_masks(real_data):
    folder = real_data("retinal_vessel/drive")
    for number in ("01", "03", "19"):
        derived = field_of_view(folder / f"test/images/{number}_test.tif")
        published = foreground(folder / f"test/mask/{number}_test_mask.gif")
        assert (derived & published).sum() / (derived | published).sum() > 0.98
