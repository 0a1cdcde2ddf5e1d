"""Reports of runs and tables of results."""

from .run_report import CaseReport, RunReport, installed_versions
from .table import format_table

__all__ = ["CaseReport", "RunReport", "format_table", "installed_versions"]
