"""Reading ``docker/``: the instructions of the Dockerfile, the services of the compose file and their commands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["COMPOSE", "DOCKERFILE", "ROOT", "Instruction", "environment", "health_command", "services", "stages"]

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"


class Instruction(NamedTuple):
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words without the options that stand before them."""
        return [word for word in self.text.split() if not word.startswith("--")]

    @property
    def arguments(self) -> list[str]:
        """The JSON form of ``CMD`` and its like."""
        content: list[str] = json.loads(self.text[self.text.index("[") :])
        return content


def stages() -> dict[str, list[Instruction]]:
    """Instructions of each stage of the Dockerfile, the ``FROM`` among them."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, list[Instruction]] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        instruction = Instruction(*line.split(None, 1))
        if instruction.name == "FROM":
            stage = found.setdefault(instruction.words[-1], [])
        stage.append(instruction)
    return found


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file, by their names."""
    content: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return content


def environment(service: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service when ``docker compose`` is called with the variables ``given``."""
    return {
        key: re.sub(r"\$\{(\w+)[^}]*\}", lambda match: given[match[1]], str(value))
        for key, value in service["environment"].items()
    }


def health_command(service: Mapping[str, Any]) -> list[str]:
    """The program that tells whether a service is well, with its arguments."""
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    return [str(word) for word in command]
