"""Standard error of the command line: the log of this package and of the libraries below it."""

from __future__ import annotations

import logging
import sys
import warnings

__all__ = ["set_up_logging"]

#: logger of what MONAI tells of each epoch
_PROGRESS = "monai.handlers.StatsHandler"


class _StandardError(logging.Handler):
    """Write the log to what is standard error at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        sys.stderr.write(self.format(record) + "\n")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record says more than the error that ends the command."""
    return not (_is_error(record) and record.name.startswith(("ignite.engine.", _PROGRESS)))


def set_up_logging(*, debug: bool) -> None:
    """Send the log of a command to standard error, a line a record, without what the error that ends it says anyway.

    Args:
        debug: show everything, with tracebacks.

    Example:
        >>> from medseg_monai.streams import set_up_logging
        >>> set_up_logging(debug=False)
    """
    shown = _StandardError()
    shown.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    if not debug:
        shown.addFilter(_is_news)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[shown])
    logging.getLogger("medseg_monai").setLevel(logging.DEBUG if debug else logging.INFO)
    # MONAI gives a logger that exists a level, but no handler of its own, with a format of its own and tracebacks
    progress = logging.getLogger(_PROGRESS)
    if not progress.handlers:
        progress.addHandler(shown)
    # what MONAI says about its own parts (an absent GPU decoder, the logging file that we replace) helps no user
    for name in ("monai.data.nvimgcodec_pydicom_plugin", "monai.bundle.workflows"):
        logging.getLogger(name).addFilter(_is_error)  # a level would not last: MONAI sets it at import
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # of each table that a new database gets
    warnings.filterwarnings("ignore", module=r"monai\.")
