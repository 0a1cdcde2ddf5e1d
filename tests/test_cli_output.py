"""Standard output is for the answer alone, whatever the libraries say while a verb runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medseg_monai.networks.nets import CENet

from .bundle.small_anunet import make_bundle, make_network, write_volume

KEYS = ["image_size=[24,32]", "filters=4", "num_blocks=1", "max_epochs=1", "batch_size=2"]
TINY = [part for key in KEYS for part in ("--set", key)]

# importing torch and MONAI takes seconds, so all verbs run in one process; MONAI is imported by the first that needs it
RUN = """
import io, json, sys
from medseg_monai.cli import main
told = []
for arguments in json.load(sys.stdin):
    output, sys.stdout = sys.stdout, io.StringIO()
    try:
        code = main(arguments)
    finally:
        written, sys.stdout = sys.stdout.getvalue(), output
    told.append({"code": code, "out": written})
print(json.dumps(told))
"""


def write_radiographs(folder: Path) -> Path:
    """The flat layout of Montgomery: dark lungs on grey with a little noise."""
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(1, 7):
        mask = np.zeros((48, 64), np.uint8)
        mask[8 + number : 40, 6:26] = mask[10:38, 36 : 56 + number % 3] = 255
        image = np.where(mask, 60, 180) + generator.integers(0, 20, mask.shape)
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"MCUCXR_{number:04d}_0.png")
        Image.fromarray(mask).save(folder / "masks" / f"MCUCXR_{number:04d}_0.png")
    return folder


def with_short_label(folder: Path, datalist: Path) -> Path:
    """A list of one case whose label has not the size of its image."""
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(folder / "short.png")
    item = {"image": "montgomery/images/MCUCXR_0001_0.png", "label": "montgomery/short.png", "patient": "1"}
    datalist.write_text(json.dumps({"training": [], "validation": [], "test": [item]}))
    return datalist


def with_cut_image(folder: Path, datalist: Path) -> Path:
    """A list of two cases; the image of the second, which is read when the evaluation runs, is cut off."""
    whole = folder / "images" / "MCUCXR_0001_0.png"
    (folder / "cut.png").write_bytes(whole.read_bytes()[:200])
    label = "montgomery/masks/MCUCXR_0001_0.png"
    images = {"1": "montgomery/images/MCUCXR_0001_0.png", "2": "montgomery/cut.png"}
    items = [{"image": image, "label": label, "patient": patient} for patient, image in images.items()]
    datalist.write_text(json.dumps({"training": [], "validation": [], "test": items}))
    return datalist


#: the commands that are refused, by a part of them, and what the line names
REFUSED = {"short.json": "short.png", "cut.json": "cut.png: truncated", "lung_channel=99": "lung_channel: expected"}


def is_refused(command: list[str]) -> bool:
    return any(part in str(command) for part in REFUSED)


def verbs(root: Path) -> list[list[str]]:
    """A command of each verb that answers and ends soon, and some that are refused."""
    data, masks, scan = root / "list.json", root / "masks", write_volume(root / "ct.nii.gz")
    folder = write_radiographs(root / "montgomery")
    weights = root / "run" / "model.pt"
    bundle = make_bundle(root, make_network())
    cenet = root / "cenet.pt"
    torch.save(CENet().state_dict(), cenet)
    prune_list = root / "prune.json"
    prune_list.write_text(json.dumps({"test": [{"image": "ct.nii.gz", "label": "labels/ct.nii.gz"}]}))
    plain = ["--set", "fast=false", "--set", "device=cpu"]
    rescr = ["lung_cxr_rescrnet", "--datalist", str(data)]
    broken = ["lung_cxr_rescrnet", "--datalist", str(with_short_label(folder, root / "short.json"))]
    cut = ["lung_cxr_rescrnet", "--datalist", str(with_cut_image(folder, root / "cut.json"))]
    sets = [f"montgomery={folder}", f"shenzhen={root / 'shenzhen'}"]
    (root / "shenzhen").mkdir()
    for part in ("images", "masks"):
        (root / "shenzhen" / part).mkdir()
        for path in (folder / part).iterdir():
            name = path.name.replace("MCUCXR", "CHNCXR")
            Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "shenzhen" / part / name)
    return [
        ["data", "montgomery", str(folder), "-o", str(data)],
        ["combine", str(data), "-o", str(root / "combined.json")],
        ["list"],
        ["info", "lung_cxr_rescrnet"],
        ["train", *rescr, "-o", str(root / "run"), *TINY],
        ["evaluate", *rescr, "-o", str(root / "run"), "--section", "validation", *TINY],
        ["evaluate", *broken, "-o", str(root / "run2"), "--checkpoint", str(weights), *TINY],
        [*["evaluate", *cut, "-o", str(root / "run3"), "--checkpoint", str(weights), *TINY], "--set", "num_workers=2"],
        ["evaluate", *rescr, "-o", str(root / "run"), *TINY, "--set", "lung_channel=99"],
        ["predict", "lung_cxr_rescrnet", str(folder / "images"), "-o", str(masks), "--set", "lung_channel=99"],
        ["predict", "lung_cxr_rescrnet", str(folder / "images"), "-o", str(masks), "--checkpoint", str(weights)],
        ["predict", str(bundle), str(scan), "-o", str(root / "labels"), *plain],
        ["prune", str(bundle), "--datalist", str(prune_list), "--section", "test", "--max-dice-loss", "1", *plain],
        ["export", "lung_cxr_rescrnet", "-o", str(root / "net.ts"), "--checkpoint", str(weights)],
        [
            *["experiment", "cross-manufacturer", "--bundle", "lung_cxr_rescrnet", "-o", str(root / "runs")],
            *[part for one in sets for part in ("--data", one)],
            *["--train", "montgomery", "--test", "shenzhen", *TINY],
        ],
    ]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[str]], list[dict[str, Any]], str]:
    """The commands, what each wrote on standard output, and the whole standard error."""
    commands = verbs(tmp_path_factory.mktemp("verbs"))
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([[*command, "--json"] for command in commands]),
        env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return commands, json.loads(result.stdout), result.stderr


def test_every_verb_answers_in_json_and_writes_nothing_else(told):
    commands, answers, errors = told
    assert [answer["code"] for answer in answers] == [2 if is_refused(command) else 0 for command in commands]
    for command, answer in zip(commands, answers, strict=True):
        if answer["code"] == 0:
            assert isinstance(json.loads(answer["out"]), dict | list), command
    assert "\n{" not in errors


def test_what_is_refused_is_told_in_one_line_without_traceback_or_answer(told):
    """A label that does not fit, a damaged image that a worker reads, an option out of range in two verbs."""
    commands, answers, errors = told
    refused = [answer for answer in answers if answer["code"] != 0]
    assert refused == [{"code": 2, "out": ""}] * 4
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if any(named in line for named in (*REFUSED.values(), "ERROR"))]
    assert all(line.startswith("medseg: ") for line in lines)
    expected = [name for command in commands for part, name in REFUSED.items() if part in str(command)]
    assert len(lines) == len(expected)
    assert all(name in line for name, line in zip(expected, lines, strict=True))


def test_the_progress_of_a_training_stays_visible_on_standard_error(told):
    _, _, errors = told
    assert "INFO: Epoch[1] Metrics -- val_dice" in errors
