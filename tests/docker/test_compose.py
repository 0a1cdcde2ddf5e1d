"""The compose file, which nothing here can start: held to its schema and to what would hurt whoever starts it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from medseg_monai.cli import _parser

from .files import COMPOSE, ROOT, services, stages

SERVICES = sorted(services())


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return services()[request.param]


def test_the_file_follows_the_compose_specification():
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("the schema is not installed: pip install check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_mlflow_its_database_orthanc_and_monai_label_are_there():
    assert SERVICES == ["label", "mlflow", "orthanc", "postgres"]


def test_no_port_can_be_reached_from_another_machine(service: dict[str, Any]):
    assert "network_mode" not in service
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_the_database_can_be_reached_from_its_own_network_alone():
    content = yaml.safe_load(COMPOSE.read_text())
    assert "ports" not in content["services"]["postgres"]
    assert content["services"]["postgres"]["networks"] == ["database"]
    assert content["networks"]["database"]["internal"] is True


def test_every_password_comes_from_the_environment_and_none_may_be_empty(service: dict[str, Any]):
    for key, value in service.get("environment", {}).items():
        if re.search(r"PASSW|SECRET|TOKEN|KEY", key):
            assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), key
    assert not re.search(r"//[^/@\s]*:[^/@\s]*@", " ".join(map(str, service.get("command", []))))  # user:password@host


def test_orthanc_lets_nobody_in_without_the_password_of_the_environment():
    settings = json.loads((ROOT / "docker" / "orthanc.json").read_text())
    assert settings["AuthenticationEnabled"] is True
    assert settings["RegisteredUsers"] == {"medseg": "${ORTHANC_PASSWORD}"}
    assert settings["DicomServerEnabled"] is False  # DICOM's own protocol asks for no password


def test_every_service_says_whether_it_is_well(service: dict[str, Any]):
    assert service["healthcheck"]["test"][0] == "CMD"


def test_a_service_waits_for_those_it_needs_until_they_are_well(service: dict[str, Any]):
    for name, needed in service.get("depends_on", {}).items():
        assert needed == {"condition": "service_healthy"}
        assert name in SERVICES


def test_a_service_runs_without_any_right_of_root(service: dict[str, Any]):
    if "build" in service:
        users = [one.text for one in stages()[service["build"]["target"]] if one.name == "USER"]
    else:
        users = [service["user"]]
    assert users
    assert not {user.partition(":")[0] for user in users} & {"root", "0"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc"}


def test_an_image_is_built_from_the_checkout_or_pinned_to_a_version(service: dict[str, Any]):
    if "build" in service:
        build = service["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert service["image"] == f"medseg-monai:{build['target']}"
        assert build["target"] in stages()
    else:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?(-\w+)?", service["image"])


def test_files_that_are_mounted_exist_and_cannot_be_changed_and_volumes_are_declared(service: dict[str, Any]):
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for volume in service["volumes"]:
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (COMPOSE.parent / source).is_file()
            assert rest.endswith(":ro")
        else:
            assert source in declared


def test_what_a_service_writes_lies_in_its_volume():
    """The rest of its file system is read-only, or lost with the container."""
    for name, option in (("mlflow", "--artifacts-destination"), ("label", "--work-dir")):
        (folder,) = (volume.split(":")[1] for volume in services()[name]["volumes"])
        assert any(word.startswith(f"{option}={folder}/") for word in services()[name]["command"])
    settings = json.loads((ROOT / "docker" / "orthanc.json").read_text())
    assert "orthanc:/var/lib/orthanc" in services()["orthanc"]["volumes"]
    assert {settings["StorageDirectory"], settings["IndexDirectory"]} == {"/var/lib/orthanc/db"}
    cache = services()["label"]["environment"]["MONAI_LABEL_DICOMWEB_CACHE_PATH"]
    assert cache.startswith("/var/lib/medseg/")


def test_monai_label_is_started_by_a_command_that_medseg_understands():
    args = _parser().parse_args(services()["label"]["command"])
    assert (args.verb, args.host, args.port, args.behind_proxy) == ("serve", "0.0.0.0", 8000, True)
    assert args.studies == "http://orthanc:8042/dicom-web"


def test_health_is_asked_at_the_port_that_is_published(service: dict[str, Any]):
    for port in service.get("ports", []):
        inner = port.rpartition(":")[2]
        assert f"127.0.0.1:{inner}" in " ".join(service["healthcheck"]["test"])
