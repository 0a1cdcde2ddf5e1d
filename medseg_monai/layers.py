"""Layers that lie one below the other, in two forms: a class for each pixel, and boundaries by column.

A label map has the classes 0, 1, 2 … in order of depth; a boundary is the place where one class ends and a deeper one
begins, as the number of pixels above it. So boundary ``b`` of column ``x`` is ``y_b(x)``, the number of pixels of the
column with a class below ``b``. Counted in this way boundaries never cross, and where a class is absent its two
boundaries coincide.

Source: Gu et al., "CE-Net", IEEE TMI 2019, Section III-F: ten boundaries "divide each 2D image into 11 parts".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = [
    "IGNORED",
    "OPEN",
    "PAPER_BOUNDARIES",
    "PAPER_LAYERS",
    "boundaries_of_labels",
    "boundary_names",
    "disordered_columns",
    "labels_of_boundaries",
    "layer_names",
]

IGNORED = 255
"""Label of the pixels whose class nobody has drawn; a column that has one is without truth."""

OPEN = float("nan")
"""The boundaries of a column without truth."""

PAPER_BOUNDARIES = (
    "ILM",
    "NFL-GCL",
    "IPL-INL",
    "INL-OPL",
    "OPL-ONL",
    "ELM",
    "upper-IS",
    "lower-IS",
    "OS-RPE",
    "BM",
)
"""The ten boundaries of CE-Net's Table V, from the vitreous to the choroid."""

_WORD = re.compile(r"[A-Za-z0-9][\w+.-]*", re.ASCII)

PAPER_LAYERS = (
    "NFL",
    "GCL and IPL",
    "INL",
    "OPL",
    "ONL",
    "ELM to inner segments",
    "inner segments",
    "outer segments",
    "RPE",
    "choroid",
)
"""What lies below each of the paper's boundaries."""

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


def boundaries_of_labels(labels: npt.ArrayLike, classes: int) -> FloatArray:
    """Find the boundaries between the classes of each column.

    Args:
        labels: ``[..., H, W]``, classes 0 to ``classes - 1`` in any order, and 255 where nobody has drawn one.
        classes: number of classes.

    Returns:
        ``[..., classes - 1, W]`` in pixels from the upper edge; ``nan`` in columns with a pixel of 255.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.layers import boundaries_of_labels
        >>> labels = np.array([[0, 0, 255], [1, 2, 255], [2, 2, 255], [2, 2, 255]])  # in the second column 1 is absent
        >>> boundaries_of_labels(labels, 3)
        array([[ 1.,  1., nan],
               [ 2.,  1., nan]], dtype=float32)
    """
    values = np.asarray(labels)
    found = np.stack([(values < number).sum(axis=-2) for number in range(1, classes)], axis=-2).astype(np.float32)
    found[np.broadcast_to((values == IGNORED).any(axis=-2)[..., None, :], found.shape)] = OPEN
    return found


def labels_of_boundaries(boundaries: npt.ArrayLike, rows: int) -> Labels:
    """Draw the classes between boundaries.

    A pixel belongs to the class that its centre lies in, so that whole numbers are those of
    :func:`boundaries_of_labels`. Boundaries that cross are drawn in the order of their depth.

    Args:
        boundaries: ``[..., B, W]`` in pixels from the upper edge, with fractions or without.
        rows: number of rows.

    Returns:
        ``[..., rows, W]`` with the classes 0 to B, and 255 in columns of which a boundary is not a number.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.layers import labels_of_boundaries
        >>> labels_of_boundaries([[1, 1, np.nan], [2.4, 1, 3]], rows=4)
        array([[  0,   0, 255],
               [  1,   2, 255],
               [  2,   2, 255],
               [  2,   2, 255]], dtype=uint8)
    """
    depths = np.asarray(boundaries, dtype=np.float64)
    centres = (np.arange(rows) + 0.5)[:, None]
    labels = np.zeros((*depths.shape[:-2], rows, depths.shape[-1]), dtype=np.uint8)
    for number in range(depths.shape[-2]):
        labels += depths[..., number, None, :] <= centres
    is_open = np.isnan(depths).any(axis=-2, keepdims=True)
    labels[np.broadcast_to(is_open, labels.shape)] = IGNORED
    return labels


def disordered_columns(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Find the columns in which a class lies below a deeper one.

    Args:
        labels: ``[H, W]``, classes in order of depth, and 255 where nobody has drawn one.

    Returns:
        numbers of the columns, from 0.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.layers import disordered_columns
        >>> disordered_columns(np.array([[0, 0, 255], [1, 2, 0], [2, 1, 1]]))
        array([1])
    """
    values = np.asarray(labels)
    known = np.where(values == IGNORED, -1, values.astype(np.int64))
    deepest_above = np.maximum.accumulate(known, axis=0)
    return np.flatnonzero(((known < deepest_above) & (values != IGNORED)).any(axis=0))


def boundary_names(classes: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the boundaries between classes.

    Args:
        classes: number of classes.
        names: names that were given; without any, eleven classes have those of the paper, others numbers.

    Raises:
        ValueError: there are fewer than two classes, or other than ``classes - 1`` names, two are the same, or one has
            other characters than letters, digits and ``_+.-``, which weights and files could not keep.

    Example:
        >>> from medseg_monai.layers import boundary_names
        >>> boundary_names(11)[:3], boundary_names(3), boundary_names(3, ["ILM", "BM"])
        (('ILM', 'NFL-GCL', 'IPL-INL'), ('1', '2'), ('ILM', 'BM'))
        >>> boundary_names(3, ["ILM"])
        Traceback (most recent call last):
        ValueError: boundaries: 1 names (ILM), but 3 classes have 2 boundaries; name each once, or none.
    """
    if classes < 2:
        raise ValueError(f"out_channels is {classes}, but layers are two classes or more; give weights of layers.")
    if not names:
        numbers = tuple(str(number) for number in range(1, classes))
        return PAPER_BOUNDARIES if classes == len(PAPER_BOUNDARIES) + 1 else numbers
    given = tuple(str(name) for name in names)
    if not len(given) == len(set(given)) == classes - 1:
        raise ValueError(
            f"boundaries: {len(given)} names ({', '.join(given)}), but {classes} classes have {classes - 1} "
            "boundaries; name each once, or none."
        )
    if strange := [name for name in given if not _WORD.fullmatch(name)]:
        raise ValueError(
            f"boundaries: {', '.join(strange)}: a name has letters, digits and _+.- only, such as NFL-GCL."
        )
    return given


def layer_names(boundaries: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes below each boundary; the class above the first is the background.

    Args:
        boundaries: names of the boundaries, see :func:`boundary_names`.

    Example:
        >>> from medseg_monai.layers import boundary_names, layer_names
        >>> layer_names(["ILM", "NFL-GCL", "BM"])
        ('ILM to NFL-GCL', 'NFL-GCL to BM', 'below BM')
        >>> layer_names(boundary_names(11))[:2]
        ('NFL', 'GCL and IPL')
    """
    if tuple(boundaries) == PAPER_BOUNDARIES:
        return PAPER_LAYERS
    between = [f"{upper} to {lower}" for upper, lower in pairwise(boundaries)]
    return (*between, f"below {boundaries[-1]}")
