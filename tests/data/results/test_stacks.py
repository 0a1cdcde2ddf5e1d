"""Mask and probability of a stack, page for page, as other programs read them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from PIL import Image

from medseg_monai.data import ProbabilityWriter, SaveResultsd, StackWriter
from medseg_monai.data.results.case import to_case

SHAPE = (5, 20, 31)


def stack(shape: tuple[int, ...] = SHAPE, **meta: object) -> MetaTensor:
    return MetaTensor(torch.zeros(1, *shape), meta={"filename_or_obj": "volume.tif", "spatial_shape": shape, **meta})


def probability(image: MetaTensor) -> MetaTensor:
    values = image.clone()
    values[:] = torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
    return values


def item(image: MetaTensor) -> dict[str, MetaTensor]:
    values = probability(image)
    return {"image": image, "probability": values, "pred": (values > 0.7).float()}


def saver(folder: object) -> SaveResultsd:
    return SaveResultsd("pred", folder, writers=[StackWriter(255), ProbabilityWriter()], probability_key="probability")


def test_page_k_of_mask_and_probability_belongs_to_page_k(tmp_path):
    case = item(stack())
    mask, scores = saver(tmp_path).save(case)
    assert (mask.name, scores.name) == ("volume.tif", "volume_probability.tif")
    expected = case["probability"][0].numpy()
    with Image.open(mask) as masks, Image.open(scores) as floats:
        assert (masks.n_frames, floats.n_frames, masks.mode, floats.mode) == (5, 5, "L", "F")
        for page in range(5):
            masks.seek(page)
            floats.seek(page)
            np.testing.assert_array_equal(np.asarray(floats), expected[page])
            np.testing.assert_array_equal(np.asarray(masks), 255 * (expected[page] > 0.7))
    assert tifffile.imread(scores).dtype == np.float32


def test_a_single_picture_has_a_png_and_a_page_of_floats(tmp_path):
    case = item(stack((1, 20, 31)))
    mask, scores = saver(tmp_path).save(case)
    assert (mask.name, scores.name) == ("volume.png", "volume_probability.tif")
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), 255 * case["pred"][0, 0].numpy())
    np.testing.assert_array_equal(tifffile.imread(scores), case["probability"][0, 0].numpy())


def test_mask_and_probability_of_a_turned_picture_have_the_matrix_of_its_file(tmp_path):
    case = item(stack((1, 20, 31), exif_orientation=6))
    mask, scores = saver(tmp_path).save(case)
    with Image.open(mask) as opened:
        assert opened.getexif()[274] == 6
        np.testing.assert_array_equal(np.asarray(opened) > 0, tifffile.imread(scores) > 0.7)
    np.testing.assert_array_equal(np.rot90(tifffile.imread(scores), -1), case["probability"][0, 0].numpy())


def test_a_probability_in_another_grid_is_refused_and_nothing_is_written(tmp_path):
    case = item(stack())
    case["probability"] = case["probability"][:, :, :10]
    with pytest.raises(ValueError, match=r"probability of volume\.tif: \(5, 10, 31\), not in the grid"):
        saver(tmp_path).save(case)
    assert not list(tmp_path.iterdir())


def test_without_a_probability_its_writer_names_the_key(tmp_path):
    with pytest.raises(ValueError, match=r"volume\.tif: no probability to write; set probability_key\."):
        SaveResultsd("pred", tmp_path, writers=[ProbabilityWriter()]).save(item(stack()))


def test_a_grey_value_that_no_page_can_have_is_refused():
    with pytest.raises(ValueError, match="1 to 255"):
        StackWriter(scale=300)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "volume.tif").mkdir()
    case = item(stack())
    with pytest.raises(OSError, match=r"volume\.tif: cannot be written \(.*\); choose a writable folder with room"):
        StackWriter(255)(to_case(case["pred"], case["image"]), tmp_path)
