"""Small synthetic radiographs as DICOM, and whatever can be wrong in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    OphthalmicPhotography8BitImageStorage,
    generate_uid,
)

STORAGE = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "OP": OphthalmicPhotography8BitImageStorage,
}


def asymmetric(height: int, width: int, *, highest: int = 4095) -> np.ndarray:
    """Values that no flip, rotation or transposition leaves as they are; 0 top left, ``highest`` bottom right."""
    rows, columns = np.mgrid[:height, :width]
    values = rows * 3.0 + columns + 5.0 * (rows < height // 3) * (columns > width // 2)
    return np.rint(values / values.max() * highest).astype(np.uint16)


def write_radiograph(
    path: Path, pixels: np.ndarray, *, modality: str = "DX", syntax: UID = ExplicitVRLittleEndian, **tags: object
) -> Path:
    """Write a file with 12 bits stored unless ``tags`` say otherwise; a tag of ``None`` is removed.

    Args:
        path: the file; its folder is made when missing.
        pixels: ``[H, W]`` of 8 or 16 bits, signed or not.
        modality: Modality.
        syntax: an uncompressed little endian transfer syntax.
        tags: further values by keyword.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # pydicom replaces it by the true one
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = STORAGE.get(modality, DigitalXRayImageStorageForPresentation)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    validate_file_meta(meta)
    preamble, implicit = b"\0" * 128, syntax.is_implicit_VR
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=preamble, is_implicit_VR=implicit)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID = "Phantom", "P1"
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = modality, "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    bits = 8 * pixels.dtype.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    stored = int(tags.get("BitsStored", 12 if bits == 16 else 8))  # type: ignore[call-overload]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, stored, stored - 1
    dataset.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return path


def code_as_jpeg_ls(dataset: Dataset, *, size: tuple[int, int] | None = None) -> None:
    """Code the pixels as JPEG-LS; the code may declare other rows and columns."""
    jpeg_ls = pytest.importorskip("jpeg_ls", reason="the package pyjpegls is not installed")
    code = bytearray(jpeg_ls.encode_array(dataset.pixel_array))
    place = code.index(b"\xff\xf7")
    rows, columns = size or (dataset.Rows, dataset.Columns)
    code[place + 5 : place + 9] = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([bytes(code)])
    dataset["PixelData"].is_undefined_length = True


def table(entries: list[int], *, first: int = 0, depth: int) -> Dataset:
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, depth])
    item.add_new("LUTData", "OW", np.asarray(entries, dtype="<u2").tobytes())
    return item
