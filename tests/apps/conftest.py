"""Tests against real servers, which run in an environment of their own."""

from __future__ import annotations

import importlib.util

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "label: needs MONAI Label, in an environment of its own (make test-label)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("monailabel") is None:
        for item in items:
            if item.get_closest_marker("label"):
                item.add_marker(pytest.mark.skip(reason="MONAI Label is not installed here: make test-label"))
