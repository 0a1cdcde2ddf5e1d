"""What every bundle's checks share: phantoms, one training, its evaluation and its predictions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from medseg_monai.bundle import find_bundle, list_bundles
from medseg_monai.phantoms import phantom_writer

from .tiny import phantom_size, tiny_training


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every check for every bundle."""
    if "bundle" in metafunc.fixturenames:
        metafunc.parametrize("bundle", list_bundles(), scope="session", indirect=True)


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Path:
    return find_bundle(request.param)


def config_files(bundle: Path, *names: str) -> list[str]:
    return [str(bundle / "configs" / f"{name}.json") for name in names]


def make_workflow(bundle: Path, *names: str, workflow_type: str, **kwargs: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=config_files(bundle, *names), workflow_type=workflow_type, logging_file=False, **kwargs
    )


def run_workflow(workflow: ConfigWorkflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def hash_tree(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Phantoms:
    folder: Path
    datalist: Path

    def items(self, section: str) -> list[dict[str, Any]]:
        return [
            {key: str(self.folder / value) if key in ("image", "label") else value for key, value in item.items()}
            for item in json.loads(self.datalist.read_text())[section]
        ]


@pytest.fixture(scope="session")
def phantoms(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    folder = tmp_path_factory.mktemp(f"{bundle.name}_phantoms")
    counts = {"training": 4, "validation": 2, "test": 2}
    datalist = phantom_writer(bundle.name)(folder, counts=counts, size=phantom_size(bundle.name), seed=0)
    return Phantoms(folder, datalist)


def training_overrides(bundle: Path, phantoms: Phantoms, output_dir: Path) -> dict[str, Any]:
    return {
        "dataset_dir": str(phantoms.folder),
        "output_dir": str(output_dir),
        "max_epochs": 1,
        "overlay_interval": 1,
        **tiny_training(bundle.name),
    }


@dataclass(frozen=True)
class Trained:
    """One epoch on phantoms, run as ``python -m monai.bundle run … --tracking mlflow`` runs it."""

    output_dir: Path
    tracking_uri: str
    overrides: dict[str, Any]
    changed: set[str]

    @property
    def model(self) -> Path:
        return self.output_dir / "model.pt"


@pytest.fixture(scope="session")
def trained(bundle: Path, phantoms: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    output_dir = tmp_path_factory.mktemp(f"{bundle.name}_training")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    overrides = training_overrides(bundle, phantoms, output_dir)
    tracking_uri = f"sqlite:///{output_dir / 'mlruns.db'}"
    before = hash_tree(bundle)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        workflow = make_workflow(
            bundle,
            "train",
            workflow_type="train",
            tracking="mlflow",
            tracking_uri=tracking_uri,
            run_name="bundle-check",
            # a literal path: from its own default MONAI logs a file named after an expression, which is none
            save_execute_config=str(output_dir / "executed.json"),
            **overrides,
        )
        run_workflow(workflow)
        changed = {name for name, _ in hash_tree(bundle).items() ^ before.items()}
        changed |= {str(path) for path in elsewhere.iterdir()}
    return Trained(output_dir, tracking_uri, overrides, changed)


@pytest.fixture(scope="session")
def evaluated(bundle: Path, trained: Trained) -> dict[str, Any]:
    """Summary of the ``evaluate`` overlay on the test phantoms."""
    run_workflow(make_workflow(bundle, "train", "evaluate", workflow_type="train", **trained.overrides))
    return json.loads((trained.output_dir / "evaluation" / "summary.json").read_text())
