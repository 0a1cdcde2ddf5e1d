"""Reports of runs and tables of results."""

from .lobe_table import lobe_table, severity_score, write_lobe_csv, write_lobe_json
from .run_report import CaseReport, RunReport, installed_versions
from .table import format_table

__all__ = [
    "CaseReport",
    "RunReport",
    "format_table",
    "installed_versions",
    "lobe_table",
    "severity_score",
    "write_lobe_csv",
    "write_lobe_json",
]
