"""Replacements for functions of MONAI Label that answer wrongly, or that take what they cannot use."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import mimetypes
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import FileResponse
from monailabel.endpoints import activelearning, datastore, infer, ohif, proxy, session
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks import utils as background
from monailabel.utils.async_tasks.task import AsyncTask
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile

from .dicomweb import DicomWebStudies
from .infer import SEG_EXTENSION
from .proxy import pass_on
from .uploads import check_file_name, read_params

__all__ = ["answer_with_dicom", "check_requests"]

_LOGGER = logging.getLogger(__name__)

_run_inference = infer.run_inference
_download_image = datastore.download_image
_download_dataset_archive = datastore.download_dataset
_get_ohif_file = ohif.get_ohif
_run_task, _kill_task = AsyncTask.run, AsyncTask.stop
_in_background = background._task_func

#: where the state of a task is told
_STATES = {"train": "/train/", "batch_infer": "/batch/infer", "scoring": "/scoring/"}

_STARTING = threading.Lock()

#: what the address of a request says, and the server itself; params that say it too are left out
_NOT_FOR_PARAMS = ("image", "label", "model", "session")

#: what the server itself remembers of an image
_OWN = re.compile("strategy$|uncertainty_")

_CHECKED = (
    (infer, "run_inference"),
    (datastore, "add_image"),
    (datastore, "save_label"),
    (datastore, "update_image_info"),
    (datastore, "update_label_info"),
    (activelearning, "sample"),
    (session, "create_session"),
)


def check_requests() -> None:
    """Check files and params before MONAI Label uses them, and start no task while another of its kind is unfinished.

    MONAI Label itself fails with 500 for params that are no object, keeps the files of requests that fail, and counts a
    task as running only some time after it has accepted it.
    """
    for module, name in _CHECKED:
        setattr(module, name, _checked(getattr(module, name)))
    ohif.get_ohif = _get_ohif
    AsyncTask.run = staticmethod(_start_task)
    AsyncTask.stop = staticmethod(_stop_task)
    background._task_func = _task_to_its_end


def answer_with_dicom() -> None:
    """Let ``/infer/`` answer ``output=dicom_seg`` with the bundle's own SEG, and ``/datastore/image`` with a series.

    MONAI Label would convert the mask to a SEG with its own program, which names segments by their order among those
    that occur and does not support an empty mask, and it would have no file to send for a folder of slices. The proxy
    for OHIF becomes :func:`~.proxy.pass_on`. The archive of all images and labels is deleted when it has been sent.
    """
    mimetypes.add_type("application/dicom", SEG_EXTENSION)
    infer.run_inference = _infer
    datastore.download_dataset = _download_dataset
    datastore.download_image = _download
    proxy.proxy_dicom = pass_on


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an endpoint that refuses what it cannot use, and leaves no file behind if it fails."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        for key in given.keys() & {"params", "info"}:
            params = read_params(given[key])
            if function.__name__.endswith("image_info") and (own := [one for one in params if _OWN.match(one)]):
                raise HTTPException(422, f"info: {', '.join(own)}: the server's own; leave it out.")
        several = given.get("files", [])  # these keep their names; MONAI Label would put one without elsewhere
        if not all(file.filename for file in several):
            raise HTTPException(422, "A file without a name; give it one.")
        for file in [given.get("file"), given.get("label"), *several]:
            if isinstance(file, UploadFile):
                check_file_name(file)
        try:
            return function(*args, **kwargs)
        except Exception:
            for task in getattr(given.get("background_tasks"), "tasks", ()):
                task.func(*task.args, **task.kwargs)  # they delete files, and run only after an answer
            raise

    return checked


def _get_ohif(path: str) -> Any:
    if path and Path(ohif.__file__).with_name("static").joinpath("ohif", path).is_dir():
        raise HTTPException(404, f"{path}: a folder.")
    return _get_ohif_file(path)


def _start_task(
    method: str, request: Any = None, params: Any = None, force_sync: bool = False, enqueue: bool = False
) -> Any:
    app_instance().check_task(method, {**(request or {}), **read_params(params)})
    if force_sync:
        raise HTTPException(422, f"run_sync: ask without it, and for the state of the task by GET {_STATES[method]}.")
    with _STARTING:
        unfinished = [task for task in background.tasks(method) if task["status"] in ("SUBMITTED", "RUNNING")]
        if unfinished and not enqueue:
            return None, f"{method}: one is running already; wait for its end, or stop it."
        if method == "train" and not unfinished and (other := app_instance().other_training()):
            raise HTTPException(429, f"{method}: {other}")
        return _run_task(method, request, params, False, enqueue)


def _stop_task(method: str) -> Any:
    """Stop a task, and wait until it has gone: it may hold the folder of the models."""
    running = list(background.processes(method).values())
    stopped = _kill_task(method)
    for process in running:
        process.wait()
    return stopped


def _task_to_its_end(task: dict[str, Any], method: str, callback: Any = None) -> None:
    """A task that cannot be started has ended: otherwise it would count as submitted for ever."""
    try:
        _in_background(task, method, callback)
    except Exception:
        _LOGGER.exception("%s: the task could not be run", method)
        task["status"] = "ERROR"


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
    """Inference; a label that comes along is for models that take scribbles, and no bundle does."""
    if not (file or image or session_id):
        raise HTTPException(400, "No image: name one with image=, or send one as file.")
    options = {key: value for key, value in read_params(params).items() if key not in _NOT_FOR_PARAMS}
    if output == infer.ResultType.dicom_seg:
        options["result_extension"] = SEG_EXTENSION
        output = infer.ResultType.image
    ask = functools.partial(_run_inference, background_tasks, model)
    if not file:
        return ask(image, session_id, json.dumps(options), None, None, output)
    with app_instance().uploads.keep(file) as name:
        return ask(name, "", json.dumps(options), None, None, output)


def _download(image: str, check_only: bool = False, check_sum: str | None = None) -> Any:
    studies = app_instance().datastore()
    if not isinstance(studies, DicomWebStudies):
        return _download_image(image, check_only, check_sum)
    file = studies.image_file(image)
    if not file:
        raise HTTPException(404, f"{image}: no such series in {studies.name()}.")
    return {} if check_only else FileResponse(file, filename=Path(file).name)


def _download_dataset(limit_cases: int | None = None) -> Any:
    if not app_instance().datastore().datalist():
        raise HTTPException(404, "No image has a label with the tag final.")
    answer = _download_dataset_archive(limit_cases)
    answer.background = BackgroundTask(Path(answer.path).unlink)
    return answer
