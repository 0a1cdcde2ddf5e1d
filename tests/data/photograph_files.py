"""Photographs of ophthalmic photography (OP) as DICOM, and frames of JPEG that Pillow cannot write."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from .radiograph_files import write_radiograph

#: ``asymmetric(13, 18)`` with 12 bits, by the transfer syntax: lossless by GDCM, extended by libjpeg-turbo
FRAMES = {
    JPEGLosslessSV1: (
        "/9j/wwALEAANABIBAREA/8QAFwABAQEBAAAAAAAAAAAAAAAABwgJEP/aAAgBAQABAADk1OTU1NTk1NTd0E1NTk1NTk26E1NTk1NTU5NTd0E1NT"
        "k1NTU66E1NTU5NTU1OTd0E1NTU5NTU2505NTU1OTU1NTtz05NTU1OTU26E1OTU1NTk1NTk1NTU5NTU1OuhNTU5NTU5NTU1OTU1NTk1NTboTU1O"
        "TU1NTk1NTU5NTU1OTU26E1NTU5NTU1OTU1NTk1NTk1NudOTU1NTk1NTU5NTU5NTU1OTboTU5NTU1OTU1OTU1NTk1NTU66E1NTk1NTk1NTU5NTU"
        "1OTU1NuhNTU5NTU1OTU1NTk1NTU5NTboTU1NTk1NTU5NTU1OTU1NTk3//ZAA=="
    ),
    JPEGLossless: (
        "/9j/wwALEAANABIBAREA/8QAFwABAQEBAAAAAAAAAAAAAAAABwgJEP/aAAgBAQABAADk1OTU1NTk1NTd0E1NTk1NTk26E1NTk1NTU5NTd0E1NT"
        "k1NTU66E1NTU5NTU1OTd0E1NTU5NTU2505NTU1OTU1NTtz05NTU1OTU26E1OTU1NTk1NTk1NTU5NTU1OuhNTU5NTU5NTU1OTU1NTk1NTboTU1O"
        "TU1NTk1NTU5NTU1OTU26E1NTU5NTU1OTU1NTk1NTk1NudOTU1NTk1NTU5NTU5NTU1OTboTU5NTU1OTU1OTU1NTk1NTU66E1NTk1NTk1NTU5NTU"
        "1OTU1NuhNTU5NTU1OTU1NTk1NTU5NTboTU1NTk1NTU5NTU1OTU1NTk3//ZAA=="
    ),
    JPEGExtended12Bit: (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ"
        "EBAQEBAQH/wQALDAANABIBAREA/8QAFQABAQAAAAAAAAAAAAAAAAAADA3/xAA5EAAAAgMJCw0AAAAAAAAAAAABBwsWFwAFCQwRFRgxSAYIGSEk"
        "JzdBVmfwDRQaKSo2OEdRYWaB0f/aAAgBAQAAPwCDmon/AJPf/DZ1IsndOz3UOSfHqh9/2WvroJCJzOA+gmoL6C76GpSdowtIATxbkxZd21Xyhr"
        "3w0jM6Bpsq0rQmyqAC0F/55mCfxmqdReR7XPpKRT4FjRSdhaHRlcFbEDZV6teDHc4wRQEWG0fqFGzNrUqdlotqh5pi0h8fTqagigIsNo/UKNmb"
        "WpU7LRa4wyTeHq9eBZ9kpFhtH7MaKTNt5ZXBWWi12VereG7/2Q=="
    ),
}


def compress(path: Path, frame: bytes, syntax: UID) -> Path:
    """Put a compressed frame into a DICOM file."""
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def frame_of(syntax: UID) -> bytes:
    """One of ``FRAMES``."""
    return base64.b64decode(FRAMES[syntax])


def scenery(height: int, width: int) -> np.ndarray:
    """Smooth colours ``[H, W, 3]`` that no flip, rotation, transposition or change of channels leaves as they are."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    return np.rint(255 * np.dstack([rows, columns, 1 - rows / 2 - columns / 2])).clip(0, 255).astype(np.uint8)


def write_photograph(path: Path, rgb: np.ndarray, *, form: str = "YBR_FULL_422", **tags: object) -> Path:
    """Write a photograph.

    Args:
        path: the file; its folder is made when missing.
        rgb: ``[H, W, 3]`` of 8 bits.
        form: photometric interpretation: YBR_FULL_422 (JPEG), YBR_RCT (JPEG 2000), YBR_FULL or RGB (not compressed), or
            RGB in planes as ``"planes"``.
        tags: further values by keyword.
    """
    stored = {"YBR_FULL": np.asarray(Image.fromarray(rgb).convert("YCbCr")), "planes": np.moveaxis(rgb, -1, 0)}
    own: dict[str, object] = {
        "PhotometricInterpretation": "RGB" if form == "planes" else form,
        "SamplesPerPixel": 3,
        "PlanarConfiguration": int(form == "planes"),
        "PixelData": stored.get(form, rgb).tobytes(),
    }
    write_radiograph(path, rgb[..., 0], modality="OP", **(own | tags))
    if form == "YBR_FULL_422":
        return compress(path, _encoded(rgb, "JPEG", quality=95, subsampling="4:2:2"), JPEGBaseline8Bit)
    if form == "YBR_RCT":
        return compress(path, _encoded(rgb, "JPEG2000", mct=1, no_jp2=True), JPEG2000Lossless)
    return path


def _encoded(rgb: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, kind, **options)
    return stream.getvalue()
