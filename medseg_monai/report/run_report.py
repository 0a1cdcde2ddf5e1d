"""The report of a prediction run: one line per case, written after each case."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medseg_monai.files import file_sha256, write_csv, write_json

__all__ = ["CaseReport", "RunReport", "installed_versions"]

_DECIDING = ("bundle", "bundle_version", "config_sha256", "model_sha256", "model_settings", "settings", "attention")
#: what only ``report.json`` has, since it helps no reader of a table
_NOT_IN_TABLE = ("phases", "input_sha256", "output_sha256")


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


def _decided_by(run: Mapping[str, Any]) -> list[Any]:
    """What must be equal in two runs for their predictions to be those of one run."""
    return [*(run.get(key) for key in _DECIDING), run.get("versions", {}).get("medseg-monai")]


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
        input_sha256: SHA-256 of what was read for the case, see
            :func:`medseg_monai.data.readers.fingerprint.input_sha256`; empty if it could not be read. Only in
            ``report.json``.
        output_sha256: SHA-256 of each of ``outputs``, in their order; only in ``report.json``.

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
    input_sha256: str = ""
    output_sha256: list[str] = field(default_factory=list)

    def is_whole_in(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the case was completed into a folder, and every file is there as it was written.

        Args:
            folder: the folder of results.
        """
        if self.status != "ok" or not self.outputs or len(self.outputs) != len(self.output_sha256):
            return False
        inside = Path(folder).resolve()
        try:
            return all(
                Path(path).resolve().is_relative_to(inside) and file_sha256(path) == digest
                for path, digest in zip(self.outputs, self.output_sha256, strict=True)
            )
        except OSError:
            return False


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

        Their files are as they were written; whether the inputs are still the same is left to the caller.

        Returns:
            input to report; empty if there is no report, or if it cannot be read.
        """
        try:
            earlier = json.loads((self.output_dir / "report.json").read_text(encoding="utf-8"))
            cases = [CaseReport(**case) for case in earlier["cases"]]
            if _decided_by(earlier) != _decided_by(json.loads(json.dumps(self.run))):  # JSON knows no tuples
                return {}
            return {case.input: case for case in cases if case.is_whole_in(self.output_dir)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

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
        columns = [name for name in CaseReport.__dataclass_fields__ if name not in _NOT_IN_TABLE]
        rows = [
            {**asdict(case), "outputs": os.pathsep.join(case.outputs), "warnings": " | ".join(case.warnings)}
            for case in self.cases
        ]
        write_csv(self.output_dir / "report.csv", rows, columns)
