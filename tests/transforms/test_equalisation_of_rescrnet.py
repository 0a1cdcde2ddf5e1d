"""MONAI's HistogramNormalized, with the options that the chest X-ray bundles give it, equalises as the paper wants."""

import numpy as np
import pytest
import torch
from monai.transforms import HistogramNormalized
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_hist

EQUALISE = HistogramNormalized("image", num_bins=256, min=0, max=1)


@pytest.fixture
def image() -> np.ndarray:
    """[H, W] in 0 to 255: a smooth scene with a black border on one side, as a collimator leaves it."""
    rng = np.random.default_rng(5)
    scene = gaussian_filter(rng.normal(size=(90, 70)), 4)
    scene = 20 + 180 * (scene - scene.min()) / np.ptp(scene)
    scene[:, :9] = 0
    return scene.astype(np.float32)


def equalise(image: np.ndarray) -> np.ndarray:
    return np.asarray(EQUALISE({"image": torch.from_numpy(image)[None]})["image"][0])


def test_it_is_scikit_images_equalisation_stretched_so_that_the_darkest_is_0(image):
    expected = equalize_hist(image, nbins=256)
    expected = (expected - expected.min()) / (1 - expected.min())
    np.testing.assert_allclose(equalise(image), expected, atol=1e-5)


def test_what_is_not_border_is_spread_evenly_from_0_to_1(image):
    result = equalise(image)
    assert result.min() == 0
    assert result.max() == 1
    shares = np.histogram(result[:, 9:], bins=5, range=(0, 1))[0] / result[:, 9:].size
    np.testing.assert_allclose(shares, 0.2, atol=0.01)


def test_two_manufacturers_brightness_and_contrast_give_the_same_image(image):
    np.testing.assert_allclose(equalise(0.4 * image + 90), equalise(image), atol=0.01)


def test_brighter_stays_brighter_and_a_constant_image_stays_finite(image):
    order = image.ravel().argsort()
    assert (np.diff(equalise(image).ravel()[order]) >= 0).all()
    assert np.isfinite(equalise(np.full((5, 7), 30, dtype=np.float32))).all()
