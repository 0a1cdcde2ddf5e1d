"""Pictures, radiographs and photographs in files and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from medseg_monai.data.dicom import is_dicom_file, read_modality
from medseg_monai.data.readers.dicom_picture import PHOTOGRAPH, RADIOGRAPH, PictureKind
from medseg_monai.data.readers.raster import RASTER_SUFFIXES
from medseg_monai.files import has_ending

from .folders import Folder, FoundCases, Paths, directly_in, existing, find_cases, in_folder_or_below, left_out_of

__all__ = [
    "at_least_one",
    "find_images",
    "find_photographs",
    "find_radiographs",
    "picture",
    "pictures_in",
    "why_no_picture",
]

_IMAGE = PictureKind("image", (), in_colour=True)


def find_images(paths: Paths) -> FoundCases:
    """List the 2D images in files and folders.

    A folder stands for the image files directly in it, which are recognised by their suffix. If there are none, it
    stands for its case folders: those directly in it with one image each, without hidden folders and those with the
    results of a prediction. One warning names whatever else there is except hidden files: other files, broken links,
    folders with images beside images. A file that is named itself is taken whatever its suffix.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path, "name": name}`` with absolute paths, each file once, in the given order and sorted
        within a folder; :func:`medseg_monai.data.names.name_cases` tells how they are named.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without an image, a case folder with several, or two files of a folder that differ in their
            endings alone.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(item["image"]).name for item in find_images(folder)]
        ['a.jpg', 'b.png']
    """
    return find_cases(paths, in_folder=partial(pictures_in, kind=_IMAGE), named=existing, what=_IMAGE.name)


def find_radiographs(paths: Paths) -> FoundCases:
    """List the radiographs in files and folders, for :class:`medseg_monai.data.RadiographReader`.

    A folder stands for the image files (recognised by their suffix) and the DICOM radiographs directly in it. DICOM is
    recognised by the ending ``.dcm`` or by its content, and each file is a case. Other DICOM files in a folder
    (reports, earlier segmentations, CT) are left out with the rest. A DICOM file whose header does not state a modality
    is kept, so that reading it reports what is wrong. A folder without a radiograph stands for its case folders; that,
    and the warning of what is left out, is as in :func:`find_images`. A file that is named itself is taken whatever its
    suffix, but DICOM must be a radiograph.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path, "name": name}`` with absolute paths, each file once, in the given order and sorted
        within a folder; :func:`medseg_monai.data.names.name_cases` tells how they are named.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without a radiograph, a case folder with several, a named DICOM file of another modality
            than CR or DX, or two files of a folder that differ in their endings alone.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_radiographs
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_chest_xray_phantoms(folder, counts={"test": 1}, size=(64, 64), seed=0, image_format="dicom")
        ...     [Path(item["image"]).name for item in find_radiographs(f"{folder}/images")]
        ['phantom_0001.dcm']
    """
    return _find_pictures(paths, RADIOGRAPH)


def find_photographs(paths: Paths) -> FoundCases:
    """List the photographs of eyes in files and folders, for :class:`medseg_monai.data.PhotographReader`.

    As :func:`find_radiographs`, with DICOM of ophthalmic photography (OP) instead of radiographs.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path, "name": name}`` as :func:`find_radiographs` returns them.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without a photograph, a case folder with several, a named DICOM file of another modality
            than OP, or two files of a folder that differ in their endings alone.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_photographs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "left.jpg").touch()
        ...     [Path(item["image"]).name for item in find_photographs(folder)]
        ['left.jpg']
    """
    return _find_pictures(paths, PHOTOGRAPH)


def _find_pictures(paths: Paths, kind: PictureKind) -> FoundCases:
    in_folder, named = partial(pictures_in, kind=kind), partial(picture, kind=kind)
    return find_cases(paths, in_folder=in_folder, named=named, what=kind.name)


def pictures_in(folder: Path, *, kind: PictureKind) -> Folder:
    """The raster images and the DICOM images of a kind in a folder, at least one.

    Args:
        folder: the folder.
        kind: what they are.

    Raises:
        ValueError: there is none, or a case folder has several.
    """
    pictures = partial(directly_in, why_not=partial(why_no_picture, kind=kind))
    return at_least_one(folder, pictures, kind, RASTER_SUFFIXES)


def at_least_one(
    folder: Path, those_in: Callable[[Path], Folder], kind: PictureKind, suffixes: Sequence[str]
) -> Folder:
    """The cases in a folder or in its case folders.

    Args:
        folder: the folder.
        those_in: finds the cases directly in a folder.
        kind: what they are.
        suffixes: endings of files that were looked for, for the message.

    Raises:
        ValueError: there is none, or a case folder has several.
    """
    found = in_folder_or_below(folder, directly_in=those_in, what=kind.name)
    if not found.cases:
        wanted = ", ".join(suffixes) + (f", DICOM of {' or '.join(kind.modalities)}" if kind.modalities else "")
        raise ValueError(f"{folder}: no {kind.name} in this folder (looked for {wanted}){left_out_of(folder, found)}.")
    return found


def why_no_picture(file: Path, kind: PictureKind) -> str | None:
    """Say why a file is left out.

    Args:
        file: the file.
        kind: what it should be.

    Returns:
        the reason; empty if the name says it; ``None`` if the file is a case, as is DICOM that states no modality,
        which reading reports.
    """
    if kind.modalities and is_dicom_file(file):
        return _other_modality(file, kind) or None
    return None if has_ending(file, RASTER_SUFFIXES) else ""


def picture(path: Path, *, kind: PictureKind) -> Path:
    """Return a picture that the user has named; DICOM must be of the kind.

    Args:
        path: the file.
        kind: what it must be.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: DICOM of another modality.
    """
    if is_dicom_file(existing(path)) and (modality := _other_modality(path, kind)):
        wanted = " or ".join(kind.modalities)
        raise ValueError(f"{path}: modality {modality}, expected {wanted}; give a {kind.name}.")
    return path


def _other_modality(file: Path, kind: PictureKind) -> str:
    """The modality of a DICOM file of another kind; empty if it is of this one, or if its header states none."""
    modality = read_modality(file)
    return "" if modality in kind.modalities else modality
