"""AntialiasedResized: the mean over what a pixel covers, one look at every resolution, and the way back."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized
from skimage.transform import resize
from torch.nn import functional

from medseg_monai.transforms import AntialiasedResized


def scene(height: int, width: int) -> torch.Tensor:
    """[1, H, W] in 0 to 255, smooth and without symmetry."""
    rows = (torch.arange(height)[:, None] + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    return (255 * (0.2 + 0.5 * rows**2 + 0.3 * columns * rows))[None]


def test_noise_is_averaged_away_as_a_filter_before_sampling_does():
    noise = torch.from_numpy(np.random.default_rng(0).normal(100, 30, (1, 240, 330))).float()
    result = AntialiasedResized("image", [30, 22])({"image": noise})["image"]
    expected = resize(noise[0].numpy(), (30, 22), order=1, anti_aliasing=True)
    assert result.std() < 1.5 * expected.std() < 10
    plain = Resized("image", [30, 22], mode="bilinear")({"image": noise})["image"]
    assert plain.std() > 12
    assert np.corrcoef(result[0].numpy().ravel(), expected.ravel())[0, 1] > 0.9


def test_an_image_recorded_at_any_resolution_looks_the_same():
    small, large = (
        AntialiasedResized("image", (20, 24))({"image": scene(height, width)})["image"]
        for height, width in ((60, 48), (600, 480))
    )
    assert small.shape == large.shape == (1, 20, 24)
    assert (small - large)[:, 1:-1, 1:-1].abs().max() < 0.3


def test_a_column_of_100000_pixels_is_not_widened_before_it_is_shortened():
    column = torch.rand(1, 100_000, 1, generator=torch.Generator().manual_seed(2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = AntialiasedResized("image", (60, 512))({"image": column})["image"]
    assert max(event.cpu_memory_usage for event in profile.events()) < 2**20
    expected = functional.interpolate(column[None], (60, 1), mode="bilinear", antialias=True)[0].expand(-1, -1, 512)
    torch.testing.assert_close(result.as_tensor(), expected)


def test_growing_is_monais_bilinear_interpolation():
    image = scene(15, 11)
    expected = Resized("image", [40, 33], mode="bilinear")({"image": image})["image"]
    torch.testing.assert_close(
        torch.as_tensor(AntialiasedResized("image", [40, 33])({"image": image})["image"]), torch.as_tensor(expected)
    )


def test_an_image_of_the_right_size_keeps_its_values():
    image = scene(30, 22)
    torch.testing.assert_close(torch.as_tensor(AntialiasedResized("image", [30, 22])({"image": image})["image"]), image)


def test_whole_numbers_become_float_and_metadata_is_kept():
    image = MetaTensor((scene(31, 20) > 100).to(torch.uint8) * 255, meta={"filename_or_obj": "chest.png"})
    result = AntialiasedResized("image", [9, 13])({"image": image, "other": 1})
    assert result["other"] == 1
    assert result["image"].dtype == torch.float32
    assert result["image"].meta["filename_or_obj"] == "chest.png"
    assert len(result["image"].unique()) > 2


def test_a_prediction_comes_back_in_its_place_at_the_original_size():
    preprocessing = Compose([AntialiasedResized("image", [30, 34])])
    image = torch.zeros(1, 331, 417)
    image[:, 20:120, 250:400] = 255
    item = preprocessing({"image": MetaTensor(image)})
    item["pred"] = MetaTensor((item["image"] > 127).float())
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == (1, 331, 417)
    found = back[0] > 0.5
    rows, columns = found.any(dim=1).nonzero(), found.any(dim=0).nonzero()
    edges = [int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max())]
    assert np.abs(np.subtract(edges, [20, 119, 250, 399])).max() <= 7
    assert set(back.unique().tolist()) - {0.0, 1.0}


def test_volumes_and_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"'image' has shape \(1, 4, 5, 6\); give one image \[C, H, W\]"):
        AntialiasedResized("image", [2, 3])({"image": torch.zeros(1, 4, 5, 6)})
    for size in ([3], [3, 0], [2, 3, 4]):
        with pytest.raises(ValueError, match="spatial_size must be rows and columns, both positive"):
            AntialiasedResized("image", size)
