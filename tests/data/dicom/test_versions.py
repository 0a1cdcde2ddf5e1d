"""What is asked of pydicom 2 and 3 in different ways: decoders that are missing, files that are complete."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pydicom.config
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless, generate_uid

from medseg_monai.data.dicom.versions import missing_decoder, write_dicom


@pytest.fixture
def _nothing_installed(monkeypatch):
    """No package that decodes, in whichever of its two ways pydicom looks for one."""
    for handler in pydicom.config.pixel_data_handlers:
        monkeypatch.setattr(handler, "is_available", lambda: False)
    if find_spec("pydicom.pixels"):
        requires = ["gdcm - requires gdcm>=3.0.10", "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1"]
        for name, value in {"is_available": False, "missing_dependencies": requires}.items():
            told = property(lambda _, value=value: value)
            monkeypatch.setattr(f"pydicom.pixels.decoders.base.Decoder.{name}", told)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_nothing_is_missing_for_what_pydicom_decodes_by_itself(syntax):
    assert missing_decoder(syntax) == ""


@pytest.mark.usefixtures("_nothing_installed")
def test_each_package_that_would_decode_is_named():
    first, second = missing_decoder(JPEGLosslessSV1).lower().split(" or ")
    assert first.startswith("python-gdcm")
    assert second.startswith("pylibjpeg")


def test_a_syntax_that_nothing_decodes_is_said_to_be_one():
    assert missing_decoder(UID("1.2.840.10008.1.2.4.100")) == "a decoder that pydicom does not have"


def test_a_written_file_is_complete_and_read_back(tmp_path):
    attributes = Dataset()
    attributes.SOPClassUID, attributes.SOPInstanceUID = CTImageStorage, generate_uid()
    attributes.PatientName, attributes.Rows, attributes.Columns = "Phantom", 3, 2
    attributes.SamplesPerPixel, attributes.PhotometricInterpretation = 1, "MONOCHROME2"
    attributes.BitsAllocated, attributes.BitsStored, attributes.HighBit, attributes.PixelRepresentation = 16, 12, 11, 0
    pixels = np.arange(6, dtype="<u2").reshape(3, 2)
    attributes.PixelData = pixels.tobytes()
    path = tmp_path / "slice.dcm"
    write_dicom(attributes, path)
    file = dcmread(path)
    assert (file.file_meta.MediaStorageSOPClassUID, file.file_meta.TransferSyntaxUID) == (
        CTImageStorage,
        ExplicitVRLittleEndian,
    )
    assert file.file_meta.MediaStorageSOPInstanceUID == file.SOPInstanceUID == attributes.SOPInstanceUID
    assert file.file_meta.FileMetaInformationGroupLength == meta_length(path.read_bytes())
    assert file.file_meta.ImplementationClassUID
    np.testing.assert_array_equal(file.pixel_array, pixels)


def meta_length(written: bytes) -> int:
    """Bytes between the group length, 12 bytes after preamble and prefix, and the first element of the data set."""
    return written.index(b"\x08\x00\x16\x00UI") - (128 + 4 + 12)
