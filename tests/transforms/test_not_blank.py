import pytest
import torch

from medseg_monai.transforms import CheckNotBlankd


@pytest.mark.parametrize("value", [0.0, 77.0, 255.0])
def test_an_image_of_one_value_is_refused(value: float):
    with pytest.raises(ValueError, match="image: a blank image"):
        CheckNotBlankd("image")({"image": torch.full((3, 4, 7), value)})


def test_a_photograph_without_blue_is_none():
    image = torch.zeros(3, 4, 7)
    image[0] = torch.arange(28).reshape(4, 7)
    item = {"image": image, "label": torch.zeros(1, 4, 7)}
    assert CheckNotBlankd("image")(item) == item


def test_one_pixel_that_differs_is_enough():
    image = torch.zeros(1, 4, 7)
    image[0, 3, 6] = 1
    assert CheckNotBlankd("image")({"image": image})["image"] is image


def test_a_colour_that_is_the_same_everywhere_is_blank():
    image = torch.tensor([200.0, 30.0, 10.0]).reshape(3, 1, 1).expand(3, 4, 7)
    with pytest.raises(ValueError, match="blank"):
        CheckNotBlankd("image")({"image": image})


def test_blank_pages_of_a_stack_are_named_and_a_stack_of_nothing_else_is_refused(caplog):
    stack = torch.arange(3 * 4 * 7.0).reshape(1, 3, 4, 7)
    stack[0, 1] = 77
    assert CheckNotBlankd("image")({"image": stack})["image"] is stack
    assert "image: blank pages: 2; nothing in their masks means anything." in caplog.text
    stack[:] = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    with pytest.raises(ValueError, match="blank image"):
        CheckNotBlankd("image")({"image": stack})
