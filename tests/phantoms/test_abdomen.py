from dataclasses import fields

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from medseg_monai.phantoms import CONTRASTS, ORGANS, draw_abdomen

SIZE = (32, 48, 60)
PATIENTS = range(3)
LIVER, SPLEEN, KIDNEY = ORGANS.values()


@pytest.fixture(scope="module")
def scans():
    """Return the phantoms of three patients in each contrast."""
    return {
        name: [draw_abdomen(size=SIZE, seed=seed, contrast=name, tumours=2) for seed in PATIENTS] for name in CONTRASTS
    }


@pytest.fixture(scope="module")
def clean():
    """Return one patient without noise in each contrast."""
    return {name: draw_abdomen(size=(36, 64, 80), seed=1, contrast=name, noise=0) for name in CONTRASTS}


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def inner(mask):
    return ndimage.binary_erosion(mask)


def sides(phantom):
    """Return the patient's right and left kidney."""
    kidney = phantom.label == KIDNEY
    right = np.arange(kidney.shape[2]) < kidney.shape[2] / 2
    return kidney & right, kidney & ~right


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_same_seed_draws_the_same_phantom(contrast):
    one, two = (draw_abdomen(size=(12, 40, 48), seed=(7, 3), contrast=contrast, tumours=2) for _ in range(2))
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_another_seed_draws_another_patient(scans):
    first, second = scans["ct"][:2]
    assert dice(first.label == LIVER, second.label == LIVER) < 0.9
    assert max(dice(first.label == value, second.label == value) for value in (SPLEEN, KIDNEY)) < 0.85


def test_the_anatomy_of_a_seed_is_the_same_in_every_contrast_and_the_image_is_not(scans):
    for number, phantom in enumerate(scans["ct"]):
        others = [scans[name][number] for name in CONTRASTS[1:]]
        for other in others:
            np.testing.assert_array_equal(other.label, phantom.label)
            np.testing.assert_array_equal(other.tumour, phantom.tumour)
        assert len({image.tobytes() for image in (phantom.image, *(other.image for other in others))}) == len(CONTRASTS)


def test_a_seed_draws_the_same_organs_in_any_resolution():
    small, large = (draw_abdomen(size=(24 * k, 40 * k, 52 * k), seed=5) for k in (1, 2))
    shrunk = large.label[::2, ::2, ::2]
    for value in ORGANS.values():
        assert dice(small.label == value, shrunk == value) > 0.75


@pytest.mark.parametrize("size", [(8, 32, 32), (12, 64, 80), (16, 36, 64)])
def test_small_sizes_have_every_organ_on_its_side_and_the_tumour(size):
    for seed in range(8):
        phantom = draw_abdomen(size=size, seed=seed, tumours=1)
        assert phantom.image.shape == phantom.label.shape == phantom.tumour.shape == size
        assert (phantom.image.dtype, phantom.label.dtype, phantom.tumour.dtype) == (np.int16, np.uint8, np.uint8)
        assert set(np.unique(phantom.label)) == {0, *ORGANS.values()}
        assert all(side.any() for side in sides(phantom))
        assert phantom.tumour.any()


def test_liver_spleen_and_each_kidney_are_one_component():
    for seed in range(8):
        phantom = draw_abdomen(size=(20, 36, 44), seed=seed)
        for organ in (phantom.label == LIVER, phantom.label == SPLEEN, *sides(phantom)):
            assert cc3d.connected_components(organ, connectivity=6).max() == 1


def test_organs_lie_where_they_do_in_a_patient_and_have_sizes_of_organs(scans):
    z, y, x = range(3)
    for phantom in scans["ct"]:
        masks = {"liver": phantom.label == LIVER, "spleen": phantom.label == SPLEEN}
        masks |= dict(zip(("right", "left"), sides(phantom), strict=True))
        centres = {name: np.argwhere(mask).mean(axis=0) for name, mask in masks.items()}
        shares = {name: mask.sum() / masks["liver"].sum() for name, mask in masks.items()}
        assert centres["liver"][x] < centres["right"][x] + 8 < SIZE[2] / 2 < centres["left"][x] < centres["spleen"][x]
        assert min(centres["liver"][z], centres["spleen"][z]) > max(centres["right"][z], centres["left"][z])
        assert centres["liver"][y] < min(centres["right"][y], centres["left"][y], centres["spleen"][y])
        assert 0.08 < shares["spleen"] < 0.35
        assert 0.05 < min(shares["right"], shares["left"]) <= max(shares["right"], shares["left"]) < 0.25
        assert 0.03 < masks["liver"].mean() < 0.1


def test_labels_lie_on_tissue_and_end_where_it_does(clean):
    phantom = clean["ct"]
    for value in ORGANS.values():
        organ = phantom.label == value
        assert phantom.image[organ].min() > -70, "at the edge half of a voxel may be fat"
        assert 80 < np.median(phantom.image[inner(organ)]) < 200
    kidneys = phantom.label == KIDNEY
    shell = ndimage.binary_dilation(kidneys, iterations=2) & ~ndimage.binary_dilation(kidneys)
    assert np.median(phantom.image[shell]) < np.median(phantom.image[kidneys]) - 40


def test_what_is_no_organ_has_its_hounsfield_units(scans):
    for phantom in scans["ct"]:
        image, other = phantom.image, phantom.label == 0
        assert np.median(image[:, :2]) < -980
        assert (other & (image > -140) & (image < -60)).mean() > 0.05, "fat"
        assert (other & (image > 30) & (image < 90)).mean() > 0.04, "muscle and bowel"
        assert (image > 250).mean() > 0.005, "bone"
        assert (image[-2:] < -700)[:, 12:36, 15:45].mean() > 0.3, "lung above the diaphragm"
        assert (image[: SIZE[0] // 2] < -500)[:, 12:36, 15:45].any(), "gas in the bowel"


def test_no_threshold_finds_the_liver(scans):
    for name in CONTRASTS:
        for phantom in scans[name]:
            liver = phantom.label == LIVER
            levels = np.quantile(phantom.image[liver], np.linspace(0, 1, 13))
            found = [(phantom.image >= low) & (phantom.image <= high) for low in levels[:6] for high in levels[7:]]
            assert max(dice(mask, liver) for mask in found) < 0.75


def test_vessels_brighten_the_liver_in_ct_and_darken_it_in_mri(clean):
    for name, sign in (("ct", 1), ("t1_in", -1), ("t2", -1)):
        phantom = clean[name]
        values = phantom.image[inner(phantom.label == LIVER)].astype(float)
        apart = sign * (values - np.median(values))
        assert 0.005 < (apart > 0.2 * abs(np.median(values))).mean() < 0.2


def test_tumours_lie_inside_the_liver_and_differ_from_it(scans):
    for seed in PATIENTS:
        healthy = draw_abdomen(size=SIZE, seed=seed, tumours=0)
        assert not healthy.tumour.any()
        np.testing.assert_array_equal(healthy.label, scans["ct"][seed].label)
    for name, sign in (("ct", -1), ("t1_in", -1), ("t2", 1)):
        for phantom in scans[name]:
            tumour, liver = phantom.tumour == 1, phantom.label == LIVER
            assert tumour.any()
            assert not (tumour & ~liver).any()
            assert sign * (np.median(phantom.image[tumour]) - np.median(phantom.image[liver & ~tumour])) > 0
    many = draw_abdomen(size=SIZE, seed=0, tumours=6)
    assert cc3d.connected_components(many.tumour).max() > cc3d.connected_components(scans["ct"][0].tumour).max()


def medians(phantom):
    return [np.median(phantom.image[inner(phantom.label == value)]) for value in ORGANS.values()]


def test_fat_is_bright_in_t1_and_suppressed_in_t2_where_the_spleen_outshines_the_liver(scans):
    for number, phantom in enumerate(scans["ct"]):
        fat = inner((phantom.image < -70) & (phantom.image > -130))
        in_phase, t2 = (scans[name][number] for name in ("t1_in", "t2"))
        liver, spleen, kidney = medians(in_phase)
        assert np.median(in_phase.image[fat]) > liver > min(spleen, kidney)
        liver, spleen, kidney = medians(t2)
        assert np.median(t2.image[fat]) < liver < min(spleen, kidney)


def test_out_of_phase_fat_meets_water_in_a_dark_line_and_takes_signal_from_the_liver_only(clean):
    in_phase, out = (clean[name].image.astype(float) for name in ("t1_in", "t1_out"))
    label = clean["t1_in"].label
    ratio = out / np.maximum(in_phase, 1)
    assert np.median(ratio[inner(label == LIVER)]) < 0.97
    assert np.median(ratio[inner(label == SPLEEN)]) == pytest.approx(1, abs=0.02)
    kidneys = label == KIDNEY
    rim = ndimage.binary_dilation(kidneys, iterations=2) & ~inner(kidneys)
    assert np.quantile(ratio[rim], 0.1) < 0.4
    assert np.quantile(ratio[inner(kidneys)], 0.1) > 0.9


def test_mri_has_a_bias_of_the_coils_noise_in_air_and_a_scale_of_its_own(scans, clean):
    phantom = scans["t1_in"][1]
    assert phantom.image.min() >= 0
    assert phantom.image[:, :2].std() > 1
    assert len({round(np.median(one.image[one.label == LIVER])) for one in scans["t1_in"]}) == len(PATIENTS)
    # fat, told apart in the CT of the same patient: its signal differs from place to place, but smoothly
    fat = inner((clean["ct"].image < -90) & (clean["ct"].image > -114))
    values = np.where(fat, clean["t1_in"].image.astype(float), np.nan)
    blocks = [
        np.nanmedian(part) for half in np.array_split(values, 2, axis=1) for part in np.array_split(half, 3, axis=2)
    ]
    assert np.ptp(blocks) > 0.1 * np.mean(blocks)
    steps = np.abs(np.diff(values, axis=2))
    assert np.nanquantile(steps, 0.95) < 0.1 * np.nanmedian(values)


def test_the_body_keeps_its_proportions_in_a_field_that_is_deeper_than_it():
    phantom = draw_abdomen(size=(12, 80, 80), spacing=(6.0, 4.0, 4.0), seed=0, noise=0)
    rows, columns = (np.ptp(axis) + 1 for axis in np.nonzero(phantom.image[2] > -500))
    assert 0.6 < rows / columns < 0.75
    assert 0.75 < columns / 80 < 0.95


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": (7, 64, 64)}, r"size=\(7, 64, 64\) is not valid for an abdomen: .* at least 8 x 32 x 32"),
        ({"size": (64, 64)}, "give D, H and W"),
        ({"spacing": (1.0, 0.0, 1.0)}, "three positive lengths"),
        ({"contrast": "mr"}, "contrast='mr' is unknown: choose from ct, t1_in, t1_out, t2"),
        ({"tumours": -1}, "tumours=-1 is negative"),
        ({"noise": -1.0}, "noise=-1.0 is negative"),
    ],
)
def test_a_mistaken_order_is_refused_in_one_line(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        draw_abdomen(**{"size": (12, 32, 32), "seed": 0, **wrong})
    assert "\n" not in str(caught.value)
