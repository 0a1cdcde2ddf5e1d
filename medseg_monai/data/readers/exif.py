"""The EXIF orientation of a picture: from the matrix that a file stores to what a viewer shows, and back."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["EXIF_ORIENTATION", "to_stored", "to_upright"]

EXIF_ORIENTATION = "exif_orientation"
"""Key of the EXIF orientation tag (int, 1 to 8) in the metadata of an image."""

Values = TypeVar("Values", bound=npt.NDArray[Any])

# what each tag asks of a viewer: first rows and columns change places, then the order of each is reversed, or not
_TRANSPOSED = (5, 6, 7, 8)
_ROWS_REVERSED = (3, 4, 7, 8)
_COLUMNS_REVERSED = (2, 3, 6, 7)


def to_upright(values: Values, orientation: int) -> Values:
    """Turn a stored matrix to what a viewer shows.

    Args:
        values: ``[H, W, ...]``, rows first, as the file stores it.
        orientation: EXIF orientation, 1 to 8.

    Returns:
        ``[H, W, ...]``, for the orientations 5 to 8 with height and width exchanged.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.data.readers.exif import to_upright
        >>> to_upright(np.asarray([[1, 2, 3], [4, 5, 6]]), 6).tolist()
        [[4, 1], [5, 2], [6, 3]]
    """
    return _reversed(np.swapaxes(values, 0, 1) if orientation in _TRANSPOSED else values, orientation)


def to_stored(values: Values, orientation: int) -> Values:
    """The inverse of :func:`to_upright`.

    Args:
        values: ``[H, W, ...]``, rows first, as a viewer shows it.
        orientation: EXIF orientation of the file, 1 to 8.

    Returns:
        ``[H, W, ...]`` in the matrix of the file.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.data.readers.exif import to_stored
        >>> to_stored(np.asarray([[4, 1], [5, 2], [6, 3]]), 6).tolist()
        [[1, 2, 3], [4, 5, 6]]
    """
    stored = _reversed(values, orientation)
    return np.swapaxes(stored, 0, 1) if orientation in _TRANSPOSED else stored


def _reversed(values: Values, orientation: int) -> Values:
    rows = slice(None, None, -1 if orientation in _ROWS_REVERSED else 1)
    columns = slice(None, None, -1 if orientation in _COLUMNS_REVERSED else 1)
    return values[rows, columns]  # type: ignore[return-value]
