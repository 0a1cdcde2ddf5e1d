"""Check 1: the files of a bundle, its metadata and its README."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from monai.bundle.workflows import _apply_logging_file

import medseg_monai
from medseg_monai.networks import NETWORKS

FILES = [
    "LICENSE",
    "configs/metadata.json",
    "configs/train.json",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/multi_gpu_train.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
]
SECTIONS = [
    "Model Overview",
    "Data",
    "Training configuration",
    "Performance",
    "MONAI Bundle Commands",
    "Limitations",
    "References",
    "License",
]


def read_metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


@pytest.mark.parametrize("name", FILES)
def test_a_bundle_has_every_file(bundle: Path, name: str):
    assert (bundle / name).is_file()


def test_a_bundle_is_json_only(bundle: Path):
    assert not list(bundle.rglob("*.py"))


def test_the_metadata_follows_the_model_zoos_schema(bundle: Path):
    schema = json.loads((Path(__file__).parent / "meta_schema_20240725.json").read_text())
    jsonschema.validate(read_metadata(bundle), schema)


def test_the_metadata_names_the_bundle_and_its_version_is_in_the_changelog(bundle: Path):
    metadata = read_metadata(bundle)
    assert metadata["name"] == bundle.name
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["medseg-monai"] == medseg_monai.__version__


def test_the_bundles_name_is_anatomy_modality_network(bundle: Path):
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+){2,}", bundle.name)
    assert bundle.name.rpartition("_")[2] in NETWORKS


def test_the_readme_has_every_section(bundle: Path):
    headings = re.findall(r"^#+ (.+)$", (bundle / "docs" / "README.md").read_text(), flags=re.MULTILINE)
    assert [section for section in SECTIONS if section not in headings] == []


def test_the_logging_config_is_one_that_monai_accepts(bundle: Path):
    _apply_logging_file(str(bundle / "configs" / "logging.conf"))


def test_no_config_names_a_personal_path(bundle: Path):
    for path in (bundle / "configs").iterdir():
        assert not re.search(r"/(home|root|work|Users|tmp)/", path.read_text()), path.name
