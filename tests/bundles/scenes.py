"""Scenes of bright structures in every form of image that a bundle reads; no turn or mirror leaves one as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import pydicom
import tifffile
from nibabel.affines import apply_affine
from PIL import Image

from medseg_monai.bundle import find_bundle, flat_keys, list_bundles, merged_config, read_metadata
from medseg_monai.data.names import case_name
from medseg_monai.layers import disordered_columns
from tests.data.dicom_files import OBLIQUE, ORIGIN, SPACING, find_segment, write_series
from tests.data.photograph_files import write_photograph
from tests.data.radiograph_files import write_radiograph

from .formats import is_of_layers
from .stand_ins import SETTINGS, save_stand_in

__all__ = [
    "BLOB",
    "BLOBS",
    "BOXES",
    "ELSEWHERE",
    "FORMS",
    "IN_PLACE",
    "Drawing",
    "Scene",
    "Shown",
    "check_mask",
    "overlap",
    "points_of",
    "show",
    "symmetries",
]

Turn = Callable[[np.ndarray], np.ndarray]


class Scene(Protocol):
    """Structures in an image, and where they lie.

    Attributes:
        image: the file, or the folder of a DICOM series.
        labels: label of each pixel or voxel; 0 is the background.
        keys: keys that the bundle needs to read such an image.
    """

    image: Path
    labels: np.ndarray
    keys: Mapping[str, Any]

    def masks(self, folder: Path) -> list[Path]:
        """The files with its mask that a bundle writes into ``folder``."""

    def read(self, mask: Path) -> np.ndarray:
        """Labels of a mask, in the grid of :attr:`labels`."""

    def write_label(self, stem: Path, labels: np.ndarray) -> Path:
        """Store labels as a data list names them."""

    def can_be_labelled(self, labels: np.ndarray) -> bool:
        """Whether the bundle takes such labels."""


@dataclass(frozen=True)
class PictureScene:
    """A scene in an image; ``labels`` are ``[H, W]``."""

    image: Path
    labels: np.ndarray
    keys: Mapping[str, Any] = field(default_factory=dict)

    def masks(self, folder: Path) -> list[Path]:
        endings = (".png", ".seg.dcm") if self.image.suffix == ".dcm" else (".png",)
        return [folder / (case_name(self.image) + ending) for ending in endings]

    def read(self, mask: Path) -> np.ndarray:
        is_dicom = mask.suffix == ".dcm"
        values = pydicom.dcmread(mask).pixel_array.squeeze() if is_dicom else np.asarray(Image.open(mask))
        return (values > 0).astype(np.uint8)

    def write_label(self, stem: Path, labels: np.ndarray) -> Path:
        path = stem.with_suffix(".png")
        Image.fromarray(labels > 0).save(path)  # one bit, so that it is not the file of a scene of black and white
        return path

    def can_be_labelled(self, labels: np.ndarray) -> bool:
        return True


class LayerScene(PictureScene):
    """A scene of two layers: below each structure it is bright down to the lower edge."""

    def can_be_labelled(self, labels: np.ndarray) -> bool:
        return not disordered_columns(labels).size


@dataclass(frozen=True)
class StackScene:
    """A scene in a TIFF of several pages; ``labels`` are ``[pages, H, W]``."""

    image: Path
    labels: np.ndarray
    keys: Mapping[str, Any] = field(default_factory=dict)

    def masks(self, folder: Path) -> list[Path]:
        return [folder / self.image.name]

    def read(self, mask: Path) -> np.ndarray:
        return (tifffile.imread(mask) > 0).astype(np.uint8)

    def write_label(self, stem: Path, labels: np.ndarray) -> Path:
        path = stem.with_suffix(".tif")
        tifffile.imwrite(path, (labels > 0) * np.uint8(255), photometric="minisblack")
        return path

    def can_be_labelled(self, labels: np.ndarray) -> bool:
        return True


@dataclass(frozen=True)
class VolumeScene:
    """A scene in a volume; ``labels`` are ``[X, Y, Z]``, and ``affine`` (RAS, mm) says where they lie in the patient.

    Masks are found by the geometry that their files state, whatever the order of their axes.
    """

    image: Path
    labels: np.ndarray
    affine: np.ndarray
    keys: Mapping[str, Any] = field(default_factory=dict)

    def masks(self, folder: Path) -> list[Path]:
        endings = (".nii.gz", ".seg.dcm") if self.image.is_dir() else (".nii.gz",)
        return [folder / (case_name(self.image) + ending) for ending in endings]

    def read(self, mask: Path) -> np.ndarray:
        return self.place(_points_of_seg(mask) if mask.suffix == ".dcm" else _points_of_nifti(mask))

    def place(self, points: Mapping[int, np.ndarray]) -> np.ndarray:
        """Labels whose voxels lie at these points of the patient (RAS, mm)."""
        found = np.zeros_like(self.labels)
        for label, places in points.items():
            voxels = apply_affine(np.linalg.inv(self.affine), places)
            nearest = voxels.round().astype(int)
            np.testing.assert_allclose(voxels, nearest, atol=0.02, err_msg="the mask has another grid than its image")
            assert ((nearest >= 0) & (nearest < found.shape)).all(), "the mask lies outside of its image"
            found[tuple(nearest.T)] = label
        return found

    def write_label(self, stem: Path, labels: np.ndarray) -> Path:
        path = stem.with_suffix(".nii.gz")
        nib.Nifti1Image(labels, self.affine).to_filename(path)
        return path

    def can_be_labelled(self, labels: np.ndarray) -> bool:
        return True


def points_of(labels: np.ndarray, affine: np.ndarray) -> dict[int, np.ndarray]:
    """Where the voxels of each label lie."""
    return {int(label): apply_affine(affine, np.argwhere(labels == label)) for label in np.unique(labels[labels > 0])}


def _points_of_nifti(mask: Path) -> dict[int, np.ndarray]:
    file = nib.load(mask)
    return points_of(np.asarray(file.dataobj), file.affine)


def _points_of_seg(mask: Path) -> dict[int, np.ndarray]:
    numbers = [int(segment.SegmentNumber) for segment in pydicom.dcmread(mask).SegmentSequence]
    return {number: find_segment(mask, number) * LPS_TO_RAS for number in numbers}


def overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """Dice coefficient of the label that fares worst; 0 for labels of another shape."""
    if found.shape != expected.shape:
        return 0.0
    pairs = [(found == label, expected == label) for label in np.union1d(found, expected) if label]
    return min(float(2 * (one & other).sum() / (one.sum() + other.sum())) for one, other in pairs)


#: overlaps: a part of an edge pixel is lost where a network has another grid than its image, and a turned mask is off
IN_PLACE, ELSEWHERE = 0.98, 0.7


def check_mask(scene: Scene, mask: Path) -> None:
    """Fail unless the mask lies where the scene does."""
    found = overlap(scene.read(mask), scene.labels)
    assert found > IN_PLACE, mask.name


def symmetries(dimensions: int) -> Iterator[Turn]:
    """All ways to turn and to mirror an image onto its own axes, but the one that leaves it as it is."""
    for axes, steps in product(permutations(range(dimensions)), product((1, -1), repeat=dimensions)):
        if axes != tuple(range(dimensions)) or -1 in steps:
            yield lambda x, axes=axes, steps=steps: x.transpose(axes)[tuple(slice(None, None, step) for step in steps)]


# --- drawing ---------------------------------------------------------------------------------------------------------

LPS_TO_RAS = np.array([-1, -1, 1])

DARK, BRIGHT = 40, 215  # as far from black as from white
AIR, BONE = SETTINGS["hu_min"], SETTINGS["hu_max"]
PICTURE = (331, 417)


@dataclass(frozen=True)
class Drawing:
    """What a scene shows.

    Attributes:
        picture: labels ``[H, W]`` of an image.
        volume: labels ``[X, Y, Z]`` of a volume with so many structures.
    """

    picture: Callable[[], np.ndarray]
    volume: Callable[[int], np.ndarray]


#: cuboids of each label, three voxels apart and more: a stand-in may look at what is near
CUBOIDS: dict[int, list[tuple[slice, slice, slice]]] = {
    1: [np.s_[5:36, 4:14, 1:8], np.s_[22:36, 14:26, 1:5]],
    2: [np.s_[40:54, 6:25, 2:9]],
    3: [np.s_[8:28, 34:46, 3:12]],
    4: [np.s_[35:52, 30:45, 1:5]],
    5: [np.s_[40:54, 30:43, 8:13]],
}


def _boxes_of_picture() -> np.ndarray:
    labels = np.zeros(PICTURE, dtype=np.uint8)
    labels[60:200, 50:130] = 1
    labels[150:200, 130:190] = 1
    return labels


def _boxes_of_volume(count: int) -> np.ndarray:
    labels = np.zeros((58, 50, 14), dtype=np.uint8)
    for label in range(1, count + 1):
        for cuboid in CUBOIDS[label]:
            labels[cuboid] = label
    return labels


def _ellipsoids(shape: tuple[int, ...], *ellipsoids: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    """Ellipsoids, each of a centre and half axes, tilted in the plane of the first two: no edge runs along the grid."""
    return np.any([_ellipsoid(shape, *one) for one in ellipsoids], axis=0).astype(np.uint8)


def _ellipsoid(shape: tuple[int, ...], centre: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    x, y, *z = [place - middle for place, middle in zip(np.indices(shape), centre, strict=True)]
    places = [0.9 * x + 0.436 * y, 0.9 * y - 0.436 * x, *z]
    return sum((place / axis) ** 2 for place, axis in zip(places, axes, strict=True)) <= 1


#: the first label has an island
BLOBS_OF_LABELS = {
    1: [((19, 13, 5), (13, 7, 4)), ((8, 27, 6), (4, 3, 3))],
    2: [((47, 15, 5), (7, 9, 3))],
    3: [((18, 39, 7), (10, 6, 4))],
    4: [((44, 37, 3), (8, 7, 3))],
    5: [((47, 36, 10), (6, 6, 2))],
}


def _blobs_of_volume(count: int) -> np.ndarray:
    labels = np.zeros((58, 50, 14), dtype=np.uint8)
    for label in range(1, count + 1):
        labels[_ellipsoids(labels.shape, *BLOBS_OF_LABELS[label]) > 0] = label
    return labels


#: structures with straight edges
BOXES = Drawing(_boxes_of_picture, _boxes_of_volume)
#: smooth structures, one of them in two parts
BLOBS = Drawing(lambda: _ellipsoids(PICTURE, ((150, 190), (70, 38)), ((222, 262), (13, 9))), _blobs_of_volume)
#: one large structure beside the middle, so that its centroid is known to a few hundredths of a pixel in any grid
BLOB = Drawing(
    lambda: _ellipsoids(PICTURE, ((150, 190), (80, 55))),
    lambda count: count * _ellipsoids((116, 100, 29), ((50, 42, 12), (42, 29, 10))),
)


def forms_of(bundle: Path) -> list[str]:
    """The forms of images that a bundle reads."""
    data_type = read_metadata(bundle)["data_type"]
    if "NIfTI" in data_type:
        return ["NIfTI RAS", "NIfTI PIR", "DICOM series", *(["PNG slice"] if _reads_slices(bundle) else [])]
    others = () if is_of_layers(bundle.name) else ("DICOM", "TIFF stack")
    return ["PNG", "JPEG", *(one for one in others if one in data_type)]


def draw(bundle: Path, form: str, folder: Path, drawing: Drawing = BOXES) -> Scene:
    """Write an image of one of the bundle's forms.

    Args:
        bundle: folder of the bundle.
        form: one of :func:`forms_of`.
        folder: where the image lies alone.
        drawing: what it shows.

    Returns:
        the scene in the image.
    """
    folder.mkdir(parents=True)
    image = read_metadata(bundle)["network_data_format"]["inputs"]["image"]
    kind, _, axes = form.partition(" ")
    if form == "PNG slice":
        labels = drawing.volume(1)
        return _draw_slice(folder / "slice.png", labels[:, :, labels.sum(axis=(0, 1)).argmax()])
    if form == "TIFF stack":
        return _draw_stack(folder / "stack.tif", drawing.volume(1))
    if form == "DICOM":
        draw_one = _draw_radiograph if image["num_channels"] == 1 else _draw_photograph
        return draw_one(folder / "picture.dcm", drawing.picture())
    keys = {"slices": False} if _reads_slices(bundle) else {}
    if form == "DICOM series":
        return _draw_series(folder / "exam", drawing.volume(_structures(bundle)), image["modality"], keys)
    if kind == "NIfTI":
        return _draw_nifti(folder / "scan.nii.gz", drawing.volume(_structures(bundle)), axes, keys)
    draw_picture = _draw_layers if is_of_layers(bundle.name) else _draw_picture
    return draw_picture(folder / f"picture.{form.lower()}", drawing.picture(), image["num_channels"])


def _reads_slices(bundle: Path) -> bool:
    return "slices" in flat_keys(merged_config(bundle, ["inference"]))


def _structures(bundle: Path) -> int:
    """How many a bundle tells apart."""
    channels = len(read_metadata(bundle)["network_data_format"]["outputs"]["pred"]["channel_def"])
    return max(channels - 1, 1)


def _coloured(labels: np.ndarray, channels: int) -> np.ndarray:
    gray = np.where(labels, BRIGHT, DARK)
    tint = (35, 0, -35) if channels == 3 else (0,)
    return np.stack([gray + shift for shift in tint], axis=-1).astype(np.uint8)


def _draw_photograph(path: Path, labels: np.ndarray) -> Scene:
    write_photograph(path, _coloured(labels, 3))
    return PictureScene(path, labels)


def _draw_picture(path: Path, labels: np.ndarray, channels: int) -> Scene:
    """A landscape, as JPEG a portrait; colours differ, and their mean is that of a grey image."""
    labels = labels.T if path.suffix == ".jpeg" else labels
    Image.fromarray(_coloured(labels, channels).squeeze()).save(path)
    return PictureScene(path, labels)


def _draw_layers(path: Path, labels: np.ndarray, channels: int) -> Scene:
    labels = np.maximum.accumulate(labels, axis=0)
    Image.fromarray(_coloured(labels, channels).squeeze()).save(path)
    return LayerScene(path, labels)


def _draw_radiograph(path: Path, labels: np.ndarray) -> Scene:
    pixels = np.where(labels, BRIGHT, DARK).astype(np.uint16) * 16
    return PictureScene(write_radiograph(path, pixels, WindowCenter=2048, WindowWidth=4096), labels)


def _draw_slice(path: Path, labels: np.ndarray) -> Scene:
    """A slice of a CT as a radiologist sees it: the rows are the columns of the picture."""
    labels = labels.T
    Image.fromarray(np.where(labels, 255, 0).astype(np.uint8)).save(path)
    return PictureScene(path, labels, {"slices": True})


def _draw_stack(path: Path, labels: np.ndarray) -> Scene:
    """Sections that differ from page to page."""
    labels = labels.T
    tifffile.imwrite(path, np.where(labels, BRIGHT, DARK).astype(np.uint8), photometric="minisblack")
    return StackScene(path, labels)


def _hounsfield(labels: np.ndarray) -> np.ndarray:
    """The brighter, the higher the label."""
    return (AIR + (BONE - AIR) * (labels / labels.max())).round().astype(np.int16)


def _draw_series(folder: Path, labels: np.ndarray, modality: str, keys: Mapping[str, Any]) -> Scene:
    written = write_series(folder, volume=_hounsfield(labels), modality=modality)
    return VolumeScene(folder, labels, written.affine, keys)


def _draw_nifti(path: Path, labels: np.ndarray, axes: str, keys: Mapping[str, Any]) -> Scene:
    """An oblique volume whose axes are in another order and direction than those of the scene."""
    affine = np.eye(4)
    affine[:3] = LPS_TO_RAS[:, None] * np.c_[OBLIQUE * SPACING, ORIGIN]
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    nib.Nifti1Image(_hounsfield(labels), affine).as_reoriented(turn).to_filename(path)
    return VolumeScene(path, labels, affine, keys)


# --- a scene and a bundle that is asked for it -----------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A scene, and how a bundle is asked for it with a stand-in for its network.

    Attributes:
        bundle: folder of the bundle.
        scene: the scene.
        network: class of the stand-in, as a config names it.
        model: its weights.
    """

    bundle: Path
    scene: Scene
    network: str
    model: Path

    @property
    def keys(self) -> dict[str, Any]:
        """Keys of the bundle's configs, and their values."""
        return {"network_def#_target_": self.network, **self.scene.keys}

    @property
    def options(self) -> list[str]:
        """Options of ``medseg``."""
        keys = ["--allow-expressions"]  # for the stand-in of the network
        keys += [part for key, value in self.keys.items() for part in ("--set", f"{key}={value}")]
        return ["--checkpoint", str(self.model), *keys]


#: name of a bundle, and a form of image that it reads
FORMS = [(name, form) for name in list_bundles() for form in forms_of(find_bundle(name))]


def show(name: str, form: str, folder: Path, drawing: Drawing = BOXES) -> Shown:
    """Draw a scene in one of the forms of a bundle, and save a stand-in for its network."""
    bundle = find_bundle(name)
    scene = draw(bundle, form, folder / "images", drawing)
    return Shown(bundle, scene, save_stand_in(bundle, folder / "model.pt"), folder / "model.pt")
