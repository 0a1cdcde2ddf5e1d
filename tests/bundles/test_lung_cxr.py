"""The chest X-ray bundles' way to the network and back, with a network in between that calls bright pixels lung."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import ExifTags, Image, ImageOps

from medseg_monai.bundle import find_bundle, merged_config
from medseg_monai.losses import TanimotoLoss, tanimoto_coefficient
from medseg_monai.phantoms import write_chest_xray_phantoms
from tests.data.radiograph_files import write_radiograph

from .conftest import make_workflow, run_workflow

HEIGHT, WIDTH = 331, 417
IMAGE_SIZE = [96, 112]
NO_AUGMENTATION = {
    "rotate_degrees": 0,
    "shear_degrees": 0,
    "shift_range": 0,
    "scale_range": 0,
    "flip_rows": 0,
    "flip_columns": 0,
}


@pytest.fixture(params=["lung_cxr_defunet", "lung_cxr_rescrnet"])
def cxr_bundle(request: pytest.FixtureRequest) -> Path:
    return find_bundle(request.param)


def scene() -> np.ndarray:
    """Two shapes of 220 on 40, which no flip, rotation or transposition leaves as they are."""
    values = np.full((HEIGHT, WIDTH), 40, dtype=np.uint8)
    values[30:200, 50:130] = 220
    values[200:260, 50:90] = 220
    values[60:300, 260:390] = 220
    return values


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def bright_is_lung(bundle: Path, folder: Path) -> dict[str, Any]:
    """Overrides by which a single weight stands for the network; logits change sign at half of the range of values."""
    classes = merged_config(bundle, ["inference"])["network_def"]["out_channels"]
    network = torch.nn.Conv2d(1, classes, 1)
    with torch.no_grad():
        network.weight.copy_(torch.linspace(-60, 60, classes).view(-1, 1, 1, 1) if classes > 1 else torch.tensor(60.0))
        network.bias.copy_(-network.weight.flatten() / 2)
    path = folder / "model.pt"
    torch.save({"model": network.state_dict(), "settings": {"image_size": IMAGE_SIZE, "equalize": False}}, path)
    definition = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": classes, "kernel_size": 1}
    return {"network_def": definition, "checkpoint": str(path)}


def infer(bundle: Path, images: Path, output_dir: Path, **overrides: Any) -> None:
    run_workflow(
        make_workflow(
            bundle,
            "inference",
            workflow_type="infer",
            dataset_dir=str(images),
            output_dir=str(output_dir),
            **bright_is_lung(bundle, output_dir.parent),
            **overrides,
        )
    )


def test_a_radiograph_of_odd_size_gets_its_mask_of_that_size_right_side_up(cxr_bundle, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(scene()).save(tmp_path / "images" / "chest.png")
    infer(cxr_bundle, tmp_path / "images", tmp_path / "masks")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["chest.png"]
    mask = np.asarray(Image.open(tmp_path / "masks" / "chest.png"))
    assert mask.shape == (HEIGHT, WIDTH)
    assert set(np.unique(mask)) == {0, 255}
    assert dice(mask > 0, scene() > 100) > 0.98


@pytest.mark.parametrize("upright", [False, True])
def test_a_turned_picture_gets_the_mask_of_the_upright_one_in_its_own_matrix_or_upright(cxr_bundle, upright, tmp_path):
    (tmp_path / "images").mkdir()
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # shown turned right, so stored turned left
    Image.fromarray(scene()).save(tmp_path / "images" / "upright.png")
    stored = Image.fromarray(scene()).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "images" / "turned.png", exif=turned)
    infer(cxr_bundle, tmp_path / "images", tmp_path / "masks", upright=upright)
    expected = np.asarray(Image.open(tmp_path / "masks" / "upright.png"))
    mask = Image.open(tmp_path / "masks" / "turned.png")
    assert mask.size == ((WIDTH, HEIGHT) if upright else stored.size)
    assert mask.getexif().get(ExifTags.Base.Orientation) == (None if upright else 6)
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(mask)), expected)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_a_dicom_radiograph_gets_a_png_and_a_segmentation_in_its_matrix(cxr_bundle, interpretation, tmp_path):
    stored = scene().astype(np.uint16) * 16
    pixels = 4095 - stored if interpretation == "MONOCHROME1" else stored
    write_radiograph(
        tmp_path / "images" / "chest.dcm",
        pixels,
        PhotometricInterpretation=interpretation,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    infer(cxr_bundle, tmp_path / "images", tmp_path / "masks")
    mask = np.asarray(Image.open(tmp_path / "masks" / "chest.png")) > 0
    assert dice(mask, scene() > 100) > 0.98
    segmentation = pydicom.dcmread(tmp_path / "masks" / "chest.seg.dcm")
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["lungs"]
    np.testing.assert_array_equal(segmentation.pixel_array.squeeze() > 0, mask)


def test_dicom_files_named_by_uid_get_a_mask_each_under_the_whole_name(cxr_bundle, tmp_path):
    for uid in ("1.2.840.1.1", "1.2.840.1.2"):
        write_radiograph(tmp_path / "images" / uid, scene().astype(np.uint16) * 16)
    infer(cxr_bundle, tmp_path / "images", tmp_path / "masks")
    written = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert written == [f"1.2.840.1.{number}{ending}" for number in (1, 2) for ending in (".png", ".seg.dcm")]


def test_without_dicom_seg_only_the_png_is_written(cxr_bundle, tmp_path):
    write_radiograph(tmp_path / "images" / "chest.dcm", scene().astype(np.uint16) * 16)
    infer(cxr_bundle, tmp_path / "images", tmp_path / "masks", dicom_seg=False)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["chest.png"]


def test_only_so_many_components_are_kept_as_asked(cxr_bundle, tmp_path):
    (tmp_path / "images").mkdir()
    with_marker = scene()
    with_marker[8:24, 200:230] = 220
    Image.fromarray(with_marker).save(tmp_path / "images" / "chest.png")
    masks = {}
    for count in (0, 2, 1):
        infer(cxr_bundle, tmp_path / "images", tmp_path / f"masks{count}", keep_largest=count)
        masks[count] = np.asarray(Image.open(tmp_path / f"masks{count}" / "chest.png")) > 0
    assert masks[0][10:22, 205:225].all()
    assert not masks[2][:28].any()
    assert masks[2][100, 100]
    assert masks[2][100, 300]
    assert not masks[1][:, :200].any()
    assert masks[1][100, 300]


def training_items(bundle: Path, folder: Path, **overrides: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scene with its own bright parts for label, as training and as validation see it, without augmentation."""
    items = {name: [{"image": f"{name}.png", "label": "label.png"}] for name in ("training", "validation")}
    for name in items:
        Image.fromarray(scene()).save(folder / f"{name}.png")
    Image.fromarray(((scene() > 100) * 255).astype(np.uint8)).save(folder / "label.png")
    (folder / "datalist.json").write_text(json.dumps(items))
    workflow = make_workflow(
        bundle,
        "train",
        workflow_type="train",
        dataset_dir=str(folder),
        output_dir=str(folder / "run"),
        image_size=IMAGE_SIZE,
        equalize=False,
        **NO_AUGMENTATION,
        **overrides,
    )
    workflow.initialize()
    train, validation = (workflow.parser.get_parsed_content(f"{name}#dataset")[0] for name in ("train", "validate"))
    return train, validation


def test_the_label_lies_on_the_image_to_a_fraction_of_a_pixel(cxr_bundle, tmp_path):
    undilated = {"dilation": 1} if cxr_bundle.name == "lung_cxr_defunet" else {}
    train, validation = training_items(cxr_bundle, tmp_path, **undilated)
    assert list(train["image"].shape[1:]) == list(train["label"].shape[1:]) == IMAGE_SIZE
    bright, label = train["image"][0].numpy() > 0.5, train["label"][0].numpy() > 0
    for axis in range(2):
        centres = [(mask.nonzero()[axis]).mean() for mask in (bright, label)]
        assert centres[0] == pytest.approx(centres[1], abs=0.15)
    np.testing.assert_array_equal(validation["label"][0].numpy(), scene() > 100)


def test_masks_are_dilated_for_training_only(tmp_path):
    bundle = find_bundle("lung_cxr_defunet")
    folders = [tmp_path / name for name in ("paper", "plain")]
    for folder in folders:
        folder.mkdir()
    dilated, validation = training_items(bundle, folders[0])
    plain, _ = training_items(bundle, folders[1], dilation=1)
    grown = torch.nn.functional.max_pool2d(plain["label"][None], 3, 1, 1)[0]
    assert torch.equal(dilated["label"].as_tensor(), grown.as_tensor())
    assert dilated["label"].sum() > plain["label"].sum()
    np.testing.assert_array_equal(validation["label"][0].numpy(), scene() > 100)


def test_an_augmented_image_and_its_label_stay_together_and_the_label_stays_binary(cxr_bundle, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "image.png")
    Image.fromarray(((scene() > 100) * 255).astype(np.uint8)).save(tmp_path / "label.png")
    undilated = {"dilation": 1} if cxr_bundle.name == "lung_cxr_defunet" else {}
    workflow = make_workflow(
        cxr_bundle,
        "train",
        workflow_type="train",
        dataset_dir=str(tmp_path),
        image_size=IMAGE_SIZE,
        equalize=False,
        flip_rows=0.5,
        **undilated,
    )
    workflow.parser.parse(reset=True)
    preprocessing = workflow.parser.get_parsed_content("train#preprocessing").set_random_state(1)
    item = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    seen = []
    for _ in range(5):
        result = preprocessing(dict(item))
        assert set(result["label"].unique().tolist()) == {0.0, 1.0}
        seen.append(result["image"][0].numpy() > 0.5)
        assert dice(seen[-1], result["label"][0].numpy() > 0) > 0.96
    assert not any(np.array_equal(seen[0], other) for other in seen[1:])


def test_the_model_of_another_size_and_preprocessing_is_used_as_it_was_trained(cxr_bundle, tmp_path):
    overrides = bright_is_lung(cxr_bundle, tmp_path)
    workflow = make_workflow(cxr_bundle, "inference", workflow_type="infer", **overrides)
    workflow.parser.parse(reset=True)
    assert workflow.parser.get_parsed_content("image_size") == IMAGE_SIZE
    names = [type(t).__name__ for t in workflow.parser.get_parsed_content("preprocessing").transforms]
    assert "HistogramNormalized" not in names
    default = make_workflow(cxr_bundle, "inference", workflow_type="infer", checkpoint=str(tmp_path / "none.pt"))
    default.parser.parse(reset=True)
    names = [type(t).__name__ for t in default.parser.get_parsed_content("preprocessing").transforms]
    assert ("HistogramNormalized" in names) == (cxr_bundle.name == "lung_cxr_rescrnet")


RECIPES = {
    "lung_cxr_defunet": {
        "image_size": [512, 512],
        "batch_size": 2,
        "max_epochs": 175,
        "learning_rate": 1e-5,
        "plateau_factor": 0.2,
        "plateau_patience": 5,
        "stop_patience": 5,
        "features": [64, 128, 256, 512],
        "dilation": 3,
    },
    "lung_cxr_rescrnet": {
        "image_size": [300, 340],
        "batch_size": 8,
        "max_epochs": 300,
        "num_blocks": 4,
        "num_lstm_blocks": 0,
        "equalize": True,
        "contour_weights": True,
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_is_by_default_as_in_the_paper(name):
    config = merged_config(find_bundle(name), ["train"])
    parser = ConfigParser(config)
    assert {key: parser.get_parsed_content(key) for key in RECIPES[name]} == RECIPES[name]
    assert config["optimizer"]["_target_"] == "torch.optim.Adam"


def test_what_augmentation_leaves_vacant_is_filled_by_reflection():
    affine = merged_config(find_bundle("lung_cxr_rescrnet"), ["train"])["train"]["random_transforms"][0]
    assert (affine["_target_"], affine["padding_mode"]) == ("RandAffined", "reflection")


def test_imported_weights_whose_first_channel_is_the_lung_are_used_by_a_key(tmp_path):
    bundle = find_bundle("lung_cxr_rescrnet")
    (tmp_path / "images").mkdir()
    Image.fromarray(scene()).save(tmp_path / "images" / "chest.png")
    masks = {}
    for channel in (0, 1):
        infer(bundle, tmp_path / "images", tmp_path / f"masks{channel}", lung_channel=channel)
        masks[channel] = np.asarray(Image.open(tmp_path / f"masks{channel}" / "chest.png")) > 0
    np.testing.assert_array_equal(masks[0], ~masks[1])
    assert dice(masks[1], scene() > 100) > 0.98


def test_rescrnets_training_logs_what_the_paper_plots(tmp_path):
    """Weighted loss and plain coefficient of every epoch, of training and validation, at the network's size."""
    bundle = find_bundle("lung_cxr_rescrnet")
    datalist = write_chest_xray_phantoms(tmp_path, counts={"training": 3, "validation": 2}, size=(150, 181), seed=0)
    small = {"image_size": [40, 52], "filters": 4, "num_blocks": 1, "batch_size": 3, "max_epochs": 1, "dropout": 0.0}
    values = {"datalist": str(datalist), "output_dir": str(tmp_path / "run"), **small}
    workflow = make_workflow(bundle, "train", workflow_type="train", **values)
    run_workflow(workflow)
    get = workflow.parser.get_parsed_content
    metrics = get("validate#evaluator").state.metrics
    network, losses, coefficients = get("network").eval(), [], []
    for item in get("validate#dataset"):
        rows = (np.arange(40) + 0.5) * item["label"].shape[1] / 40
        columns = (np.arange(52) + 0.5) * item["label"].shape[2] / 52
        label = item["label"].as_tensor()[None][:, :, rows.astype(int)][..., columns.astype(int)]
        with torch.no_grad():
            logits = network(item["image"].as_tensor()[None])
        losses.append(TanimotoLoss(softmax=True, to_onehot_y=True)(logits, label).item())
        truth = torch.cat([1 - label.float(), label.float()], dim=1)
        coefficients.append(tanimoto_coefficient(logits.softmax(dim=1), truth).item())
    assert len(losses) == 2
    assert metrics["val_loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert metrics["val_tanimoto"] == pytest.approx(np.mean(coefficients), abs=1e-4)
    assert 0 < get("train#trainer").state.metrics["train_tanimoto"] < 1
    assert get("validate#evaluator").state.key_metric_name == "val_dice"
