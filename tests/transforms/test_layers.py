"""Labels of layers: what is refused, and that thin layers survive a change of size."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseg_monai.data import LabelReader
from medseg_monai.datasets import read_nr206
from medseg_monai.layers import boundaries_of_labels
from medseg_monai.transforms import CheckLayersd, ResizeLayersd

DATA = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "retinal_layer_oct"


def label(values: list[list[int]]) -> MetaTensor:
    return MetaTensor(torch.tensor([values], dtype=torch.float32), meta={"filename_or_obj": "eye.png"})


def test_a_class_that_there_is_not_is_named_with_the_file():
    with pytest.raises(ValueError, match=r"^eye\.png: values 3, expected the classes 0 to 2 and 255"):
        CheckLayersd("label", classes=3)({"label": label([[0, 0], [3, 1]])})


def test_a_column_out_of_order_is_named_with_the_file():
    with pytest.raises(ValueError, match=r"^eye\.png: classes out of order in column 1 "):
        CheckLayersd("label", classes=3)({"label": label([[0, 2, 255], [1, 1, 255]])})


def test_layers_in_order_absent_classes_and_columns_without_truth_pass():
    item = {"label": label([[0, 2, 255], [2, 2, 255]])}
    assert torch.equal(CheckLayersd("label", classes=3)(item)["label"], item["label"])


def thin_layers() -> torch.Tensor:
    """Layers of one row each between broad ones, aslant."""
    rows = np.arange(50)[:, None] - np.arange(23) // 3
    return torch.from_numpy(np.select([rows < 20, rows < 21, rows < 22, rows < 23], [0, 1, 2, 3], 4))[None].float()


@pytest.mark.parametrize("size", [(30, 23), (17, 40), (9, 11)])
def test_every_layer_keeps_a_row_where_an_image_becomes_lower(size):
    thin = thin_layers()
    resized = ResizeLayersd("label", size, classes=5)({"label": thin})["label"]
    assert resized.shape == (1, *size)
    heights = np.diff(boundaries_of_labels(resized[0], 5), axis=0)
    assert heights.min() >= 1
    by_nearest = torch.nn.functional.interpolate(thin[None], size=size, mode="nearest-exact")[0]
    assert np.diff(boundaries_of_labels(by_nearest[0], 5), axis=0).min() == 0  # what it is for


def test_boundaries_scale_with_the_image():
    resized = ResizeLayersd("label", (100, 46), classes=5)({"label": thin_layers()})["label"]
    np.testing.assert_array_equal(
        boundaries_of_labels(resized[0], 5)[:, ::2], 2 * boundaries_of_labels(thin_layers()[0], 5)
    )


def test_a_layer_that_is_absent_stays_absent_and_columns_without_truth_stay_so():
    thin = thin_layers()
    thin[thin == 2] = 1
    thin[..., 10:] = 255
    resized = ResizeLayersd("label", (25, 46), classes=5)({"label": thin})["label"]
    assert not (resized == 2).any()
    assert (resized[..., 20:] == 255).all()
    assert not (resized[..., :20] == 255).any()


def test_metadata_and_type_stay():
    resized = ResizeLayersd("label", (4, 4), classes=3)({"label": label([[0, 1], [2, 2]])})["label"]
    assert resized.meta["filename_or_obj"] == "eye.png"
    assert resized.dtype == torch.float32


def test_real_layers_of_one_to_three_pixels_survive_at_448(tmp_path):
    if not (DATA / "nr206").is_dir():
        pytest.skip("real data are absent: no retinal_layer_oct/nr206 below MEDSEG_DATA")
    items = [item for items in read_nr206(DATA / "nr206", derived=tmp_path).values() for item in items]
    for item in items:
        drawn = torch.from_numpy(LabelReader().get_data([Path(item["label"])])[0])
        resized = ResizeLayersd("label", (448, 448), classes=10)({"label": drawn})["label"]
        nearest = ((np.arange(448) + 0.5) * drawn.shape[2] / 448).astype(int)
        before = np.diff(boundaries_of_labels(drawn[0][:, nearest], 10), axis=0)
        after = np.diff(boundaries_of_labels(resized[0], 10), axis=0)
        assert ((after > 0) == (before > 0))[np.isfinite(before)].all()
