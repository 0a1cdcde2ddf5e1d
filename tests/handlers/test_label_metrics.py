"""Tables of several labels: overlaps and distances in mm, what is undefined, and what is written."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.metrics import compute_hausdorff_distance, compute_iou
from torch import nn

from medseg_monai.handlers import LabelMetrics
from medseg_monai.metrics import DICE_CONVENTION

SHAPE = (9, 12, 14)
SPACING = (2.5, 0.8, 0.5)


def affine(spacing: tuple[float, float, float] = SPACING, *, tilt: float = 0.4) -> torch.Tensor:
    """Oblique: turned about two axes, one of them mirrored, far from the origin."""
    c, s = math.cos(tilt), math.sin(tilt)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    result = np.eye(4)
    result[:3, :3] = turn @ np.diag(spacing) @ np.diag([1, -1, 1])
    result[:3, 3] = (-120.5, 300.0, 77.0)
    return torch.from_numpy(result)


def boxes(*places: tuple[int, tuple[slice, ...]], shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    """A label map ``[1, *shape]`` of boxes."""
    result = torch.zeros(1, *shape)
    for value, place in places:
        result[0][place] = value
    return result


def item(
    name: str, pred: torch.Tensor, label: torch.Tensor, grid: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """A decollated case as an evaluator puts it out."""
    grid = affine() if grid is None else grid
    image = MetaTensor(torch.zeros_like(label), affine=grid, meta={"filename_or_obj": f"/data/{name}"})
    return {"image": image, "pred": MetaTensor(pred, affine=grid), "label": MetaTensor(label, affine=grid)}


def run(handler: LabelMetrics, *batches: list[dict[str, torch.Tensor]]) -> Engine:
    """One epoch of an engine whose iterations put out ``batches``."""
    engine = Engine(lambda _, batch: batch)
    handler.attach(engine)
    engine.run(batches)
    return engine


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def values(row: dict[str, str]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key != "case"}


# upper: 2x3x4 = 24 voxels, moved by one slice: 12 in common, 36 in either; lower: 3x2x2 = 12 voxels, all right
UPPER = (slice(1, 3), slice(2, 5), slice(3, 7))
MOVED = (slice(2, 4), slice(2, 5), slice(3, 7))
LOWER = (slice(5, 8), slice(8, 10), slice(9, 11))
A = item("a.nii.gz", boxes((1, MOVED), (2, LOWER)), boxes((1, UPPER), (2, LOWER)))
B = item("b.nii.gz", boxes((1, UPPER), (2, LOWER)), boxes((1, UPPER), (2, LOWER)))


def test_each_label_and_their_mean_have_the_values_counted_by_hand(tmp_path):
    run(LabelMetrics(tmp_path, ["upper", "lower"]), [A])
    (row,) = rows(tmp_path)
    columns = ["dice", "dice_upper", "dice_lower", "iou", "iou_upper", "iou_lower", "hd95", "hd95_upper", "hd95_lower"]
    assert list(row) == ["case", *columns]
    assert row["case"] == "a"
    expected = [0.75, 0.5, 1, (1 / 3 + 1) / 2, 1 / 3, 1, 1.25, 2.5, 0]
    assert list(values(row).values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("axis", "steps"), [(0, 1), (1, 3), (2, 4)])
def test_distances_are_in_millimetres_along_every_axis_of_an_oblique_anisotropic_scan(axis, steps, tmp_path):
    plane = [slice(None)] * 3
    plane[axis] = slice(2, 3)
    moved = list(plane)
    moved[axis] = slice(2 + steps, 3 + steps)
    run(LabelMetrics(tmp_path, ["plane"]), [item("p.nii", boxes((1, tuple(moved))), boxes((1, tuple(plane))))])
    assert values(rows(tmp_path)[0])["hd95"] == pytest.approx(steps * SPACING[axis], rel=1e-6)


def test_the_largest_five_percent_of_the_distances_are_left_out(tmp_path):
    """A row of 101 voxels and, beyond it, some more of which the reference knows nothing."""
    shape = (3, 3, 120)
    label = boxes((1, (1, 1, slice(0, 101))), shape=shape)
    few = boxes((1, (1, 1, slice(0, 105))), shape=shape)  # 4 of 105 voxels are beyond: quantile 0.95 lies before them
    many = boxes((1, (1, 1, slice(0, 119))), shape=shape)  # 18 of 119: ranks 0 to 118, the 112.1th is 11.1 voxels away
    run(LabelMetrics(tmp_path, ["row"], ["hd95"]), [item("few", few, label)], [item("many", many, label)])
    first, second = (values(row)["hd95"] for row in rows(tmp_path))
    assert first == 0
    assert second == pytest.approx(0.5 * (112.1 - 100), rel=1e-6)


def test_the_values_are_monais_on_the_whole_image_for_any_label_map(tmp_path):
    """Labels in rags that touch the image's edges, in maps that differ; nothing is lost by looking at boxes only."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 4, (2, 3, 4, 5), generator=generator).float()
    pred, label = torch.nn.functional.interpolate(coarse[None], size=SHAPE, mode="nearest")[0]
    noise = torch.rand(SHAPE, generator=generator) > 0.9
    pred = torch.where(noise, torch.randint(0, 4, SHAPE, generator=generator).float(), pred)
    run(LabelMetrics(tmp_path, ["one", "two", "three"]), [item("r.nii", pred[None], label[None])])
    row = values(rows(tmp_path)[0])
    for number, name in enumerate(["one", "two", "three"], start=1):
        masks = [(values_ == number)[None, None].float() for values_ in (pred, label)]
        distance = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=SPACING)
        assert row[f"hd95_{name}"] == pytest.approx(float(distance), rel=1e-6)
        assert row[f"iou_{name}"] == pytest.approx(float(compute_iou(*masks)))
    assert row["hd95"] == pytest.approx(np.mean([row[f"hd95_{name}"] for name in ("one", "two", "three")]))


def test_the_summary_has_statistics_per_case_and_pooled_overlaps_but_no_pooled_distance(tmp_path):
    engine = run(LabelMetrics(tmp_path, ["upper", "lower"]), [A], [B])
    result = summary(tmp_path)
    assert list(result) == ["cases", "convention", "per_case", "pooled"]
    assert result["cases"] == 2
    iou = np.array([(1 / 3 + 1) / 2, 1.0])
    assert result["per_case"]["iou"] == pytest.approx(
        {"undefined": 0, "mean": iou.mean(), "std": iou.std(), "min": iou.min(), "max": iou.max()}
    )
    assert result["per_case"]["hd95_upper"]["mean"] == pytest.approx(1.25)
    # upper: 12 + 24 voxels in common, 36 + 24 in either; 24 in each of the four masks
    assert result["pooled"] == {
        "dice": pytest.approx((36 / 48 + 1) / 2),
        "iou": pytest.approx((36 / 60 + 1) / 2),
    }
    assert engine.state.metrics["test_iou"] == pytest.approx(iou.mean())
    assert engine.state.metrics["test_hd95_upper"] == pytest.approx(1.25)


def test_only_the_metrics_asked_for_are_computed_and_reported(tmp_path):
    run(LabelMetrics(tmp_path, ["upper", "lower"], ["hd95", "iou"]), [A])
    assert [key for key in rows(tmp_path)[0] if "_" not in key] == ["case", "hd95", "iou"]
    assert list(summary(tmp_path)["pooled"]) == ["iou"]


def test_a_label_absent_in_both_is_undefined_and_left_out_of_the_mean(tmp_path):
    run(LabelMetrics(tmp_path, ["upper", "lower", "middle"]), [A], [B])
    first, _ = rows(tmp_path)
    assert (first["dice_middle"], first["iou_middle"], first["hd95_middle"]) == ("nan", "nan", "nan")
    assert float(first["iou"]) == pytest.approx((1 / 3 + 1) / 2)
    result = summary(tmp_path)
    assert result["per_case"]["iou_middle"] == {"undefined": 2, "mean": None, "std": None, "min": None, "max": None}
    assert result["per_case"]["iou"]["undefined"] == 0
    assert result["pooled"]["iou"] == pytest.approx((36 / 60 + 1) / 2)


@pytest.mark.parametrize("missing", ["pred", "label"])
def test_a_label_absent_in_one_of_them_has_no_overlap_and_no_distance(missing, tmp_path):
    maps = {"pred": boxes((1, UPPER), (2, LOWER)), "label": boxes((1, UPPER), (2, LOWER)), missing: boxes((1, UPPER))}
    run(LabelMetrics(tmp_path, ["upper", "lower"]), [item("m.nii", **maps)])
    row = values(rows(tmp_path)[0])
    assert (row["dice_lower"], row["iou_lower"]) == (0, 0)
    assert math.isnan(row["hd95_lower"])
    assert (row["dice"], row["iou"], row["hd95"]) == (0.5, 0.5, 0)
    assert summary(tmp_path)["per_case"]["hd95_lower"]["undefined"] == 1


def test_structures_without_a_distance_are_counted_and_those_that_are_nowhere_are_not(tmp_path):
    nothing, both, upper = boxes(), boxes((1, UPPER), (2, LOWER)), boxes((1, UPPER))
    cases = [item("m.nii", nothing, both), item("i.nii", both, upper), item("n.nii", nothing, nothing), A]
    run(LabelMetrics(tmp_path, ["upper", "lower"]), cases)
    statistics = summary(tmp_path)["per_case"]
    assert [statistics[f"hd95{name}"]["missing"] for name in ("", "_upper", "_lower")] == [3, 1, 2]
    assert statistics["hd95"]["mean"] == pytest.approx((0 + 1.25) / 2)
    assert "missing" not in statistics["dice"]


def test_a_summary_states_what_an_absent_structure_counts(tmp_path):
    run(LabelMetrics(tmp_path, ["upper", "lower"]), [A])
    assert summary(tmp_path)["convention"] == DICE_CONVENTION


def test_a_case_without_any_label_is_undefined_throughout(tmp_path):
    engine = run(LabelMetrics(tmp_path, ["upper"]), [item("e.nii", boxes(), boxes())])
    assert summary(tmp_path)["pooled"] == {"dice": None, "iou": None}
    assert summary(tmp_path)["per_case"]["hd95"]["missing"] == 0
    assert summary(tmp_path)["per_case"]["hd95"]["undefined"] == 1
    assert math.isnan(engine.state.metrics["test_dice"])


def test_precision_and_recall_divide_by_the_prediction_and_by_the_reference(tmp_path):
    larger = (slice(1, 4), slice(2, 5), slice(3, 7))  # 36 voxels, of which UPPER has 24
    smaller = (slice(1, 2), slice(2, 5), slice(3, 7))  # 12 of UPPER's 24 voxels
    first, second = (item("l.nii", boxes((1, place)), boxes((1, UPPER))) for place in (larger, smaller))
    run(LabelMetrics(tmp_path, ["organ"], ["precision", "recall"]), [first], [second])
    assert [values(row) for row in rows(tmp_path)] == [
        pytest.approx({"precision": 24 / 36, "recall": 1}),
        pytest.approx({"precision": 1, "recall": 12 / 24}),
    ]
    # 24 + 12 voxels in common, 36 + 12 predicted, 24 + 24 of the reference
    assert summary(tmp_path)["pooled"] == pytest.approx({"precision": 36 / 48, "recall": 36 / 48})


def test_precision_of_an_empty_prediction_and_recall_of_an_empty_reference_are_undefined(tmp_path):
    cases = [item("p.nii", boxes(), boxes((1, UPPER))), item("r.nii", boxes((1, UPPER)), boxes())]
    run(LabelMetrics(tmp_path, ["organ"], ["precision", "recall"]), cases)
    missed, invented = rows(tmp_path)
    assert (missed["precision"], missed["recall"]) == ("nan", "0.0")
    assert (invented["precision"], invented["recall"]) == ("0.0", "nan")


def test_the_only_label_has_no_columns_of_its_own_beside_the_means(tmp_path):
    run(LabelMetrics(tmp_path, ["organ"]), [item("o.nii", boxes((1, MOVED)), boxes((1, UPPER)))])
    assert list(rows(tmp_path)[0]) == ["case", "dice", "iou", "hd95"]


def test_a_second_evaluation_starts_from_nothing(tmp_path):
    handler = LabelMetrics(tmp_path, ["upper", "lower"])
    run(handler, [A, B])
    run(handler, [B])
    assert [row["case"] for row in rows(tmp_path)] == ["b"]
    assert summary(tmp_path)["pooled"]["iou"] == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_maps_of_any_type_and_predictions_without_affine_are_compared(dtype, tmp_path):
    maps = {
        "pred": A["pred"].as_tensor().to(dtype),
        "label": MetaTensor(A["label"].as_tensor().to(dtype), affine=affine()),
    }
    run(LabelMetrics(tmp_path, ["upper", "lower"]), [{**A, **maps}])
    assert values(rows(tmp_path)[0])["hd95_upper"] == pytest.approx(2.5)


def test_masks_that_are_not_on_the_grid_of_the_prediction_are_refused_with_the_case(tmp_path):
    transposed = {**A, "label": A["label"].transpose(1, 2)}
    with pytest.raises(
        ValueError, match=r"/data/a\.nii\.gz: its label has shape \(1, 12, 9, 14\), .* \(1, 9, 12, 14\)"
    ):
        run(LabelMetrics(tmp_path, ["upper", "lower"]), [transposed])
    with pytest.raises(ValueError, match=r"/data/a\.nii\.gz: its label has no affine"):
        run(LabelMetrics(tmp_path, ["upper", "lower"]), [{**A, "label": A["label"].as_tensor()}])
    mirrored = affine() @ torch.diag(torch.tensor([1.0, 1, -1, 1], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"/data/a\.nii\.gz: its label lies elsewhere than the prediction"):
        run(
            LabelMetrics(tmp_path, ["upper", "lower"]),
            [{**A, "label": MetaTensor(A["label"].as_tensor(), affine=mirrored)}],
        )


def test_an_affine_that_was_rounded_in_its_file_is_the_same_grid(tmp_path):
    rounded = MetaTensor(A["label"].as_tensor(), affine=affine().float().double() + 1e-4)
    run(LabelMetrics(tmp_path, ["upper", "lower"]), [{**A, "label": rounded}])
    assert values(rows(tmp_path)[0])["dice_upper"] == pytest.approx(0.5)


@pytest.mark.parametrize("key", ["pred", "label"])
@pytest.mark.parametrize("value", [3, -1, 0.5, 257])
def test_a_map_with_other_values_than_the_labels_is_refused(key, value, tmp_path):
    wrong = A[key].as_tensor().clone()
    wrong[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"/data/a\.nii\.gz: its {key} has values other than 0 to 2 \(upper, lower\)"):
        run(LabelMetrics(tmp_path, ["upper", "lower"]), [{**A, key: MetaTensor(wrong, affine=affine())}])


def test_unknown_metrics_and_unusable_names_are_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="hd100: no such metric; known metrics: dice, iou, precision, recall, hd95"):
        LabelMetrics(tmp_path, ["upper"], ["dice", "hd100"])
    for names in ([], ["upper", "upper"]):
        with pytest.raises(ValueError, match="names must be 1 to 255 different names"):
            LabelMetrics(tmp_path, names)


def test_the_evaluator_of_a_bundle_feeds_it(tmp_path):
    """MONAI's evaluator: batches of two, decollated, the network's output as the prediction."""
    data = [
        {"image": MetaTensor(case["pred"], meta={**case["image"].meta}), "label": case["label"]} for case in (A, B, A)
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=nn.Identity(),
        val_handlers=[LabelMetrics(tmp_path, ["upper", "lower"])],
    )
    evaluator.run()
    assert [row["case"] for row in rows(tmp_path)] == ["a", "b", "a"]
    assert evaluator.state.metrics["test_hd95_upper"] == pytest.approx((2.5 + 0 + 2.5) / 3)
