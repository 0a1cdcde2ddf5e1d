"""Reader of OCT scans as clinics have them: pictures of B-scans, devices' files, DICOM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from medseg_monai.data.dicom.files import is_dicom_file
from medseg_monai.data.limits import MAX_IMAGE_MIB
from medseg_monai.files import has_ending

from .dicom_picture import OCT
from .exif import EXIF_ORIENTATION
from .memory import names_file
from .named_file import NamedFileReader
from .oct_files.dicom_opt import read_dicom_opt
from .oct_files.e2e import read_e2e, scans_in_e2e
from .oct_files.fda import read_fda
from .oct_files.heyex_xml import is_heyex_xml, pictures_of, read_xml, scans_in_xml
from .oct_files.img import is_cube_name, read_img
from .oct_files.scan import OCTScan, split_number
from .oct_files.vol import read_vol
from .raster import RASTER_SUFFIXES, RasterReader
from .volume import DICOM_FILES

__all__ = ["OCT_SUFFIXES", "OCTReader", "files_of_scan", "scans_in", "why_no_scan"]

FloatArray = npt.NDArray[np.float32]

OCT_SUFFIXES = ("vol", "e2e", "xml", "fda", "img")
"""File name endings of the devices' files, without the dot."""

_UNKNOWN = float("nan")


class OCTReader(NamedFileReader):
    """MONAI reader of one OCT scan, a B-scan or a volume, as float32 from 0 to 255, rows first.

    A single B-scan (a picture, a line or circle scan) becomes ``[channels, rows, columns]``, a volume ``[channels,
    B-scans, rows, columns]``. Rows run from the vitreous to the choroid, and columns as the device's viewer shows them;
    B-scans are in the order of the file.

    - Pictures are read by :class:`medseg_monai.data.RasterReader`, by the rules of that class.
    - Heidelberg ``.vol`` and ``.e2e`` hold the reflectivity as linear numbers; they are shown as Heidelberg's viewer
      shows them, on a logarithmic scale. Pixels outside the scan become 0.
    - Heidelberg's XML export names pictures, which must lie beside it.
    - Topcon ``.fda``: the pictures of its B-scans.
    - Zeiss Cirrus ``.img``: a cube, whose size stands in its name.
    - DICOM of ophthalmic tomography (OPT), in grey, with one or several frames.

    An ``.e2e`` or XML file with several scans is read as ``FILE/NUMBER``; :func:`scans_in` lists the numbers.

    The metadata hold ``"spatial_shape"``, ``(rows, columns)`` or ``(B-scans, rows, columns)``; ``"axial_um"``,
    ``"lateral_um"`` and ``"bscan_spacing_um"``, micrometres between rows, columns and B-scans, NaN where the file does
    not state them; ``"laterality"``, ``"R"``, ``"L"`` or empty; ``"format"``, ``"mode"``, ``"exif_orientation"`` and
    ``"dicom_files"`` as those of :class:`medseg_monai.data.PhotographReader`; nothing about the patient. A volume also
    has an ``affine`` in mm: columns to the left, rows to the back, B-scans upwards, so that a label volume shows each
    B-scan upright in the axial view of a viewer. The directions are nominal, since no device states them; if one of the
    three spacings is not known, the affine counts pixels.

    Args:
        channels: 1, or 3 equal ones.
        max_image_mib: MiB of the largest scan, as 32-bit numbers in all channels (a picture or DICOM in three); the
            size that the file declares is compared before anything is unpacked.

    Raises:
        ValueError: for other ``channels``.

    Attributes:
        spatial_dims: 2, as networks treat a volume B-scan by B-scan.
        modalities: DICOM modalities that can be read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from PIL import Image
        >>> from medseg_monai.data import OCTReader
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.zeros((20, 30), np.uint8)).save(f"{folder}/bscan.png")
        ...     LoadImage(reader=OCTReader(), ensure_channel_first=True)(f"{folder}/bscan.png").shape
        torch.Size([1, 20, 30])
    """

    spatial_dims = 2
    modalities = OCT.modalities

    def __init__(self, channels: int = 1, max_image_mib: float = MAX_IMAGE_MIB) -> None:
        super().__init__()
        self.raster = RasterReader(channels=channels, max_image_mib=max_image_mib)

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether every name is that of a picture, of a device's file (or a scan in it), or of a DICOM file."""
        files = [split_number(Path(name))[0] for name in ensure_tuple(filename)]
        return all(has_ending(file, (*RASTER_SUFFIXES, *OCT_SUFFIXES)) or is_dicom_file(file) for file in files)

    @names_file
    def get_data(self, img: Sequence[Path]) -> tuple[FloatArray, dict[str, Any]]:
        """Read the scan named by :meth:`read`.

        Args:
            img: exactly one path.

        Returns:
            ``[channels, rows, columns]`` or ``[channels, B-scans, rows, columns]``, and the metadata.

        Raises:
            FileNotFoundError: if there is no such file, no such scan in it, or no picture that it names.
            NotEnoughMemoryError: if the memory does not suffice for the scan.
            ValueError: for several files, a file that is truncated, damaged or of another kind, and several scans of
                which none is chosen.
        """
        path = self.only(img)
        file, number = split_number(path)
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such file.")
        if file.is_dir() or not (has_ending(file, OCT_SUFFIXES) or is_dicom_file(file)):
            return self._read_picture(file)
        scan = self._read_scan(file, number)
        return self._with_channels(scan.bscans), self._meta(scan, file)

    def _read_picture(self, file: Path) -> tuple[FloatArray, dict[str, Any]]:
        values, meta = self.raster.get_data([file])
        unknown = {"axial_um": _UNKNOWN, "lateral_um": _UNKNOWN, "bscan_spacing_um": _UNKNOWN, "laterality": ""}
        return values, {**meta, **unknown, DICOM_FILES: ""}

    def _read_scan(self, file: Path, number: int | None) -> OCTScan:
        most, bytes_each = self.raster.max_image_mib, 4 * self.raster.channels
        for suffix, read in (("vol", read_vol), ("fda", read_fda), ("img", read_img)):
            if has_ending(file, [suffix]):
                return read(file, most, bytes_each)
        for suffix, read_one in (("e2e", read_e2e), ("xml", read_xml)):
            if has_ending(file, [suffix]):
                return read_one(file, number, most, bytes_each)
        return read_dicom_opt(file, most)

    def _with_channels(self, bscans: FloatArray) -> FloatArray:
        values = bscans if len(bscans) > 1 else bscans[0]
        return np.repeat(values[None], self.raster.channels, axis=0) if self.raster.channels > 1 else values[None]

    def _meta(self, scan: OCTScan, file: Path) -> dict[str, Any]:
        is_volume = len(scan.bscans) > 1
        meta = {
            MetaKeys.SPATIAL_SHAPE: np.asarray(scan.bscans.shape if is_volume else scan.bscans.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            EXIF_ORIENTATION: 1,
            "format": scan.format,
            "mode": scan.mode,
            "axial_um": scan.axial_um,
            "lateral_um": scan.lateral_um,
            "bscan_spacing_um": scan.bscan_spacing_um,
            "laterality": scan.laterality,
            DICOM_FILES: str(file) if scan.format == "DICOM" else "",
        }
        if is_volume:
            affine = _affine(scan)
            meta |= {MetaKeys.AFFINE: affine, MetaKeys.ORIGINAL_AFFINE: affine.copy(), MetaKeys.SPACE: SpaceKeys.RAS}
        return meta


def scans_in(file: Path) -> list[int]:
    """The numbers of the scans in a file that may hold several; none for any other file.

    Args:
        file: the file.

    Raises:
        ValueError: it is damaged.
    """
    if has_ending(file, ["e2e"]):
        return scans_in_e2e(file)
    return scans_in_xml(file) if has_ending(file, ["xml"]) else []


def why_no_scan(file: Path) -> str | None:
    """Why a file is no OCT scan although its ending is that of one; ``None`` if it is, or is a damaged one.

    Args:
        file: the file.

    Raises:
        OSError: it cannot be opened.
    """
    if has_ending(file, ["xml"]):
        return None if is_heyex_xml(file) else "no XML export of Heidelberg"
    if has_ending(file, ["img"]):
        return None if is_cube_name(file) else "its name does not say the size of a cube"
    return None


def files_of_scan(path: Path) -> list[Path]:
    """The files that are read for a scan: its file, and the pictures that an XML export names.

    Args:
        path: ``FILE`` or ``FILE/NUMBER``.

    Raises:
        ValueError: a damaged export.
    """
    file, _ = split_number(path)
    pictures = pictures_of(file) if has_ending(file, ["xml"]) else []
    return [file, *(picture for picture in pictures if picture.is_file())]


def _affine(scan: OCTScan) -> npt.NDArray[np.float64]:
    """From the place of a voxel (B-scan, row, column) to mm, or to pixels if a spacing is not known."""
    spacings = np.asarray((scan.bscan_spacing_um, scan.axial_um, scan.lateral_um)) / 1000
    across, axial, lateral = spacings if np.isfinite(spacings).all() else (1.0, 1.0, 1.0)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = across, -axial, -lateral, 1
    return affine
