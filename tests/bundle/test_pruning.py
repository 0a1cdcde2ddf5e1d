"""Pruning: the level that is chosen, the model that is written, and the one that it must not lose."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medseg_monai.bundle import LevelResult, Predictor, choose_level, evaluate, predict_cases, prune, pruning
from medseg_monai.data import write_datalist
from medseg_monai.networks.fast.form import FastForm
from medseg_monai.networks.nets import ANUNet
from medseg_monai.networks.weights import ModelFile

from .small_anunet import FEATURES, PLAIN, SETTINGS, make_bundle, make_network, write_volume


@pytest.fixture(scope="module")
def network() -> ANUNet:
    return make_network()


@pytest.fixture
def bundle(tmp_path: Path, network: ANUNet) -> Path:
    return make_bundle(tmp_path / "bundles", network)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("volumes")
    return [write_volume(folder / f"ct_{seed}.nii.gz", seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def masks(network: ANUNet, volumes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Path]]:
    """What the full network's head of each level makes of the volumes, as files."""
    folder = tmp_path_factory.mktemp("masks")
    predictor = Predictor(make_bundle(folder, network), overrides=PLAIN)
    assert isinstance(predictor.network_def, ANUNet)
    written: dict[int, list[Path]] = {}
    for level in range(1, network.depth + 1):
        predictor.network_def.supervision_level = level
        paths = [predictor.save(predictor({"image": str(path)}), folder / str(level))[0] for path in volumes]
        assert all(0.1 < np.asarray(nib.load(path).dataobj).mean() < 0.8 for path in paths)
        written[level] = paths
    return written


@pytest.fixture
def datalists(masks: dict[int, list[Path]], volumes: list[Path], tmp_path: Path) -> dict[int, Path]:
    """A data list for each level, whose labels are what that level predicts."""
    paths = {level: tmp_path / f"labels_{level}.json" for level in masks}
    for level, path in paths.items():
        pairs = zip(volumes, masks[level], strict=True)
        items = [{"image": str(image), "label": str(label), "patient": image.name} for image, label in pairs]
        write_datalist({"training": [], "validation": items}, path)
    return paths


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement taken as done: level 2 is as good as level 3. What is written is what is tested."""

    def measure_levels(predictor, items):
        scores = [0.5, 0.9, 0.9][: predictor.network_def.depth]
        return [LevelResult(level, level, 1.0, 2.0, dice, dice) for level, dice in enumerate(scores, start=1)]

    monkeypatch.setattr(pruning, "measure_levels", measure_levels)


MODELS = {"model.pt", "model.json", "model_full.pt", "model_full.json"}


def content(model: Path) -> dict[str, Any]:
    file = ModelFile(model)
    return {"model": file.state_dict(), "settings": file.settings}


def dice(first: Path, second: Path) -> float:
    a, b = (np.asarray(nib.load(path).dataobj) > 0 for path in (first, second))
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    ("dice_of_levels", "max_loss", "chosen"),
    [
        ([0.70, 0.90, 0.95, 0.98], 0.005, 4),
        ([0.70, 0.90, 0.976, 0.98], 0.005, 3),
        ([0.70, 0.975, 0.90, 0.98], 0.005, 2),
        ([0.70, 0.895, 0.896, 0.90], 0.005, 2),
        ([0.70, 0.90, 0.95, 0.98], 0.0, 4),
        ([0.99, 0.90, 0.95, 0.98], 0.0, 1),
        ([0.70, 0.90, 0.95, 0.98], 1.0, 1),
        ([float("nan"), 0.98, 0.95, 0.98], 0.5, 2),
    ],
)
def test_the_smallest_level_is_chosen_that_loses_no_more_than_allowed(dice_of_levels, max_loss, chosen):
    levels = [LevelResult(level, level, 1.0, 1.0, value, value) for level, value in enumerate(dice_of_levels, start=1)]
    assert choose_level(levels, max_loss) == chosen


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_bundle_then_predicts_with_that_level_bit_for_bit_and_says_so(
    bundle, network, volumes, masks, datalists, tmp_path, level
):
    prune(bundle, datalists[3], level=level, overrides=PLAIN)
    predictor = Predictor(bundle, overrides=PLAIN)
    report = predict_cases(predictor, [{"image": str(path)} for path in volumes], tmp_path / "out")
    assert not report.failed
    for case, mask in zip(report.cases, masks[level], strict=True):
        np.testing.assert_array_equal(nib.load(case.outputs[0]).dataobj, nib.load(mask).dataobj)
    facts = json.loads((tmp_path / "out" / "report.json").read_text())["network"]
    parameters = sum(values.numel() for values in ANUNet(features=FEATURES[: level + 1]).parameters())
    expected = {"name": "ANUNet", "parameters": parameters, "supervision_level": level}
    assert facts == (expected if level == network.depth else {**expected, "pruned_from_level": 3})


def test_the_table_compares_every_level_with_the_labels_in_their_own_grid(bundle, masks, datalists):
    result = prune(bundle, datalists[2], overrides=PLAIN)
    assert [row.level for row in result.levels] == [1, 2, 3]
    for row in result.levels:
        expected = np.mean([dice(mine, label) for mine, label in zip(masks[row.level], masks[2], strict=True)])
        assert row.dice == pytest.approx(expected)
        assert row.network_seconds > 0
        assert row.total_seconds > row.network_seconds
    assert result.levels[1].dice == result.levels[1].iou == 1
    assert result.levels[0].iou < result.levels[0].dice < 1
    assert result.level == 2
    parameters = [sum(p.numel() for p in ANUNet(features=FEATURES[: n + 1]).parameters()) for n in (1, 2, 3)]
    assert [row.parameters for row in result.levels] == parameters


def measure(bundle: Path, volume: Path, label: Path, **keys: Any) -> list[LevelResult]:
    predictor = Predictor(bundle, overrides={**PLAIN, **keys})
    return pruning.measure_levels(predictor, [{"image": str(volume), "label": str(label)}])


def write_mask(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nib.Nifti1Image(values.astype(np.uint8), affine).to_filename(path)
    return path


def test_a_label_whose_axes_are_turned_is_the_same_label(bundle, volumes, masks, tmp_path):
    file = nib.load(masks[3][0])
    turned = file.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    assert turned.shape != file.shape
    turned.to_filename(tmp_path / "turned.nii.gz")
    assert measure(bundle, volumes[0], tmp_path / "turned.nii.gz")[-1].dice == 1


def test_the_dice_of_the_deepest_level_is_that_of_an_evaluation(bundle, datalists, tmp_path):
    options = {**PLAIN, "threshold": 0.45, "keep_largest": 1}
    full = prune(bundle, datalists[2], output=tmp_path / "small.pt", overrides=options).levels[-1]
    paths = {"datalist": str(datalists[2]), "output_dir": str(tmp_path), "checkpoint": str(bundle / "models/model.pt")}
    summary = evaluate(bundle, overrides={**options, **paths, "section": "validation", "metrics": ["dice", "iou"]})
    assert full.dice == pytest.approx(summary["per_case"]["dice"]["mean"])
    assert full.iou == pytest.approx(summary["per_case"]["iou"]["mean"])


def test_a_label_that_lies_elsewhere_is_refused(bundle, volumes, masks, tmp_path):
    file = nib.load(masks[3][0])
    affine = file.affine.copy()
    affine[0, 3] += 500  # mm
    label = write_mask(tmp_path / "away.nii.gz", np.asarray(file.dataobj), affine)
    with pytest.raises(ValueError, match=r"away\.nii\.gz: lies elsewhere than its image .*ct_0\.nii\.gz"):
        measure(bundle, volumes[0], label)


def test_a_label_of_two_structures_is_refused(bundle, volumes, masks, tmp_path):
    file = nib.load(masks[3][0])
    label = write_mask(tmp_path / "tumour.nii.gz", 2 * np.asarray(file.dataobj), file.affine)
    with pytest.raises(ValueError, match=r"tumour\.nii\.gz: value 2, expected 0 and 1"):
        measure(bundle, volumes[0], label)


def test_a_slice_s_label_counts_however_it_is_stored(bundle, tmp_path):
    image = tmp_path / "slice.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 47)).astype(np.uint8)).save(image)
    predictor = Predictor(bundle, overrides={**PLAIN, "slices": True})
    (mask,) = predictor.save(predictor({"image": str(image)}), tmp_path / "labels")
    label = tmp_path / "ones.png"
    Image.fromarray((np.asarray(Image.open(mask)) > 0).astype(np.uint8)).save(label)
    assert measure(bundle, image, label, slices=True)[-1].dice == 1


def test_plain_slices_are_measured_too(bundle, tmp_path):
    image = tmp_path / "slice.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 47)).astype(np.uint8)).save(image)
    predictor = Predictor(bundle, overrides={**PLAIN, "slices": True})
    (label,) = predictor.save(predictor({"image": str(image)}), tmp_path / "labels")
    levels = pruning.measure_levels(predictor, [{"image": str(image), "label": str(label)}])
    assert levels[-1].dice == 1
    assert levels[0].dice < 1


def test_if_none_but_the_deepest_will_do_it_is_written_with_the_table(bundle, datalists, monkeypatch):
    levels = [LevelResult(level, level, 1.0, 2.0, 0.3 * level, 0.2 * level) for level in (1, 2, 3)]
    monkeypatch.setattr(pruning, "measure_levels", lambda predictor, items: levels)
    assert prune(bundle, datalists[3], overrides=PLAIN).level == 3
    settings = content(bundle / "models" / "model.pt")["settings"]
    assert settings["features"] == FEATURES
    assert [row["difference"] for row in settings["pruning"]["levels"]] == pytest.approx([-0.6, -0.3, 0])


@pytest.mark.usefixtures("measured")
def test_the_file_keeps_the_other_settings_and_tells_what_it_is_from(bundle, datalists):
    source = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    result = prune(bundle, datalists[2], max_dice_loss=0.01, overrides={**PLAIN, "threshold": 0.5})
    settings = content(bundle / "models" / "model.pt")["settings"]
    record = settings.pop("pruning")
    assert settings == {**SETTINGS, "bundle": "liver_ct_anunet", "features": FEATURES[:3]}
    assert record == result.record == json.loads(json.dumps(record))
    assert record["source_sha256"] == source
    assert record["datalist_sha256"] == hashlib.sha256(datalists[2].read_bytes()).hexdigest()
    assert (record["level"], record["from_level"], record["max_dice_loss"], record["cases"]) == (2, 3, 0.01, 2)
    assert record["settings"]["threshold"] == 0.5
    assert len(record["levels"]) == 3


@pytest.mark.usefixtures("measured")
def test_the_full_model_is_kept_and_the_next_pruning_starts_from_it(bundle, datalists):
    model, kept = bundle / "models" / "model.pt", bundle / "models" / "model_full.pt"
    before = model.read_bytes()
    result = prune(bundle, datalists[3], level=1, overrides=PLAIN)
    assert kept.read_bytes() == before
    assert (result.file, result.full) == (model, kept)
    again = prune(bundle, datalists[2], overrides=PLAIN)
    assert again.level == 2
    assert content(model)["settings"]["pruning"]["from_level"] == 3
    assert kept.read_bytes() == before
    assert {path.name for path in model.parent.iterdir()} == {"README.md", *MODELS}


@pytest.mark.usefixtures("measured")
def test_a_file_of_ones_own_leaves_the_bundle_alone_and_predicts_as_a_checkpoint(
    bundle, volumes, masks, datalists, tmp_path
):
    before = {path: path.read_bytes() for path in (bundle / "models").iterdir()}
    output = tmp_path / "new" / "small.pt"
    result = prune(bundle, datalists[2], output=output, overrides=PLAIN)
    assert (result.file, result.full) == (output, bundle / "models" / "model.pt")
    assert {path: path.read_bytes() for path in (bundle / "models").iterdir()} == before
    mask = Predictor(bundle, checkpoint=output, overrides=PLAIN)({"image": str(volumes[0])}).mask
    np.testing.assert_array_equal(mask[0].numpy(), nib.load(masks[2][0]).dataobj)


@pytest.mark.usefixtures("measured")
def test_a_model_from_elsewhere_is_deployed_and_the_bundles_own_is_kept(bundle, datalists, tmp_path):
    elsewhere = tmp_path / "model.pt"
    torch.save({"model": make_network(seed=1).state_dict(), "settings": SETTINGS}, elsewhere)
    before = (bundle / "models" / "model.pt").read_bytes()
    result = prune(bundle, datalists[2], level=2, checkpoint=elsewhere, overrides=PLAIN)
    assert result.full == elsewhere
    assert (bundle / "models" / "model_full.pt").read_bytes() == before
    with pytest.raises(ValueError, match=r"model_full.pt beside it is not the model it was pruned from: .*checkpoint"):
        prune(bundle, datalists[2], overrides=PLAIN)


@pytest.mark.usefixtures("measured")
def test_a_write_that_fails_leaves_the_model_that_was_there(bundle, datalists, monkeypatch):
    model = bundle / "models" / "model.pt"
    before = model.read_bytes()
    replace = os.replace

    def disc_is_full(source, target):
        if Path(target) == model:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", disc_is_full)
        with pytest.raises(OSError, match="No space left"):
            prune(bundle, datalists[2], level=1, overrides=PLAIN)
    assert model.read_bytes() == before
    assert {path.name for path in model.parent.iterdir()} <= {"README.md", *MODELS}
    assert prune(bundle, datalists[2], level=1, overrides=PLAIN).levels[-1].level == 3


@pytest.mark.usefixtures("measured")
def test_a_new_full_model_never_takes_the_place_of_the_kept_one(bundle, datalists):
    prune(bundle, datalists[2], level=1, overrides=PLAIN)
    torch.save({"model": make_network(seed=1).state_dict(), "settings": SETTINGS}, bundle / "models" / "model.pt")
    before = {path: path.read_bytes() for path in (bundle / "models").iterdir()}
    with pytest.raises(ValueError, match=r"model.pt: a full model, and model_full.pt beside it is another"):
        prune(bundle, datalists[2], level=1, overrides=PLAIN)
    assert {path: path.read_bytes() for path in (bundle / "models").iterdir()} == before


@pytest.mark.usefixtures("measured")
def test_a_pruned_model_is_not_pruned_further_without_being_asked_to(bundle, datalists):
    prune(bundle, datalists[2], level=2, overrides=PLAIN)
    (bundle / "models" / "model_full.pt").unlink()
    with pytest.raises(ValueError, match="already pruned"):
        prune(bundle, datalists[2], overrides=PLAIN)
    result = prune(bundle, datalists[2], level=1, checkpoint=bundle / "models" / "model.pt", overrides=PLAIN)
    assert [row.level for row in result.levels] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": "retinal_vessel_fundus_cenet"}, r"retinal_vessel_fundus_cenet: CENet cannot be pruned"),
        ({"max_dice_loss": -0.1}, "max_dice_loss=-0.1: must be 0 or more"),
        ({"max_dice_loss": float("nan")}, "max_dice_loss=nan: must be 0 or more"),
        ({"level": 4}, "level 4: .*has the levels 1 to 3"),
        ({"section": "training"}, "section 'training' is empty"),
        ({"section": "test"}, "no section 'test'"),
        ({"output": "."}, "a folder; name the file to write"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(bundle, datalists, changes, message):
    arguments: dict[str, Any] = {"bundle": bundle, "overrides": PLAIN, **changes}
    if arguments["bundle"] != bundle:
        arguments["overrides"] = {}
    before = {path.name for path in (bundle / "models").iterdir()}
    with pytest.raises((ValueError, OSError), match=message):
        prune(datalist=datalists[2], **arguments)
    assert {path.name for path in (bundle / "models").iterdir()} == before


@pytest.mark.parametrize("label", [None, "other size", "empty"])
def test_cases_that_tell_nothing_are_refused_by_name(bundle, volumes, tmp_path, label):
    item = {"image": str(volumes[0])}
    if label is not None:
        scan = nib.load(volumes[0])
        shape = scan.shape if label == "empty" else (*scan.shape[:2], 9)
        nib.Nifti1Image(np.zeros(shape, np.uint8), scan.affine).to_filename(tmp_path / "label.nii.gz")
        item["label"] = str(tmp_path / "label.nii.gz")
    write_datalist({"validation": [item]}, tmp_path / "list.json")
    threshold = 1.0 if label == "empty" else 0.5
    name = "ct_0.nii.gz" if label is None else "label.nii.gz"
    with pytest.raises(ValueError, match=rf"{name}.*"):
        prune(bundle, tmp_path / "list.json", overrides={**PLAIN, "threshold": threshold})


@pytest.mark.parametrize("fast", [False, True])
def test_an_exchanged_network_predicts_in_the_form_of_the_bundles_own(bundle, network, volumes, masks, fast):
    predictor = Predictor(bundle, overrides={**PLAIN, "fast": fast})
    other = predictor.with_network(network.pruned(2))
    assert isinstance(other.network, FastForm) == isinstance(predictor.network, FastForm) == fast
    mask = other({"image": str(volumes[0])}).mask[0].numpy()
    assert np.mean(mask == np.asarray(nib.load(masks[2][0]).dataobj)) > 0.999
    mask = predictor({"image": str(volumes[0])}).mask[0].numpy()
    assert np.mean(mask == np.asarray(nib.load(masks[3][0]).dataobj)) > 0.999
