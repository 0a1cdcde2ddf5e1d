"""Converting annotators' labels to DICOM SEG and back: a DICOMweb server has no other form for labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from pydicom import dcmread
from pydicom.sr.coding import Code

import medseg_monai
from medseg_monai.data import RasterMaskWriter, RasterReader, VolumeReader
from medseg_monai.data.dicom import check_geometry, find_series, write_dicom_seg, write_radiograph_seg
from medseg_monai.data.dicom.files import read_dicom
from medseg_monai.data.readers.raster import RASTER_SUFFIXES
from medseg_monai.data.results.masks import write_label_nifti
from medseg_monai.data.segments import Segment
from medseg_monai.errors import explain
from medseg_monai.files import atomic_path, has_ending

from .served import PALETTE, ServedBundle

__all__ = ["DicomGrid", "name_values", "read_label", "read_mask", "read_seg", "sent_names", "write_label", "write_seg"]

Labels = npt.NDArray[np.uint8]

_SAME_AFFINE = 1e-3  # mm
_RAW = ".bin"  # OHIF sends a label as bytes in which the first axis of the image runs fastest
_WHITE = 255  # the only label in the masks of 2D data sets and of ``medseg predict``
_TISSUE = Code("85756007", "SCT", "Tissue")  # the code that viewers write for a structure without a description
_NAME_LENGTH = 64
_ANNOTATED = "MONAI Label"


@dataclass(frozen=True, eq=False)
class DicomGrid:
    """The grid of a DICOM image, which its labels share.

    Attributes:
        files: the DICOM files, in the order of the third axis.
        shape: columns, rows and slices of a series; rows and columns of a single image.
        affine: ``[4, 4]`` of a series, from voxel indices to mm in RAS; ``None`` for a single image.
    """

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64] | None

    @classmethod
    def read(cls, image: str | os.PathLike[str]) -> DicomGrid:
        """Read the headers of a series or of an image.

        Args:
            image: folder of one series, or a file.

        Raises:
            ValueError: the series is not a regular grid.
        """
        path = Path(image)
        if path.is_dir():
            series = find_series(path)[0]
            geometry = check_geometry(series, modality=series.modality)
            return cls(geometry.files, geometry.shape, geometry.affine)
        header = read_dicom(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return cls((path,), (int(header.Rows), int(header.Columns)), None)

    @property
    def suffix(self) -> str:
        """Ending of the files for its labels."""
        return ".png" if self.affine is None else ".nii.gz"


def read_mask(path: str | os.PathLike[str]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """The values ``[H, W]`` of a 2D mask, upright, and its metadata; viewers of volumes save it as one slice."""
    if has_ending(path, RASTER_SUFFIXES):
        reader = RasterReader(channels=1)
        values, meta = reader.get_data(reader.read(path))
        return np.asarray(values[0]), meta
    volumes = VolumeReader(one_slice=True)
    values, meta = volumes.get_data(volumes.read(path))
    return values.squeeze().T, meta


def read_label(path: str | os.PathLike[str], grid: DicomGrid) -> Labels:
    """Read the label of a DICOM image in the image's grid.

    Args:
        path: PNG, volume (its axes may have another order or direction), or the raw bytes that OHIF sends.
        grid: grid of the image.

    Returns:
        uint8, ``[X, Y, Z]`` for a series and ``[H, W]`` for a single image.

    Raises:
        ValueError: another grid than the image's, or values that are not labels.
    """
    if Path(path).suffix == _RAW:
        values: npt.NDArray[Any] = np.fromfile(path, dtype=np.uint8)
        if values.size != np.prod(grid.shape):
            raise ValueError(f"{path}: {values.size} bytes, but the image has {_size(grid.shape)} pixels.")
        values = values.reshape(grid.shape, order="C" if grid.affine is None else "F")
    elif grid.affine is None:
        values, _ = read_mask(path)
        if values.shape != grid.shape:
            raise ValueError(f"{path}: {_size(values.shape)} pixels, but the image has {_size(grid.shape)}.")
        if set(np.unique(values)) == {0, _WHITE}:
            values = values > 0
    else:
        reader = VolumeReader()
        values, meta = reader.get_data(reader.read(path))
        values = _turned(values, meta["affine"], grid, path)
    labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise ValueError(f"{path}: values that are not labels; save whole numbers from 0 to 255.")
    return labels


def _turned(
    values: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    grid: DicomGrid,
    path: str | os.PathLike[str],
) -> npt.NDArray[Any]:
    """A volume with its axes in the order and direction of those of the grid."""
    assert grid.affine is not None
    turn = io_orientation(np.linalg.inv(grid.affine) @ affine)
    turned: npt.NDArray[Any] = apply_orientation(values, turn)
    same_axes = np.allclose(affine @ inv_ornt_aff(turn, values.shape), grid.affine, rtol=0, atol=_SAME_AFFINE)
    if turned.shape != grid.shape or not same_axes:
        raise ValueError(f"{path}: not in the grid of its image ({_size(grid.shape)}); save it in the image's grid.")
    return turned


def name_values(
    info: Mapping[str, Any], present: Sequence[int], otherwise: Mapping[str, int] | None = None
) -> dict[int, str]:
    """The meaning of each value of a label, from the information that the client sent with it.

    The names are those in ``label_info``: with their values (``idx``), or in the order of the values 1, 2, ..., or in
    the order of the values that occur if there are as many names. Without ``label_info`` they are those in
    ``label_names``, in the form of a response to ``/infer``.

    Args:
        info: information from the client.
        present: the values that occur, in ascending order.
        otherwise: names and values for a client that sends none.

    Returns:
        names by their values, including values that do not occur.

    Raises:
        ValueError: values without a name, or names in another form.
    """
    entries, sent = sent_names(info)
    names = [str(one["name"]) for one in entries]
    given = sent or (otherwise if not names else {})
    if names and all(str(one.get("idx", "")).isdecimal() for one in entries):
        named = {int(one["idx"]): name for one, name in zip(entries, names, strict=True)}
    elif names and max(present, default=0) > len(names) == len(present):
        named = dict(zip(present, names, strict=True))
    elif names:
        named = dict(enumerate(names, start=1))
    else:
        named = {int(value): name for name, value in (given or {}).items()}
    if missing := [str(value) for value in present if value not in named]:
        raise ValueError(
            f"label {', '.join(missing)} has no name; send params with label_info, "
            'such as [{"name": "liver", "idx": 1}].'
        )
    return named


def sent_names(info: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
    """The names that a client sent with a label: ``label_info`` and ``label_names``, either of which may be empty.

    Args:
        info: information from the client.

    Raises:
        ValueError: they have another form.
    """
    entries, params = info.get("label_info") or [], info.get("params") or {}
    names = info.get("label_names") or (params.get("label_names") if isinstance(params, Mapping) else params) or {}
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) for one in entries):
        raise ValueError('label_info: expected a list of objects, such as [{"name": "liver", "idx": 1}].')
    if not isinstance(names, Mapping) or not all(str(value).isdecimal() for value in names.values()):
        raise ValueError('label_names: expected numbers by their names, such as {"liver": 1}.')
    return [one for one in entries if one.get("name")], {str(name): int(value) for name, value in names.items()}


def write_seg(
    path: str | os.PathLike[str],
    labels: Labels,
    grid: DicomGrid,
    names: Mapping[int, str],
    *,
    bundles: Iterable[ServedBundle],
    creator: str = "",
) -> None:
    """Write an annotator's label as DICOM SEG.

    If the names belong to a bundle, each segment has the bundle's number, description and code, whether it occurs or
    not; names that no bundle has come after these, as tissue. Unlike a prediction, the label is marked as made with the
    help of a program (SEMIAUTOMATIC).

    Args:
        path: the file to write or replace.
        labels: the label in the grid of the image.
        grid: grid of the image.
        names: meaning of the values; see :func:`name_values`.
        bundles: the bundles that are served.
        creator: who drew the label, if known.

    Raises:
        ValueError: the image lacks what a SEG needs.
    """
    segments, numbers = _choose_segments(names, bundles)
    table = np.zeros(256, dtype=np.uint8)
    for value, number in numbers.items():
        table[value] = number
    described: dict[str, Any] = {
        "segments": segments,
        "algorithm_name": _ANNOTATED,
        "algorithm_version": medseg_monai.__version__,
    }
    with atomic_path(path) as temporary:
        if grid.affine is None:
            write_radiograph_seg(temporary, table[labels], source_file=grid.files[0], **described)
        else:
            write_dicom_seg(temporary, table[labels], source_files=grid.files, **described)
        dataset = dcmread(temporary)
        for segment in dataset.SegmentSequence:
            segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "SEMIAUTOMATIC", _ANNOTATED
            segment.pop("SegmentationAlgorithmIdentificationSequence", None)
        dataset.SeriesDescription = "Final label"
        if creator:
            dataset.ContentCreatorName = creator
        dataset.save_as(temporary)


def _choose_segments(names: Mapping[int, str], bundles: Iterable[ServedBundle]) -> tuple[list[Segment], dict[int, int]]:
    """The segments to describe, and the segment number of each value."""
    known = [list(bundle.segments) for bundle in bundles if bundle.segments]
    wanted = {name.lower() for name in names.values()}
    segments = max(known, key=lambda one: len(wanted & {segment.name.lower() for segment in one}), default=[])
    if not wanted & {segment.name.lower() for segment in segments}:
        segments = []
    elsewhere = {segment.name.lower(): segment for one in known for segment in one}
    segments = [*segments]
    numbers = {segment.name.lower(): number for number, segment in enumerate(segments, start=1)}
    for name in dict.fromkeys(names.values()):
        if name.lower() not in numbers:
            colour = PALETTE[len(segments) % len(PALETTE)]
            other = Segment(name[:_NAME_LENGTH], _TISSUE, colour, category=_TISSUE)
            segments.append(elsewhere.get(name.lower(), other))
            numbers[name.lower()] = len(segments)
    return segments, {value: numbers[name.lower()] for value, name in names.items()}


def read_seg(path: str | os.PathLike[str], grid: DicomGrid) -> tuple[Labels, dict[int, str]]:
    """Read a DICOM SEG from any software in the grid of the image that it refers to.

    Args:
        path: the file.
        grid: grid of the image.

    Returns:
        the segment numbers, and the names of the segments by their numbers.

    Raises:
        ValueError: not a DICOM SEG of this image, overlapping segments, or fractional values.
    """
    uids = [str(read_dicom(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for file in grid.files]
    try:
        seg = hd.seg.segread(path)
        if not {sop for _, _, sop in seg.get_source_image_uids()}.intersection(uids):
            raise ValueError("it is of another image")
        frames = seg.get_pixels_by_source_instance(
            uids, combine_segments=True, relabel=False, assert_missing_frames_are_empty=True
        )
        names = {number: str(seg.get_segment_description(number).segment_label) for number in seg.segment_numbers}
    except Exception as error:  # highdicom and pydicom raise many types
        raise ValueError(f"{path}: not a readable DICOM SEG of this image ({explain(error)}).") from error
    labels = frames[0] if grid.affine is None else frames.T
    if labels.shape != grid.shape or labels.max() > np.iinfo(np.uint8).max:
        raise ValueError(f"{path}: not in the grid of its image, or more than 255 segments.")
    return labels.astype(np.uint8), names


def write_label(path: str | os.PathLike[str], labels: Labels, grid: DicomGrid) -> None:
    """Write a label of a DICOM image as PNG or NIfTI.

    Args:
        path: the file, with the ending :attr:`DicomGrid.suffix`.
        labels: the label in the grid of the image.
        grid: grid of the image.
    """
    if grid.affine is None:
        writer = RasterMaskWriter()
        writer.set_data_array(labels, channel_dim=None)
        writer.write(path)
        return
    write_label_nifti(path, labels, grid.affine)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)
