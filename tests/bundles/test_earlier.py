"""Copies of bundles as they were before the package was laid out anew (commit 5267492) go on working."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import pydicom
import pytest

from medseg_monai.bundle import BundleError, Predictor, find_bundle, train
from medseg_monai.phantoms import phantom_writer
from tests.data.dicom_files import write_series
from tests.data.radiograph_files import asymmetric, write_radiograph

from .tiny import phantom_size, tiny_training

SAVERS = json.loads((Path(__file__).parent / "earlier_savers.json").read_text(encoding="utf-8"))

#: every name of the package in the JSON of those bundles, and where a moved one is now
NAMES: dict[str, str | None] = {
    "medseg_monai.__version__": None,
    "medseg_monai.bundle.bundle_root": None,
    "medseg_monai.bundle.end_process_group": None,
    "medseg_monai.bundle.load_network": None,
    "medseg_monai.bundle.start_process_group": None,
    "medseg_monai.data.LUNGS": None,
    "medseg_monai.data.LUNG_LOBES": None,
    "medseg_monai.data.RadiographReader": None,
    "medseg_monai.data.RasterMaskWriter": None,
    "medseg_monai.data.RasterReader": None,
    "medseg_monai.data.SaveDicomSegd": "medseg_monai.data.results.earlier.SaveDicomSegd",
    "medseg_monai.data.SaveLabelMapd": "medseg_monai.data.results.earlier.SaveLabelMapd",
    "medseg_monai.data.SaveLobeTabled": "medseg_monai.data.results.earlier.SaveLobeTabled",
    "medseg_monai.data.SaveRadiographSegd": "medseg_monai.data.results.earlier.SaveRadiographSegd",
    "medseg_monai.data.VolumeReader": None,
    "medseg_monai.data.find_images": None,
    "medseg_monai.data.find_organ": None,
    "medseg_monai.data.find_radiographs": None,
    "medseg_monai.data.find_volumes": None,
    "medseg_monai.data.load_datalist": None,
    "medseg_monai.data.name_radiograph": "medseg_monai.data.results.earlier.name_radiograph",
    "medseg_monai.engines.prepare_two_stage_batch": None,
    "medseg_monai.handlers.CaseMetrics": None,
    "medseg_monai.handlers.CoverageSchedule": None,
    "medseg_monai.handlers.EarlyStop": None,
    "medseg_monai.handlers.EpochSeed": None,
    "medseg_monai.handlers.LabelMetrics": None,
    "medseg_monai.handlers.OverlaySaver": None,
    "medseg_monai.handlers.TrainingState": None,
    "medseg_monai.handlers.trained_with": "medseg_monai.networks.weights.model_file.trained_with",
    "medseg_monai.inferers.CPUAutocastInferer": None,
    "medseg_monai.inferers.FlipTTAInferer": None,
    "medseg_monai.inferers.TwoStageInferer": None,
    "medseg_monai.losses.HybridLoss": None,
    "medseg_monai.losses.TanimotoLoss": None,
    "medseg_monai.losses.TwoStageLoss": None,
    "medseg_monai.networks.nets.ANUNet": None,
    "medseg_monai.networks.nets.CENet": None,
    "medseg_monai.networks.nets.CTSUNet": None,
    "medseg_monai.networks.nets.DEFUNet": None,
    "medseg_monai.networks.nets.ResCRNet": None,
    "medseg_monai.transforms.AntialiasedResized": None,
    "medseg_monai.transforms.CropAroundBrightestd": None,
    "medseg_monai.transforms.DilateMaskd": None,
    "medseg_monai.transforms.EnsureBinaryd": "medseg_monai.transforms.CheckBinaryd",
    "medseg_monai.transforms.EnsureSameSized": "medseg_monai.transforms.CheckSameSized",
    "medseg_monai.transforms.MatchGridd": None,
    "medseg_monai.transforms.PadToMultipled": None,
    "medseg_monai.transforms.RandHSVJitterd": None,
    "medseg_monai.transforms.ReassignFragmentsd": None,
    "medseg_monai.transforms.ResizeInPlaned": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_resolves_as_monai_resolves_it_and_a_moved_one_says_where_it_is(name: str):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = locate(name)
        told = {str(warning.message) for warning in caught if warning.category is DeprecationWarning}
    new = NAMES[name]
    assert found is not None
    assert found is locate(new or name)
    assert told == ({f"{name} is now {new}; change the config."} if new else set())


def earlier_copy(bundle: str, folder: Path) -> Path:
    """Copy a bundle's configs as they were: settings are asked for one by one, each saver is a step of its own."""
    copy = folder / bundle
    (copy / "configs").mkdir(parents=True)
    for path in (find_bundle(bundle) / "configs").glob("*.json"):
        config = json.loads(as_before(path.read_text(encoding="utf-8")))
        config.pop("model_file", None)
        if path.stem == "inference":
            put_savers(config, SAVERS[bundle])
        if path.stem == "train":
            take_initial_weights(config)
        (copy / "configs" / path.name).write_text(json.dumps(config), encoding="utf-8")
    return copy


def as_before(text: str) -> str:
    names = {
        "from medseg_monai.networks.weights import ModelFile": "from medseg_monai.handlers import trained_with",
        "@model_file.setting(": "trained_with(@checkpoint, ",
        "load_network(@network_def, @model_file": "load_network(@network_def, @checkpoint",
        "CheckSameSized": "EnsureSameSized",
        "CheckBinaryd": "EnsureBinaryd",
    }
    for new, old in names.items():
        text = text.replace(new, old)
    return text


def put_savers(config: dict[str, Any], savers: list[dict[str, Any]]) -> None:
    steps = config.get("save") or config["postprocessing"]["transforms"]
    assert steps[-1]["_target_"] == "medseg_monai.data.SaveResultsd"
    steps[-1:] = savers
    config["imports"].append("$from medseg_monai.data import name_radiograph")
    config.get("reader", {}).pop("keep_last", None)


def take_initial_weights(config: dict[str, Any]) -> None:
    for key in ("initial_weights", "initial_network"):
        config.pop(key)
    config["network"] = "$@network_def.to(@device)"
    for key, value in config.items():
        if found := re.fullmatch(r"\$trained_with\(@checkpoint, '\w+', (.+)\)", str(value)):
            config[key] = f"${found[1]}"


def write_image(bundle: str, folder: Path) -> Path:
    if bundle == "lung_cxr_rescrnet":
        return write_radiograph(folder / "chest.dcm", asymmetric(150, 181))
    if bundle == "lung_lobe_ct_ctsunet":
        write_series(folder / "scan", shape=(40, 48, 32))
        return folder / "scan"
    datalist = phantom_writer(bundle)(folder, counts={"test": 1}, size=(224, 256), seed=0)
    return datalist.parent / json.loads(datalist.read_text())["test"][0]["image"]


@pytest.mark.parametrize("name", [name for name in SAVERS if name != "about"])
def test_an_earlier_copy_of_a_bundle_writes_the_files_of_the_bundle(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
):
    fixtures = {"optic_disc_fundus_cenet": "model", "lung_lobe_ct_ctsunet": "lobe_model"}
    weights = request.getfixturevalue(fixtures[name]) if name in fixtures else None
    case = {"image": str(write_image(name, tmp_path / "images")), "name": "ward.7_chest"}
    copy = earlier_copy(name, tmp_path)
    checkpoint = weights or find_bundle(name) / "models" / "model.pt"
    written = []
    for source, folder in ((name, tmp_path / "new"), (copy, tmp_path / "old")):
        predictor = Predictor(source, checkpoint=checkpoint)
        written.append(predictor.save(predictor(case), folder))
    new, old = written
    assert [path.name for path in old] == [path.name for path in new]
    assert all(path.name.startswith("ward.7_chest") for path in old)
    for mine, theirs in zip(old, new, strict=True):
        assert content(mine) == content(theirs), mine.name


def content(path: Path) -> bytes:
    """What a file says; a DICOM SEG has identifiers and a time of its own."""
    if path.suffix != ".dcm":
        return path.read_bytes()
    dataset = pydicom.dcmread(path)
    frames = np.ascontiguousarray(dataset.pixel_array)
    names = [(segment.SegmentNumber, segment.SegmentLabel) for segment in dataset.SegmentSequence]
    return repr((frames.shape, names, dataset.StudyInstanceUID)).encode() + frames.tobytes()


@pytest.fixture
def trainable(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of Res-CR-Net's bundle from before ``initial_weights``, and what makes its training cheap."""
    copy = earlier_copy("lung_cxr_rescrnet", tmp_path)
    phantom_writer(copy.name)(tmp_path / "data", counts={"training": 2}, size=phantom_size(copy.name), seed=0)
    values = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    return copy, {**tiny_training(copy.name), **values}


def test_an_earlier_copy_of_a_bundle_trains(trainable: tuple[Path, dict[str, Any]]):
    copy, values = trainable
    assert train(copy, overrides=values, track=False).model.is_file()


def test_an_earlier_copy_says_that_it_cannot_start_from_weights(trainable: tuple[Path, dict[str, Any]], model: Path):
    copy, values = trainable
    with pytest.raises(BundleError, match=f"^{re.escape(str(copy))}: .* initial_weights.*; copy the bundle again"):
        train(copy, overrides=values, checkpoint=model, track=False)
