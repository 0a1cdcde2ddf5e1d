"""CropAroundBrightestd: the disc is found and the crop can be put back."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureTyped, Invertd, LoadImaged

from medseg_monai.data.readers.raster import RasterReader
from medseg_monai.transforms import CropAroundBrightestd, brightest_point

DISCS = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "optic_disc"


def fundus(*, disc: tuple[int, int] = (80, 170)) -> tuple[torch.Tensor, torch.Tensor]:
    """A round field of view, brighter on the left than the disc on the right, with a flare at the rim and a lesion."""
    height, width = 180, 240
    rows, columns = torch.meshgrid(torch.arange(180.0), torch.arange(240.0), indexing="ij")
    radius = torch.hypot(rows - height / 2, columns - width / 2)
    field = radius < height * 0.48
    grey = 60 + 130 * (1 - columns / width)
    mask = torch.hypot(rows - disc[0], columns - disc[1]) < 14
    grey = grey + 60 * mask
    grey[torch.hypot(rows - 120, columns - 110) < 2] = 255
    grey[torch.hypot(rows - 151, columns - 181) < 7] = 255
    grey = torch.where(field, grey, 4)
    return torch.stack([grey, grey * 0.6, grey * 0.3]), mask[None].float()


def test_the_disc_is_found_in_spite_of_shading_a_flare_at_the_rim_and_a_lesion() -> None:
    image, _ = fundus()
    row, column = brightest_point(image)
    assert abs(row - 80) <= 5
    assert abs(column - 170) <= 5
    assert float(image[0, 80, 170]) < float(image[0, 80, 50])


def test_the_point_does_not_depend_on_exposure_or_image_size() -> None:
    image, _ = fundus()
    assert brightest_point(image) == brightest_point(image / 255)
    large = torch.nn.functional.interpolate(image[None], scale_factor=10)[0]
    row, column = brightest_point(large)
    assert abs(row - 800) <= 50
    assert abs(column - 1700) <= 50


def test_image_and_label_get_the_same_box_with_the_whole_disc() -> None:
    image, label = fundus()
    result = CropAroundBrightestd(["image", "label"], roi_size=(64, 80))({"image": image, "label": label})
    assert result["image"].shape == (3, 64, 80)
    assert result["label"].shape == (1, 64, 80)
    assert result["label"].sum() == label.sum()
    bright = result["image"][0][result["label"][0] > 0]
    assert torch.equal(torch.as_tensor(bright), image[0][label[0] > 0])


def test_the_box_is_moved_inside_the_image() -> None:
    image, label = fundus(disc=(60, 180))
    result = CropAroundBrightestd(["image", "label"], roi_size=(150, 150))({"image": image, "label": label})
    assert torch.equal(torch.as_tensor(result["image"]), image[:, :150, 90:])


@pytest.mark.parametrize(("shape", "expected"), [((30, 40), (30, 40)), ((30, 100), (30, 64)), ((100, 1), (64, 1))])
def test_a_side_shorter_than_the_box_is_taken_whole(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    image = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    assert CropAroundBrightestd("image", roi_size=64)({"image": image})["image"].shape[1:] == expected


@pytest.mark.parametrize("value", [0.0, 200.0])
def test_a_black_image_and_one_that_the_disc_fills_are_cropped_too(value: float) -> None:
    data = {"image": torch.full((3, 90, 120), value), "label": torch.ones(1, 90, 120)}
    result = CropAroundBrightestd(["image", "label"], roi_size=(40, 50))(data)
    assert result["image"].shape == (3, 40, 50)
    assert bool((result["label"] == 1).all())


def test_invertd_puts_a_prediction_back_into_the_full_image_with_zeros_outside() -> None:
    image, label = fundus()
    crop = Compose([EnsureTyped("image"), CropAroundBrightestd("image", roi_size=(64, 80))])
    (batch,) = DataLoader(Dataset([{"image": image}], crop), batch_size=1, num_workers=0)
    batch["pred"] = MetaTensor(torch.ones(1, 2, 64, 80), meta=batch["image"].meta)
    (case,) = decollate_batch(batch)
    pred = Invertd("pred", transform=crop, orig_keys="image")(case)["pred"]
    assert pred.shape == (2, 180, 240)
    assert int((pred[0] == 1).sum()) == 64 * 80
    assert int((pred[0] == 0).sum()) == 180 * 240 - 64 * 80
    assert bool((pred[0][label[0] > 0] == 1).all())


def test_the_inverse_of_the_transform_restores_the_values_inside_the_box() -> None:
    image, _ = fundus()
    crop = CropAroundBrightestd("image", roi_size=(64, 80))
    back = crop.inverse(crop({"image": MetaTensor(image)}))["image"]
    inside = torch.as_tensor(back) != 0
    assert back.shape == image.shape
    assert int(inside[0].sum()) == 64 * 80
    assert torch.equal(torch.as_tensor(back)[inside], image[inside])


def test_a_mask_of_another_size_and_wrong_options_are_refused() -> None:
    image, label = fundus()
    crop = CropAroundBrightestd(["image", "label"], roi_size=64)
    with pytest.raises(ValueError, match=r"'label' is \(180, 239\), but 'image' is \(180, 240\)"):
        crop({"image": image, "label": label[..., 1:]})
    with pytest.raises(ValueError, match="roi_size must be positive"):
        CropAroundBrightestd("image", roi_size=(64, 0))


@pytest.mark.parametrize(
    ("images", "mask_of", "roi_size"),
    [
        ("drishti_gs/images/drishtiGS_*[05].jpg", "drishti_gs/masks_od_softmap/{}*", 448),
        ("idrid/images/*[05].jpg", "idrid/masks/{}_OD*", 400),
    ],
)
def test_real_discs_lie_wholly_inside_the_crop(images: str, mask_of: str, roi_size: int) -> None:
    paths = sorted(DISCS.glob(images))
    if not paths:
        pytest.skip(f"no images at {DISCS / images}; set MEDSEG_DATA.")
    load = Compose(
        [LoadImaged("image", reader=RasterReader(channels=3)), LoadImaged("label", reader=RasterReader(channels=1))]
    )
    crop = CropAroundBrightestd(["image", "label"], roi_size=roi_size)
    for path in paths:
        (mask,) = DISCS.glob(mask_of.format(path.stem))
        case = load({"image": path, "label": mask})
        area = np.count_nonzero(case["label"] > 127)
        assert np.count_nonzero(crop(case)["label"] > 127) == area > 0, path.name
