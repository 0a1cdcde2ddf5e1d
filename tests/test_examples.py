"""Whoever asks Python for help on a class or a function of the package sees an example, and each example runs."""

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import medseg_monai

PACKAGE = Path(medseg_monai.__file__).parent

# what the packages export without an example, and why
WITHOUT_EXAMPLE = {
    "medseg_monai.apps.label.serve.serve": "starts a server with MONAI Label, which has an environment of its own",
    "medseg_monai.handlers.run_tracker.RunTracker": "needs a database of MLflow, which takes eight seconds to create",
}


def rooms() -> Iterator[str]:
    """The packages, named by their paths, so that none is imported before a test says which."""
    for file in sorted(PACKAGE.rglob("__init__.py")):
        yield ".".join(("medseg_monai", *file.parent.relative_to(PACKAGE).parts))


def exported() -> dict[str, Any]:
    """What the packages list in ``__all__`` and a user can call, each once, under the name of where it is written."""
    things: dict[str, Any] = {}
    for room in rooms():
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                things[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return things


EXPORTED = exported()


def examples(thing: Any) -> list[doctest.Example]:
    """The examples of a docstring that run."""
    found = doctest.DocTestParser().get_examples(thing.__doc__ or "")
    return [example for example in found if not example.options.get(doctest.SKIP)]


def test_the_rooms_are_found():
    assert len(EXPORTED) > 100
    assert {"medseg_monai.networks.nets.cenet.CENet", "medseg_monai.report.table.format_table"} <= set(EXPORTED)


@pytest.mark.parametrize("name", sorted(EXPORTED.keys() - WITHOUT_EXAMPLE.keys()))
def test_what_a_package_exports_has_an_example(name: str):
    assert examples(EXPORTED[name]), f"{name}: add a section 'Example:' to its docstring that shows a call."


@pytest.mark.parametrize("name", sorted(WITHOUT_EXAMPLE))
def test_the_exceptions_are_exported_and_have_none(name: str):
    assert not examples(EXPORTED[name])
