"""Tables of boundaries, by hand on a drawn B-scan."""

import csv
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler

from medseg_monai.handlers import LayerMetrics
from medseg_monai.layers import labels_of_boundaries
from medseg_monai.metrics import BoundaryError, LayerDice

ROWS, COLUMNS = 60, 25
NAMES = ["ILM", "NFL-GCL", "BM"]


def drawn(*, lower: float = 0, columns: int = COLUMNS) -> torch.Tensor:
    slope = np.arange(columns) // 3
    boundaries = np.stack([10 + slope, 19 + slope + lower, 36 + slope])
    return torch.from_numpy(labels_of_boundaries(boundaries, ROWS)).float()[None]


def case(name: str, pred: torch.Tensor, label: torch.Tensor, meta: dict | None = None, **more) -> dict:
    image = MetaTensor(torch.zeros_like(pred), meta={"filename_or_obj": f"{name}.png", **(meta or {})})
    return {"image": image, "pred": pred, "label": label, **more}


@pytest.fixture
def evaluate(tmp_path):
    def run(*cases: dict, **options):
        LayerMetrics(tmp_path, classes=4, names=NAMES, **options).attach(evaluator := Engine(lambda _, batch: batch))
        state = evaluator.run([[one] for one in cases])
        with (tmp_path / "cases.csv").open(newline="") as table:
            rows = list(csv.DictReader(table))
        return rows, json.loads((tmp_path / "summary.json").read_text()), state.metrics

    return run


def test_a_boundary_3_pixels_too_low_has_an_error_of_3_and_the_mean_of_three_is_1(evaluate):
    (row,), summary, metrics = evaluate(case("eye", drawn(lower=3), drawn()))
    assert [float(row[f"mae_{name}"]) for name in NAMES] == [0, 3, 0]
    assert float(row["mae"]) == pytest.approx(1)
    assert summary["pooled"]["mae"] == metrics["test_mae"] == pytest.approx(1)
    assert "mae_um" not in row


def test_columns_without_truth_are_left_out_and_counted(evaluate):
    label, found = drawn(), drawn(lower=2)
    label[..., :5] = 255
    found[..., :5] = 3
    (row,), summary, _ = evaluate(case("eye", found, label))
    assert (int(row["columns"]), int(row["columns_without_truth"])) == (COLUMNS - 5, 5)
    assert [float(row[f"mae_{name}"]) for name in NAMES] == [0, 2, 0]
    assert summary["columns_without_truth"] == 5


@pytest.mark.parametrize(
    ("meta", "more", "options", "spacing"),
    [
        ({"axial_um": 2.5}, {"axial_um": 9.0}, {"axial_um": 8.0}, 2.5),
        ({"axial_um": float("nan")}, {"axial_um": 3.87}, {"axial_um": 8.0}, 3.87),
        ({}, {}, {"axial_um": 4.0}, 4.0),
    ],
)
def test_micrometres_follow_the_file_then_the_data_list_then_the_key(evaluate, meta, more, options, spacing):
    (row,), _, _ = evaluate(case("eye", drawn(lower=3), drawn(), meta, **more), **options)
    assert float(row["mae_um"]) == pytest.approx(spacing)


def test_graders_are_compared_with_the_prediction_and_with_each_other(evaluate):
    pred, first, second = drawn(lower=3), drawn(), drawn(lower=-1)
    second[..., 0] = 255
    (row,), summary, _ = evaluate(case("eye", pred, first, label_expert2=second))
    columns = ("mae_NFL-GCL", "mae_NFL-GCL_expert2", "mae_NFL-GCL_between_expert2")
    assert [float(row[column]) for column in columns] == [3, 4, 1]
    assert {key: found["NFL-GCL"] for key, found in summary["boundaries"].items()} == {
        "label": 3,
        "expert2": 4,
        "between_expert2": 1,
    }


def test_all_columns_together_weigh_a_wide_scan_more(evaluate):
    narrow, wide = drawn(columns=10), drawn(columns=30)
    _, summary, _ = evaluate(case("a", drawn(lower=4, columns=10), narrow), case("b", wide, wide))
    assert summary["boundaries"]["label"]["NFL-GCL"] == pytest.approx(4 * 10 / 40)
    assert summary["per_case"]["mae_NFL-GCL"]["mean"] == pytest.approx(2)


def test_a_scan_that_nobody_has_drawn_is_undefined_and_spoils_no_mean(evaluate):
    rows, summary, _ = evaluate(case("a", drawn(), torch.full_like(drawn(), 255)), case("b", drawn(lower=3), drawn()))
    assert rows[0]["mae"] == "nan"
    assert summary["per_case"]["mae"]["mean"] == pytest.approx(1)
    assert summary["pooled"]["mae"] == pytest.approx(1)


def test_dice_is_the_mean_over_all_classes(evaluate):
    (row,), summary, _ = evaluate(case("eye", drawn(lower=3), drawn()), metrics=["dice"])
    first, second = 2 * 9 / (9 + 12), 2 * 14 / (14 + 17)  # layers of 9 and 17 rows, of which 3 change hands
    assert float(row["dice"]) == pytest.approx((1 + first + second + 1) / 4)
    assert summary["pooled"]["dice"] == pytest.approx(float(row["dice"]))


def test_a_label_of_another_size_is_refused_by_the_name_of_its_image(tmp_path):
    LayerMetrics(tmp_path, classes=4).attach(evaluator := Engine(lambda _, batch: batch))
    with pytest.raises(ValueError, match=r"^eye\.png: its label has shape .* give a label of the B-scan's size"):
        evaluator.run([[case("eye", drawn(), drawn(columns=9))]])


@pytest.mark.parametrize(
    ("options", "message"), [({"metrics": ["hd95"]}, "hd95: no such metric"), ({"names": ["ILM"]}, "3 boundaries")]
)
def test_what_there_is_not_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        LayerMetrics(tmp_path, classes=4, **options)


def test_a_validation_has_the_metrics_of_the_table(evaluate):
    label, pred = drawn(), drawn(lower=3)
    label[..., 7:9] = 255
    _, summary, _ = evaluate(case("eye", pred, label))
    engine = Engine(lambda _, batch: batch)
    IgniteMetricHandler(metric_fn=LayerDice(classes=4)).attach(engine, "val_dice")
    IgniteMetricHandler(metric_fn=BoundaryError(classes=4)).attach(engine, "val_mae")
    metrics = engine.run([(pred[None], label[None])]).metrics
    assert metrics["val_dice"] == pytest.approx(summary["pooled"]["dice"], abs=1e-6)
    assert metrics["val_mae"] == pytest.approx(summary["pooled"]["mae"])
