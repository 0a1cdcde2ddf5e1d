"""MONAI Label's web application, with an answer where it would only say that something went wrong."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException

__all__ = ["app"]


async def _tell(request: Request, error: Any) -> JSONResponse:
    missing = isinstance(error, (ImageNotFoundException, LabelNotFoundException))
    return JSONResponse({"detail": error.msg}, status_code=404 if missing else 400)


async def _tell_json(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"detail": f"params or body: no JSON ({error})."}, status_code=400)


# MONAI Label lets every page that is open in the annotator's browser ask its server; its own pages need no permission
app.user_middleware[:] = [one for one in app.user_middleware if one.cls is not CORSMiddleware]
app.add_exception_handler(MONAILabelException, _tell)
app.add_exception_handler(json.JSONDecodeError, _tell_json)
