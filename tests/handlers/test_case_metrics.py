"""Tables of results: what they count, what they leave out, and what is written."""

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
from monai.transforms import Activationsd, AsDiscreted, Compose, CopyItemsd
from sklearn.metrics import roc_auc_score
from torch import nn

from medseg_monai.handlers import CaseMetrics


def item(name: str, probability: list[list[float]], **masks: list[list[int]]) -> dict[str, torch.Tensor]:
    """A decollated case ``[1, H, W]`` as an evaluator puts it out."""
    tensors = {key: torch.tensor([values], dtype=torch.float32) for key, values in masks.items()}
    scores = torch.tensor([probability])
    image = MetaTensor(torch.zeros_like(scores), meta={"filename_or_obj": f"/data/{name}"})
    return {"image": image, "pred": (scores >= 0.5).float(), "probability": scores, **tensors}


A = item("a.png", [[0.9, 0.5, 0.2], [0.8, 0.1, 0.4]], label=[[1, 0, 0], [1, 1, 0]])
B = item("b.tif", [[0.7, 0.6, 0.1], [0.3, 0.2, 0.2]], label=[[1, 1, 0], [0, 0, 0]])


def run(handler: CaseMetrics, *batches: list[dict[str, torch.Tensor]]) -> Engine:
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


def test_the_values_of_each_case_are_those_counted_by_hand(tmp_path):
    # a: tp 2, fp 1, fn 1, tn 2; b: all right
    run(CaseMetrics(tmp_path, ["dice", "sensitivity", "accuracy", "overlap_error"]), [A, B])
    first, second = rows(tmp_path)
    assert list(first) == ["case", "dice", "sensitivity", "accuracy", "overlap_error"]
    assert (first["case"], second["case"]) == ("a", "b")
    assert [float(first[key]) for key in list(first)[1:]] == pytest.approx([4 / 6, 2 / 3, 4 / 6, 1 - 2 / 4])
    assert [float(second[key]) for key in list(second)[1:]] == [1.0, 1.0, 1.0, 0.0]


def test_the_summary_states_the_cases_mean_and_the_pooled_value_which_differ(tmp_path):
    engine = run(CaseMetrics(tmp_path, ["dice"]), [A], [B])
    result = summary(tmp_path)
    dice = np.array([4 / 6, 1.0])
    assert result["cases"] == 2
    assert result["threshold"] == 0.5
    assert result["per_case"]["dice"] == pytest.approx(
        {"undefined": 0, "mean": dice.mean(), "std": dice.std(), "min": dice.min(), "max": dice.max()}
    )
    assert result["pooled"]["dice"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert result["pooled"]["dice"] != pytest.approx(dice.mean())
    assert engine.state.metrics["test_dice"] == pytest.approx(dice.mean())


def test_the_pooled_area_is_sklearns_on_all_pixels(tmp_path):
    run(CaseMetrics(tmp_path, ["auc"]), [A], [B])
    scores = torch.cat([A["probability"], B["probability"]]).flatten()
    labels = torch.cat([A["label"], B["label"]]).flatten()
    result = summary(tmp_path)
    assert result["pooled"]["auc"] == pytest.approx(roc_auc_score(labels, scores))
    each = [roc_auc_score(case["label"].flatten(), case["probability"].flatten()) for case in (A, B)]
    assert result["per_case"]["auc"]["mean"] == pytest.approx(np.mean(each))


def test_only_what_lies_in_the_field_of_view_counts(tmp_path):
    fov = torch.tensor([[[1, 0, 1], [1, 0, 1]]])  # leaves out both mistakes of a
    run(CaseMetrics(tmp_path, ["dice", "accuracy", "auc"]), [{**A, "fov": fov}])
    assert {key: float(value) for key, value in rows(tmp_path)[0].items() if key != "case"} == {
        "dice": 1.0,
        "accuracy": 1.0,
        "auc": 1.0,
    }


def test_the_whole_image_counts_where_the_field_of_view_is_ignored(tmp_path):
    fov = torch.tensor([[[1, 0, 1], [1, 0, 1]]])  # leaves out both mistakes of a
    run(CaseMetrics(tmp_path, ["dice", "accuracy", "auc"], fov="ignore"), [{**A, "fov": fov}])
    run(CaseMetrics(tmp_path / "without", ["dice", "accuracy", "auc"]), [A])
    assert rows(tmp_path) == rows(tmp_path / "without")
    assert summary(tmp_path)["pooled"] == summary(tmp_path / "without")["pooled"]


@pytest.mark.parametrize("fov", ["inside", "ignore"])
def test_the_summary_says_how_fields_of_view_were_treated_if_there_are_any(tmp_path, fov):
    run(CaseMetrics(tmp_path, ["dice"], fov=fov), [B, {**A, "fov": A["label"]}])
    assert summary(tmp_path)["fov"] == fov
    run(CaseMetrics(tmp_path, ["dice"], fov=fov), [B, A])
    assert "fov" not in summary(tmp_path)


def test_another_word_for_the_field_of_view_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fov='outside' is unknown: choose from inside, ignore"):
        CaseMetrics(tmp_path, ["dice"], fov="outside")


def test_the_mean_over_the_experts_is_that_of_each_image_and_its_deviation_that_over_the_images(tmp_path):
    """Table I of CE-Net, "Overall": the experts' values of an image make one, and images deviate from each other."""
    masks = [[[1, 0, 0], [1, 0, 0]], [[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [1, 0, 0]]]
    experts = {f"label_expert{number}": torch.tensor([mask]) for number, mask in enumerate(masks, start=1)}
    first = {**item("c.png", [[0.9, 0.1, 0.1], [0.9, 0.1, 0.1]], label=[[1, 0, 0], [1, 0, 0]]), **experts}
    second = {**B, **experts}
    run(CaseMetrics(tmp_path, ["overlap_error"]), [first], [second], [A])
    means = [np.mean([0, 1 - 2 / 3, 1 - 2 / 4]), np.mean([1 - 1 / 3, 1 - 2 / 3, 1 - 2 / 4])]
    assert [float(row["overlap_error_experts"]) for row in rows(tmp_path)[:2]] == pytest.approx(means)
    assert rows(tmp_path)[2]["overlap_error_experts"] == ""
    found = summary(tmp_path)
    assert found["per_case"]["overlap_error_experts"]["mean"] == pytest.approx(np.mean(means))
    assert found["per_case"]["overlap_error_experts"]["std"] == pytest.approx(np.std(means))
    each = [found["pooled"][f"overlap_error_expert{number}"] for number in (1, 2, 3)]
    assert found["pooled"]["overlap_error_experts"] == pytest.approx(np.mean(each))


def test_each_expert_has_columns_and_a_pooled_value_of_its_own(tmp_path):
    second = item("c.png", [[0.9, 0.1, 0.1], [0.9, 0.1, 0.1]], label=[[1, 0, 0], [1, 0, 0]])
    expert = {"label_expert1": torch.tensor([[[1, 1, 1], [1, 0, 0]]]), "label_expert2": second["label"]}
    run(CaseMetrics(tmp_path, ["dice", "auc"]), [{**second, **expert}], [B])
    first, without = rows(tmp_path)
    own = ["dice_expert1", "auc_expert1", "dice_expert2", "auc_expert2"]
    assert list(first) == ["case", "dice", "auc", *own, "dice_experts", "auc_experts"]
    assert float(first["dice"]) == float(first["dice_expert2"]) == 1.0
    assert float(first["dice_expert1"]) == pytest.approx(4 / 6)
    assert without["dice_expert1"] == ""
    result = summary(tmp_path)
    assert result["per_case"]["dice_expert1"]["mean"] == pytest.approx(4 / 6)
    assert result["pooled"]["dice_expert1"] == pytest.approx(4 / 6)
    assert result["pooled"]["dice"] == 1.0


def test_an_empty_label_is_counted_as_undefined_and_left_out_of_the_mean(tmp_path):
    empty = item("e.png", [[0.1, 0.1, 0.2], [0.1, 0.1, 0.1]], label=[[0, 0, 0], [0, 0, 0]])
    engine = run(CaseMetrics(tmp_path, ["dice", "sensitivity", "accuracy", "auc"]), [empty, A])
    result = summary(tmp_path)
    assert rows(tmp_path)[0]["dice"] == "nan"
    assert {name: values["undefined"] for name, values in result["per_case"].items()} == {
        "dice": 1,
        "sensitivity": 1,
        "accuracy": 0,
        "auc": 1,
    }
    assert result["per_case"]["dice"]["mean"] == pytest.approx(4 / 6)
    assert result["per_case"]["accuracy"]["mean"] == pytest.approx((1 + 4 / 6) / 2)
    assert engine.state.metrics["test_dice"] == pytest.approx(4 / 6)


def test_a_metric_that_no_case_defines_is_null_in_json(tmp_path):
    empty = item("e.png", [[0.1, 0.1]], label=[[0, 0]])
    engine = run(CaseMetrics(tmp_path, ["dice", "auc"]), [empty])
    result = summary(tmp_path)
    assert result["per_case"]["dice"] == {"undefined": 1, "mean": None, "std": None, "min": None, "max": None}
    assert result["pooled"] == {"dice": None, "auc": None}
    assert math.isnan(engine.state.metrics["test_dice"])


def test_the_mask_counts_whatever_the_probability_is_and_the_area_is_that_of_the_probability(tmp_path):
    mask = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]])  # as the largest component, say: tp 2, fp 1, fn 1
    run(CaseMetrics(tmp_path, ["dice", "auc"], threshold=0.6), [{**A, "pred": mask}])
    (row,) = rows(tmp_path)
    assert float(row["dice"]) == pytest.approx(4 / 6)
    assert float(row["auc"]) == pytest.approx(roc_auc_score(A["label"].flatten(), A["probability"].flatten()))
    assert summary(tmp_path)["threshold"] == 0.6


def test_a_mask_needs_no_probability_if_no_area_is_asked_for(tmp_path):
    run(CaseMetrics(tmp_path, ["dice"]), [{key: value for key, value in A.items() if key != "probability"}])
    assert float(rows(tmp_path)[0]["dice"]) == pytest.approx(4 / 6)


def test_a_second_evaluation_starts_from_nothing(tmp_path):
    handler = CaseMetrics(tmp_path, ["dice"])
    run(handler, [A, B])
    run(handler, [B])
    assert [row["case"] for row in rows(tmp_path)] == ["b"]
    assert summary(tmp_path)["pooled"]["dice"] == 1.0


@pytest.mark.parametrize("key", ["label", "fov", "probability", "label_expert1"])
def test_a_mask_of_another_size_is_refused_with_the_case_and_the_mask(key, tmp_path):
    transposed = {**A, key: torch.ones(1, 3, 2)}
    with pytest.raises(ValueError, match=rf"/data/a\.png: its {key} has shape \(1, 3, 2\), .* \(1, 2, 3\)"):
        run(CaseMetrics(tmp_path, ["dice"]), [transposed])


def test_an_unknown_metric_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="dise: no such metric; known metrics: dice"):
        CaseMetrics(tmp_path, ["dice", "dise"])


def test_the_evaluator_of_a_bundle_feeds_it(tmp_path):
    """MONAI's evaluator: batches of two, decollated, with metadata and labels of a size that is not square."""
    generator = torch.Generator().manual_seed(5)
    data = [
        {
            "image": MetaTensor(torch.randn(1, 4, 7, generator=generator), meta={"filename_or_obj": f"case{i}.png"}),
            "label": MetaTensor((torch.rand(1, 4, 7, generator=generator) > 0.5).float()),
            "fov": MetaTensor((torch.rand(1, 4, 7, generator=generator) > 0.2).float()),
            "label_expert1": MetaTensor((torch.rand(1, 4, 7, generator=generator) > 0.5).float()),
        }
        for i in range(3)
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=nn.Identity(),
        postprocessing=Compose(
            [
                Activationsd("pred", sigmoid=True),
                CopyItemsd("pred", names="probability"),
                AsDiscreted("pred", threshold=0.5),
            ]
        ),
        val_handlers=[CaseMetrics(tmp_path, ["dice", "accuracy", "auc"])],
    )
    evaluator.run()
    assert [row["case"] for row in rows(tmp_path)] == ["case0", "case1", "case2"]
    for case, row in zip(data, rows(tmp_path), strict=True):
        inside = case["fov"].numpy() > 0
        predicted, label = case["image"].numpy()[inside] >= 0, case["label"].numpy()[inside] > 0
        assert float(row["accuracy"]) == pytest.approx((predicted == label).mean())
        assert float(row["dice"]) == pytest.approx(2 * (predicted & label).sum() / (predicted.sum() + label.sum()))
        assert float(row["auc"]) == pytest.approx(roc_auc_score(label, case["image"].numpy()[inside]))
        expert = case["label_expert1"].numpy()[inside] > 0
        assert float(row["accuracy_expert1"]) == pytest.approx((predicted == expert).mean())
    assert evaluator.state.metrics["test_auc"] == pytest.approx(summary(tmp_path)["per_case"]["auc"]["mean"])


def test_scores_of_contours_are_those_of_the_probability_and_not_of_the_mask(tmp_path):
    """The membrane is seen at a threshold of 0.9 alone, so that the mask has one cell."""
    seen = [[0.95, 0.95, 0.85, 0.95], [0.95, 0.95, 0.85, 0.95]]
    cells = [[1, 1, 0, 1], [1, 1, 0, 1]]
    names = ["v_rand", "dice", "v_info"]
    engine = run(CaseMetrics(tmp_path, names), [item("a.png", seen, label=cells)])
    (row,) = rows(tmp_path)
    assert (float(row["v_rand"]), float(row["v_info"])) == (1.0, 1.0)
    assert float(row["dice"]) == pytest.approx(12 / 14)
    found = summary(tmp_path)
    assert set(found["pooled"]) == {"dice"}
    assert set(found["per_case"]) == set(names)
    assert engine.state.metrics["test_v_rand"] == 1.0


def test_cells_outside_the_field_of_view_do_not_count_for_contours(tmp_path):
    never = [[1.0, 1.0, 1.0, 1.0, 0.0, 1.0]]
    case = item("a.png", never, label=[[1, 1, 0, 1, 0, 1]], fov=[[0, 0, 0, 1, 1, 1]])
    run(CaseMetrics(tmp_path, ["v_rand"]), [case])
    assert float(rows(tmp_path)[0]["v_rand"]) == 1.0
    run(CaseMetrics(tmp_path, ["v_rand"], fov="ignore"), [case])
    assert float(rows(tmp_path)[0]["v_rand"]) < 1.0


def test_a_stack_has_the_mean_of_its_sections(tmp_path):
    first, second = ([[0.9, 0.9, 0.1, 0.9]], [[0.9, 0.9, 0.9, 0.9]])
    label = torch.tensor([[[[1.0, 1, 0, 1]], [[1, 1, 0, 1]]]])
    scores = torch.tensor([[first, second]])
    image = MetaTensor(torch.zeros_like(scores), meta={"filename_or_obj": "stack.tif"})
    case = {"image": image, "pred": (scores >= 0.5).float(), "probability": scores, "label": label}
    run(CaseMetrics(tmp_path, ["v_rand"]), [case])
    merged = 2 * (5 / 9) / (5 / 9 + 1)  # shares 2/3 and 1/3
    lines = 2 * (1 / 3) / (5 / 9 + 1 / 3)  # at the threshold 1 no pixel is a cell
    assert float(rows(tmp_path)[0]["v_rand"]) == pytest.approx((1 + max(merged, lines)) / 2)
