"""Passing OHIF's requests on to the DICOMweb server.

MONAI Label's own function drops the query, so that every search finds all studies. It also lets a path with dots leave
the DICOMweb address and reach other resources of the archive, and it blocks all other clients in the meantime.
"""

from __future__ import annotations

from urllib.parse import quote

import requests
from fastapi import HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings
from starlette.concurrency import run_in_threadpool

__all__ = ["pass_on"]

#: the resources of DICOMweb below its address; an archive may have more there, such as its own commands
_RESOURCES = ("studies", "series", "instances")
_STORED_IN = "studies"

_TIMEOUT_S = (5.0, 60.0)
_CHUNK = 2**16


async def pass_on(request: Request, op: str, path: str) -> Response:
    """Pass a request on to the DICOMweb server, with the user and password in the settings.

    Args:
        request: the client's request.
        op: ``qido``, ``wado``, ``stow`` or empty; it selects one of MONAI Label's settings for a prefix.
        path: the requested path, below the DICOMweb address.

    Returns:
        the server's answer; addresses in JSON are those of this proxy.

    Raises:
        HTTPException: 404 for a path that is not part of DICOMweb, or if the studies are a folder; 502 if the server
            does not answer.
    """
    studies = settings.MONAI_LABEL_STUDIES.rstrip("/")
    parts = path.split("/")
    allowed = (_STORED_IN,) if request.method == "POST" else _RESOURCES
    if not studies.startswith(("http://", "https://")) or parts[0] not in allowed or {".", ".."} & set(parts):
        raise HTTPException(404, f"{path}: DICOMweb servers have no such resource.")
    prefixes = {
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    prefix = prefixes.get("wado" if op == "qido" and parts[-1] == "metadata" else op)
    address = "/".join([studies, *([prefix] if prefix else []), *(quote(part) for part in parts)])
    own = f"{str(request.base_url).rstrip('/')}/proxy/dicom/wado"
    return await run_in_threadpool(_answer, request, address, await request.body(), (studies, own))


def _answer(request: Request, address: str, body: bytes, addresses: tuple[str, str]) -> Response:
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    try:
        answer = requests.request(
            request.method,
            address,
            params=request.url.query,
            headers={name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers},
            data=body or None,
            auth=(user, password) if user and password else None,
            stream=True,
            timeout=_TIMEOUT_S,
            allow_redirects=False,
        )
        headers = {"Content-Type": answer.headers.get("Content-Type", "application/octet-stream")}
        if "json" in headers["Content-Type"]:
            theirs, own = (f'"{one}/'.encode() for one in addresses)
            return Response(answer.content.replace(theirs, own), answer.status_code, headers)
    except requests.RequestException as error:
        line = f"{addresses[0]}: the DICOMweb server does not answer ({type(error).__name__})."
        raise HTTPException(502, line) from error
    return StreamingResponse(answer.iter_content(_CHUNK), answer.status_code, headers)
