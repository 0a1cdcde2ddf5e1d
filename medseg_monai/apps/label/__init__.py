"""MONAI Label: the bundles, served to annotators.

This folder is a MONAI Label app (``main.py``, ``lib/``). :func:`serve` starts its server; only that needs MONAI Label
installed (see ``docs/label.md``).
"""

from .serve import serve

__all__ = ["serve"]
