"""Logging in, against a realm in this process that issues tokens as Keycloak does, and what is shut without it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs

import pytest

from medseg_monai.apps.label import serve

from .conftest import CXR, Answer, Server, start_server, stop_server

jwt = pytest.importorskip("jwt")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")

pytestmark = pytest.mark.label

ROLES = [f"monailabel-{role}" for role in ("admin", "reviewer", "annotator", "user")]

#: addresses that MONAI Label leaves out of its list
HIDDEN = f"""
GET /ohif/
GET /ohif/app-config.js
GET /proxy/dicom/qido/studies
GET /proxy/dicom/wado/studies/1.2.3
POST /proxy/dicom/stow/studies
GET /proxy/dicom/studies
PUT /datastore/
DELETE /datastore/?id=phantom_0001
PUT /datastore/updatelabelinfo?label=phantom_0001&tag=final
POST /scoring/
POST /train/
POST /infer/wsi/{CXR}
"""


class Realm(BaseHTTPRequestHandler):
    """An OpenID realm with one user, one key, and the addresses that MONAI Label and this project ask."""

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    url = ""
    password = "right"

    def do_GET(self) -> None:
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        pages = {
            "/realms/test": {"realm": "test", "public_key": base64.b64encode(public_key()).decode()},
            "/realms/test/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/certs",
                "token_endpoint": f"{self.url}/token",
            },
            "/realms/test/certs": {"keys": [{**jwk, "kid": "one", "use": "sig", "alg": "RS256"}]},
        }
        self._send(200 if self.path in pages else 404, pages.get(self.path, {}))

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if form["password"] == [self.password] and form["client_id"] == ["monailabel-app"]:
            self._send(200, {"access_token": token(), "token_type": "Bearer"})
        else:
            self._send(401, {"error": "invalid_grant"})

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


def public_key(encoding: Any = serialization.Encoding.DER) -> bytes:
    return Realm.key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def claims(**changes: Any) -> dict[str, Any]:
    """What Keycloak says of a user; a change to ``None`` leaves the claim out."""
    now = int(time.time())
    said = {
        "iss": Realm.url,
        "iat": now,
        "exp": now + 300,
        "aud": "account",
        "azp": "monailabel-app",
        "preferred_username": "anna",
        "realm_access": {"roles": ROLES},
        **changes,
    }
    return {key: value for key, value in said.items() if value is not None}


def token(algorithm: str = "RS256", key: Any = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key or Realm.key, algorithm=algorithm, headers={"kid": "one"})


def by_hand(algorithm: str, secret: bytes) -> str:
    """A token that PyJWT refuses to make: signed with nothing, or with the public key as if it were a secret."""
    parts = [{"alg": algorithm, "typ": "JWT", "kid": "one"}, claims()]
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = hmac.new(secret, text, hashlib.sha256).digest() if secret else b""
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@dataclass(frozen=True)
class Guarded:
    server: Server

    def ask(self, method: str, path: str, bearer: str | None = None, **headers: str) -> Answer:
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        request = urllib.request.Request(self.server.url + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return Answer(response.status, response.read())
        except HTTPError as error:
            return Answer(error.code, error.read())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, chest_xrays: Path) -> Iterator[Guarded]:
    """A server at which one has to log in."""
    realm = ThreadingHTTPServer(("127.0.0.1", 0), Realm)
    Realm.url = f"http://127.0.0.1:{realm.server_port}/realms/test"
    threading.Thread(target=realm.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("login")
    shutil.copytree(chest_xrays / "images", folder / "studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
        patch.setenv("MONAI_LABEL_AUTH_REALM_URI", Realm.url)
        server = start_server(folder / "work", folder / "studies", bundles=[CXR])
    yield Guarded(server)
    stop_server(server)
    realm.shutdown()
    realm.server_close()


def test_a_password_gets_a_token_and_the_token_gets_a_mask(guarded: Guarded):
    answer = guarded.server.ask("POST", "/auth/token", username="anna", password="right")
    assert answer.status == 200
    bearer = answer.json["access_token"]
    assert guarded.ask("GET", "/auth/token/valid", bearer).json["username"] == "anna"
    assert guarded.ask("GET", "/info/", bearer).status == 200
    mask = guarded.ask("POST", f"/infer/{CXR}?image=phantom_0001&output=image", bearer)
    assert mask.status == 200
    assert mask.body.startswith(b"\x89PNG")


def test_a_wrong_password_is_refused_and_is_no_fault_of_the_server(guarded: Guarded):
    answer = guarded.server.ask("POST", "/auth/token", username="anna", password="wrong")
    assert (answer.status, answer.detail) == (401, "Incorrect username or password")


def test_a_token_by_a_key_that_another_server_of_the_realm_has_is_no_good(guarded: Guarded):
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert guarded.ask("GET", "/info/", token(key=stranger)).status == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_700_000_000},
        {"exp": None},
        {"iss": "http://127.0.0.1/realms/other"},
        {"iss": None},
        {"azp": "other-app"},
        {"azp": None, "aud": ["account", "other-app"]},
        {"nbf": 4_000_000_000},
        {"preferred_username": None},
    ],
    ids=lambda changes: ",".join(f"{key}={value}" for key, value in changes.items()),
)
def test_a_token_that_is_old_or_meant_for_somebody_else_is_refused(guarded: Guarded, changes: dict[str, Any]):
    answer = guarded.ask("GET", "/info/", token(**changes))
    assert answer.status == 401
    assert answer.detail.startswith("Token refused")


def test_a_token_that_names_this_server_as_its_audience_is_good(guarded: Guarded):
    assert guarded.ask("GET", "/info/", token(azp=None, aud=["account", "monailabel-app"])).status == 200


@pytest.mark.parametrize("kind", ["none", "HS256 by the public key", "no token at all", "cut off"])
def test_a_token_that_anyone_could_have_made_is_refused(guarded: Guarded, kind: str):
    forged = {
        "none": by_hand("none", b""),
        "HS256 by the public key": by_hand("HS256", public_key(serialization.Encoding.PEM)),
        "no token at all": "anna",
        "cut off": token()[:-8],
    }
    assert guarded.ask("GET", "/info/", forged[kind]).status == 401


def test_a_role_opens_what_is_meant_for_it_and_nothing_else(guarded: Guarded):
    user = token(realm_access={"roles": ["monailabel-user"]})
    assert guarded.ask("GET", "/datastore/", user).status == 200
    assert guarded.ask("GET", "/logs/", user).status == 403
    assert guarded.ask("POST", f"/train/{CXR}", user).status == 403
    assert guarded.ask("DELETE", "/datastore/image?id=phantom_0001", user).status == 403
    assert guarded.ask("GET", "/info/", token(realm_access={"roles": ["monailabel-admin"]})).status == 403
    assert guarded.ask("GET", "/info/", token(realm_access=None)).status == 403


def test_without_a_token_every_address_is_shut_but_those_that_hold_nothing_of_a_patient(guarded: Guarded):
    listed = guarded.ask("GET", "/openapi.json").json["paths"]
    asked = [(method.upper(), path) for path, methods in listed.items() for method in methods]
    asked += [tuple(line.split()) for line in HIDDEN.strip().splitlines()]
    assert len(asked) > 40
    answers = {f"{method} {path}": guarded.ask(method, path).status for method, path in asked}
    answered = {address: status for address, status in answers.items() if status != 401}
    closed = {address: status for address, status in answered.items() if status == 403}
    slides = {"POST /infer/wsi_v2/{model}", f"POST /infer/wsi/{CXR}"}
    assert set(closed) == {"PUT /model/{model}", "DELETE /model/{model}", *slides}
    assert set(answered) - set(closed) == {"GET /auth/", "POST /auth/token"}
    assert guarded.ask("GET", "/static/ohif/index.html").status == 200  # the same on every machine


@pytest.mark.parametrize("missing", ["MONAI_LABEL_AUTH_ENABLE", "MONAI_LABEL_AUTH_REALM_URI"])
def test_an_open_address_needs_both_settings(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    monkeypatch.setenv("MONAI_LABEL_AUTH_REALM_URI", "https://realm.example/realms/ward")
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match="without logging in"):
        serve(tmp_path, host="0.0.0.0")


def test_uploads_go_to_a_folder_that_no_other_user_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if key != "TMPDIR"})
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    monkeypatch.setattr(sys.modules[serve.__module__], "_start", lambda arguments: None)
    serve(tmp_path, work_dir=tmp_path / "work", bundles=[CXR])
    folder = Path(tempfile.gettempdir())
    assert folder == tmp_path / "work" / "tmp"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


class TestWithoutLogin:
    """What is shut on 127.0.0.1, where nobody logs in."""

    @pytest.mark.parametrize(("method", "path"), [("PUT", "/model/"), ("DELETE", "/model/"), ("POST", "/reload")])
    def test_weights_and_the_running_app_are_no_client_s_to_change(self, server: Server, method: str, path: str):
        answer = server.ask(method, path + CXR if path == "/model/" else path)
        assert answer.status == 403
        assert server.infer(CXR, "phantom_0001", output="json").status == 200

    @pytest.mark.parametrize("host", ["elsewhere.example", "elsewhere.example:8000", "192.168.1.7", "[", ""])
    def test_a_page_whose_name_was_pointed_to_this_machine_is_refused(self, server: Server, host: str):
        answer = Guarded(server).ask("GET", "/info/", Host=host)
        assert answer.status == 400
        assert "not this machine" in answer.detail

    @pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
    def test_this_machine_is_asked_by_each_of_its_names(self, server: Server, host: str):
        assert Guarded(server).ask("GET", "/info/", Host=host).status == 200

    def test_browsers_are_told_to_load_nothing_from_elsewhere(self, server: Server):
        for path in ("/ohif/", "/info/", "/absent"):
            request = urllib.request.Request(server.url + path)
            try:
                headers = urllib.request.urlopen(request, timeout=60).headers
            except HTTPError as error:
                headers = error.headers
            assert headers["Content-Security-Policy"].startswith("default-src 'self'")
            assert "http" not in headers["Content-Security-Policy"]
