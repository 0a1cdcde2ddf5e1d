"""MONAI Label: serving the bundles to annotators.

This folder is a MONAI Label app (``main.py``, ``lib/``). :func:`serve` starts its server, which needs MONAI Label to be
installed (see ``docs/label.md``).
"""

from .serve import serve

__all__ = ["serve"]
