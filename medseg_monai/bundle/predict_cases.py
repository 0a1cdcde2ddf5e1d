"""Many cases through one predictor; a case that fails never stops the others."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

import medseg_monai
from medseg_monai.data.datalist import Item
from medseg_monai.data.inputs import FoundCases
from medseg_monai.data.names import NAME_KEY, case_name, name_cases
from medseg_monai.data.readers.fingerprint import input_sha256
from medseg_monai.data.results.save import PartlySavedError, save_all
from medseg_monai.errors import explain
from medseg_monai.files import REPORT_FILES, file_sha256, locked_folder, refuse_given, remove_leftovers, same_place
from medseg_monai.networks.weights.model_file import settings_file
from medseg_monai.report import CaseReport, RunReport, installed_versions

from .attention import FOLDER, check_attention, save_attention
from .given import refuse_folders_of_inputs
from .predictor import Prediction, Predictor

__all__ = ["predict_cases"]


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Item],
    output_dir: str | os.PathLike[str],
    *,
    skip_existing: bool = False,
    attention: bool = False,
) -> RunReport:
    """Predict cases one after the other, and write each prediction and a report.

    The folder is locked meanwhile, and what a killed run left half-written in it is removed.

    A result that cannot be written does not keep the others of its case from being written; the case is ``partial``
    then, and ``skip_existing`` predicts it again. What the package warns of during a case is in its report.

    Args:
        predictor: the loaded bundle.
        cases: items with ``image``; those without a ``name`` get one (:func:`medseg_monai.data.names.name_cases`). The
            report lists what finding them left out.
        output_dir: folder for predictions, ``report.json`` and ``report.csv``.
        skip_existing: keep the predictions that the ``report.json`` of an earlier run lists as complete, if they were
            made with the same versions of package and bundle, the same weights and settings, and if neither the input
            nor a file that was written has changed since, by their SHA-256. All others are predicted again.
        attention: draw the coefficients of the network's attention gates, see :func:`.attention.save_attention`.

    Returns:
        the report; ``report.failed`` lists the cases that failed.

    Raises:
        ValueError: ``output_dir`` (or its folder of drawings) holds something that was given, which a result could
            replace: an image, also through a link, a file of a DICOM series, an infection mask, the weights. Names that
            differ in upper and lower case alone, where ``output_dir`` ignores these. ``attention`` is set for a
            network without attention gates.
        BlockingIOError: another prediction is writing into ``output_dir``; the message says which.
        OSError: ``output_dir`` cannot be written.

    Example:
        >>> import tempfile
        >>> from medseg_monai.bundle import Predictor, predict_cases
        >>> from medseg_monai.data import find_radiographs
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> predictor = Predictor("lung_cxr_rescrnet", overrides={"fast": False})  # loads sooner, predicts slower
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_chest_xray_phantoms(folder, counts={"test": 2}, size=(64, 80), seed=0)
        ...     report = predict_cases(predictor, find_radiographs(f"{folder}/images"), f"{folder}/masks")
        >>> [case.status for case in report.cases], report.failed
        (['ok', 'ok'], [])
    """
    folder = Path(output_dir)
    described = _describe(predictor) | ({"attention": True} if attention else {})
    described |= {"left_out": cases.left_out} if isinstance(cases, FoundCases) else {}
    report = RunReport(folder, run=described)
    cases = name_cases(cases)
    _refuse_inputs(predictor, cases, folder, attention=attention)
    if attention:
        check_attention(predictor)
    with locked_folder(folder, "a prediction"):
        remove_leftovers(folder / FOLDER)
        _predict_all(predictor, cases, report, skip_existing=skip_existing, attention=attention)
    return report


def _predict_all(
    predictor: Predictor, cases: Sequence[Item], report: RunReport, *, skip_existing: bool, attention: bool
) -> None:
    kept = _kept(predictor, cases, report.complete_before()) if skip_existing else {}
    report.cases += [kept[str(case["image"])] for case in cases if str(case["image"]) in kept]
    report.write()  # fails before the first case is computed if the output folder cannot be written
    _refuse_one_file(cases, report.output_dir)
    missing = [case for case in cases if str(case["image"]) not in kept]
    for case in tqdm(missing, desc="predicting", unit="case", disable=None):
        report.add(_predict_case(predictor, case, report.output_dir, attention=attention))


def _refuse_inputs(predictor: Predictor, cases: Sequence[Item], folder: Path, *, attention: bool) -> None:
    """Refuse an output folder in which a result would replace something that was given."""
    refuse_folders_of_inputs([folder, folder / FOLDER] if attention else [folder], cases, _given_folders(predictor))
    weights = [predictor.checkpoint, settings_file(predictor.checkpoint)]
    refuse_given([folder / name for name in REPORT_FILES], weights, "give another folder for the results")


def _given_folders(predictor: Predictor) -> list[Path]:
    """The folders among the settings, such as that of infection masks."""
    given = [value for value in predictor.settings.values() if isinstance(value, (str, os.PathLike))]
    return [Path(value) for value in given if os.path.isdir(value)]


def _kept(predictor: Predictor, cases: Sequence[Item], complete: Mapping[str, CaseReport]) -> dict[str, CaseReport]:
    """The complete cases whose inputs are still what they were predicted from."""
    recorded = [case for case in cases if str(case["image"]) in complete]
    kept = {}
    for case in tqdm(recorded, desc="comparing", unit="case", disable=None):
        earlier = complete[str(case["image"])]
        if earlier.input_sha256 and _input_sha256(predictor, case) == earlier.input_sha256:
            kept[earlier.input] = earlier
    return kept


def _input_sha256(predictor: Predictor, case: Item) -> str:
    """SHA-256 of what is read for a case: its image, and what folders among the settings have under its name."""
    try:
        beside = [
            path
            for folder in _given_folders(predictor)
            for path in sorted(folder.iterdir())
            if path.is_file() and case_name(path) == case[NAME_KEY]
        ]
        return input_sha256([case["image"], *beside])
    except (OSError, ValueError):  # whoever reads it next says what is wrong
        return ""


def _refuse_one_file(cases: Sequence[Item], folder: Path) -> None:
    """Refuse names that differ in upper and lower case alone where the file system takes these for the same."""
    report = folder / REPORT_FILES[0]
    if not same_place(report, report.with_name(report.name.upper())):
        return
    first: dict[str, Item] = {}
    for case in cases:
        other = first.setdefault(case[NAME_KEY].lower(), case)
        if other is not case:
            raise ValueError(
                f"{other['image']} and {case['image']}: both predictions would be one file in {folder}, where upper "
                "and lower case are the same; predict them into two folders."
            )


def _predict_case(predictor: Predictor, case: Item, folder: Path, *, attention: bool) -> CaseReport:
    with _Warnings() as warned:
        report = _attempt(predictor, case, folder, attention=attention)
    return replace(report, warnings=list(dict.fromkeys(warned.messages)))


def _attempt(predictor: Predictor, case: Item, folder: Path, *, attention: bool) -> CaseReport:
    start = time.perf_counter()
    image, read = str(case["image"]), _input_sha256(predictor, case)
    try:
        prediction = predictor(case)
        predicted = time.perf_counter()
        outputs, missing = _save(predictor, prediction, folder, attention=attention)
        written = [file_sha256(path) for path in outputs]
    except Exception as error:  # the next case must be predicted, whatever happened to this one
        seconds = time.perf_counter() - start
        told = f"{type(error).__name__}: {explain(error)}"
        return CaseReport(image, [], "failed", seconds, 0.0, told, input_sha256=read)
    end = time.perf_counter()
    return CaseReport(
        image,
        outputs,
        ("partial" if outputs else "failed") if missing else "ok",
        end - start,
        prediction.peak_memory_mib,
        missing,
        phases={**prediction.phases, "writing": end - predicted},
        input_sha256=read,
        output_sha256=written,
    )


def _save(predictor: Predictor, prediction: Prediction, folder: Path, *, attention: bool) -> tuple[list[str], str]:
    """Write all that can be written: the files, and why others are missing."""
    steps: list[tuple[str, Callable[[], Sequence[Path]]]] = [("results", partial(predictor.save, prediction, folder))]
    if attention:
        steps.append(("attention", lambda: [save_attention(predictor, prediction, folder)]))
    try:
        return [str(path) for path in save_all(steps)], ""
    except PartlySavedError as error:
        return [str(path) for path in error.files], str(error)


class _Warnings(logging.Handler):
    """Collects what the package warns of while a case is predicted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def __enter__(self) -> Self:
        logging.getLogger(medseg_monai.__name__).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(medseg_monai.__name__).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of a record."""
        self.messages.append(record.getMessage())


def _describe(predictor: Predictor) -> dict[str, Any]:
    metadata = predictor.workflow.parser.config["_meta_"]
    return {
        "bundle": metadata["name"],
        "bundle_version": metadata["version"],
        "config_sha256": predictor.config_sha256,
        "model": str(predictor.checkpoint),
        "model_sha256": predictor.model_sha256,
        "model_settings": predictor.model_file.settings,
        "network": predictor.network_facts,
        "settings": predictor.settings,
        "device": str(predictor.device),
        "versions": installed_versions(),
    }
