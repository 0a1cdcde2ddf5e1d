"""MONAI Label as its container starts it, over the Orthanc of its container."""

from __future__ import annotations

import json
import urllib.request

import pytest

from medseg_monai.bundle import find_bundle, list_bundles

from .conftest import Started

pytestmark = pytest.mark.label


def ask(server: Started, path: str) -> object:
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        return json.loads(answer.read())


def test_the_bundles_that_have_weights_are_served(label_server: Started):
    served = ask(label_server, "/info/")["models"]
    assert set(served) == {name for name in list_bundles() if (find_bundle(name) / "models" / "model.pt").is_file()}


def test_the_images_of_orthanc_are_listed_with_the_password_that_it_asks_for(label_server: Started):
    assert ask(label_server, "/datastore/?output=all")["objects"] == {}


def test_what_the_server_writes_lies_in_its_volume(label_server: Started):
    assert (label_server.folder / "label" / "app" / "main.py").is_file()
    assert (label_server.folder / "dicom").is_dir()
