"""What the readers of this package have in common: MONAI's first step only takes the name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import ImageReader
from monai.utils import ensure_tuple

__all__ = ["NamedFileReader"]


class NamedFileReader(ImageReader):
    """MONAI reader whose ``read`` only takes the name; the file is opened in ``get_data``.

    If ``read`` raised an error, ``LoadImage`` would try MONAI's other readers, which would load what this reader
    refuses; errors in ``get_data`` reach the user.

    Attributes:
        holds: what a file has, for messages.
    """

    holds = "image"

    def read(self, data: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], **kwargs: Any) -> tuple[Path, ...]:
        """Take the name of the file, or of the folder of a series, for ``get_data``; nothing is opened yet.

        Args:
            data: one or several paths.
            kwargs: not used.
        """
        return tuple(Path(name) for name in ensure_tuple(data))

    def only(self, img: Sequence[Path]) -> Path:
        """Return the one path that :meth:`read` took.

        Args:
            img: what ``read`` returned.

        Raises:
            ValueError: several paths.
        """
        if len(img) != 1:
            names = ", ".join(str(name) for name in img)
            raise ValueError(f"{names}: {type(self).__name__} loads one {self.holds} per key, got {len(img)} files.")
        return Path(img[0])
