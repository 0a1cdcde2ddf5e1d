from dataclasses import fields

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from medseg_monai.phantoms import DISEASES, LOBES, draw_thorax

SIZE = (60, 64, 80)


@pytest.fixture(scope="module")
def healthy():
    return [draw_thorax(size=SIZE, seed=seed) for seed in range(4)]


@pytest.fixture(scope="module")
def diseased():
    return {name: draw_thorax(size=SIZE, seed=1, disease=[name]) for name in DISEASES}


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def lung(phantom):
    return phantom.label > 0


def test_the_same_seed_draws_the_same_phantom():
    one, two = (draw_thorax(size=(32, 40, 48), seed=(7, 3), disease=DISEASES) for _ in range(2))
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_another_seed_draws_another_chest(healthy):
    first, second = healthy[:2]
    assert dice(lung(first), lung(second)) < 0.97
    assert min(dice(first.label == value, second.label == value) for value in LOBES.values()) < 0.9


def test_a_seed_draws_the_same_lobes_in_any_resolution():
    small, large = (draw_thorax(size=(32 * k, 36 * k, 48 * k), seed=5) for k in (1, 2))
    shrunk = large.label[::2, ::2, ::2]
    for value in LOBES.values():
        assert dice(small.label == value, shrunk == value) > 0.8


@pytest.mark.parametrize("size", [(32, 48, 40), (48, 48, 48), (40, 90, 64)])
def test_sizes_are_depth_height_width_and_small_ones_have_all_lobes(size):
    phantom = draw_thorax(size=size, seed=2)
    assert phantom.image.shape == phantom.label.shape == phantom.infection.shape == size
    assert (phantom.image.dtype, phantom.label.dtype, phantom.infection.dtype) == (np.int16, np.uint8, np.uint8)
    assert set(np.unique(phantom.label)) == {0, *LOBES.values()}


def test_the_body_keeps_its_proportions_in_a_field_that_is_deeper_than_it():
    phantom = draw_thorax(size=(40, 80, 80), spacing=(6.0, 4.0, 4.0), seed=0, noise=0)
    # a slice below the lungs, where the body is a plain ellipse
    rows, columns = (np.ptp(axis) + 1 for axis in np.nonzero(phantom.image[2] > -500))
    assert 0.6 < rows / columns < 0.75
    assert 0.75 < columns / 80 < 0.95


@pytest.mark.parametrize("disease", [(), ("effusion", "consolidation")])
def test_each_lobe_is_one_component_of_a_lobes_size(disease):
    for seed in range(12):
        label = draw_thorax(size=(40, 44, 52), seed=seed, disease=disease).label
        for value in LOBES.values():
            lobe = label == value
            assert cc3d.connected_components(lobe, connectivity=6).max() == 1
            assert lobe.sum() > 0.03 * (label > 0).sum()


def test_lobes_lie_where_they_do_in_a_patient(healthy):
    for phantom in healthy:
        centres = {name: np.argwhere(phantom.label == value).mean(axis=0) for name, value in LOBES.items()}
        z, y, x = range(3)
        assert max(centres[name][x] for name in ("RUL", "RML", "RLL")) < SIZE[2] / 2
        assert min(centres[name][x] for name in ("LUL", "LLL")) > SIZE[2] / 2
        assert centres["LUL"][z] > centres["LLL"][z]
        assert centres["RUL"][z] > centres["RML"][z] > centres["RLL"][z] - 0.1 * SIZE[0]
        assert centres["LUL"][y] < centres["LLL"][y]
        assert centres["RML"][y] < centres["RUL"][y] < centres["RLL"][y]


def test_the_heart_takes_room_from_the_left_lung(healthy):
    shares = [np.isin(phantom.label, (1, 2)).sum() / lung(phantom).sum() for phantom in healthy]
    assert 0.4 < np.mean(shares) < 0.49


def test_lungs_are_darker_than_what_surrounds_them_and_lighter_than_air(healthy):
    for phantom in healthy:
        inner = ndimage.binary_erosion(lung(phantom), iterations=2)
        shell = ndimage.binary_dilation(lung(phantom), iterations=4) & ~ndimage.binary_dilation(lung(phantom))
        assert -880 < np.median(phantom.image[inner]) < -800
        assert np.median(phantom.image[shell]) > -100
        assert np.median(phantom.image[:, :2]) < -980


def test_bone_soft_tissue_fat_and_airways_have_their_hounsfield_units(healthy):
    for phantom in healthy:
        outside = ~ndimage.binary_dilation(lung(phantom), iterations=2)
        share = {
            "bone": (phantom.image > 250).mean(),
            "soft tissue": (outside & (phantom.image > 0) & (phantom.image < 100)).mean(),
            "fat": (outside & (phantom.image > -140) & (phantom.image < -50)).mean(),
        }
        assert share["bone"] > 0.01
        assert share["soft tissue"] > 0.15
        assert share["fat"] > 0.03
        # the trachea is a hole in the middle of the topmost slice
        middle = phantom.image[-1, 16:48, 30:50]
        assert middle.min() < -700


def test_vessels_are_in_each_lobe(healthy):
    for phantom in healthy:
        inner = ndimage.binary_erosion(lung(phantom), iterations=2)
        for value in LOBES.values():
            assert 0.003 < (phantom.image[inner & (phantom.label == value)] > -500).mean() < 0.1


def boundary(label):
    """Voxels of the left lung beside its fissure, away from the pleura."""
    upper, lower = label == LOBES["LUL"], label == LOBES["LLL"]
    between = ndimage.binary_dilation(upper) & ndimage.binary_dilation(lower)
    return between & ndimage.binary_erosion(upper | lower, iterations=2)


def test_fissures_are_bright_sheets_and_incomplete_ones_are_missing_in_part_of_the_image_only():
    complete, partial, absent = (
        draw_thorax(size=(72, 72, 96), seed=3, incomplete_fissures=share, noise=0) for share in (0, 0.5, 1)
    )
    np.testing.assert_array_equal(complete.label, partial.label)
    np.testing.assert_array_equal(complete.label, absent.label)
    fissure = boundary(complete.label)
    drawn = complete.image.astype(int) - absent.image
    assert np.median(drawn[fissure]) > 60
    assert (np.abs(drawn)[~ndimage.binary_dilation(lung(complete), iterations=2)] == 0).all()
    kept = (partial.image.astype(int) - absent.image)[fissure] > 30
    assert 0.2 < kept.sum() / (drawn[fissure] > 30).sum() < 0.8


@pytest.mark.parametrize(("name", "low", "high"), [("ground_glass", -660, -520), ("consolidation", -60, 80)])
def test_infection_lies_inside_lobes_at_its_hounsfield_units(diseased, healthy, name, low, high):
    phantom = diseased[name]
    infected = phantom.infection == 1
    assert 0.005 < infected.sum() / lung(phantom).sum() < 0.6
    assert not (infected & ~lung(phantom)).any()
    np.testing.assert_array_equal(phantom.label, healthy[1].label)
    core = ndimage.binary_erosion(infected, iterations=2)
    assert low < np.median(phantom.image[core]) < high
    assert np.median(healthy[1].image[core]) < -750


def test_consolidation_hides_vessels_and_ground_glass_does_not():
    vessels = {"ground_glass": [], "consolidation": []}
    for seed in range(4):
        healthy = draw_thorax(size=SIZE, seed=seed, noise=0).image
        for name, found in vessels.items():
            phantom = draw_thorax(size=SIZE, seed=seed, disease=[name], noise=0)
            core = ndimage.binary_erosion(phantom.infection == 1, iterations=2)
            found += (phantom.image - np.median(phantom.image[core]))[core & (healthy > -450)].tolist()
    assert np.median(vessels["ground_glass"]) > 150
    assert np.abs(vessels["consolidation"]).max() < 5


def test_an_effusion_is_fluid_outside_the_lobes_at_the_back_of_the_base(diseased, healthy):
    phantom, before = diseased["effusion"], healthy[1]
    lost = lung(before) & ~lung(phantom)
    assert 0.02 < lost.sum() / lung(before).sum() < 0.2
    assert abs(np.median(phantom.image[lost]) - 8) < 15
    assert not phantom.infection.any()
    below, behind = (np.argwhere(lost) - np.argwhere(lung(before)).mean(axis=0)).mean(axis=0)[:2] * (-1, 1)
    assert below > 0
    assert behind > 0


def test_emphysema_is_dark_spots_inside_the_lobes(diseased, healthy):
    phantom, before = diseased["emphysema"], healthy[1]
    np.testing.assert_array_equal(phantom.label, before.label)
    dark = [(image.image[lung(before)] < -940).mean() for image in (before, phantom)]
    assert dark[1] > 0.02 + 2 * dark[0]
    assert not phantom.infection.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": (31, 64, 64)}, r"size=\(31, 64, 64\).*at least 32"),
        ({"size": (64, 64)}, "give D, H and W"),
        ({"spacing": (1.0, 0.0, 1.0)}, "three positive lengths"),
        ({"disease": ["asthma"]}, r"disease=\['asthma'\].*ground_glass, consolidation, effusion, emphysema"),
        ({"disease": "effusion"}, "give a list"),
        ({"incomplete_fissures": 1.2}, "incomplete_fissures=1.2 is not a share"),
        ({"noise": -1.0}, "noise=-1.0 is negative"),
    ],
)
def test_a_mistaken_order_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        draw_thorax(**{"size": (32, 32, 32), "seed": 0, **wrong})
