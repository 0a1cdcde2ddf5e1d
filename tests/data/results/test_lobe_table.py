"""The lobe table: numbers that can be worked out by hand, bounds of the score, and the two files."""

import csv
import json
import tracemalloc

import numpy as np
import pytest

from medseg_monai.data.results.lobe_table import lobe_table, severity_score, write_lobe_csv, write_lobe_json

NAMES = ("left upper lobe", "left lower lobe", "right upper lobe", "right lower lobe", "right middle lobe")

# a turned grid of 0.5 x 0.8 x 2.5 mm: a voxel has 1 mm^3
TURN = np.asarray([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, -1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN * (0.5, 0.8, 2.5)
AFFINE[:3, 3] = (-120, 80, 30)


def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scan and infection of 4 x 5 x 3 voxels: lobe 1 has 20, lobe 2 has 4, lobe 4 has 1, the others none."""
    labels = np.zeros((4, 5, 3), dtype=np.uint8)
    labels[0:2, :, 0:2] = 1
    labels[2, 0:2, 0:2] = 2
    labels[3, 4, 2] = 4
    hu = np.full(labels.shape, 300, dtype=np.float32)
    hu[labels == 1] = -800
    hu[0, 0, 0], hu[0, 0, 1], hu[0, 1, 0] = -951, -950, -1000
    hu[labels == 2] = (-700, -600.5, -960, 0.5)
    hu[labels == 4] = -950.5
    infection = np.zeros_like(labels)
    infection[0, 0, 0] = 1
    infection[2, 0, 0:2] = 1
    infection[3, 0, 0] = 1  # outside the lobes
    return labels, hu, infection


def test_volume_mean_and_emphysema_of_each_lobe_are_exact():
    labels, hu, _ = case()
    rows = lobe_table(labels, hu, affine=AFFINE, names=NAMES)
    assert [row["label"] for row in rows] == [1, 2, 3, 4, 5, None]
    assert [row["name"] for row in rows] == [*NAMES, "all lobes"]
    assert [row["volume_ml"] for row in rows] == pytest.approx([0.020, 0.004, 0, 0.001, 0, 0.025], abs=1e-12)
    assert [row["mean_hu"] for row in rows] == [
        (17 * -800 - 951 - 950 - 1000) / 20,
        (-700 - 600.5 - 960 + 0.5) / 4,
        None,
        -950.5,
        None,
        (17 * -800 - 951 - 950 - 1000 - 700 - 600.5 - 960 + 0.5 - 950.5) / 25,
    ]
    assert [row["percent_below_950_hu"] for row in rows] == [10, 25, None, 100, None, 16]
    assert all("severity_score" not in row and "percent_infected" not in row for row in rows)


def test_infection_gives_each_lobe_a_percentage_and_a_score_and_their_sum():
    labels, hu, infection = case()
    rows = lobe_table(labels, hu, affine=AFFINE, names=NAMES, infection=infection)
    assert [row["percent_infected"] for row in rows] == [5, 50, None, 0, None, 12]
    assert [row["severity_score"] for row in rows] == [2, 3, None, 0, None, 5]


def test_five_lobes_that_are_infected_throughout_have_the_highest_sum():
    labels = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1).repeat(2, axis=2)
    infection = np.ones(labels.shape, dtype=bool)
    rows = lobe_table(labels, np.zeros(labels.shape), affine=AFFINE, names=NAMES, infection=infection)
    assert [row["severity_score"] for row in rows] == [5, 5, 5, 5, 5, 25]


def test_without_any_lobe_there_are_volumes_of_0_and_nothing_else():
    labels = np.zeros((2, 3, 4), dtype=np.uint8)
    rows = lobe_table(labels, np.zeros(labels.shape), affine=AFFINE, names=NAMES, infection=labels)
    assert {row["volume_ml"] for row in rows} == {0}
    for column in ("mean_hu", "percent_below_950_hu", "percent_infected", "severity_score"):
        assert {row[column] for row in rows} == {None}


@pytest.mark.parametrize(
    ("percent", "score"),
    [
        (0, 0),
        (1e-9, 1),
        (4.999, 1),
        (5, 2),
        (25, 2),
        (25.001, 3),
        (50, 3),
        (50.5, 4),
        (75, 4),
        (75.001, 5),
        (100, 5),
    ],
)
def test_the_bounds_of_the_severity_score(percent: float, score: int):
    assert severity_score(percent) == score


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
def test_a_score_of_no_percentage_is_refused(percent: float):
    with pytest.raises(ValueError, match="percentage must be from 0 to 100"):
        severity_score(percent)


@pytest.mark.parametrize(("infected", "score"), [(1, 2), (5, 2), (6, 3), (10, 3), (11, 4), (15, 4), (16, 5)])
def test_a_percentage_that_lies_on_a_bound_is_not_moved_by_rounding(infected: int, score: int):
    labels = np.ones((20, 1, 7), dtype=np.uint8)
    infection = np.zeros(labels.shape, dtype=np.uint8)
    infection[:infected] = 1
    (row, _) = lobe_table(labels, np.zeros(labels.shape), affine=AFFINE, names=["lobe"], infection=infection)
    assert row["percent_infected"] == 5 * infected
    assert row["severity_score"] == score


def test_the_mean_of_a_large_lobe_loses_nothing_to_single_precision():
    labels = np.ones((200, 200, 200), dtype=np.uint8)
    hu = np.full(labels.shape, -999.9, dtype=np.float32)
    row = lobe_table(labels, hu, affine=AFFINE, names=["lobe"])[0]
    assert row["mean_hu"] == pytest.approx(float(np.float32(-999.9)), abs=1e-9)


def test_what_does_not_fit_together_is_refused():
    labels, hu, infection = case()
    with pytest.raises(ValueError, match=r"label map is \(4, 5, 3\), the scan \(4, 5, 2\)"):
        lobe_table(labels, hu[..., 1:], affine=AFFINE, names=NAMES)
    with pytest.raises(ValueError, match=r"the infection mask \(3, 5, 3\)"):
        lobe_table(labels, hu, affine=AFFINE, names=NAMES, infection=infection[1:])
    with pytest.raises(ValueError, match="Label 4 has no name; the table has 3 names"):
        lobe_table(labels, hu, affine=AFFINE, names=NAMES[:3])
    with pytest.raises(ValueError, match="infection mask must have the values 0 and 1"):
        lobe_table(labels, hu, affine=AFFINE, names=NAMES, infection=infection * 3)
    with pytest.raises(ValueError, match="not finite"):
        lobe_table(labels, np.where(labels == 2, np.nan, hu), affine=AFFINE, names=NAMES)


def test_json_and_csv_hold_the_same_table(tmp_path):
    labels, hu, infection = case()
    rows = lobe_table(labels, hu, affine=AFFINE, names=NAMES, infection=infection)
    write_lobe_json(tmp_path / "new" / "case.json", rows)
    write_lobe_csv(tmp_path / "new" / "case.csv", rows)
    content = json.loads((tmp_path / "new" / "case.json").read_text())
    assert [*content["lobes"], content["all_lobes"]] == rows
    with (tmp_path / "new" / "case.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["name"] for line in lines] == [*NAMES, "all lobes"]
    assert lines[2]["mean_hu"] == lines[2]["severity_score"] == lines[5]["label"] == ""
    assert float(lines[0]["mean_hu"]) == rows[0]["mean_hu"]
    assert lines[5]["severity_score"] == "5"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["case.csv", "case.json"]


def test_a_file_that_cannot_be_written_leaves_the_older_one(tmp_path):
    labels, hu, _ = case()
    rows = lobe_table(labels, hu, affine=AFFINE, names=NAMES)
    target = tmp_path / "case.json"
    target.write_text("older")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_lobe_json(target, [{**rows[0], "mean_hu": float("nan")}, rows[-1]])
    assert target.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["case.json"]


def test_working_memory_is_that_of_a_few_planes():
    labels = np.ones((60, 90, 100), dtype=np.uint8)
    hu = np.zeros(labels.shape, dtype=np.float32)
    tracemalloc.start()
    lobe_table(labels, hu, affine=AFFINE, names=NAMES, infection=labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < labels.size
