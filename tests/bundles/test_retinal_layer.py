"""The layer bundle's own: layers in and out, alone and in volumes, and weights with other classes than the paper's."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medseg_monai.bundle import Predictor, find_bundle
from medseg_monai.cli import main
from medseg_monai.data import write_datalist
from medseg_monai.layers import boundaries_of_labels, labels_of_boundaries
from medseg_monai.networks.nets import CENet
from medseg_monai.networks.weights import write_model
from tests.data.oct_files import write_opt
from tests.networks.nets.cenet_authors import author_shapes

from .conftest import make_workflow
from .stand_ins import BrightIsForeground

BUNDLE = find_bundle("retinal_layer_oct_cenet")
ROWS, COLUMNS, CLASSES = 217, 331, 4
NAMES = ["ILM", "NFL-GCL", "BM"]
NETWORK = f"{BrightIsForeground.__module__}.{BrightIsForeground.__name__}"


def boundaries(lower: int = 0) -> np.ndarray:
    """Three boundaries that lie aslant, far enough apart that a change of size leaves each in its place."""
    slope = np.arange(COLUMNS) // 9
    return np.stack([40 + slope, 70 + slope + lower, 150 + slope])


def shown(lower: int = 0) -> np.ndarray:
    """A B-scan in which each class has a brightness of its own, rising with depth."""
    return (labels_of_boundaries(boundaries(lower), ROWS) * (255 // (CLASSES - 1))).astype(np.uint8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A stand-in that finds the drawn classes by their brightness, with its settings."""
    network = BrightIsForeground(2, 3, CLASSES, low=-1.6, high=1.6)
    settings = {"image_size": [416, 320], "out_channels": CLASSES, "boundaries": NAMES, "views": "mirror"}
    write_model(tmp_path / "model.pt", network.state_dict(), {"bundle": BUNDLE.name, **settings})
    return tmp_path / "model.pt"


def medseg(verb: str, *arguments: object, weights: Path) -> int:
    options = ["--checkpoint", str(weights), "--allow-expressions", "--set", f"network_def#_target_={NETWORK}"]
    return main([verb, BUNDLE.name, *map(str, arguments), *options])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as table:
        return list(csv.DictReader(table))


def evaluate(folder: Path, items: list[dict[str, Any]], weights: Path) -> list[dict[str, str]]:
    write_datalist({"training": [], "validation": [], "test": items}, folder / "datalist.json")
    assert medseg("evaluate", "--dataset-dir", folder, "-o", folder / "run", weights=weights) == 0
    return rows_of(folder / "run" / "evaluation" / "cases.csv")


def write_picture(path: Path, values: np.ndarray) -> str:
    Image.fromarray(values.astype(np.uint8)).save(path)
    return str(path)


def test_a_bscan_gives_a_label_a_table_and_lines(weights: Path, tmp_path: Path):
    write_picture(tmp_path / "eye.png", shown())
    assert medseg("predict", tmp_path / "eye.png", "-o", tmp_path / "out", weights=weights) == 0
    labels = np.asarray(Image.open(tmp_path / "out" / "eye.png"))
    assert labels.shape == (ROWS, COLUMNS)
    assert np.abs(boundaries_of_labels(labels, CLASSES) - boundaries()).max() <= 1
    rows = rows_of(tmp_path / "out" / "eye_boundaries.csv")
    counted = [[int(row[name]) for row in rows] for name in NAMES]
    np.testing.assert_array_equal(counted, boundaries_of_labels(labels, CLASSES))
    with Image.open(tmp_path / "out" / "overlays" / "eye.png") as overlay:
        assert overlay.size == (COLUMNS, ROWS)
    assert not (tmp_path / "out" / "thickness").exists()


def test_a_volume_gives_a_label_volume_and_maps_of_thickness_in_micrometres(weights: Path, tmp_path: Path):
    volume = np.stack([shown(lower) for lower in (0, 5, 10)])
    write_opt(tmp_path / "eye.dcm", volume)
    predictor = Predictor(
        BUNDLE,
        checkpoint=weights,
        overrides={"dataset_dir": str(tmp_path / "eye.dcm"), "network_def#_target_": NETWORK},
    )
    axial = predictor.preprocessing.transforms[0](dict(predictor.cases[0]))["image"].meta["axial_um"]
    assert medseg("predict", tmp_path / "eye.dcm", "-o", tmp_path / "out", weights=weights) == 0
    labels = np.asarray(nib.load(tmp_path / "out" / "eye.nii.gz").dataobj)
    assert labels.shape == volume.shape
    found = boundaries_of_labels(labels, CLASSES)
    for number, lower in enumerate((0, 5, 10)):
        assert np.abs(found[number] - boundaries(lower)).max() <= 1
    table = rows_of(tmp_path / "out" / "thickness" / "eye" / "01_ILM_to_NFL-GCL.csv")
    thickness = np.array([[float(row[str(column)]) for column in range(COLUMNS)] for row in table])
    np.testing.assert_allclose(thickness, (found[:, 1] - found[:, 0]) * axial, atol=1e-3)
    assert np.abs(thickness.mean(axis=1) / axial - [30, 35, 40]).max() < 0.5
    assert (tmp_path / "out" / "thickness" / "eye" / "00_ILM_to_BM.png").is_file()
    assert len(rows_of(tmp_path / "out" / "eye_boundaries.csv")) == 3 * COLUMNS


def test_an_evaluation_measures_what_a_prediction_writes(weights: Path, tmp_path: Path):
    image = write_picture(tmp_path / "eye.png", shown())
    drawn = labels_of_boundaries(boundaries(), ROWS)
    shifted, partly = labels_of_boundaries(boundaries(lower=3), ROWS), drawn.copy()
    partly[:, 10:30] = 255
    labels = [
        write_picture(tmp_path / f"{number}.png", values) for number, values in enumerate((drawn, shifted, partly))
    ]
    items = [{"image": image, "label": label, "name": f"case{number}"} for number, label in enumerate(labels)]
    items[0] |= {"label_expert2": labels[1], "axial_um": 2.0}
    first, second, third = evaluate(tmp_path, items, weights)
    assert medseg("predict", image, "-o", tmp_path / "out", weights=weights) == 0
    found = boundaries_of_labels(np.asarray(Image.open(tmp_path / "out" / "eye.png")), CLASSES)
    errors = np.abs(found - boundaries(lower=3)).mean(axis=1)
    assert [float(second[f"mae_{name}"]) for name in NAMES] == pytest.approx(errors)
    assert abs(float(second["mae_NFL-GCL"]) - 3) < 0.6
    assert float(first["mae"]) < 0.6
    assert float(first["mae_um"]) == pytest.approx(2 * float(first["mae"]))
    assert float(first["mae_NFL-GCL_between_expert2"]) == 3
    assert (third["columns"], third["columns_without_truth"]) == (str(COLUMNS - 20), "20")


def test_a_mirrored_label_is_found_elsewhere(weights: Path, tmp_path: Path):
    image = write_picture(tmp_path / "eye.png", shown())
    label = write_picture(tmp_path / "label.png", labels_of_boundaries(boundaries()[:, ::-1], ROWS))
    (row,) = evaluate(tmp_path, [{"image": image, "label": label}], weights)
    assert float(row["mae"]) > 5


def broken_label(kind: str) -> np.ndarray:
    labels = labels_of_boundaries(boundaries(), ROWS)
    if kind == "order":
        labels[180, 7] = 0
    if kind == "class":
        labels[200:] = 11
    return labels[:-1] if kind == "size" else labels


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("order", "label.png: classes out of order in column 7"),
        ("class", "label.png: values 11, expected the classes 0 to 10"),
        ("size", f"label.png: size ({ROWS - 1}, {COLUMNS})"),
    ],
)
def test_a_label_of_no_layers_ends_a_training_in_one_line(kind: str, message: str, tmp_path: Path, capsys):
    item = {
        "image": write_picture(tmp_path / "eye.png", shown()),
        "label": write_picture(tmp_path / "label.png", broken_label(kind)),
    }
    write_datalist({"training": [item], "validation": [], "test": []}, tmp_path / "datalist.json")
    assert main(["train", BUNDLE.name, "--dataset-dir", str(tmp_path), "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('boundaries=["ILM"]', "1 names (ILM), but 11 classes have 10 boundaries"),
        ("views=upside", "views must be one of"),
        ("out_channels=1", "expected a whole number from 2 to 254"),
        ("lambda_dice=0", "not both 0"),
    ],
)
def test_a_key_that_fits_no_layers_ends_a_training_in_one_line(setting: str, message: str, tmp_path: Path, capsys):
    item = {
        "image": write_picture(tmp_path / "eye.png", shown()),
        "label": write_picture(tmp_path / "label.png", labels_of_boundaries(boundaries(), ROWS)),
    }
    write_datalist({"training": [item], "validation": [], "test": []}, tmp_path / "datalist.json")
    options = ["--set", setting, "--set", "image_size=[192, 192]", "--set", "pretrained=false"]
    assert main(["train", BUNDLE.name, "--dataset-dir", str(tmp_path), "-o", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_the_authors_twelve_channels_are_imported_and_predict(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    state = {
        key: 0.02 * torch.randn(shape, generator=generator) if shape else torch.zeros((), dtype=torch.long)
        for key, shape in author_shapes(out_channels=12).items()
    }
    state = {key: value.abs() + 0.5 if key.endswith("running_var") else value for key, value in state.items()}
    torch.save(state, tmp_path / "CE_Net_OCT.th")
    assert main(["import-weights", "cenet", str(tmp_path / "CE_Net_OCT.th"), "-o", str(tmp_path / "model.pt")]) == 0
    write_picture(tmp_path / "eye.png", shown())
    predict = ["predict", BUNDLE.name, str(tmp_path / "eye.png"), "-o", str(tmp_path / "out")]
    assert main([*predict, "--checkpoint", str(tmp_path / "model.pt"), "--set", "image_size=[192, 192]"]) == 0
    assert list(rows_of(tmp_path / "out" / "eye_boundaries.csv")[0]) == ["column", *map(str, range(1, 12))]


def test_weights_remember_classes_names_and_views(tmp_path: Path):
    settings = {"image_size": [192, 224], "out_channels": 3, "boundaries": ["ILM", "BM"], "views": "flips"}
    write_model(tmp_path / "model.pt", CENet(out_channels=3).state_dict(), {"bundle": BUNDLE.name, **settings})
    predictor = Predictor(BUNDLE, checkpoint=tmp_path / "model.pt")
    get = predictor.workflow.parser.get_parsed_content
    assert {key: get(key) for key in settings} == settings
    assert predictor.inferer.inferer.views == "flips"


@pytest.mark.parametrize(("views", "rows", "columns"), [("dihedral", 2, 2), ("flips", 2, 2), ("mirror", 1, 2)])
def test_a_training_flips_as_a_prediction_does(views: str, rows: int, columns: int, tmp_path: Path):
    item = {
        "image": write_picture(tmp_path / "eye.png", shown()),
        "label": write_picture(tmp_path / "label.png", labels_of_boundaries(boundaries(), ROWS)),
        "patient": "a",
    }
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [item]}))
    keys = {"scale_range": 0.0, "shift_range": 0.0, "out_channels": CLASSES, "image_size": [192, 224], "views": views}
    workflow = make_workflow(BUNDLE, "train", workflow_type="train", dataset_dir=str(tmp_path), **keys)
    workflow.parser.parse(reset=True)
    dataset = workflow.parser.get_parsed_content("train#dataset")
    dataset.transform.set_random_state(seed=0)
    drawn = [np.asarray(dataset[0]["label"])[0] for _ in range(24)]
    assert len({labels[0].max() > 0 for labels in drawn}) == rows  # whether the deepest class is at the top
    assert len({labels[:, 0].tobytes() for labels in drawn}) >= columns
