from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_monai.datasets import read_drishti_gs

SPLIT = {"Training": ("002", "004", "008", "010", "012"), "Test": ("001", "003")}


def soft_map(disc):
    """Three experts marked the disc, one of them its first column only: 191 and 64 where the others did not."""
    values = disc.astype(np.uint8) * 191
    values[3:9, 15] = 64
    return values


@pytest.fixture
def published(tmp_path, draw_image, draw_mask, disc):
    root = tmp_path / "published"
    for section, truth in (("Training", "GT"), ("Test", "Test_GT")):
        for number in SPLIT[section]:
            name = f"drishtiGS_{number}"
            draw_image(root / section / "Images" / f"{name}.png")
            draw_mask(root / section / truth / name / "SoftMap" / f"{name}_ODsegSoftmap.png", soft_map(disc), value=1)
            draw_mask(root / section / truth / name / "SoftMap" / f"{name}_cupsegSoftmap.png")
    return root


@pytest.fixture
def flat(tmp_path, draw_image, draw_mask, disc):
    root = tmp_path / "flat"
    lines = ["file,official_split,orig_w,orig_h"]
    for section, numbers in SPLIT.items():
        for number in numbers:
            draw_image(root / "images" / f"drishtiGS_{number}.jpg")
            draw_mask(root / "masks_od_softmap" / f"drishtiGS_{number}_ODsegSoftmap.png", soft_map(disc), value=1)
            lines.append(f"drishtiGS_{number}.jpg,{section},62,40")
    (root / "index.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("layout", ["published", "flat"])
def test_the_official_split_is_kept_in_both_layouts(layout, request, tmp_path):
    found = read_drishti_gs(request.getfixturevalue(layout), derived=tmp_path / "derived")
    assert [item["patient"] for item in found["test"]] == ["001", "003"]
    trained = sorted(item["patient"] for name in ("training", "validation") for item in found[name])
    assert trained == sorted(SPLIT["Training"])
    assert len(found["validation"]) == 1


def test_the_label_is_the_majority_of_the_published_soft_map_as_0_and_255(published, tmp_path, read_mask, disc):
    item = read_drishti_gs(published, derived=tmp_path / "derived")["test"][0]
    assert Path(item["label"]).is_relative_to(tmp_path / "derived")
    assert set(np.unique(Image.open(item["label"]))) == {0, 255}
    assert item["image"] == str(published / "Test/Images/drishtiGS_001.png")
    np.testing.assert_array_equal(read_mask(item["label"]), disc)


def test_the_folder_inside_the_archive_is_found(published, tmp_path):
    (tmp_path / "download" / "Drishti-GS1_files").mkdir(parents=True)
    published.rename(tmp_path / "download" / "Drishti-GS1_files" / "Drishti-GS1_files")
    assert len(read_drishti_gs(tmp_path / "download", derived=tmp_path / "derived")["test"]) == 2


def test_images_in_class_folders_are_found(published, tmp_path):
    images = published / "Training" / "Images"
    (images / "GLAUCOMA").mkdir()
    (images / "drishtiGS_002.png").rename(images / "GLAUCOMA" / "drishtiGS_002.png")
    found = read_drishti_gs(published, derived=tmp_path / "derived", validation_fraction=0)
    assert found["training"][0]["image"] == str(images / "GLAUCOMA" / "drishtiGS_002.png")


def test_missing_and_doubtful_files_are_named_in_one_error(published, tmp_path, draw_image):
    (published / "Training/GT/drishtiGS_004/SoftMap/drishtiGS_004_ODsegSoftmap.png").unlink()
    draw_image(published / "Test/Images/drishtiGS_001.png", size=(20, 31))
    draw_image(published / "Test/Images/copy/drishtiGS_003.png")
    with pytest.raises(ValueError, match="3 missing or doubtful files in drishti_gs") as caught:
        read_drishti_gs(published, derived=tmp_path / "derived")
    message = str(caught.value)
    assert "Training/Images/drishtiGS_004.png: image without soft map" in message
    assert "drishtiGS_001_ODsegSoftmap.png: is 31x20, its image 20x31" in message
    assert "drishtiGS_003.png: second file of 003" in message


def test_a_missing_ground_truth_folder_is_named(published, tmp_path):
    (published / "Test" / "Test_GT").rename(published / "Test" / "elsewhere")
    with pytest.raises(ValueError, match="Test/Test_GT: folder of the ground truth is missing"):
        read_drishti_gs(published, derived=tmp_path / "derived")


def test_an_image_that_the_index_does_not_know_is_named(flat, tmp_path):
    index = flat / "index.csv"
    index.write_text(index.read_text().replace("drishtiGS_010.jpg,Training", "drishtiGS_010.jpg,Validation"))
    with pytest.raises(ValueError, match=r"drishtiGS_010\.jpg: index\.csv has no official_split"):
        read_drishti_gs(flat, derived=tmp_path / "derived")


def test_a_flat_folder_without_index_is_refused(flat, tmp_path):
    (flat / "index.csv").unlink()
    with pytest.raises(ValueError, match=r"index\.csv: missing"):
        read_drishti_gs(flat, derived=tmp_path / "derived")


def test_the_real_drishti_gs_has_fifty_and_fiftyone(real_data, tmp_path, read_mask):
    found = read_drishti_gs(real_data("optic_disc/drishti_gs"), derived=tmp_path)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [40, 10, 51]
    assert 0.01 < read_mask(found["test"][0]["label"]).mean() < 0.1
