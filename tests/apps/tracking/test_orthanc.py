"""Orthanc with the configuration of its container."""

from __future__ import annotations

import base64
import json
import urllib.request
from urllib.error import HTTPError

import pytest

from .conftest import PASSWORDS, Started

pytestmark = pytest.mark.label


def ask(orthanc: Started, path: str, password: str | None) -> tuple[int, bytes]:
    headers = {"Accept": "application/dicom+json"} if path.startswith("/dicom-web") else {}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"medseg:{password}".encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(orthanc.url + path, headers=headers), timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def test_dicomweb_answers_whoever_has_the_password_of_the_environment(orthanc: Started):
    status, body = ask(orthanc, "/dicom-web/studies", PASSWORDS["ORTHANC_PASSWORD"])
    assert (status, json.loads(body)) == (200, [])
    status, body = ask(orthanc, "/system", PASSWORDS["ORTHANC_PASSWORD"])
    assert (status, json.loads(body)["Name"]) == (200, "medseg-monai")


@pytest.mark.parametrize("path", ["/dicom-web/studies", "/system", "/app/explorer.html"])
@pytest.mark.parametrize("password", [None, "", "wrong", "${ORTHANC_PASSWORD}"])
def test_nobody_else_is_answered(orthanc: Started, path: str, password: str | None):
    assert ask(orthanc, path, password)[0] == 401


def test_the_health_check_looks_through_the_door(orthanc: Started):
    assert orthanc.is_well()
    assert not orthanc.is_well(ORTHANC_PASSWORD="wrong")
