from dataclasses import fields

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from medseg_monai.data.datalist import load_datalist
from medseg_monai.phantoms import CAMERAS, PHANTOMS, draw_fundus, phantom_writer, write_fundus_phantoms

SIZE = (192, 240)


@pytest.fixture(scope="module")
def phantoms():
    return {
        name: [draw_fundus(size=SIZE, camera=camera, seed=seed) for seed in range(4)]
        for name, camera in CAMERAS.items()
    }


@pytest.fixture(params=list(CAMERAS))
def of_one_camera(request, phantoms):
    return phantoms[request.param]


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_the_same_seed_draws_the_same_phantom():
    one, two = (draw_fundus(size=(96, 130), camera=CAMERAS["b"], seed=(7, 3)) for _ in range(2))
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_another_seed_draws_another_eye(of_one_camera):
    first, second = of_one_camera[:2]
    assert dice(first.vessels, second.vessels) < 0.5
    assert np.abs(first.image.astype(int) - second.image).mean() > 3


def test_a_seed_draws_the_same_eye_in_any_resolution():
    small, large = (draw_fundus(size=(128 * k, 160 * k), camera=CAMERAS["a"], seed=5) for k in (1, 2))
    assert dice(small.disc, large.disc[::2, ::2]) > 0.95
    within_reach = ndimage.binary_dilation(large.vessels, iterations=3)[::2, ::2]
    assert within_reach[small.vessels].mean() > 0.95


@pytest.mark.parametrize("size", [(100, 172), (172, 100)])
@pytest.mark.parametrize("camera", list(CAMERAS))
def test_a_non_square_size_is_rows_then_columns(size, camera):
    phantom = draw_fundus(size=size, camera=CAMERAS[camera], seed=1)
    assert phantom.image.shape == (*size, 3)
    assert phantom.image.dtype == np.uint8
    assert phantom.vessels.shape == phantom.disc.shape == phantom.fov.shape == size
    rows, columns = (np.ptp(axis) + 1 for axis in np.nonzero(phantom.fov))
    assert 0.8 < rows / columns <= 1.05, "the field is round, not stretched with the image"


def test_masks_lie_inside_the_field_of_view_and_outside_is_dark(of_one_camera):
    for phantom in of_one_camera:
        assert not (phantom.vessels & ~phantom.fov).any()
        assert not (phantom.disc & ~phantom.fov).any()
        outside = ~ndimage.binary_dilation(phantom.fov, iterations=3)
        assert phantom.image[outside].max() < 20
        assert 0.4 < phantom.fov.mean() < 0.95


def test_the_disc_is_one_component_of_a_discs_size_and_brighter_than_its_surroundings(of_one_camera):
    for phantom in of_one_camera:
        assert ndimage.label(phantom.disc)[1] == 1
        assert 0.015 < phantom.disc.sum() / phantom.fov.sum() < 0.06
        ring = ndimage.binary_dilation(phantom.disc, iterations=8) & ~phantom.disc & ~phantom.vessels
        green = phantom.image[..., 1].astype(float)
        assert green[phantom.disc & ~phantom.vessels].mean() > 1.1 * green[ring].mean()


def test_vessels_cover_a_plausible_share_and_are_darker_than_their_surroundings(of_one_camera):
    for phantom in of_one_camera:
        assert 0.05 < phantom.vessels.sum() / phantom.fov.sum() < 0.20
        inner = ndimage.binary_erosion(phantom.fov, iterations=6)
        ring = ndimage.binary_dilation(phantom.vessels, iterations=3) & ~phantom.vessels & inner
        green = phantom.image[..., 1].astype(float)
        assert green[phantom.vessels & inner].mean() < 0.96 * green[ring].mean()


def test_the_disc_carries_vessels(of_one_camera):
    for phantom in of_one_camera:
        assert 0.05 < (phantom.vessels & phantom.disc).sum() / phantom.disc.sum() < 0.8


def test_both_eyes_occur(of_one_camera):
    sides = {np.nonzero(phantom.disc)[1].mean() > SIZE[1] / 2 for phantom in of_one_camera}
    assert sides == {False, True}


def test_a_plain_threshold_finds_neither_vessels_nor_disc(of_one_camera):
    for phantom in of_one_camera:
        green = phantom.image[..., 1]
        threshold = threshold_otsu(green[phantom.fov])
        assert dice((green < threshold) & phantom.fov, phantom.vessels) < 0.6
        assert dice((green >= threshold) & phantom.fov, phantom.disc) < 0.7


def test_the_cameras_differ_in_colour_field_and_magnification(phantoms):
    def colours(name):
        return np.array([phantom.image[phantom.fov].mean(axis=0) for phantom in phantoms[name]])

    def disc_share(name):
        return np.array([phantom.disc.sum() / phantom.fov.sum() for phantom in phantoms[name]])

    def blueness(name):
        return colours(name)[:, 2] / colours(name)[:, 0]

    assert colours("a").mean() > 1.3 * colours("b").mean()
    assert blueness("a").mean() > 1.2 * blueness("b").mean()
    assert disc_share("b").min() > disc_share("a").max()
    assert not np.array_equal(phantoms["a"][0].fov, phantoms["b"][0].fov)


def test_a_size_too_small_is_refused():
    with pytest.raises(ValueError, match=r"size=\(63, 200\).*at least 64"):
        draw_fundus(size=(63, 200), camera=CAMERAS["a"], seed=0)


@pytest.mark.parametrize(("task", "mask"), [("vessel", "vessels"), ("disc", "disc")])
@pytest.mark.parametrize("image_format", ["png", "tif"])
def test_written_files_read_back_identical(tmp_path, task, mask, image_format):
    path = write_fundus_phantoms(
        tmp_path / "new" / "folder", task=task, counts={"test": 2}, size=(80, 112), seed=4, image_format=image_format
    )
    assert path == tmp_path / "new" / "folder" / "datalist.json"
    items = load_datalist(path, "test")
    for number, (item, camera) in enumerate(zip(items, "ab", strict=True), start=1):
        drawn = draw_fundus(size=(80, 112), camera=CAMERAS[camera], seed=(4, number))
        assert item["image"].endswith(f"phantom_000{number}.{image_format}")
        np.testing.assert_array_equal(np.asarray(Image.open(item["image"])), drawn.image)
        for key, truth in (("label", getattr(drawn, mask)), ("fov", drawn.fov)):
            with Image.open(item[key]) as written:
                assert written.mode == "L"
                np.testing.assert_array_equal(np.asarray(written), np.where(truth, 255, 0))


def test_the_datalist_is_complete_and_its_patients_are_disjoint_between_sections(tmp_path):
    counts = {"training": 3, "validation": 2, "test": 2}
    path = write_fundus_phantoms(tmp_path, task="disc", counts=counts, size=(64, 80), seed=0)
    sections = {name: load_datalist(path, name) for name in counts}
    assert {name: len(items) for name, items in sections.items()} == counts
    patients = [item["patient"] for items in sections.values() for item in items]
    assert len(set(patients)) == len(patients) == 7
    for items in sections.values():
        sources = [item["source"] for item in items]
        assert sources == ["phantom_camera_a", "phantom_camera_b", "phantom_camera_a"][: len(items)]
        assert all(set(item) == {"image", "label", "fov", "patient", "source", "name"} for item in items)
    assert len(list((tmp_path / "images").iterdir())) == 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "fovea"}, "task='fovea'.*vessel, disc"),
        ({"image_format": "jpg"}, "image_format='jpg'.*png, tif"),
        ({"counts": {"train": 1}}, "unknown sections train: choose from training, validation, test"),
        ({"counts": {"training": 0}}, "no phantom"),
        ({"counts": {"training": 2, "test": -1}}, "no phantom"),
        ({"size": (64, 64, 64)}, "not a 2D size"),
    ],
)
def test_a_mistaken_order_is_refused_before_anything_is_written(tmp_path, wrong, message):
    order = {"task": "vessel", "counts": {"training": 1}, "size": (64, 64), "seed": 0, **wrong}
    with pytest.raises(ValueError, match=message):
        write_fundus_phantoms(tmp_path / "out", **order)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("task", "mask"), [("retinal_vessel_fundus", "vessels"), ("optic_disc_fundus", "disc")])
def test_a_bundle_finds_its_phantoms_by_its_name(tmp_path, task, mask):
    assert phantom_writer(task) is phantom_writer(f"{task}_cenet") is PHANTOMS[task]
    path = phantom_writer(f"{task}_cenet")(tmp_path, counts={"training": 1}, size=(64, 72), seed=9)
    label = np.asarray(Image.open(load_datalist(path, "training")[0]["label"]))
    drawn = draw_fundus(size=(64, 72), camera=CAMERAS["a"], seed=(9, 1))
    np.testing.assert_array_equal(label > 0, getattr(drawn, mask))


@pytest.mark.parametrize("bundle", ["teeth_panorama_cenet", "retinal_vessel_fundusx"])
def test_a_bundle_without_phantoms_is_told_which_there_are(bundle):
    with pytest.raises(ValueError, match=f"'{bundle}'.*retinal_vessel_fundus, optic_disc_fundus"):
        phantom_writer(bundle)
