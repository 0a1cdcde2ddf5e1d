"""ANU-Net's bundles: volumes cut into slices and back, with a network in between that calls bright voxels the organ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image

from medseg_monai.bundle import Predictor, find_bundle
from medseg_monai.cli import main
from medseg_monai.networks.nets import ANUNet
from medseg_monai.phantoms import write_abdomen_phantoms
from tests.data.dicom_files import OBLIQUE, find_segment, write_series

from .conftest import make_workflow, run_workflow

SHAPE = (53, 41, 7)  # columns, rows, slices
IMAGE_SIZE = [48, 64]
MODALITY = {"liver_ct_anunet": "CT", "abdomen_mri_anunet": "MR"}
NO_AUGMENTATION = {"rotate_degrees": 0, "shift_range": 0, "scale_range": 0, "intensity_shift": 0}
FEATURES = [2, 4, 4, 4]

AFFINE = np.eye(4)
AFFINE[:3, :3] = np.diag((-1, -1, 1)) @ OBLIQUE * (0.7, 0.9, 2.5)
AFFINE[:3, 3] = (110.5, 90.25, 40)


@pytest.fixture(params=list(MODALITY))
def abdomen(request: pytest.FixtureRequest) -> Path:
    return find_bundle(request.param)


@pytest.fixture
def liver_ct() -> Path:
    return find_bundle("liver_ct_anunet")


def scene() -> np.ndarray:
    """A shape of 150 on -100, which no flip or transposition leaves as it is, and which two slices do not have."""
    values = np.full(SHAPE, -100, dtype=np.int16)
    values[6:24, 5:33, 1:5] = 150
    values[24:45, 5:15, 1:4] = 150
    return values


def write_nifti(path: Path, values: np.ndarray, axes: str = "LPS") -> str:
    """Store a volume in another order of its axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(values, AFFINE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes))
    volume.as_reoriented(turn).to_filename(path)
    return str(path)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def bright_is_organ(folder: Path, **settings: Any) -> dict[str, Any]:
    """Overrides by which a single weight stands for the network; the logit changes sign at half of the range."""
    network = torch.nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        network.weight.fill_(60)
        network.bias.fill_(-30)
    path = folder / "model.pt"
    torch.save({"model": network.state_dict(), "settings": {"image_size": IMAGE_SIZE, **settings}}, path)
    definition = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
    return {"network_def": definition, "checkpoint": str(path)}


def infer(bundle: Path, inputs: Path, output_dir: Path, *, organ: str = "liver", **overrides: Any) -> None:
    network = bright_is_organ(output_dir.parent, **({"organ": organ} if MODALITY[bundle.name] == "MR" else {}))
    values = {"dataset_dir": str(inputs), "output_dir": str(output_dir), **network, **overrides}
    run_workflow(make_workflow(bundle, "inference", workflow_type="infer", **values))


def parsed(bundle: Path, *configs: str, workflow_type: str, key: str, **overrides: Any) -> Any:
    workflow = make_workflow(bundle, *configs, workflow_type=workflow_type, **overrides)
    workflow.parser.parse(reset=True)
    return workflow.parser.get_parsed_content(key)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SPL", "PIR"])
def test_an_oblique_volume_gets_its_mask_in_its_grid_whatever_its_axes(abdomen, axes, tmp_path):
    write_nifti(tmp_path / "scans" / "case.nii.gz", scene(), axes)
    write_nifti(tmp_path / "expected.nii.gz", (scene() > 0).astype(np.uint8), axes)
    infer(abdomen, tmp_path / "scans", tmp_path / "out")
    mask, expected = nib.load(tmp_path / "out" / "case.nii.gz"), nib.load(tmp_path / "expected.nii.gz")
    np.testing.assert_allclose(mask.affine, expected.affine, atol=1e-4)
    assert dice(np.asarray(mask.dataobj) > 0, np.asarray(expected.dataobj) > 0) > 0.97


@pytest.mark.parametrize(
    ("name", "organ"),
    [("liver_ct_anunet", "liver"), *(("abdomen_mri_anunet", organ) for organ in ("liver", "spleen", "kidney"))],
)
def test_a_dicom_series_gets_a_label_map_and_a_segmentation_of_the_organ(name, organ, tmp_path):
    abdomen = find_bundle(name)
    written = write_series(tmp_path / "exam", volume=scene(), modality=MODALITY[abdomen.name])
    infer(abdomen, tmp_path / "exam", tmp_path / "out", organ=organ)
    label = nib.load(tmp_path / "out" / "exam.nii.gz")
    mask = np.asarray(label.dataobj)
    np.testing.assert_allclose(label.affine, written.affine, atol=1e-4)
    assert dice(mask > 0, scene() > 0) > 0.97
    segmentation = hd.seg.segread(tmp_path / "out" / "exam.seg.dcm")
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == written.uid
    (segment,) = segmentation.SegmentSequence
    meaning = segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning
    assert (segment.SegmentLabel.removesuffix("s"), meaning.lower()) == (organ, organ)
    found = find_segment(tmp_path / "out" / "exam.seg.dcm", 1)
    expected = nib.affines.apply_affine(np.diag((-1, -1, 1, 1)) @ label.affine, np.argwhere(mask))
    np.testing.assert_allclose(np.unique(found.round(2), axis=0), np.unique(expected.round(2), axis=0), atol=0.02)


def test_a_series_of_another_modality_is_refused(abdomen, tmp_path, capsys):
    other = {"CT": "MR", "MR": "CT"}[MODALITY[abdomen.name]]
    write_series(tmp_path / "exam", volume=scene(), modality=other)
    assert main(["predict", abdomen.name, str(tmp_path / "exam"), "-o", str(tmp_path / "out")]) == 2
    assert other in capsys.readouterr().err


def test_only_so_many_components_are_kept_as_asked(abdomen, tmp_path):
    with_other = scene()
    with_other[40:52, 25:39, 2:6] = 150
    with_other[1:4, 36:40, 5:7] = 150
    write_nifti(tmp_path / "scans" / "case.nii.gz", with_other)
    masks = {}
    for count in (0, 2, 1):
        infer(abdomen, tmp_path / "scans", tmp_path / f"out{count}", keep_largest=count)
        masks[count] = np.asarray(nib.load(tmp_path / f"out{count}" / "case.nii.gz").dataobj)
    places = {"organ": (10, 20, 2), "second": (46, 30, 3), "third": (2, 38, 6)}
    kept = {count: [name for name, place in places.items() if mask[place]] for count, mask in masks.items()}
    assert kept == {0: ["organ", "second", "third"], 2: ["organ", "second"], 1: ["organ"]}


def datasets(bundle: Path, folder: Path, **overrides: Any) -> tuple[Any, Any]:
    """The scene, stored with other axes, as training and as validation see it."""
    files = {"image": write_nifti(folder / "image.nii.gz", scene(), "PIR")}
    files["label"] = write_nifti(folder / "label.nii.gz", (scene() > 0).astype(np.uint8), "PIR")
    copy = {**files, "image": shutil.copy(files["image"], folder / "copy.nii.gz")}
    (folder / "datalist.json").write_text(json.dumps({"training": [files], "validation": [copy]}, default=str))
    scale = {"intensity_scale": 0} if MODALITY[bundle.name] == "MR" else {}
    values = {"dataset_dir": str(folder), "image_size": IMAGE_SIZE, **NO_AUGMENTATION, **scale, **overrides}
    workflow = make_workflow(bundle, "train", workflow_type="train", **values)
    workflow.parser.parse(reset=True)
    train, validation = (workflow.parser.get_parsed_content(f"{name}#dataset") for name in ("train", "validate"))
    return train, validation


def test_a_training_item_is_slices_of_one_volume_with_their_labels(abdomen, tmp_path):
    train, validation = datasets(abdomen, tmp_path, slices_per_volume=6, negative=0)
    slices = train[0]
    assert len(slices) == 6
    for item in slices:
        assert sorted(item) == ["image", "label"]
        assert list(item["image"].shape) == list(item["label"].shape) == [1, *IMAGE_SIZE]
        assert set(item["label"].unique().tolist()) == {0, 1}
        bright, label = item["image"][0].numpy() > 0.5, item["label"][0].numpy() > 0
        assert dice(bright, label) > 0.96
        for axis in range(2):
            centres = [(mask.nonzero()[axis]).mean() for mask in (bright, label)]
            assert centres[0] == pytest.approx(centres[1], abs=0.25)
        # head up is the first axis of the volume; in a slice the front is up, and the patient's right on the left
        assert label[:, : IMAGE_SIZE[1] // 2].sum() > label[:, IMAGE_SIZE[1] // 2 :].sum()
        assert label[: IMAGE_SIZE[0] // 2].sum() > label[IMAGE_SIZE[0] // 2 :].sum()
    np.testing.assert_array_equal(
        validation[0]["label"][0].numpy(), np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj)
    )


def test_slices_without_the_organ_are_drawn_too_and_each_epoch_draws_others(abdomen, tmp_path):
    train, _ = datasets(abdomen, tmp_path, slices_per_volume=8)
    train.transform.set_random_state(3)
    draws = [[bool(item["label"].any()) for item in train[0]] for _ in range(4)]
    assert {True, False} == {has for draw in draws for has in draw}
    assert len({tuple(draw) for draw in draws}) > 1


def test_an_augmented_slice_and_its_label_stay_together(abdomen, tmp_path):
    train, _ = datasets(
        abdomen, tmp_path, negative=0, rotate_degrees=20, shift_range=0.15, scale_range=0.2, flip_columns=0.5
    )
    train.transform.set_random_state(1)
    for item in train[0]:
        assert set(item["label"].unique().tolist()) == {0, 1}
        assert dice(item["image"][0].numpy() > 0.5, item["label"][0].numpy() > 0) > 0.94


def test_a_label_of_several_structures_is_refused_by_name(abdomen, tmp_path):
    labels = (scene() > 0).astype(np.uint8)
    labels[8, 8, 2] = 2
    files = {"image": write_nifti(tmp_path / "image.nii.gz", scene())}
    files["label"] = write_nifti(tmp_path / "label.nii.gz", labels)
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [files], "validation": []}))
    with pytest.raises(RuntimeError) as caught:
        run_workflow(make_workflow(abdomen, "train", workflow_type="train", dataset_dir=str(tmp_path)))
    assert "label.nii.gz: value 2, expected 0 and 1" in "".join(map(str, causes(caught.value)))


def causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *causes(error.__cause__)]


def test_a_volume_is_evaluated_in_its_own_grid_and_in_millimetres(abdomen, tmp_path):
    moved = np.roll((scene() > 0).astype(np.uint8), 2, axis=2)  # by two slices of 2.5 mm
    files = {"image": write_nifti(tmp_path / "image.nii.gz", scene()), "patient": "1"}
    files["label"] = write_nifti(tmp_path / "label.nii.gz", moved)
    (tmp_path / "datalist.json").write_text(json.dumps({"test": [files], "validation": [], "training": []}))
    network = bright_is_organ(tmp_path, **({"organ": "spleen"} if MODALITY[abdomen.name] == "MR" else {}))
    values = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"), **network}
    run_workflow(make_workflow(abdomen, "train", "evaluate", workflow_type="train", **values))
    result = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert list(result["per_case"]) == ["dice", "iou", "precision", "recall", "hd95"]
    assert result["per_case"]["hd95"]["mean"] == pytest.approx(5.0, abs=0.1)
    truth, mask = moved > 0, scene() > 0
    assert result["per_case"]["dice"]["mean"] == pytest.approx(dice(mask, truth), abs=0.02)
    assert result["pooled"]["recall"] == pytest.approx((mask & truth).sum() / truth.sum(), abs=0.02)


def save_network(path: Path, net: ANUNet, **settings: Any) -> Path:
    torch.save({"model": net.state_dict(), "settings": {"image_size": [32, 48], **settings}}, path)
    return path


@pytest.fixture
def network() -> ANUNet:
    torch.manual_seed(0)
    net = ANUNet(features=FEATURES).eval()
    with torch.no_grad():  # away from 0, where every head would say the same
        for head in net.heads:
            head.weight.mul_(20)
    return net


def test_a_pruned_model_needs_no_further_key_and_predicts_as_the_head_it_was_cut_at(abdomen, network, tmp_path):
    image = write_nifti(tmp_path / "case.nii.gz", np.random.default_rng(2).normal(0, 150, SHAPE).astype(np.int16))
    settings = {"organ": "kidney"} if MODALITY[abdomen.name] == "MR" else {}
    full = save_network(tmp_path / "full.pt", network, features=FEATURES, gate_all=False, **settings)
    pruned = save_network(tmp_path / "pruned.pt", network.pruned(2), features=FEATURES[:3], **settings)
    masks = {}
    for name, model, overrides in (
        ("full", full, {}),
        ("head", full, {"supervision_level": 2}),
        ("pruned", pruned, {}),
    ):
        masks[name] = Predictor(abdomen, checkpoint=model, overrides=overrides)({"image": image}).mask
    assert torch.equal(masks["pruned"].as_tensor(), masks["head"].as_tensor())
    assert not torch.equal(masks["pruned"].as_tensor(), masks["full"].as_tensor())


# plain slices


def gray(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """8-bit values of a window."""
    return np.clip((values - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("window", [(-200, 200), (0, 255)])
def test_a_png_of_a_slice_is_to_the_network_what_the_slice_of_the_volume_is(liver_ct, window, tmp_path):
    values = np.random.default_rng(5).integers(0, 200, SHAPE).astype(np.int16)
    volume = write_nifti(tmp_path / "scan.nii.gz", values, "RAS")
    Image.fromarray(gray(values[:, :, 3].T, *window)).save(tmp_path / "slice.png")
    common = {"workflow_type": "infer", "key": "preprocessing", "checkpoint": str(tmp_path / "none.pt")}
    of_volume = parsed(liver_ct, "inference", **common, image_size=IMAGE_SIZE)({"image": volume})["image"]
    keys = {"slices": True, "slice_hu_min": window[0], "slice_hu_max": window[1]}
    of_slice = parsed(liver_ct, "inference", **common, **keys, image_size=IMAGE_SIZE)(
        {"image": str(tmp_path / "slice.png")}
    )["image"]
    assert of_slice.shape == (1, 1, *IMAGE_SIZE)
    np.testing.assert_allclose(of_slice[0, 0].numpy(), of_volume[0, 3].numpy(), atol=0.003)


def test_a_png_gets_a_png_of_its_size(liver_ct, tmp_path):
    (tmp_path / "slices").mkdir()
    values = scene()[:, :, 2].T
    Image.fromarray(gray(values, -200, 200)).save(tmp_path / "slices" / "a.png")
    infer(liver_ct, tmp_path / "slices", tmp_path / "out", slices=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    mask = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert mask.shape == values.shape
    assert set(np.unique(mask)) == {0, 255}
    assert dice(mask > 0, values > 0) > 0.97


def slice_list(folder: Path) -> None:
    """Two slices as PNG, one of them without the organ, in every section."""
    sections: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for section, items in sections.items():
        for z in (2, 6):
            values = scene()[:, :, z].T
            Image.fromarray(gray(values, -200, 200)).save(folder / f"{section}{z}.png")
            Image.fromarray(((values > 0) * 255).astype(np.uint8)).save(folder / f"label_{section}{z}.png")
            items.append({"image": f"{section}{z}.png", "label": f"label_{section}{z}.png", "patient": section})
    (folder / "datalist.json").write_text(json.dumps(sections))


def test_slices_are_trained_validated_and_evaluated_as_they_are(liver_ct, tmp_path):
    slice_list(tmp_path)
    values = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"), "slices": True}
    tiny = {"image_size": IMAGE_SIZE, "features": FEATURES, "max_epochs": 1, "val_interval": 1, "overlay_interval": 1}
    workflow = make_workflow(liver_ct, "train", workflow_type="train", **values, **tiny)
    run_workflow(workflow)
    item = workflow.parser.get_parsed_content("train#dataset")[0]
    assert list(item["image"].shape) == list(item["label"].shape) == [1, *IMAGE_SIZE]
    assert (tmp_path / "run" / "overlays" / "validation2_epoch0001.png").is_file()
    network = bright_is_organ(tmp_path / "run")
    run_workflow(make_workflow(liver_ct, "train", "evaluate", workflow_type="train", **values, **network))
    result = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert result["cases"] == 2
    assert result["per_case"]["dice"]["undefined"] == 1
    assert result["pooled"]["dice"] > 0.97
    assert result["per_case"]["hd95"]["mean"] <= 1


def test_the_window_of_the_training_is_kept_with_the_weights(liver_ct, network, tmp_path):
    model = save_network(tmp_path / "model.pt", network, features=FEATURES, hu_min=0, hu_max=200)
    image = write_nifti(tmp_path / "case.nii.gz", scene())
    common = {"workflow_type": "infer", "key": "preprocessing"}
    values = parsed(liver_ct, "inference", **common, checkpoint=str(model))({"image": image})["image"]
    assert sorted({round(float(value), 3) for value in (values.min(), values.max())}) == [0, 0.75]


# the organ of an MRI


def test_mri_is_normalised_alike_whatever_the_scale_of_the_scanner_and_a_few_bright_voxels(tmp_path):
    bundle = find_bundle("abdomen_mri_anunet")
    values = np.random.default_rng(7).integers(20, 400, SHAPE).astype(np.int16)
    artefact = values.copy()
    artefact[0, 0, :5] = 30000
    volumes = {"plain": values, "scaled": 4 * values, "artefact": artefact}
    preprocessing = parsed(
        bundle, "inference", workflow_type="infer", key="preprocessing", checkpoint=str(tmp_path / "none.pt")
    )
    seen = {
        name: preprocessing({"image": write_nifti(tmp_path / f"{name}.nii.gz", volume)})["image"].numpy()
        for name, volume in volumes.items()
    }
    assert (seen["plain"].min(), seen["plain"].max()) == pytest.approx((0, 1), abs=0.01)
    np.testing.assert_allclose(seen["scaled"], seen["plain"], atol=1e-5)
    assert np.median(np.abs(seen["artefact"] - seen["plain"])) < 1e-3


def mri(model: Path, image: str, folder: Path, *options: str) -> int:
    command = ["predict", "abdomen_mri_anunet", image, "--checkpoint", str(model), "-o", str(folder / "out")]
    return main([*command, *options])


def test_another_organ_than_the_models_is_refused_in_one_line(network, tmp_path, capsys):
    model = save_network(tmp_path / "model.pt", network, features=FEATURES, organ="spleen")
    image = write_nifti(tmp_path / "case.nii.gz", scene())
    assert mri(model, image, tmp_path, "--set", "organ=spleen") == 0
    assert mri(model, image, tmp_path, "--set", "organ=liver") == 2
    assert "medseg: organ='liver', but the model was trained for 'spleen'" in capsys.readouterr().err
    assert mri(model, image, tmp_path, "--set", "organ=heart") == 2
    assert "medseg: organ='heart' is unknown: choose from liver, spleen, kidney" in capsys.readouterr().err


def test_weights_that_name_no_organ_need_one_to_be_given(network, tmp_path, capsys):
    model = save_network(tmp_path / "model.pt", network, features=FEATURES)
    image = write_nifti(tmp_path / "case.nii.gz", scene())
    assert mri(model, image, tmp_path) == 2
    assert "medseg: the model does not say which organ it was trained for" in capsys.readouterr().err
    assert mri(model, image, tmp_path, "--set", "organ=kidney") == 0


def test_a_training_for_an_unknown_organ_ends_before_anything_is_read(tmp_path, capsys):
    command = ["train", "abdomen_mri_anunet", "--dataset-dir", str(tmp_path), "-o", str(tmp_path / "run")]
    assert main([*command, "--no-tracking", "--set", "organ=stomach"]) == 2
    assert "medseg: organ='stomach' is unknown: choose from liver, spleen, kidney" in capsys.readouterr().err


def test_the_organ_is_kept_with_the_weights(tmp_path):
    bundle = find_bundle("abdomen_mri_anunet")
    settings = parsed(bundle, "train", workflow_type="train", key="settings", organ="kidney")
    assert settings["organ"] == "kidney"


def authors_schedule(abdomen: Path, folder: Path, **overrides: Any) -> Any:
    """A training by the authors' schedule on small phantoms and a small network."""
    datalist = write_abdomen_phantoms(
        folder,
        counts={"training": 2, "validation": 1},
        size=(8, 48, 64),
        seed=0,
        modality=MODALITY[abdomen.name].lower(),
    )
    small = {"features": FEATURES, "image_size": IMAGE_SIZE, "batch_size": 1, "datalist": str(datalist)}
    return make_workflow(
        abdomen,
        "train",
        "train_authors",
        workflow_type="train",
        output_dir=str(folder / "run"),
        **{**small, **overrides},
    )


def test_the_authors_schedule_lowers_the_rate_by_the_loss_of_steps_and_keeps_the_best_iou(abdomen, tmp_path):
    workflow = authors_schedule(abdomen, tmp_path, max_epochs=1)
    workflow.initialize()
    scheduler = workflow.parser.get_parsed_content("lr_scheduler")
    losses: list[float] = []
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
    )
    workflow.run()
    assert len(losses) == scheduler.last_epoch == 2  # a step for each scan, in one epoch
    assert scheduler.best in losses
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    assert evaluator.state.key_metric_name == "val_iou"
    assert 0 <= evaluator.state.metrics["val_iou"] <= 1
    assert (tmp_path / "run" / "model.pt").is_file()


def test_the_authors_schedule_is_theirs(abdomen, tmp_path):
    workflow = authors_schedule(abdomen, tmp_path)
    workflow.initialize()
    get = workflow.parser.get_parsed_content
    scheduler = get("lr_scheduler")
    found = {name: getattr(scheduler, name) for name in ("mode", "factor", "patience", "threshold", "threshold_mode")}
    assert found == {"mode": "min", "factor": 0.1, "patience": 2000, "threshold": 0.01, "threshold_mode": "rel"}
    assert scheduler.min_lrs == [1e-7]
    assert isinstance(get("optimizer"), torch.optim.Adam)
    assert get("optimizer").defaults["lr"] == 0.01
    assert (get("max_epochs"), get("stop_patience")) == (20, 20)
    logits, label = torch.randn(2, 1, 5, 7), (torch.rand(2, 1, 5, 7) > 0.5).float()
    p, axes = logits.sigmoid(), (1, 2, 3)
    dice = (2 * (p * label).sum(axes) + 1e-5) / (p.sum(axes) + label.sum(axes) + 1e-5)
    cross_entropy = torch.nn.functional.binary_cross_entropy(p, label)
    torch.testing.assert_close(get("loss")([logits, logits], label), 2 * (0.5 * cross_entropy + 1 - dice.mean()))


def test_the_authors_schedule_sees_slices_with_the_organ_as_they_are(abdomen, tmp_path):
    workflow = authors_schedule(abdomen, tmp_path, slices_per_volume=12)
    workflow.parser.parse(reset=True)
    content = json.loads((tmp_path / "datalist.json").read_text())["training"][0]
    item = {key: str(tmp_path / content[key]) for key in ("image", "label")}
    whole = workflow.parser.get_parsed_content("validate#preprocessing")(dict(item))["image"][0]
    drawn = workflow.parser.get_parsed_content("train#preprocessing")(dict(item))
    assert len(drawn) == 12
    for one in drawn:
        assert one["label"].any()
        assert min(float((one["image"][0] - slice_).abs().max()) for slice_ in whole) < 1e-3


def test_the_authors_schedule_is_the_same_for_both_bundles():
    ct, mr = (json.loads((find_bundle(name) / "configs" / "train_authors.json").read_text()) for name in MODALITY)
    assert mr.pop("intensity_scale") == 0.0
    assert ct == mr
