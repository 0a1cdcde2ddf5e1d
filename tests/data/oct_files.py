"""Small OCT scans in the formats of the devices, written by their documented layouts."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.uid import OphthalmicTomographyImageStorage

from .radiograph_files import write_radiograph

EMPTY = np.finfo(np.float32).max  # what HEYEX writes for pixels outside the scan


def bscans(count: int = 3, rows: int = 11, columns: int = 14) -> np.ndarray:
    """Grey values ``[B-scans, rows, columns]`` of 8 bits, unlike under any flip, transposition or change of order."""
    b, r, c = np.mgrid[:count, :rows, :columns]
    return (20 + 61 * b + 7 * r + 2 * c + 9 * (r < rows // 3) * (c > columns // 2)).astype(np.uint8)


def reflectivity(grey: np.ndarray) -> np.ndarray:
    """What Heidelberg's viewer shows as these grey values: the inverse of its curve as eyepy has it."""
    return (np.exp(grey / 255 * 8.285 - 8.3) - 2.44e-4).clip(0, 1).astype(np.float32)


# --- Heidelberg .vol -------------------------------------------------------------------------------------------------


def write_vol(path: Path, values: np.ndarray, *, name: bytes = b"", **header: object) -> Path:
    """Write a raw export with a picture of the fundus of 5 x 4 pixels and three lines of segmentation.

    Args:
        path: the file.
        values: reflectivity, float32 ``[B-scans, rows, columns]``.
        name: what the patient's number is, in the header.
        header: values by the names below.
    """
    count, rows, columns = values.shape
    told = {
        "version": b"HSF-OCT-103",
        "columns": columns,
        "bscans": count,
        "rows": rows,
        "lateral_mm": 0.0118,
        "bscan_spacing_mm": 0.125 if count > 1 else 0.0,
        "axial_mm": 0.00387,
        "side": b"OD",
        "pattern": 3 if count > 1 else 1,
        "bscan_header": 256 + 3 * 4 * columns,
        **header,
    }
    start = struct.pack(
        "<12s3I3d2I2dId4sQiI",
        *(told[key] for key in ("version", "columns", "bscans", "rows", "lateral_mm", "bscan_spacing_mm", "axial_mm")),
        *(5, 4, 0.01, 0.01, 30, -1.5, told["side"], 131286184616218310, told["pattern"], told["bscan_header"]),
    )
    dates = struct.pack("<16s16sI24sdI24sd", b"716.0", b"", 7, name, 20000.0, 1, b"", 42000.0)
    content = (start + dates).ljust(2048, b"\0") + bytes(range(20))
    for bscan in values:
        one = struct.pack("<12sI4dII", b"HSF-BS-103", told["bscan_header"], 1.0, 2.0, 3.0, 2.0, 3, 256).ljust(
            256, b"\0"
        )
        content += one + np.full((3, columns), EMPTY, "<f4").tobytes() + bscan.astype("<f4").tobytes()
    path.write_bytes(content)
    return path


# --- Heidelberg XML --------------------------------------------------------------------------------------------------


def heyex_image(number: int, kind: str, size: tuple[int, int], name: str, y_mm: float) -> str:
    """One picture of an XML export."""
    rows, columns = size
    return f"""<Image><ID>{number}</ID><ImageType><Type>{kind}</Type></ImageType>
<OphthalmicAcquisitionContext><Width>{columns}</Width><Height>{rows}</Height>
<ScaleX>0.0118</ScaleX><ScaleY>0.00387</ScaleY><ImageQuality>26</ImageQuality>
<Start><Coord><X>1.5</X><Y>{y_mm}</Y></Coord></Start><End><Coord><X>7.5</X><Y>{y_mm}</Y></Coord></End>
</OphthalmicAcquisitionContext><ImageData><ExamURL>file:///\\\\server\\export\\{name}</ExamURL></ImageData>
<Segmentation><SegLine><Name>ILM</Name><Array n="{columns}" type="real">{"3e+038 " * columns}</Array></SegLine>
</Segmentation></Image>"""


def write_xml(path: Path, series: Mapping[int, np.ndarray], *, side: str = "L", distance_mm: float = 0.25) -> Path:
    """Write an XML export with the pictures of its B-scans, ``B<series>_<n>.tif``, and of the fundus.

    Args:
        path: the XML file.
        series: grey values of 8 bits ``[B-scans, rows, columns]`` by the number of the series.
        side: the eye.
        distance_mm: between neighbouring B-scans, which go from the lower to the upper one.
    """
    text = ""
    for number, grey in series.items():
        fundus = f"NIR{number}.tif"
        Image.fromarray(np.zeros((5, 4), np.uint8)).save(path.parent / fundus)
        images = [heyex_image(0, "LOCALIZER", (5, 4), fundus, 0)]
        for place, bscan in enumerate(grey):
            name = f"B{number}_{place}.tif"
            Image.fromarray(bscan).save(path.parent / name)
            images.append(heyex_image(place + 1, "OCT", bscan.shape, name, 6.0 - place * distance_mm))
        text += f"<Series><ID>{number}</ID><Laterality>{side}</Laterality>{''.join(images)}</Series>"
    patient = "<Patient><ID>1</ID><LastName>Doe</LastName><FirstNames>J\u00f6rg</FirstNames><Study>"
    path.write_text(f"<HEDX><BODY>{patient}{text}</Study></Patient></BODY></HEDX>", encoding="utf-8")
    return path


# --- Heidelberg .e2e -------------------------------------------------------------------------------------------------


def float_of_16_bits(values: np.ndarray) -> np.ndarray:
    """The nearest numbers without sign of 6 bits of exponent and 10 of mantissa, as uint16."""
    exponent = np.floor(np.log2(np.maximum(values, 2.0**-63)))
    mantissa = np.floor((np.maximum(values, 2.0**-63) / 2.0**exponent - 1) * 1024)
    return ((exponent + 63).astype(np.uint16) << 10) | mantissa.astype(np.uint16)


def write_e2e(path: Path, series: Mapping[int, np.ndarray], *, side: str = "R", order: Sequence[int] = ()) -> Path:
    """Write an E2E file: per series the eye, the fundus, and the place and the pixels of each B-scan.

    Args:
        path: the file.
        series: reflectivity ``[B-scans, rows, columns]`` by the number of the series; 2 is outside the scan.
        side: the eye.
        order: of the B-scans in the file; as they are by default.
    """
    items: list[tuple[int, int, int, int, bytes]] = []  # series, slice, ind, type, content
    items.append((-1, -1, 0, 9, b"J\xf6rg".ljust(31, b"\0") + b"Doe".ljust(66, b"\0") + bytes(4) + b"M" + bytes(25)))
    for number, values in series.items():
        count, rows, columns = values.shape
        items.append((number, -1, 0xFFFF, 11, bytes(14) + side.encode() + bytes(12)))
        items.append((number, -1, 0, 0x40000000, struct.pack("<5I", 40, 33620481, 20, 5, 4) + bytes(20)))
        for place in order or range(count):
            about = struct.pack(
                "<3I4fI3fI2f5I2fIQI2f",
                *(0, rows, columns, -10, place, 10, place, 0, 0, 0.00387, 0, 0, 0, 0),
                *(0, columns, count, place, 3, 0, place, 0, 131286184616218310, 9, 0.84, 0),
            ).ljust(428, b"\0")
            pixels = float_of_16_bits(values[place]).astype("<u2").tobytes()
            head = struct.pack("<5I", len(pixels) + 20, 35652097, rows * columns, rows, columns)
            # a series of one B-scan has the slice 2
            key = 2 * place if count > 1 else 2
            items += [(number, key, 0xFFFF, 10004, about), (number, key, 1, 0x40000000, head + pixels)]
    start = struct.pack("<12sI10H", b"CMDb", 100, *[0] * 10)
    directory = len(start) + 52
    entries, containers = b"", b""
    first = directory + 52 + 44 * len(items)
    for place, (number, key, ind, kind, content) in enumerate(items):
        at, position = first + len(containers), directory + 52 + 44 * place
        ids = (1, -1 if number == -1 else 2, number, key, ind, 0, kind, 0)
        entries += struct.pack("<4I4i2H2I", position, at, len(content), 0, *ids)
        containers += struct.pack("<12s5I4i2H2I", b"MDbData", 0, position, at, len(content), 0, *ids) + content
    main = struct.pack("<12sI10H4I", b"MDbMDir", 100, *[0] * 10, 512, directory, directory, 0)
    chunk = struct.pack("<12sI10H4I", b"MDbDir", 100, *[0] * 10, len(items), directory, 0, 0)
    path.write_bytes(start + main + chunk + entries + containers)
    return path


# --- Topcon .fda -----------------------------------------------------------------------------------------------------


def fda_chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a Topcon file."""
    return struct.pack("<B", len(name)) + name + struct.pack("<I", len(content)) + content


def write_fda(
    path: Path, grey: np.ndarray, *, kind: int = 2, eye: int = 1, older: bool = False, end: bytes = b"\0"
) -> Path:
    """Write a Topcon file with its B-scans as JPEG 2000.

    Args:
        path: the file.
        grey: 8 bits, ``[B-scans, rows, columns]``.
        kind: 0 a line, 2 a rectangular volume, 3 a star.
        eye: 0 right, 1 left.
        older: with the older chunk of parameters.
        end: what follows the last chunk.
    """
    count, rows, columns = grey.shape
    pictures = struct.pack("<B6I", kind, 0, 0, columns, rows, count, 0xA02)
    for bscan in grey:
        stream = io.BytesIO()
        Image.fromarray(bscan).save(stream, "JPEG2000", irreversible=False)
        pictures += struct.pack("<I", len(stream.getvalue())) + stream.getvalue()
    sizes = struct.pack("<5d", 6.0, 4.5, 2.6, 0, 0)
    newer = (b"@PARAM_SCAN_04", bytes(12) + sizes + bytes(2))
    parameters = (b"@PARAM_SCAN_02", bytes(21) + sizes + bytes(17)) if older else newer
    patient = (
        b"P1".ljust(32, b"\0") + b"John".ljust(32, b"\0") + b"Doe".ljust(32, b"\0") + bytes(8) + b"\1" + bytes(700)
    )
    path.write_bytes(
        struct.pack("<4s3sII", b"FOCT", b"FDA", 2, 1000)
        + fda_chunk(b"@PATIENT_INFO_02", patient)
        + fda_chunk(b"@CAPTURE_INFO_02", struct.pack("<BBI100s6H", eye, kind, 1, b"", 2020, 1, 2, 3, 4, 5))
        + fda_chunk(b"@IMG_JPEG", pictures)
        + fda_chunk(*parameters)
        + end
    )
    return path


# --- Zeiss .img ------------------------------------------------------------------------------------------------------


def write_img(folder: Path, grey: np.ndarray, *, form: str = "z", side: str = "OS") -> Path:
    """Write a Cirrus cube of 1024 rows under the name that the device gives it.

    Args:
        folder: where to.
        grey: 8 bits, ``[B-scans, 1024, columns]``, upright.
        form: ``z`` or ``raw``.
        side: the eye.
    """
    count, _, columns = grey.shape
    path = folder / f"P12_Macular Cube {columns}x{count}_1-15-2014_10-10-10_{side}_sn1234_cube_{form}.img"
    path.write_bytes(grey[:, ::-1, ::-1].tobytes())
    return path


# --- DICOM OPT -------------------------------------------------------------------------------------------------------


def sequence(**tags: object) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return [item]


def write_opt(path: Path, grey: np.ndarray, *, distance_mm: float | None = 0.25, **tags: object) -> Path:
    """Write DICOM of ophthalmic tomography, one B-scan a frame, with its spacing in the functional groups.

    Args:
        path: the file.
        grey: 8 bits, ``[B-scans, rows, columns]``.
        distance_mm: between neighbouring frames, by their positions; ``None`` for frames without positions.
        tags: further values by keyword; ``None`` leaves one out.
    """
    shared = sequence(PixelMeasuresSequence=sequence(PixelSpacing=[0.00387, 0.0118], SliceThickness=0.1))
    frames = []
    for place in range(len(grey)):
        (frame,) = sequence(FrameContentSequence=sequence(StackID="1", InStackPositionNumber=place + 1))
        if distance_mm is not None:
            frame.PlanePositionSequence = sequence(ImagePositionPatient=[0.0, 0.0, place * distance_mm])
        frames.append(frame)
    own = {
        "SOPClassUID": OphthalmicTomographyImageStorage,
        "NumberOfFrames": len(grey),
        "Rows": grey.shape[1],
        "Columns": grey.shape[2],
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": grey.tobytes() + b"\0" * (grey.size % 2),
        "ImageLaterality": "R",
        "SharedFunctionalGroupsSequence": shared,
        "PerFrameFunctionalGroupsSequence": frames,
    }
    stated = {keyword: value for keyword, value in (own | tags).items() if value is not None}
    return write_radiograph(path, grey[0], modality="OPT", **stated)
