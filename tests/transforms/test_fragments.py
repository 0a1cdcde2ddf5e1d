"""ReassignFragmentsd: one piece per label is left, and loose pieces follow their neighbours."""

import tracemalloc

import cc3d
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseg_monai.transforms import ReassignFragmentsd, reassign_fragments


def two_lobes() -> np.ndarray:
    """Label 1 above label 2, 9 x 8 x 10 voxels, with background round them."""
    labels = np.zeros((9, 8, 10), dtype=np.uint8)
    labels[1:5, 1:7, 1:9] = 1
    labels[5:8, 1:7, 1:9] = 2
    return labels


def test_a_map_without_loose_pieces_stays_as_it_is():
    labels = two_lobes()
    np.testing.assert_array_equal(reassign_fragments(labels), labels)
    assert not reassign_fragments(np.zeros((3, 4, 5), dtype=np.uint8)).any()


def test_a_piece_inside_another_lobe_takes_its_label():
    labels = two_lobes()
    labels[6, 3:5, 4] = 1
    labels[6, 3, 4:6] = 1
    before = labels.copy()
    result = reassign_fragments(labels)
    np.testing.assert_array_equal(labels, before)
    assert (result == 2).sum() == 3 * 6 * 8
    np.testing.assert_array_equal(result, two_lobes())


def test_a_piece_between_two_lobes_takes_the_label_of_most_voxels_that_touch_it():
    labels = two_lobes()
    labels[3, 2, 2] = 3
    labels[1:3, 4:7, 5:7] = 3  # the larger piece of 3, touched by 1 only
    labels[4, 5, 2] = 3  # touched by 17 voxels of 1 and 9 of 2
    result = reassign_fragments(labels)
    assert result[3, 2, 2] == 1
    assert result[4, 5, 2] == 1
    assert (result == 3).sum() == 12


def test_voxels_vote_once_however_often_they_touch_the_piece():
    labels = np.zeros((3, 3, 9), dtype=np.uint8)
    labels[:, :, 7:] = 3
    labels[1, 1, 2:5] = 3  # the piece, a rod
    labels[1, 0, 3] = 1  # one voxel that touches the whole rod, and a second one out of reach
    labels[0, 0, 3] = 1
    labels[1, 1, 1] = 2  # three voxels that touch the end of the rod only
    labels[1, 2, 1] = 2
    labels[2, 2, 1] = 2
    result = reassign_fragments(labels)
    assert result[1, 1, 2:5].tolist() == [2, 2, 2]


def test_of_equal_votes_the_lowest_label_wins():
    labels = np.zeros((3, 3, 8), dtype=np.uint8)
    labels[1, 1, 1], labels[1, 1, 2], labels[1, 1, 3] = 5, 4, 2
    labels[1, 1, 6:8] = 4
    assert reassign_fragments(labels)[1, 1].tolist() == [0, 5, 2, 2, 0, 0, 4, 4]


def test_a_piece_that_only_background_touches_becomes_background():
    labels = two_lobes()
    labels[0, 0, 0] = 2
    labels[1, 1, 1] = 0
    labels[0:3, 0:3, 0:3] = 0
    labels[0, 0, 0] = 2
    result = reassign_fragments(labels)
    assert result[0, 0, 0] == 0
    assert (result == 2).sum() == 3 * 6 * 8


def test_background_has_no_vote_where_a_label_touches():
    labels = two_lobes()
    labels[0, 0, 4] = 2  # 6 voxels of 1 below it, 11 of background round it
    assert reassign_fragments(labels)[0, 0, 4] == 1


def test_diagonal_neighbours_are_connected():
    labels = two_lobes()
    labels[0, 0, 0] = 1  # touches label 1 at a corner
    np.testing.assert_array_equal(reassign_fragments(labels), labels)


def test_a_piece_within_a_piece_waits_for_the_outer_one():
    labels = np.ones((9, 9, 9), dtype=np.uint8)
    labels[0] = 2
    labels[3:7, 3:7, 3:7] = 2  # smaller than the plane
    labels[5, 5, 5] = 3
    labels[0, 0, 0:2] = 3
    result = reassign_fragments(labels)
    assert (result[3:7, 3:7, 3:7] == 1).all()
    assert (result == 3).sum() == 2


def test_a_piece_touched_by_nothing_but_a_piece_in_the_background_becomes_background_too():
    labels = np.zeros((12, 5, 5), dtype=np.uint8)
    labels[0:3] = 1
    labels[6:11, 1:4, 1:4] = 1
    labels[8, 2, 2] = 2
    labels[3, 0, 0:2] = 2
    result = reassign_fragments(labels)
    assert not result[4:].any()
    assert (result[0:3] == 1).all()


def test_of_two_largest_pieces_the_first_is_kept():
    labels = np.zeros((3, 4, 9), dtype=np.uint8)
    labels[1, 1:3, 1:3] = 1
    labels[1, 1:3, 6:8] = 1
    result = reassign_fragments(labels)
    assert (result[1, 1:3, 1:3] == 1).all()
    assert not result[..., 4:].any()


def test_only_the_chosen_labels_are_cleaned():
    labels = two_lobes()
    labels[6, 3, 4] = 1
    labels[2, 3, 4] = 2
    result = reassign_fragments(labels, labels=[2])
    assert result[6, 3, 4] == 1
    assert result[2, 3, 4] == 1


def test_memory_layout_and_type_make_no_difference():
    labels = np.random.default_rng(0).integers(0, 6, (11, 13, 7)).astype(np.uint8)
    expected = reassign_fragments(labels)
    assert (expected != labels).sum() > 0
    np.testing.assert_array_equal(reassign_fragments(np.asfortranarray(labels)), expected)
    np.testing.assert_array_equal(reassign_fragments(labels.astype(np.float32)), expected)
    np.testing.assert_array_equal(reassign_fragments(labels.astype(np.int64)), expected)
    np.testing.assert_array_equal(reassign_fragments(expected), expected)


@pytest.mark.parametrize("seed", range(5))
def test_noise_ends_with_one_piece_a_label_and_only_moved_pieces_changed(seed: int):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.repeat(rng.integers(0, 4, (6, 7, 5)), 2, axis=0), 3, axis=2).astype(np.uint8)
    result = reassign_fragments(labels)
    for label in (1, 2, 3):
        pieces = cc3d.connected_components((labels == label).astype(np.uint8), connectivity=26)
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        assert (result[largest] == label).all()
        assert cc3d.connected_components((result == label).astype(np.uint8), connectivity=26).max() == 1
    assert not result[labels == 0].any()


def test_the_transform_keeps_type_metadata_and_the_other_items():
    labels = two_lobes()
    labels[6, 3, 4] = 1
    affine = torch.tensor([[0, 0.7, 0, 3], [-0.8, 0, 0, 4], [0, 0, 2.5, 5], [0, 0, 0, 1]], dtype=torch.float64)
    pred = MetaTensor(torch.from_numpy(labels)[None].float(), affine=affine, meta={"filename_or_obj": "case.nii.gz"})
    result = ReassignFragmentsd("pred")({"pred": pred, "image": 7})
    assert isinstance(result["pred"], MetaTensor)
    assert result["pred"].dtype == torch.float32
    assert result["pred"].meta["filename_or_obj"] == "case.nii.gz"
    torch.testing.assert_close(result["pred"].affine, affine)
    np.testing.assert_array_equal(result["pred"].numpy()[0], two_lobes())
    assert result["image"] == 7
    assert pred[0, 6, 3, 4] == 1


def test_the_transform_refuses_what_is_no_label_map():
    clean = ReassignFragmentsd("pred")
    with pytest.raises(ValueError, match=r"pred: expected one label map \[1, D, H, W\], got \[6, 4, 4, 4\]"):
        clean({"pred": torch.zeros(6, 4, 4, 4)})
    for value in (0.5, -1.0, 300.0, float("nan")):
        with pytest.raises(ValueError, match="whole labels from 0 to 255"):
            clean({"pred": torch.full((1, 4, 4, 4), value)})
    with pytest.raises(ValueError, match=r"\[D, H, W\], got \[4, 4\]"):
        reassign_fragments(np.zeros((4, 4), dtype=np.uint8))


def test_working_memory_is_a_few_bytes_a_voxel():
    labels = np.zeros((60, 120, 110), dtype=np.uint8)
    labels[5:55, 10:110, 10:50] = 1
    labels[5:55, 10:110, 60:100] = 2
    labels[30, 20:24, 70:74] = 1
    reassign_fragments(labels[:8])  # imports and caches
    tracemalloc.start()
    reassign_fragments(labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * labels.size
