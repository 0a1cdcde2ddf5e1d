"""Names that have moved: old copies of bundles still work, with a warning that states the new name."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["moved"]


def moved(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package from which some names have moved.

    Args:
        package: ``__name__`` of the package.
        names: old name to the full path of the object.

    Returns:
        the function; it warns with :class:`DeprecationWarning`, and raises :class:`AttributeError` for other names.

    Example:
        >>> import warnings
        >>> from medseg_monai.deprecation import moved
        >>> __getattr__ = moved("shop", {"Compass": "pathlib.Path"})
        >>> with warnings.catch_warnings(record=True):
        ...     __getattr__("Compass").__name__
        'Path'
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = names[name].rpartition(".")
        warnings.warn(f"{package}.{name} is now {names[name]}; change the config.", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), attribute)

    return get
