"""The mask that a client of MONAI Label gets lies where its structure lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg_monai.apps.label.lib.served import ServedBundle
from medseg_monai.apps.label.lib.versions import Versions
from tests.bundles.scenes import FORMS, IN_PLACE, Shown, check_mask, overlap, points_of, show

pytestmark = pytest.mark.label


Ask = Callable[..., Path]


def of(*kinds: str) -> list[Any]:
    """The bundles and the forms of these kinds."""
    return [pytest.param(entry, id="-".join(entry)) for entry in FORMS if entry[1].startswith(kinds)]


@pytest.fixture
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Shown:
    return show(*request.param, tmp_path)


@pytest.fixture
def ask(shown: Shown, tmp_path: Path) -> Ask:
    """A request for the scene's mask to the app's inference task, and the file that the client gets."""
    from medseg_monai.apps.label.lib.infer import BundleInferTask

    bundle = ServedBundle.read(with_stand_in(shown, tmp_path / "bundle"), shown.model)
    task = BundleInferTask(bundle, Versions(tmp_path / "versions", shown.model))

    def ask(**request: Any) -> Path:
        path, _ = task({"image": str(shown.scene.image), **shown.scene.keys, **request})
        return Path(shutil.move(path, tmp_path))

    return ask


def with_stand_in(shown: Shown, folder: Path) -> Path:
    """A copy of the bundle with the stand-in for its network, which is nothing that a client can choose."""
    shutil.copytree(shown.bundle, folder)
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"]["_target_"] = shown.network
    config.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("shown", of(""), indirect=True)
def test_the_mask_lies_where_the_scene_is(shown: Shown, ask: Ask):
    check_mask(shown.scene, ask())


@pytest.mark.parametrize("shown", of("DICOM"), indirect=True)
def test_the_dicom_seg_lies_where_the_scene_is(shown: Shown, ask: Ask):
    check_mask(shown.scene, ask(result_extension=".dcm"))


@pytest.mark.parametrize("shown", of("NIfTI", "DICOM series"), indirect=True)
def test_the_nrrd_lies_where_the_scene_is(shown: Shown, ask: Ask):
    labels, affine = read_nrrd(ask(result_extension=".nrrd"))
    assert overlap(shown.scene.place(points_of(labels, affine)), shown.scene.labels) > IN_PLACE


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``[X, Y, Z]``, and where they lie in the patient: affine to RAS in mm."""
    import itk

    file = itk.imread(str(path))
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(file.GetDirection()) * np.asarray(file.GetSpacing())
    affine[:3, 3] = file.GetOrigin()
    return itk.array_from_image(file).T, np.diag((-1, -1, 1, 1)) @ affine
