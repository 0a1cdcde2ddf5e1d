"""Names that have moved: old copies of bundles go on working, with a warning that says where the name is now."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["moved"]


def moved(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package that has given some of its names away.

    Args:
        package: ``__name__`` of the package.
        names: old name to the full path of what is meant.

    Returns:
        the function; it warns with :class:`DeprecationWarning`, and raises :class:`AttributeError` for other names.

    Example:
        >>> import warnings
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
