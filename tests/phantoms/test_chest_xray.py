from dataclasses import fields

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from medseg_monai.phantoms import MANUFACTURERS, OPACITIES, draw_chest_xray
from medseg_monai.phantoms.chest_xray import WHITE

SIZE = (120, 140)
SEEDS = range(4)


@pytest.fixture(scope="module")
def phantoms():
    return {
        name: [draw_chest_xray(size=SIZE, manufacturer=name, seed=seed) for seed in SEEDS] for name in MANUFACTURERS
    }


@pytest.fixture(params=list(MANUFACTURERS))
def of_one_manufacturer(request, phantoms):
    return phantoms[request.param]


@pytest.fixture(scope="module")
def diseased():
    """Phantoms without noise by opacity; under "" the healthy ones."""
    return {
        name: [
            draw_chest_xray(size=SIZE, manufacturer="b", seed=seed, opacities=[name] if name else [], noise=0)
            for seed in SEEDS
        ]
        for name in ("", *OPACITIES)
    }


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def box(mask):
    """First and last row and first and last column of a mask."""
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize("manufacturer", list(MANUFACTURERS))
def test_the_same_seed_draws_the_same_phantom(manufacturer):
    order = {"size": (64, 80), "manufacturer": manufacturer, "seed": (7, 3), "opacities": OPACITIES}
    one, two = (draw_chest_xray(**order) for _ in range(2))
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_another_seed_draws_another_chest(of_one_manufacturer):
    first, second = of_one_manufacturer[:2]
    assert dice(first.mask, second.mask) < 0.95
    assert np.abs(first.image.astype(int) - second.image).mean() > 0.03 * WHITE


def test_a_seed_draws_the_same_chest_in_any_resolution():
    order = {"manufacturer": "b", "seed": 5, "opacities": ["nodules", "consolidation", "effusion"], "noise": 0}
    small, large = (draw_chest_xray(size=(90 * k, 110 * k), **order) for k in (1, 3))
    assert small.spacing == pytest.approx(3 * large.spacing)
    for name, least in (("left", 0.96), ("right", 0.96), ("opacity", 0.9), ("field", 0.98)):
        shrunk = getattr(large, name).reshape(90, 3, 110, 3).mean(axis=(1, 3)) > 0.5
        assert dice(getattr(small, name), shrunk) > least
    shrunk = large.image.reshape(90, 3, 110, 3).mean(axis=(1, 3))
    inside = ndimage.binary_erosion(small.field, iterations=8)
    assert np.abs(small.image - shrunk)[inside].mean() < 0.015 * WHITE


def test_a_non_square_size_is_rows_then_columns_and_stretches_nothing():
    extents = []
    for size in ((84, 150), (150, 84), (120, 120)):
        phantom = draw_chest_xray(size=size, manufacturer="a", seed=1)
        for name in ("image", "mask", "left", "right", "opacity", "field"):
            assert getattr(phantom, name).shape == size
        assert (phantom.image.dtype, phantom.mask.dtype) == (np.uint16, np.bool_)
        top, bottom, first, last = box(phantom.mask)
        extents.append(np.array([bottom - top, last - first]) * phantom.spacing)
    np.testing.assert_allclose(extents, [extents[2]] * 3, atol=2 * 360 / 84)
    assert 180 < extents[2][0] < 270, "mm of an adult's lungs"
    assert 220 < extents[2][1] < 300


def test_the_patients_left_lung_is_at_the_images_right_and_smaller(of_one_manufacturer):
    for phantom in of_one_manufacturer:
        left, right = (np.argwhere(lung).mean(axis=0) for lung in (phantom.left, phantom.right))
        assert right[1] < 0.4 * SIZE[1]
        assert left[1] > 0.6 * SIZE[1]
        np.testing.assert_array_equal(phantom.mask, phantom.left | phantom.right)
        assert not (phantom.left & phantom.right).any()
        assert 0.12 < phantom.mask.mean() < 0.3
    shares = [phantom.left.sum() / phantom.mask.sum() for phantom in of_one_manufacturer]
    assert 0.4 < np.mean(shares) < 0.48


def test_the_heart_takes_room_from_the_left_lung_and_the_lungs_widen_downwards(of_one_manufacturer):
    shares = []
    for phantom in of_one_manufacturer:
        top, bottom, _, _ = box(phantom.left)
        rows = [round(top + share * (bottom - top)) for share in (0.2, 0.6)]
        left, right = (lung[rows].sum(axis=1) for lung in (phantom.left, phantom.right))
        width = np.array([np.ptp(np.nonzero(row)[0]) + 1 for row in phantom.mask[rows]])
        upper_gap, lower_gap = width - left - right
        assert lower_gap > 1.3 * upper_gap
        assert width[1] > 1.2 * width[0]
        shares.append(left[1] / right[1])
    assert max(shares) < 0.95
    assert np.mean(shares) < 0.8


def test_the_bases_are_hollow_with_deep_angles_at_the_chest_wall(of_one_manufacturer):
    for phantom in of_one_manufacturer:
        for lung in (phantom.left, np.fliplr(phantom.right)):
            _, _, first, last = box(lung)
            lowest = np.array([np.nonzero(column)[0].max() for column in lung[:, first : last + 1].T])
            assert lowest.argmax() > 0.8 * len(lowest), "the deepest point lies at the wall"
            assert lowest.max() > lowest[len(lowest) // 3 :].min() + 0.06 * SIZE[0]


@pytest.mark.parametrize("size", [(64, 64), (96, 112), (160, 130)])
@pytest.mark.parametrize("opacities", [(), ("effusion",)])
def test_each_lung_is_one_whole_component_inside_the_exposed_field(size, opacities):
    for seed in range(20, 26):
        phantom = draw_chest_xray(size=size, manufacturer="ab"[seed % 2], seed=seed, opacities=opacities)
        for lung in (phantom.left, phantom.right):
            assert ndimage.label(lung)[1] == 1
            np.testing.assert_array_equal(ndimage.binary_fill_holes(lung), lung)
        assert not (ndimage.binary_dilation(phantom.mask) & ~phantom.field).any()
        assert not phantom.opacity.any()


def test_lungs_are_darker_than_what_surrounds_them_and_the_world_outside_is_darker_still(of_one_manufacturer):
    for phantom in of_one_manufacturer:
        inner = ndimage.binary_erosion(phantom.mask, iterations=2)
        shell = ndimage.binary_dilation(phantom.mask, iterations=7) & ~ndimage.binary_dilation(phantom.mask)
        assert np.median(phantom.image[inner]) < np.median(phantom.image[shell]) - 0.05 * WHITE
        assert np.percentile(phantom.image[phantom.field], 1) < np.percentile(phantom.image[inner], 5)


def test_ribs_cross_the_lungs():
    for seed in SEEDS:
        phantom = draw_chest_xray(size=(240, 240), manufacturer="b", seed=seed, noise=0)
        inner = ndimage.binary_erosion(phantom.mask, iterations=6)
        detail = phantom.image - ndimage.gaussian_filter(phantom.image.astype(float), 10)
        down, across = (np.diff(detail, axis=axis, append=0)[inner].std() for axis in (0, 1))
        assert down > 1.4 * across
        assert detail[inner].std() > 0.02 * WHITE


def test_a_plain_threshold_does_not_find_the_lungs(of_one_manufacturer):
    for phantom in of_one_manufacturer:
        threshold = threshold_otsu(phantom.image[phantom.field])
        assert dice((phantom.image < threshold) & phantom.field, phantom.mask) < 0.6


def test_the_manufacturers_see_the_same_chest_with_other_grey_values(phantoms):
    for one, two in zip(phantoms["a"], phantoms["b"], strict=True):
        for name in ("mask", "left", "right", "spacing"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        histograms = [np.histogram(p.image[p.field], bins=16, range=(0, WHITE), density=True)[0] for p in (one, two)]
        overlap = np.minimum(*histograms).sum() / histograms[0].sum()
        assert overlap < 0.75
        assert np.median(two.image[two.mask]) > np.median(one.image[one.mask]) + 0.08 * WHITE


@pytest.mark.parametrize("name", list(MANUFACTURERS))
def test_values_stay_in_the_units_range_and_only_the_border_has_the_borders_value(phantoms, name):
    unit = MANUFACTURERS[name]
    black, white = unit.levels
    for phantom in phantoms[name]:
        inside, outside = phantom.image[phantom.field], phantom.image[~phantom.field]
        assert (outside == unit.border).all()
        assert 0.005 < (~phantom.field).mean() < 0.25
        assert black <= inside.min() < 0.25 * WHITE
        assert 0.75 * WHITE < inside.max() <= white
    assert (MANUFACTURERS["a"].border, MANUFACTURERS["b"].border) == (0, MANUFACTURERS["b"].levels[1])
    assert MANUFACTURERS["a"].levels[0] > 0, "padding is told apart from black"


@pytest.mark.parametrize("name", list(MANUFACTURERS))
def test_the_lead_letter_lies_on_its_side_above_the_shoulder(name):
    unit = MANUFACTURERS[name]
    for seed in SEEDS:
        phantom = draw_chest_xray(size=(180, 200), manufacturer=name, seed=seed, noise=0)
        inside = ndimage.binary_erosion(phantom.field, iterations=6)
        strokes = (ndimage.white_tophat(phantom.image.astype(int), size=9) > 0.2 * WHITE) & inside
        corners = {"R": strokes[:36, :50], "L": strokes[:36, -50:]}
        assert corners.pop(unit.marker).sum() >= 15
        (other,) = corners.values()
        assert other.any() == bool(unit.plate)


@pytest.mark.parametrize("name", ["consolidation", "nodules"])
def test_opacities_lie_inside_lungs_that_keep_their_outline_and_are_brighter_than_healthy_lung(diseased, name):
    for phantom, healthy in zip(diseased[name], diseased[""], strict=True):
        np.testing.assert_array_equal(phantom.mask, healthy.mask)
        assert not (phantom.opacity & ~phantom.mask).any()
        assert 0.005 < phantom.opacity.sum() / phantom.mask.sum() < 0.6
        change = phantom.image.astype(int) - healthy.image
        assert np.median(change[phantom.opacity]) > 0.02 * WHITE
        assert not healthy.opacity.any()


def test_nodules_are_several_and_small(diseased):
    counts = []
    for phantom in diseased["nodules"]:
        spots, count = ndimage.label(phantom.opacity)
        areas = ndimage.sum(phantom.opacity, spots, range(1, count + 1)) * phantom.spacing**2
        counts.append(count)
        assert areas.max() < 4 * np.pi * 10**2
    assert np.mean(counts) > 3


def test_an_effusion_takes_the_base_of_one_lung_from_the_mask_and_is_bright(diseased):
    sides = set()
    for phantom, healthy in zip(diseased["effusion"], diseased[""], strict=True):
        lost = {name: getattr(healthy, name) & ~getattr(phantom, name) for name in ("left", "right")}
        side = max(lost, key=lambda name: lost[name].sum())
        sides.add(side)
        assert sum(part.any() for part in lost.values()) == 1
        assert not (phantom.mask & ~healthy.mask).any()
        lung, part = getattr(healthy, side), lost[side]
        assert 0.04 < part.sum() / lung.sum() < 0.6
        assert np.argwhere(part)[:, 0].mean() > np.argwhere(lung)[:, 0].mean() + 0.1 * SIZE[0]
        core = ndimage.binary_erosion(part, iterations=2)
        assert np.median((phantom.image.astype(int) - healthy.image)[core]) > 0.1 * WHITE
    assert sides == {"left", "right"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": (63, 200)}, r"size=\(63, 200\).*at least 64"),
        ({"size": (64, 64, 64)}, "give rows and columns"),
        ({"manufacturer": "c"}, "manufacturer='c'.*a, b"),
        ({"opacities": ["pneumothorax"]}, r"opacities=\['pneumothorax'\].*consolidation, nodules, effusion"),
        ({"opacities": "effusion"}, "give a list"),
        ({"noise": -1.0}, "noise=-1.0 is negative"),
    ],
)
def test_a_mistaken_order_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        draw_chest_xray(**{"size": (64, 64), "manufacturer": "a", "seed": 0, **wrong})
