"""Data sets of chest X-ray phantoms on disk: PNG or DICOM radiographs, masks, and the data list that training reads."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import DigitalXRayImageStorageForPresentation, generate_uid
from pydicom.valuerep import DSfloat

from medseg_monai.data.dicom.versions import write_dicom

from .case_files import PhantomCase, PhantomFile, check_dimensions, check_format, mask_file, write_phantoms
from .chest_xray import MANUFACTURERS, WHITE, ChestXrayPhantom, Manufacturer, draw_chest_xray

__all__ = ["OPACITY_CYCLE", "RadiographFormat", "write_chest_xray_phantoms"]

RadiographFormat = Literal["png", "dicom"]

OPACITY_CYCLE: tuple[tuple[str, ...], ...] = ((), ("nodules",), ("consolidation",), (), ("effusion",))
"""Opacities of the phantoms, in turn within each section; an odd number, so that each manufacturer gets all of them."""

_ALTERNATE = "alternate"


def write_chest_xray_phantoms(
    folder: str | os.PathLike[str],
    *,
    counts: Mapping[str, int],
    size: tuple[int, ...],
    seed: int,
    image_format: RadiographFormat = "png",
    manufacturer: str = _ALTERNATE,
    opacities: Sequence[Collection[str]] = OPACITY_CYCLE,
) -> Path:
    """Write chest X-ray phantoms and their data list.

    ``folder`` gets ``images/phantom_0001.png`` (8-bit grey, bright is dense) or ``images/phantom_0001.dcm`` (a 12-bit
    DX image), ``labels/phantom_0001.png`` (both lungs, 8 bits, 0 and 255) and ``datalist.json``. Each phantom is a
    different patient.

    The DICOM files differ by manufacturer, as real ones do. ``"a"`` stores MONOCHROME1, the inverse of the image, and
    marks its black border with a PixelPaddingValue; ``"b"`` stores MONOCHROME2. Both have the rows and columns of the
    PNG and a window (in stored values) from the unit's black to its white. The PNG is not windowed: its 0 and 255 are
    the image's 0 and 4095.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: rows and columns ``(H, W)``, each at least 64.
        seed: the same seed writes the same files; neither format nor manufacturer changes the chests and the labels.
        image_format: format of the images, ``"png"`` or ``"dicom"``; labels are always PNG.
        manufacturer: a key of :data:`.MANUFACTURERS` for all phantoms, or ``"alternate"`` for each in turn within each
            section.
        opacities: opacities of the phantoms, in turn within each section; each entry is an argument ``opacities`` of
            :func:`.draw_chest_xray`.

    Returns:
        Path of the data list, whose items have ``image``, ``label``, ``patient`` and ``source``
        (``phantom_manufacturer_a`` or ``phantom_manufacturer_b``).

    Raises:
        ValueError: for an unknown section, format, manufacturer or opacity, a negative count, no phantom at all, or a
            bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_chest_xray_phantoms(
        ...         folder, counts={"test": 2}, size=(64, 80), seed=0, image_format="dicom"
        ...     )
        ...     [item["source"] for item in load_datalist(path, "test")]
        ['phantom_manufacturer_a', 'phantom_manufacturer_b']
    """
    check_format(image_format, get_args(RadiographFormat))
    check_dimensions(size, 2)
    _check(manufacturer=manufacturer, opacities=opacities)
    makers = list(MANUFACTURERS) if manufacturer == _ALTERNATE else [manufacturer]

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        unit = MANUFACTURERS[makers[case.index % len(makers)]]
        phantom = draw_chest_xray(
            size=(size[0], size[1]),
            manufacturer=unit.name,
            seed=(seed, case.number),
            opacities=opacities[case.index % len(opacities)],
        )
        image = _dicom_file(phantom, unit, case.patient) if image_format == "dicom" else _png_file(phantom)
        return f"phantom_manufacturer_{unit.name}", {"image": image, "label": mask_file("labels", phantom.mask)}

    return write_phantoms(folder, counts, draw)


def _check(*, manufacturer: str, opacities: Sequence[Collection[str]]) -> None:
    if manufacturer not in (_ALTERNATE, *MANUFACTURERS):
        raise ValueError(
            f"manufacturer='{manufacturer}' is unknown: choose from {', '.join((_ALTERNATE, *MANUFACTURERS))}."
        )
    if not opacities:
        raise ValueError("opacities is empty: give [()] for healthy phantoms.")


def _png_file(phantom: ChestXrayPhantom) -> PhantomFile:
    grey = np.rint(phantom.image * (255 / WHITE)).astype(np.uint8)
    return PhantomFile("images", ".png", Image.fromarray(grey).save)


def _dicom_file(phantom: ChestXrayPhantom, unit: Manufacturer, patient: str) -> PhantomFile:
    # the UIDs are derived from the content, so that the same phantom always has the same UIDs
    content = [patient, unit.name, phantom.image.tobytes().hex()]
    study, series, instance = (generate_uid(entropy_srcs=[*content, name]) for name in ("study", "series", "image"))
    written = _attributes(phantom, unit)
    written.PatientID = written.PatientName = patient
    written.StudyInstanceUID, written.SeriesInstanceUID = study, series
    written.SOPClassUID, written.SOPInstanceUID = DigitalXRayImageStorageForPresentation, instance
    written.PixelData = _stored(phantom.image, unit).astype("<u2").tobytes()
    return PhantomFile("images", ".dcm", partial(write_dicom, written))


def _stored(values: npt.NDArray[np.integer], unit: Manufacturer) -> npt.NDArray[np.integer]:
    """Image values as the unit's files store them."""
    return np.asarray(WHITE - values if unit.photometric == "MONOCHROME1" else values)


def _attributes(phantom: ChestXrayPhantom, unit: Manufacturer) -> Dataset:
    """Everything except the patient's name, the identifiers and the pixels."""
    header = Dataset()
    header.ImageType, header.Modality = ["ORIGINAL", "PRIMARY"], "DX"
    header.PresentationIntentType = "FOR PRESENTATION"
    header.Manufacturer, header.ManufacturerModelName = "medseg-monai phantom", f"manufacturer {unit.name}"
    header.StudyDate = header.SeriesDate = header.ContentDate = header.AcquisitionDate = "20200101"
    header.StudyTime = header.SeriesTime = header.ContentTime = header.AcquisitionTime = "120000"
    header.StudyDescription = header.SeriesDescription = "Chest X-ray phantom"
    header.PatientBirthDate = header.PatientSex = ""
    header.AccessionNumber = header.ReferringPhysicianName = header.StudyID = ""
    header.SeriesNumber, header.InstanceNumber = 1, 1
    header.BodyPartExamined, header.ViewPosition, header.ImageLaterality = "CHEST", "PA", "U"
    header.PatientOrientation = ["L", "F"]
    header.AnatomicRegionSequence, header.AcquisitionContextSequence = [_code()], []
    header.BurnedInAnnotation, header.LossyImageCompression = "YES", "00"
    header.KVP, header.DetectorType = "120", "DIRECT"
    header.ImagerPixelSpacing = [DSfloat(phantom.spacing, auto_format=True)] * 2
    header.Rows, header.Columns = phantom.image.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, unit.photometric
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    inverse = unit.photometric == "MONOCHROME1"
    header.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    header.PixelIntensityRelationship, header.PixelIntensityRelationshipSign = "LOG", 1 if inverse else -1
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", "1", "US"
    low, high = sorted(_stored(np.array(unit.levels), unit).tolist())
    # DICOM's linear window maps low to black and high to white if it is one wider than their difference
    header.WindowCenter, header.WindowWidth = str((low + high + 1) / 2), str(high - low + 1)
    if unit.border == 0:
        header.PixelPaddingValue = int(_stored(np.array(unit.border), unit))
    return header


def _code() -> Dataset:
    """The chest, as a coded anatomic region."""
    region = Dataset()
    chest = codes.SCT.Chest
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = chest.value, chest.scheme_designator, "Chest"
    return region
