import numpy as np
import pytest
from PIL import Image
from tifffile import imread

from medseg_monai.data.datalist import load_datalist
from medseg_monai.phantoms import PHANTOMS, phantom_writer, write_finding_lungs_layout, write_lung_slice_phantoms

SIZE = (40, 56)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = write_lung_slice_phantoms(
        tmp_path_factory.mktemp("phantoms"), counts={"training": 2, "test": 1}, size=SIZE, seed=4
    )
    return [item for section in ("training", "test") for item in load_datalist(path, section)]


def test_a_slice_is_tiff_in_hounsfield_units_with_a_mask_of_8_bits(written):
    for item in written:
        image = imread(item["image"])
        assert (image.dtype, image.shape) == (np.int16, SIZE)
        assert -1100 < image.min() < -900
        assert image.max() > 200
        with Image.open(item["label"]) as label:
            assert label.mode == "L"
            mask = np.asarray(label)
        assert mask.shape == SIZE
        assert set(np.unique(mask)) == {0, 255}


def test_the_mask_is_that_of_the_lungs_and_no_mirror_leaves_it_as_it_is(written):
    for item in written:
        image, mask = imread(item["image"]), np.asarray(Image.open(item["label"])) > 0
        assert image[mask].mean() < -500
        assert 0.05 < mask.mean() < 0.5
        for flipped in (np.flipud, np.fliplr):
            assert not np.array_equal(flipped(mask), mask)


def test_patients_and_diseases_are_named(written):
    assert [item["patient"] for item in written] == ["phantom_0001", "phantom_0002", "phantom_0003"]
    assert [item["source"] for item in written] == ["phantom_healthy", "phantom_ground_glass", "phantom_healthy"]


def test_the_same_seed_draws_the_same_slices_and_another_one_others(written, tmp_path):
    again = {}
    for seed in (4, 5):
        path = write_lung_slice_phantoms(tmp_path / str(seed), counts={"training": 1}, size=SIZE, seed=seed)
        again[seed] = imread(load_datalist(path, "training")[0]["image"])
    first = imread(written[0]["image"])
    assert np.array_equal(again[4], first)
    assert not np.array_equal(again[5], first)


def test_the_bundle_finds_its_phantoms():
    assert phantom_writer("lung_ct2d_cenet") is PHANTOMS["lung_ct2d"]


def test_the_published_layout_has_slices_and_masks_of_one_name(tmp_path):
    root = write_finding_lungs_layout(tmp_path, patients=2, slices=3, size=SIZE, seed=0)
    images, masks = (sorted(path.name for path in (root / kind).iterdir()) for kind in ("2d_images", "2d_masks"))
    assert images == masks
    assert [name[:8] for name in images] == ["ID_0000_"] * 3 + ["ID_0001_"] * 3


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"slices": 0}, {"size": (40, 56, 8)}, {"size": (20, 56)}])
def test_what_cannot_be_drawn_is_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=r"for no phantom|is not a 2D size|at least"):
        write_finding_lungs_layout(tmp_path, **{"patients": 1, "size": SIZE, "seed": 0, **wrong})
