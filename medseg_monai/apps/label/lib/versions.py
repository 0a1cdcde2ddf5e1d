"""The models of a served bundle: the model that it came with, and those that were trained from a client."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg_monai.files import write_json

__all__ = ["SHIPPED", "Model", "Versions"]

#: name of the model that a bundle came with
SHIPPED = "shipped"

_LIST = "models.json"


@dataclass(frozen=True)
class Model:
    """One model of a bundle.

    Attributes:
        name: ``"shipped"``, or the name of the run that trained it.
        path: path of its weights.
        metric: its score on the validation labels of that time; ``None`` for the shipped model.
        before: score of the model in use until then, on the same labels.
    """

    name: str
    path: str
    metric: float | None = None
    before: float | None = None


class Versions:
    """The models of a bundle and which of them is in use, in a file that server and training share.

    Models are only added; weights are never overwritten.

    Args:
        folder: folder of the bundle's runs.
        shipped: weights of the model that the bundle came with.
    """

    def __init__(self, folder: str | os.PathLike[str], shipped: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.shipped = Model(SHIPPED, str(shipped))

    def all(self) -> dict[str, Model]:
        """The models by their names, the oldest first; models whose weights were deleted are left out."""
        trained = [Model(**entry) for entry in self._read()["models"]]
        return {model.name: model for model in (self.shipped, *trained) if Path(model.path).is_file()}

    def current(self) -> Model:
        """The model in use."""
        return self.all().get(self._read()["current"], self.shipped)

    def add(self, model: Model, *, use: bool) -> None:
        """Add a model.

        Args:
            model: the model, with a new name.
            use: whether to use it from now on.

        Raises:
            ValueError: there is already a model with this name.
        """
        content = self._read()
        if model.name in self.all():
            raise ValueError(f"{self.folder}: there is already a model '{model.name}'; give the run another name.")
        content["models"].append(asdict(model))
        self._write({**content, "current": model.name if use else content["current"]})

    def use(self, name: str) -> Model:
        """Use a model from now on.

        Args:
            name: name of the model.

        Raises:
            ValueError: there is no model with this name.
        """
        model = self.find(name)
        self._write({**self._read(), "current": name})
        return model

    def find(self, name: str) -> Model:
        """The model of a name.

        Args:
            name: name of the model.

        Raises:
            ValueError: there is no model with this name.
        """
        models = self.all()
        if name not in models:
            raise ValueError(f"{name}: no such model; there are {', '.join(models)}.")
        return models[name]

    def _read(self) -> dict[str, Any]:
        path = self.folder / _LIST
        if not path.is_file():
            return {"current": SHIPPED, "models": []}
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def _write(self, content: dict[str, Any]) -> None:
        write_json(self.folder / _LIST, content)
