"""MONAI Label's web application, with its requests in threads, clear answers to errors, and its security gaps closed.

This module closes the following gaps of MONAI Label: its check of tokens does not work with PyJWT 2 (no token is ever
valid); anybody can reload the app, and an annotator can overwrite the weights; every page that is open in the
annotator's browser may send requests to the server; archives that a client sends may be unpacked anywhere; and its own
pages load scripts and fonts from other sites.
"""

from __future__ import annotations

import errno
import json
import logging
import tarfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
from fastapi import Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user, oauth2_scheme
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medseg_monai.apps.label.serve import is_loopback
from medseg_monai.errors import explain

from .workers import answer_in_threads

__all__ = ["app"]

_LOGGER = logging.getLogger(__name__)

#: signatures that only the realm can make; a signature with a shared secret, or none, proves nothing
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

_LEEWAY_S = 10  # the realm's clock may differ from ours by this much

#: what a browser may load for our pages: OHIF requests fonts from Google while patients' images are open
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"

#: here MONAI Label would overwrite or move the weights in use (use ``POST /train/`` for another model), load the app
#: again, or open any image of the server as a slide
_MODEL = f"{settings.MONAI_LABEL_API_STR}/model/"
_SLIDES = f"{settings.MONAI_LABEL_API_STR}/infer/wsi"
_CLOSED = (("PUT", _MODEL), ("DELETE", _MODEL), ("POST", "/reload"), ("POST", _SLIDES))

_READING = ("GET", "HEAD", "OPTIONS")

#: a file comes as a part of a form, which is not held in memory; anything else is a few numbers and names
_FORM = "multipart/"
_LARGEST_BODY = 2**20

#: the names of files that a request asks for can lead to these; other errors of the system are not its fault
_OF_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


class _Guard:
    """Refuses forbidden requests before anything else handles them, and restricts browsers to this server."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def send_policy(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        answer = _refusal(scope) if scope["type"] == "http" else None
        await (answer or self.app)(scope, _limited(scope, receive, lambda: answered), send_policy)


def _limited(scope: Scope, receive: Receive, is_answered: Callable[[], bool]) -> Receive:
    """Refuse a body that has become larger than it may be; one that no answer has waited for does not matter."""
    if scope["type"] != "http" or Headers(scope=scope).get("content-type", "").startswith(_FORM):
        return receive
    size = 0

    async def receive_some() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > _LARGEST_BODY and not is_answered():
            while message.get("more_body"):  # a client listens only when it has sent all
                message = await receive()
            raise HTTPException(413, f"A body of more than {_LARGEST_BODY} bytes; send files as parts of a form.")
        return message

    return receive_some


def _refusal(scope: Scope) -> JSONResponse | None:
    """The answer to a request that is refused; ``None`` if it is passed on."""
    for method, closed in _CLOSED:
        if scope["method"] == method and scope["path"].startswith(closed):
            return _answer(403, f"{method} {closed} is closed in this server.")
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if scope["method"] not in _READING and _is_from_elsewhere(headers):
        detail = "Sent by a page of another site; a proxy in front of the server must send X-Forwarded-Host."
        return _answer(403, detail)
    if headers.get("content-length", "0") != "0" and "content-type" not in headers:
        return _answer(415, "A body without Content-Type; say what it is.")
    # another site can let its own name point to this machine, and its pages then count as ours
    if not settings.MONAI_LABEL_AUTH_ENABLE and not is_loopback(_host_name(host)):
        detail = f"Host: {host} is not this machine; a proxy in front of the server must send Host: 127.0.0.1."
        return _answer(400, detail)
    return None


def _is_from_elsewhere(headers: Headers) -> bool:
    """Whether a page that is not ours sent a request; programs send neither of the headers that tell it."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    # a page cannot set X-Forwarded-Host without a leave that nobody gets
    own = (headers.get("host"), headers.get("x-forwarded-host"))
    return origin is not None and origin.partition("://")[2] not in own


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _answer(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in one line of Unicode, whatever the names in it are."""
    line = " ".join(str(detail).encode("utf-8", "backslashreplace").decode().splitlines())
    return JSONResponse({"detail": line}, status, headers)


async def _tell_http(request: Request, error: Any) -> JSONResponse:
    return _answer(error.status_code, error.detail, error.headers)


async def _tell(request: Request, error: Any) -> JSONResponse:
    missing = isinstance(error, (ImageNotFoundException, LabelNotFoundException))
    return _answer(404 if missing else 400, error.msg)


async def _tell_json(request: Request, error: Any) -> JSONResponse:
    return _answer(400, f"params or body: not JSON ({error}).")


async def _tell_invalid(request: Request, error: Any) -> JSONResponse:
    """What is wrong with a request, without what it holds: JSON cannot give everything back."""
    faults = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
    return _answer(422, "; ".join(faults))


async def _tell_mistake(request: Request, error: Any) -> JSONResponse:
    """Answer to a name or a value in a request that Python or a library refuses, wherever that was."""
    _LOGGER.warning("%s %s: refused", request.method, request.url.path, exc_info=error)
    return _answer(422, explain(error))


async def _tell_os_error(request: Request, error: Any) -> JSONResponse:
    """Answer to an error of the operating system, without the path of the server that it names."""
    detail = error.strerror or explain(error)
    if error.errno in _OF_NAMES:
        status = 422
    elif isinstance(error, FileNotFoundError) and not Path(str(error.filename)).parent.name:  # nvidia-smi
        status, detail = 404, f"{error.filename}: no such program here"
    else:
        status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500
    _LOGGER.warning("%s %s: %d", request.method, request.url.path, status, exc_info=error)
    return _answer(status, detail)


async def _tell_fault(request: Request, error: Any) -> JSONResponse:
    """Answer to a fault in the program, which the log has whole."""
    return _answer(500, f"A fault in the server, see its log: {type(error).__name__}.")


async def _tell_other(request: Request, error: Any) -> JSONResponse:
    """Answer to an error of a server that this one uses: the realm or the DICOMweb server."""
    answer = error.response
    if request.url.path.endswith("/auth/token") and answer is not None and answer.status_code in (400, 401, 403):
        return _answer(401, "Incorrect username or password")
    return _answer(502, f"A server behind this one does not answer ({error}).")


@lru_cache
def _realm() -> tuple[str, jwt.PyJWKClient]:
    """The issuer of the tokens and its public keys, which are requested again every few minutes."""
    timeout = settings.MONAI_LABEL_AUTH_TIMEOUT
    address = settings.MONAI_LABEL_AUTH_REALM_URI.rstrip("/") + "/.well-known/openid-configuration"
    response = requests.get(address, timeout=timeout)
    response.raise_for_status()
    found = response.json()
    return found["issuer"], jwt.PyJWKClient(found["jwks_uri"], timeout=timeout)


def _current_user(token: str = Depends(oauth2_scheme)) -> User:
    """The user of a token that the realm has issued for this server and that is still valid."""
    try:
        issuer, keys = _realm()
        claims = jwt.decode(
            token,
            keys.get_signing_key_from_jwt(token),
            algorithms=_ALGORITHMS,
            issuer=issuer,
            leeway=_LEEWAY_S,
            # Keycloak states the client in azp, others in aud: _is_for_us checks both
            options={"require": ["exp", "iss"], "verify_aud": False},
        )
    except (requests.RequestException, jwt.PyJWKClientConnectionError, KeyError) as error:
        raise HTTPException(503, f"The realm that issues tokens does not answer ({error}).") from error
    except jwt.PyJWTError as error:
        raise _refused(str(error)) from error
    name = claims.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME)
    if not _is_for_us(claims) or not isinstance(name, str):
        raise _refused("not issued to a user of this server")
    return User(
        username=name,
        email=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
        name=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME),
        roles=_roles(claims),
    )


def _is_for_us(claims: dict[str, Any]) -> bool:
    audience = claims.get("aud", [])
    named = [audience] if isinstance(audience, str) else audience
    return settings.MONAI_LABEL_AUTH_CLIENT_ID in (*named, claims.get("azp"))


def _roles(claims: Any) -> list[str]:
    """The roles in a token, at the place that MONAI Label's settings name."""
    for key in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        claims = claims.get(key) if isinstance(claims, dict) else None
    return [str(role) for role in claims] if isinstance(claims, list) else []


def _refused(why: str) -> HTTPException:
    return HTTPException(401, f"Token refused: {why}", headers={"WWW-Authenticate": "Bearer"})


def _start_page() -> RedirectResponse:
    """The start page, in place of MONAI Label's page on its API, which loads a script from another site."""
    return RedirectResponse("/ohif/" if settings.MONAI_LABEL_STUDIES.startswith("http") else "/info/")


tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)  # for the archives that clients send

# MONAI Label permits requests from every page that is open in the annotator's browser; its own pages need no permission
app.user_middleware[:] = [one for one in app.user_middleware if one.cls is not CORSMiddleware]
app.add_middleware(_Guard)
app.add_exception_handler(StarletteHTTPException, _tell_http)
app.add_exception_handler(MONAILabelException, _tell)
app.add_exception_handler(json.JSONDecodeError, _tell_json)
app.add_exception_handler(RequestValidationError, _tell_invalid)
app.add_exception_handler(requests.RequestException, _tell_other)
app.add_exception_handler(OSError, _tell_os_error)
for mistake in (ValueError, OverflowError, RecursionError):
    app.add_exception_handler(mistake, _tell_mistake)
app.add_exception_handler(Exception, _tell_fault)
answer_in_threads()
app.router.routes[:] = [one for one in app.router.routes if getattr(one, "path", None) not in ("/", "/docs")]
app.add_api_route("/", _start_page, include_in_schema=False)
if settings.MONAI_LABEL_AUTH_ENABLE:
    app.dependency_overrides[get_current_user] = _current_user
