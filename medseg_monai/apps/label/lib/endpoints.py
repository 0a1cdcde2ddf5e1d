"""Replacements for answers of MONAI Label that are wrong for DICOM."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import FileResponse
from monailabel.endpoints import datastore, infer, proxy
from monailabel.interfaces.utils.app import app_instance

from .dicomweb import DicomWebStudies
from .infer import SEG_EXTENSION
from .proxy import pass_on

__all__ = ["answer_with_dicom"]

_run_inference = infer.run_inference
_download_image = datastore.download_image


def answer_with_dicom() -> None:
    """Let ``/infer/`` answer ``output=dicom_seg`` with the bundle's own SEG, and ``/datastore/image`` with a series.

    MONAI Label would convert the mask to a SEG with its own program, which names segments by their order among those
    that occur and does not support an empty mask, and it would have no file to send for a folder of slices. The proxy
    for OHIF becomes :func:`~.proxy.pass_on`.
    """
    mimetypes.add_type("application/dicom", SEG_EXTENSION)
    infer.run_inference = _infer
    datastore.download_image = _download
    proxy.proxy_dicom = pass_on


def _infer(
    background_tasks: Any,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = "{}",
    file: Any = None,
    label: Any = None,
    output: Any = None,
) -> Any:
    if output == infer.ResultType.dicom_seg:
        params = json.dumps({**json.loads(params or "{}"), "result_extension": SEG_EXTENSION})
        output = infer.ResultType.image
    return _run_inference(background_tasks, model, image, session_id, params, file, label, output)


def _download(image: str, check_only: bool = False, check_sum: str | None = None) -> Any:
    studies = app_instance().datastore()
    if not isinstance(studies, DicomWebStudies):
        return _download_image(image, check_only, check_sum)
    file = studies.image_file(image)
    if not file:
        raise HTTPException(404, f"{image}: no such series in {studies.name()}.")
    return {} if check_only else FileResponse(file, filename=Path(file).name)
