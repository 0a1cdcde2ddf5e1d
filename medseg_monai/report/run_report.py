"""The report of a prediction run: one line per case, written after each case."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medseg_monai.files import write_csv, write_json

__all__ = ["CaseReport", "RunReport", "installed_versions"]

_DECIDING = ("bundle", "bundle_version", "model_sha256", "model_settings", "settings", "attention")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a prediction.

    Example:
        >>> from medseg_monai.report import installed_versions
        >>> sorted(installed_versions())
        ['medseg-monai', 'monai', 'numpy', 'python', 'torch']
    """
    found = {"python": platform.python_version()}
    for package in ("medseg-monai", "monai", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _all_there(outputs: list[str]) -> bool:
    return bool(outputs) and all(Path(path).is_file() for path in outputs)


@dataclass(frozen=True)
class CaseReport:
    """The outcome of one case.

    Attributes:
        input: path of the image.
        outputs: files that were written; none if the case failed.
        status: ``"ok"``, ``"partial"`` (some results could not be written; ``outputs`` are the others) or ``"failed"``.
        seconds: wall time, including reading and writing.
        peak_memory_mib: peak memory in MiB, of the accelerator or, without one, of the process so far.
        error: one line; empty if all went well.
        phases: wall time in seconds by phase; only in ``report.json``.
        warnings: what was doubtful in the input or repaired, a line each.

    Example:
        >>> from medseg_monai.report import CaseReport
        >>> CaseReport("a.png", ["masks/a.png"], "ok", seconds=0.5, peak_memory_mib=800.0).error
        ''
    """

    input: str
    outputs: list[str]
    status: str
    seconds: float
    peak_memory_mib: float
    error: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class RunReport:
    """The report of one run, kept in ``report.json`` and ``report.csv``.

    Attributes:
        output_dir: folder of the two files.
        run: facts that apply to all cases: bundle, versions, model hash, network, device.
        cases: reports so far.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.report import CaseReport, RunReport
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = RunReport(Path(folder), run={"bundle": "lung_cxr_rescrnet"})
        ...     report.add(CaseReport("a.png", [], "failed", 0.1, 800.0, error="a.png: truncated"))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['report.csv', 'report.json']
        >>> [case.input for case in report.failed]
        ['a.png']
    """

    output_dir: Path
    run: dict[str, Any]
    cases: list[CaseReport] = field(default_factory=list)

    def add(self, case: CaseReport) -> None:
        """Add a case and rewrite both files, so that an interrupted run has a report too.

        Args:
            case: report of the case.
        """
        self.cases.append(case)
        self.write()

    def complete_before(self) -> dict[str, CaseReport]:
        """The cases that an earlier run with the same bundle, weights and settings completed in this folder.

        Returns:
            input to report; empty if there is no report, or if it cannot be read.
        """
        try:
            earlier = json.loads((self.output_dir / "report.json").read_text(encoding="utf-8"))
            cases = [CaseReport(**case) for case in earlier["cases"]]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        if any(earlier.get(key) != self.run.get(key) for key in _DECIDING):
            return {}
        return {case.input: case for case in cases if case.status == "ok" and _all_there(case.outputs)}

    @property
    def failed(self) -> list[CaseReport]:
        """The cases that failed, in whole or in part."""
        return [case for case in self.cases if case.status != "ok"]

    def as_dict(self) -> dict[str, Any]:
        """The report in the form of the JSON file."""
        counts = Counter(case.status for case in self.cases)
        return {**self.run, "counts": dict(counts), "cases": [asdict(case) for case in self.cases]}

    def write(self) -> None:
        """Write ``report.json`` and ``report.csv``, each all or nothing."""
        write_json(self.output_dir / "report.json", self.as_dict())
        columns = [name for name in CaseReport.__dataclass_fields__ if name != "phases"]
        rows = [
            {**asdict(case), "outputs": os.pathsep.join(case.outputs), "warnings": " | ".join(case.warnings)}
            for case in self.cases
        ]
        write_csv(self.output_dir / "report.csv", rows, columns)
