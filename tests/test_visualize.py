"""Overlays: the outlines of masks over an image, and the slices of volumes that are drawn."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from PIL import Image
from scipy.spatial.transform import Rotation

from medseg_monai.visualize import (
    LABEL_COLOR,
    PREDICTION_COLOR,
    coronal_slices,
    draw_lines,
    draw_overlay,
    layer_colours,
    save_map_sheet,
    save_overlay,
    upright_slice,
)

HEIGHT, WIDTH = 10, 17
DOWN, BACK, LEFT = 6, 9, 11


def rectangle(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[rows, columns] = 1
    return mask


def outline(rows: slice, columns: slice) -> np.ndarray:
    """A rectangle without its inside."""
    inner = rectangle(slice(rows.start + 1, rows.stop - 1), slice(columns.start + 1, columns.stop - 1))
    return (rectangle(rows, columns) - inner).astype(bool)


def painted(drawn: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (drawn == color).all(axis=2)


def test_only_the_outline_of_a_mask_is_drawn_inside_of_it():
    rows, columns = slice(2, 6), slice(9, 15)
    drawn = draw_overlay(np.zeros((3, HEIGHT, WIDTH)), {(1, 2, 3): rectangle(rows, columns)})
    np.testing.assert_array_equal(painted(drawn, (1, 2, 3)), outline(rows, columns))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_is_stretched_to_its_range_and_keeps_its_orientation(channels):
    image = np.zeros((channels, HEIGHT, WIDTH), dtype=np.float32) - 1.6
    image[:, 1, 14] = 1.6
    image[:, 7, 2] = 0.0
    drawn = draw_overlay(image, {})
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[1, 14] == 255).all()
    assert (drawn[7, 2] == 127).all()
    assert drawn.sum() == 3 * (255 + 127)


def test_the_channels_are_red_green_and_blue():
    image = np.zeros((3, HEIGHT, WIDTH))
    image[0], image[1] = 1.0, 0.5
    assert draw_overlay(image, {})[4, 3].tolist() == [255, 127, 0]


def test_an_image_of_one_value_is_black():
    assert draw_overlay(np.full((1, HEIGHT, WIDTH), 7.0), {}).max() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_border_between_two_labels_is_drawn_on_either_side(dtype):
    labels = rectangle(slice(2, 8), slice(3, 8)) + 2 * rectangle(slice(2, 8), slice(8, 14))
    drawn = draw_overlay(np.zeros((1, HEIGHT, WIDTH)), {(9, 0, 0): labels.astype(dtype)})
    expected = outline(slice(2, 8), slice(3, 8)) | outline(slice(2, 8), slice(8, 14))
    np.testing.assert_array_equal(painted(drawn, (9, 0, 0)), expected)


def test_a_later_mask_lies_over_an_earlier_one():
    first, second = rectangle(slice(2, 6), slice(3, 9)), rectangle(slice(2, 4), slice(3, 6))
    drawn = draw_overlay(np.zeros((1, HEIGHT, WIDTH)), {(9, 0, 0): first, (0, 9, 0): second})
    assert drawn[2, 3].tolist() == [0, 9, 0]
    assert drawn[5, 8].tolist() == [9, 0, 0]


def test_a_transposed_mask_is_refused():
    with pytest.raises(ValueError, match=r"size \(17, 10\) does not fit an image of size \(10, 17\)"):
        draw_overlay(np.zeros((1, HEIGHT, WIDTH)), {(1, 1, 1): np.zeros((WIDTH, HEIGHT))})


def test_the_file_shows_the_label_under_the_prediction(tmp_path):
    label, prediction = rectangle(slice(1, 5), slice(2, 8)), rectangle(slice(1, 5), slice(5, 12))
    path = tmp_path / "overlays" / "a.png"
    save_overlay(path, np.zeros((3, HEIGHT, WIDTH)), prediction=prediction, label=label)
    drawn = np.asarray(Image.open(path))
    predicted = outline(slice(1, 5), slice(5, 12))
    np.testing.assert_array_equal(painted(drawn, PREDICTION_COLOR), predicted)
    np.testing.assert_array_equal(painted(drawn, LABEL_COLOR), outline(slice(1, 5), slice(2, 8)) & ~predicted)


def test_the_file_without_a_label_shows_the_prediction_alone(tmp_path):
    save_overlay(tmp_path / "a.png", np.zeros((1, HEIGHT, WIDTH)), prediction=rectangle(slice(1, 5), slice(2, 8)))
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    assert painted(drawn, PREDICTION_COLOR).any()
    assert not painted(drawn, LABEL_COLOR).any()


# --- slices of volumes ------------------------------------------------------------------------------------------------


def oriented(upright: np.ndarray, axcodes: str, *, degrees: tuple[float, float, float] = (0, 0, 0)) -> MetaTensor:
    """A volume ``[C, down, back, left]``, stored along the axes of ``axcodes``, in a scanner turned by ``degrees``."""
    affine = np.eye(4)
    # in RAS: down is -z, back is -y, left is -x; anisotropic
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turned @ np.array([[0, 0, -0.7], [0, -0.8, 0], [-2.5, 0, 0]])
    affine[:3, 3] = (30.0, -12.0, 7.0)
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("IPL"), nib.orientations.axcodes2ornt(axcodes)
    )
    stored = np.stack([nib.orientations.apply_orientation(channel, change) for channel in upright])
    return MetaTensor(stored.copy(), affine=affine @ nib.orientations.inv_ornt_aff(change, upright.shape[1:]))


def upright_volumes() -> list[np.ndarray]:
    """An image, a prediction whose largest coronal section is row 7, and a label whose largest is row 3."""
    generator = np.random.default_rng(2)
    prediction, label = np.zeros((2, 1, DOWN, BACK, LEFT), dtype=np.float32)
    prediction[0, :, 7, 1:] = 1
    prediction[0, 1:3, 3, 4:9] = 4
    label[0, 1:5, 3, 2:9] = 5
    label[0, 2:4, 4:6, 2:9] = 1
    return [generator.random((2, DOWN, BACK, LEFT), dtype=np.float32), prediction, label]


@pytest.mark.parametrize("degrees", [(0, 0, 0), (14, -17, 11)])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SPL", "IPL", "AIR", "PSR", "ILA"])
def test_a_coronal_slice_has_the_head_up_and_the_right_on_the_left_however_it_is_stored(axcodes, degrees):
    upright = upright_volumes()
    slices = coronal_slices([oriented(volume, axcodes, degrees=degrees) for volume in upright], chosen_by=2)
    for actual, volume in zip(slices, upright, strict=True):
        np.testing.assert_array_equal(actual, volume[:, :, 3])


def test_in_world_coordinates_the_first_row_is_the_top_and_the_first_column_the_right():
    # stored along right, front, up
    volume = np.zeros((1, 5, 4, 6), dtype=np.float32)
    volume[0, -1, 2, -1] = 1  # rightmost, topmost
    volume[0, 0, 2, -1] = 2  # leftmost, topmost
    volume[0, -1, 2, 0] = 3  # rightmost, lowest
    (section,) = coronal_slices([MetaTensor(volume, affine=np.eye(4))], chosen_by=0)
    assert section.shape == (1, 6, 5)
    assert (section[0, 0, 0], section[0, 0, -1], section[0, -1, 0]) == (1, 2, 3)


@pytest.mark.parametrize(("chosen_by", "row"), [(1, 7), (2, 3)])
def test_the_chosen_label_map_decides_which_slice(chosen_by, row):
    upright = upright_volumes()
    image, _, _ = coronal_slices([oriented(volume, "RAS") for volume in upright], chosen_by=chosen_by)
    np.testing.assert_array_equal(image, upright[0][:, :, row])


def test_an_empty_label_map_still_gives_a_slice_of_each():
    upright = upright_volumes()
    upright[2][:] = 0
    slices = coronal_slices([oriented(volume, "RAS") for volume in upright], chosen_by=2)
    assert [section.shape for section in slices] == [(2, DOWN, LEFT), (1, DOWN, LEFT), (1, DOWN, LEFT)]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [  # where the file's axes lead -> the drawing's rows and columns, as steps along them
        ("RAS", "PL"),
        ("LPS", "PL"),
        ("SLP", "IP"),
        ("LSA", "IL"),
    ],
)
def test_a_slice_is_looked_at_head_or_front_up_and_the_patients_right_on_the_left(axes, expected):
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = np.stack([directions[axis] for axis in axes], axis=1)
    across = {"PL": "SI", "IP": "RL", "IL": "AP"}[expected]
    axis = next(i for i, name in enumerate(axes) if name in across)
    shape = [5, 5, 5]
    shape[axis] = 1
    voxels = np.stack(np.meshgrid(*[np.arange(length) for length in shape], indexing="ij"))
    positions = np.einsum("ij,j...->i...", affine[:3, :3], voxels)
    drawn = upright_slice(MetaTensor(positions, affine=affine), axis=axis)
    assert drawn.shape == (3, 5, 5)
    np.testing.assert_array_equal(drawn[:, 1, 0] - drawn[:, 0, 0], directions[expected[0]])
    np.testing.assert_array_equal(drawn[:, 0, 1] - drawn[:, 0, 0], directions[expected[1]])


def test_a_sheet_of_maps_goes_from_blue_to_red_in_place(tmp_path):
    ramp = np.tile(np.linspace(0, 1, 300), (200, 1))
    flat = np.zeros((200, 300))
    path = tmp_path / "new" / "sheet.png"
    image = np.zeros((1, 200, 300))
    save_map_sheet(path, image, [{"first": ramp, "second": ramp[:, ::-1]}, {"third": flat}], prediction=flat, what="x")
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 100) & (pixels[..., 2] < 60) & (pixels[..., 1] < 60)
    columns = np.flatnonzero(red[: pixels.shape[0] // 2].sum(axis=0) > 50)
    assert columns.size  # the red ends of first and second touch but for the gap between the panels
    assert np.ptp(columns[columns < pixels.shape[1] * 0.9]) < 150
    assert not red[pixels.shape[0] * 2 // 3 :, : int(pixels.shape[1] * 0.9)].any()


def test_a_sheet_whose_mask_does_not_fit_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="does not fit"):
        save_map_sheet(
            tmp_path / "sheet.png",
            np.zeros((1, HEIGHT, WIDTH)),
            [{"map": np.zeros((HEIGHT, WIDTH))}],
            prediction=np.zeros((WIDTH, HEIGHT)),
            what="x",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes", [2, 3, 9, 11, 40])
def test_each_class_of_layers_has_a_colour_of_its_own(classes):
    colours = layer_colours(classes)
    assert len(set(colours)) == len(colours) == classes
    assert colours[0] == (0, 0, 0)


def test_lines_are_drawn_where_they_are_and_not_outside_the_image():
    lines = np.array([[0.0, 3.9, 4.0, np.nan], [2.0, -1.0, 2.0, 2.0]])
    drawn = draw_lines(np.zeros((3, 4, 4)), lines, [(9, 0, 0), (0, 9, 0)])
    assert np.argwhere(drawn[..., 0]).tolist() == [[0, 0], [3, 1]]
    assert np.argwhere(drawn[..., 1]).tolist() == [[2, 0], [2, 2], [2, 3]]


def test_lines_of_another_image_are_refused():
    with pytest.raises(ValueError, match="Lines of 5 columns do not fit an image of 4"):
        draw_lines(np.zeros((1, 4, 4)), np.zeros((1, 5)), [(0, 0, 0)])
