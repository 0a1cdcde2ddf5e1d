import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized

from medseg_monai.transforms import ResizeBScansd


def test_a_bscan_is_resized_as_monai_does():
    image = MetaTensor(torch.rand(3, 30, 17))
    expected = Resized("image", (48, 64), mode="bilinear", anti_aliasing=False)({"image": image})["image"]
    assert torch.equal(ResizeBScansd("image", (48, 64))({"image": image})["image"], expected)


def test_the_bscans_of_a_volume_are_resized_one_by_one():
    volume = MetaTensor(torch.rand(3, 5, 30, 17))
    resized = ResizeBScansd("image", (48, 64))({"image": volume})["image"]
    single = ResizeBScansd("image", (48, 64))({"image": MetaTensor(volume[:, 3])})["image"]
    torch.testing.assert_close(resized[:, 3].as_tensor(), single.as_tensor())


@pytest.mark.parametrize("shape", [(3, 30, 17), (3, 5, 30, 17)])
def test_a_prediction_returns_to_the_size_of_its_scan(shape):
    chain = Compose([ResizeBScansd("image", (60, 34))])
    item = chain({"image": MetaTensor(torch.rand(*shape))})
    item["pred"] = MetaTensor(item["image"].as_tensor()[:2].clone(), meta=item["image"].meta)
    restored = Invertd("pred", chain, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert restored.shape == (2, *shape[1:])


def test_an_image_with_other_axes_is_refused():
    with pytest.raises(ValueError, match="'image' has shape"):
        ResizeBScansd("image", (60, 34))({"image": MetaTensor(torch.rand(1, 2, 3, 4, 5))})


@pytest.mark.parametrize("size", [(10,), (0, 10)])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="rows and columns"):
        ResizeBScansd("image", size)
