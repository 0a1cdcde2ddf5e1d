import numpy as np
import pytest
from PIL import ExifTags, Image

from medseg_monai.data import LabelReader

LABELS = np.array([[0, 1, 255], [1, 2, 255]], dtype=np.uint8)


def read(path):
    return LabelReader().get_data(LabelReader().read(path))


def test_a_palette_does_not_change_the_numbers(tmp_path):
    picture = Image.fromarray(LABELS)
    picture.putpalette(list(range(255, -1, -1)) * 3)
    picture.save(tmp_path / "label.png")
    values, meta = read(tmp_path / "label.png")
    np.testing.assert_array_equal(values, LABELS[None])
    assert meta["spatial_shape"].tolist() == [2, 3]


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_grey_values_are_the_numbers(suffix, tmp_path):
    Image.fromarray(LABELS).save(tmp_path / f"label.{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"label.{suffix}")[0], LABELS[None])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_label_is_read_upright(suffix, tmp_path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(LABELS).transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"label.{suffix}", exif=turned)
    values, meta = read(tmp_path / f"label.{suffix}")
    np.testing.assert_array_equal(values, LABELS[None])
    assert meta["exif_orientation"] == 6


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_colours_and_depths_that_number_no_class_are_refused(mode, tmp_path):
    picture = Image.fromarray(LABELS.astype(np.uint16)) if mode == "I;16" else Image.fromarray(LABELS).convert(mode)
    picture.save(tmp_path / "label.png")
    with pytest.raises(ValueError, match=r"label\.png: colour mode .* has no numbers of classes; save the label as"):
        read(tmp_path / "label.png")


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "label.png").write_text("no")
    with pytest.raises(ValueError, match=r"label\.png: truncated or not an image"):
        read(tmp_path / "label.png")
