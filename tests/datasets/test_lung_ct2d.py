import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import imread, imwrite

from medseg_monai.data import CTSliceReader
from medseg_monai.datasets import DATASETS, read_lung_ct2d
from medseg_monai.phantoms import write_finding_lungs_layout

SIZE = (32, 40)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_finding_lungs_layout(tmp_path_factory.mktemp("lungs"), patients=6, slices=2, size=SIZE, seed=3)


@pytest.fixture
def published(drawn, tmp_path):
    return Path(shutil.copytree(drawn, tmp_path / "lungs"))


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


def test_slices_are_paired_by_name_and_split_by_patient(published, tmp_path, read_mask):
    found = read_lung_ct2d(published, derived=tmp_path / "derived")
    assert [len({item["patient"] for item in section}) for section in found.values()] == [4, 1, 1]
    items = every(found)
    assert len(items) == 12
    assert len({item["patient"] for item in items}) == 6
    for item in items:
        name = item["image"].rpartition("/")[2]
        assert item["label"] == str(published / "2d_masks" / name)  # 8 bits already, so nothing is written
        assert name.startswith(f"{item['patient']}_Z_")
        assert item["source"] == "lung_ct2d"
        assert read_mask(item["label"]).any()
    assert not (tmp_path / "derived").exists()


def test_the_log_says_how_many_were_found(published, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="medseg_monai"):
        read_lung_ct2d(published, derived=tmp_path)
    assert f"{published}: 12 slices of 6 patients." in caplog.messages


def test_each_patient_is_tested_in_one_of_five_folds(published, tmp_path):
    folds = [DATASETS[f"lung_ct2d_fold{fold}"](published, derived=tmp_path) for fold in range(1, 6)]
    tested = [sorted({item["patient"] for item in found["test"]}) for found in folds]
    assert sorted(patient for patients in tested for patient in patients) == [f"ID_{number:04d}" for number in range(6)]
    assert sorted(map(len, tested)) == [1, 1, 1, 1, 2]
    for found in folds:
        sections = [{item["patient"] for item in section} for section in found.values()]
        assert sum(map(len, sections)) == len(set().union(*sections)) == 6
        assert every(found) == every(folds[0])


def test_a_fold_that_is_none_and_too_few_patients_are_refused(published, tmp_path):
    with pytest.raises(ValueError, match="fold=6: there are 5 folds, from 1"):
        read_lung_ct2d(published, derived=tmp_path, fold=6)
    few = write_finding_lungs_layout(tmp_path / "few", patients=2, size=SIZE, seed=0)
    with pytest.raises(ValueError, match="2 patients can't be divided into 5 folds"):
        read_lung_ct2d(few, derived=tmp_path, fold=1)


@pytest.mark.parametrize("kind", ["int16", "int32", "float32", "float64"])
def test_slices_of_all_writers_are_the_same_slices(kind, published, tmp_path):
    plain = every(read_lung_ct2d(published, derived=tmp_path))
    for path in (published / "2d_images").iterdir():
        imwrite(path, imread(path).astype(kind), photometric="minisblack")
    assert every(read_lung_ct2d(published, derived=tmp_path)) == plain


@pytest.mark.parametrize("kind", ["int16", "int32", "uint16", "float32"])
def test_masks_of_other_numbers_become_8_bit_pictures(kind, published, tmp_path, read_mask):
    masks = {path.stem: imread(path) > 0 for path in (published / "2d_masks").iterdir()}
    for name, mask in masks.items():
        imwrite(published / "2d_masks" / f"{name}.tif", (mask * 255).astype(kind), photometric="minisblack")
    for item in every(read_lung_ct2d(published, derived=tmp_path / "derived")):
        name = item["label"].rpartition("/")[2].removesuffix(".png")
        assert item["label"] == str(tmp_path / "derived" / "lung_ct2d" / "label" / f"{name}.png")
        np.testing.assert_array_equal(read_mask(item["label"]), masks[name])


def test_a_mask_of_several_values_is_named(published, tmp_path):
    mask = sorted((published / "2d_masks").iterdir())[0]
    values = np.asarray(imread(mask)).copy()
    values[:9, :9] = 128
    imwrite(mask, values, photometric="minisblack")
    with pytest.raises(ValueError, match=rf"{mask.name}: has values 0, 128, 255, which do not say what is foreground"):
        read_lung_ct2d(published, derived=tmp_path / "derived")


def test_a_slice_without_lungs_has_an_empty_label(published, tmp_path, read_mask):
    first, second = sorted((published / "2d_masks").iterdir())[:2]
    Image.new("L", SIZE[::-1]).save(first)
    imwrite(second, np.zeros(SIZE, np.int16), photometric="minisblack")
    labels = [item["label"] for item in every(read_lung_ct2d(published, derived=tmp_path))][:2]
    assert labels[0] == str(first)
    assert not any(read_mask(label).any() for label in labels)


def test_pictures_of_8_bits_are_taken_too(published, tmp_path):
    for path in (published / "2d_images").iterdir():
        Image.fromarray(np.clip((imread(path) + 1000) / 1400 * 255, 0, 255).astype(np.uint8)).save(path)
    image = every(read_lung_ct2d(published, derived=tmp_path))[0]["image"]
    reader = CTSliceReader()
    values, _ = reader.get_data(reader.read(image))
    assert values.min() == -1000


def test_doubtful_files_are_named_in_one_error(published, tmp_path):
    images = sorted((published / "2d_images").iterdir())
    masks = sorted((published / "2d_masks").iterdir())
    masks[0].unlink()
    images[1].unlink()
    imwrite(images[2], (imread(images[2]) + 1024).astype(np.uint16), photometric="minisblack")
    Image.new("L", (31, 40), 255).save(masks[3])
    images[4].write_bytes(images[4].read_bytes()[:100])
    images[5].rename(images[5].with_name("slice5.tif"))
    with pytest.raises(ValueError, match="7 missing or doubtful files in lung_ct2d") as caught:
        read_lung_ct2d(published, derived=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"2d_images/{images[0].name}: image without mask" in message
    assert f"2d_masks/{masks[1].name}: mask without image" in message
    assert f"2d_images/{images[2].name}: 16-bit values" in message
    assert f"2d_masks/{masks[3].name}: is 31x40, its image 40x32" in message
    assert f"2d_images/{images[4].name}: truncated or not an image" in message
    assert "2d_images/slice5.tif: unexpected name" in message


def test_a_folder_without_slices_is_refused(tmp_path):
    (tmp_path / "2d_images").mkdir()
    with pytest.raises(ValueError, match=r"2d_images: no slices ID_0000_Z_0142\.tif"):
        read_lung_ct2d(tmp_path, derived=tmp_path)
