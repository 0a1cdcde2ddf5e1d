"""Damaged files at every reader: a result that is whole, or one line that names the file; never more memory.

Each file is damaged as it stands, and also inside its packing, with checksums that fit again, since nobody who wants to
harm leaves a wrong checksum. The same damage is tried on every run.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medseg_monai.bundle import Predictor, predict_cases
from medseg_monai.data import (
    OCTReader,
    RadiographReader,
    RasterReader,
    VolumeReader,
    find_oct,
    find_radiographs,
    find_volumes,
)
from medseg_monai.data.datalist import load_sections
from medseg_monai.errors import explain
from medseg_monai.networks.weights import ModelFile, write_model
from tests.data.dicom_files import write_series
from tests.data.oct_files import bscans, reflectivity, write_e2e, write_fda, write_opt, write_vol, write_xml
from tests.data.radiograph_files import asymmetric, code_as_jpeg_ls, write_radiograph

EXAMPLES = int(os.environ.get("MEDSEG_FUZZ_EXAMPLES", "40"))  # of each kind of file

LIMIT = 16  # MiB of an image
MOST = 400  # MiB that reading may take, with a DICOM header of 64 MiB that is inflated and packed again

tried = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Seed:
    """A whole file: its name, the content to damage, how that becomes the file, and who reads it."""

    name: str
    content: bytes
    read: Callable[[Path], Any]
    pack: Callable[[bytes], bytes] = bytes


Build = Callable[[Path], Seed]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- damage ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """A change at a place: bytes that are replaced, cut out or put in, or the end of the file."""

    kind: str
    place: int
    is_near_start: bool
    content: bytes

    def apply(self, whole: bytes) -> bytes:
        """Damage a file."""
        place = self.place % (min(len(whole), 600) if self.is_near_start else len(whole)) if whole else 0
        before, after = whole[:place], whole[place:]
        return {
            "replace": before + self.content + after[len(self.content) :],
            "flip": before + bytes(byte ^ self.content[0] for byte in after[:1]) + after[1:],
            "cut": before + after[len(self.content) :],
            "insert": before + self.content + after,
            "end": before,
        }[self.kind]


#: numbers at which programs stumble, in both byte orders
NUMBERS = [
    number.to_bytes(size, order, signed=number < 0)
    for number in (-1, 0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**24, 2**30)
    for size, order in ((2, "little"), (2, "big"), (4, "little"), (4, "big"), (8, "little"))
    if -(2 ** (8 * size - 1)) <= number < 2 ** (8 * size)
]
FLOATS = [
    struct.pack(f"{order}f", number) for number in (np.nan, np.inf, -np.inf, 0.0, 1e30, -1.0, 1e-30) for order in "<>"
]

damages = st.lists(
    st.builds(
        Damage,
        kind=st.sampled_from(["replace", "replace", "replace", "flip", "flip", "cut", "insert", "end"]),
        place=st.integers(0, 2**16),
        is_near_start=st.booleans(),
        content=st.one_of(st.sampled_from(NUMBERS), st.sampled_from(FLOATS), st.binary(min_size=1, max_size=9)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(seed: Seed, changes: list[Damage]) -> bytes:
    content = seed.content
    for change in changes:
        content = change.apply(content)
    return seed.pack(content)


# --- what has to hold ------------------------------------------------------------------------------------------------


@contextmanager
def little_memory() -> Iterator[None]:
    """What the process takes at its peak, above what it had, where Linux tells it."""
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return

    def mib(name: str) -> float:
        found = re.search(rf"{name}:\s+(\d+) kB", status.read_text())
        assert found
        return int(found[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = mib("VmRSS")
    yield
    assert mib("VmHWM") - before < MOST


def assert_read_or_refused(seed: Seed, content: bytes, folder: Path) -> None:
    """Reading gives something whole, or one line that begins with the file (or its folder)."""
    path = write(folder / seed.name, content)
    with little_memory():
        refusal = refusal_of(seed, path)
    if refusal is not None:
        assert explain(refusal) == str(refusal)
        assert str(refusal).isprintable()
        assert str(refusal).startswith(str(folder)), repr(refusal)


def refusal_of(seed: Seed, path: Path) -> Exception | None:
    try:
        seed.read(path)
    except (ValueError, OSError) as error:
        return error
    return None


def read_image(reader: RasterReader | RadiographReader | OCTReader | VolumeReader) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        values, meta = reader.get_data((path,))
        shape = values.shape if isinstance(reader, VolumeReader) else values.shape[1:]
        assert tuple(meta["spatial_shape"]) == shape
        assert np.isfinite(values).all()
        assert values.size * 4 <= LIMIT * 2**20

    return read


def read_radiograph(path: Path) -> None:
    for item in find_radiographs(path):
        read_image(RadiographReader(max_image_mib=LIMIT))(Path(item["image"]))


def read_oct(path: Path) -> None:
    for item in find_oct(path):
        read_image(OCTReader(max_image_mib=LIMIT))(Path(item["image"]))


def read_series(path: Path) -> None:
    for item in find_volumes(path.parent):
        read_image(VolumeReader(max_image_mib=LIMIT))(Path(item["image"]))


def read_weights(path: Path) -> None:
    model = ModelFile(path)
    model.setting("image_size", [32, 40])
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point())


# --- whole files -----------------------------------------------------------------------------------------------------


def picture(kind: str, mode: str = "L", pack: Callable[[bytes], bytes] = bytes, **options: Any) -> Build:
    """A picture of 37 x 53 pixels."""

    def build(folder: Path) -> Seed:
        grey = asymmetric(37, 53, highest=255).astype(np.uint8)
        image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return Seed(f"a.{kind.lower()}", stream.getvalue(), read_image(RasterReader(max_image_mib=LIMIT)), pack)

    return build


def with_checksums(content: bytes) -> bytes:
    """The chunks of a PNG with checksums that fit."""
    result, position = content[:8], 8
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunk = content[position + 4 : position + 8 + length]
        result += content[position : position + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        position += 12 + length
    return result + content[position:]


def radiograph(edit: Callable[[Any], None] = lambda dataset: None, **options: Any) -> Build:
    """A radiograph of 37 x 53 pixels as DICOM."""

    def build(folder: Path) -> Seed:
        path = write_radiograph(folder / "whole.dcm", asymmetric(37, 53), **options)
        dataset = dcmread(path)
        edit(dataset)
        dataset.save_as(path)
        return Seed("a.dcm", path.read_bytes(), read_radiograph)

    return build


def deflated_radiograph(folder: Path) -> Seed:
    """What is damaged is packed, behind the head of a deflated file."""
    whole = write_radiograph(folder / "whole.dcm", asymmetric(37, 53), syntax=DeflatedExplicitVRLittleEndian)
    plain = write_radiograph(folder / "plain.dcm", asymmetric(37, 53)).read_bytes()
    head = whole.read_bytes()[: _start_of_data_set(whole.read_bytes())]

    def pack(content: bytes) -> bytes:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return head + packer.compress(content) + packer.flush()

    return Seed("a.dcm", plain[_start_of_data_set(plain) :], read_radiograph, pack)


def _start_of_data_set(content: bytes) -> int:
    return 144 + int.from_bytes(content[140:144], "little")  # what the file meta information states of its length


def series(folder: Path) -> Seed:
    """One slice of a series, which is read as a whole."""
    written = write_series(folder, name=lambda z: f"{z}.dcm")
    return Seed("2.dcm", written.files[2].read_bytes(), read_series)


def volume(
    name: str, image_class: type[nib.Nifti1Image] = nib.Nifti1Image, pack: Callable[[bytes], bytes] = bytes
) -> Build:
    """A volume of 7 x 9 x 5 voxels."""

    def build(folder: Path) -> Seed:
        voxels = np.random.default_rng(0).integers(-1000, 1000, (7, 9, 5)).astype(np.int16)
        if "nii" in name:
            content = image_class(voxels, np.diag((-0.8, -0.9, 2.5, 1))).to_bytes()
        else:
            itk.imwrite(itk.image_from_array(voxels.T.copy()), str(folder / name), compression=True)
            content = (folder / name).read_bytes()
        return Seed(name, content, read_image(VolumeReader(max_image_mib=LIMIT)), pack)

    return build


def scan(name: str, write: Callable[[Path], Path]) -> Build:
    """Retinal scans of up to 3 B-scans of 11 x 14 pixels; two in a file that may hold several."""
    return lambda folder: Seed(name, write(folder / name).read_bytes(), read_oct)


def two_scans_of_e2e(path: Path) -> Path:
    return write_e2e(path, {4: reflectivity(bscans()), 9: reflectivity(bscans(1))})


def saved(*, archive: bool = True) -> bytes:
    """Weights and settings in one file, as earlier versions wrote them."""
    state = {"body.weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(3), "body.bias": torch.ones(3)}
    stream = io.BytesIO()
    content = {"model": state, "settings": {"image_size": [4, 6]}}
    torch.save(content, stream, _use_new_zipfile_serialization=archive)
    return stream.getvalue()


def weights(*, archive: bool) -> Build:
    return lambda folder: Seed("a.pt", saved(archive=archive), read_weights)


def pickled_weights(folder: Path) -> Seed:
    """What is damaged is the pickle in the archive of the weights."""
    with zipfile.ZipFile(io.BytesIO(saved())) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    pickle = next(name for name in parts if name.endswith("data.pkl"))

    def pack(content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, part in {**parts, pickle: content}.items():
                archive.writestr(name, part)
        return stream.getvalue()

    return Seed("a.pt", parts[pickle], read_weights, pack)


def settings_of_weights(folder: Path) -> Seed:
    write_model(folder / "a.pt", {"weight": torch.ones(2)}, {"image_size": [4, 6]})
    return Seed("a.json", (folder / "a.json").read_bytes(), lambda path: read_weights(path.with_name("a.pt")))


def data_list(folder: Path) -> Seed:
    (folder / "a.png").touch()
    items = [{"image": f"{name}.png", "label": "b.png", "patient": 7, "source": "x"} for name in "aa"]
    (folder / "b.png").write_bytes(b"b")
    return Seed("list.json", json.dumps({"training": items, "test": []}).encode(), load_sections)


#: Keras' files are not among them: HDF5's library can search the heap of a damaged file for ever
SEEDS: dict[str, Build] = {
    "png": picture("PNG"),
    "png, checksums fit": picture("PNG", pack=with_checksums),
    "png with a palette, checksums fit": picture("PNG", "P", pack=with_checksums),
    "png of 16 bits, checksums fit": picture("PNG", "I;16", pack=with_checksums),
    "tiff": picture("TIFF"),
    "tiff, deflated": picture("TIFF", "RGB", compression="tiff_adobe_deflate"),
    "tiff of 16 bits, lzw": picture("TIFF", "I;16", compression="tiff_lzw"),
    "jpeg": picture("JPEG", "RGB"),
    "webp": picture("WEBP", "RGB"),
    "gif": picture("GIF"),
    "bmp": picture("BMP", "RGB"),
    "radiograph": radiograph(),
    "radiograph, implicit": radiograph(syntax=ImplicitVRLittleEndian, WindowCenter=900, WindowWidth=300),
    "radiograph, run lengths": radiograph(lambda dataset: dataset.compress(RLELossless)),
    "radiograph, JPEG-LS": radiograph(code_as_jpeg_ls),
    "radiograph, deflated": deflated_radiograph,
    "series": series,
    "nifti": volume("a.nii"),
    "nifti 2": volume("a.nii", nib.Nifti2Image),
    "nifti, compressed": volume("a.nii.gz", pack=lambda content: gzip.compress(content, 1)),
    "nifti, damaged when compressed": volume("a.nii.gz"),
    "nrrd": volume("a.nrrd"),
    "mha": volume("a.mha"),
    "oct, vol": scan("a.vol", lambda path: write_vol(path, reflectivity(bscans()))),
    "oct, e2e": scan("a.e2e", two_scans_of_e2e),
    "oct, xml": scan("a.xml", lambda path: write_xml(path, {4: bscans(), 9: bscans(1)})),
    "oct, fda": scan("a.fda", lambda path: write_fda(path, bscans())),
    "oct, dicom": scan("a.dcm", lambda path: write_opt(path, bscans())),
    "weights": weights(archive=True),
    "weights, old": weights(archive=False),
    "weights, checksums fit": pickled_weights,
    "settings of weights": settings_of_weights,
    "data list": data_list,
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_file_is_read_whole_or_refused_in_one_line(name, tmp_path):
    seed = SEEDS[name](tmp_path)
    seed.read(write(tmp_path / seed.name, damaged(seed, [])))

    @tried
    @given(damages)
    def attempt(changes: list[Damage]) -> None:
        assert_read_or_refused(seed, damaged(seed, changes), tmp_path)

    attempt()


keys = st.sampled_from(["image", "label", "label_expert1", "fov", "patient", "source", "name", "training", "test", ""])
#: anything that JSON can hold, with the keys and names of a data list among it
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["a.png", "", "/", "..", "\0", "\ud800", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@tried
@given(st.dictionaries(keys, anything | st.lists(st.dictionaries(keys, anything, max_size=4), max_size=3), max_size=3))
def test_a_data_list_with_anything_in_it_is_read_or_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.png").touch()
    seed = Seed("list.json", b"", load_sections)
    assert_read_or_refused(seed, json.dumps(content).encode(), tmp_path)


def test_a_data_list_of_countless_brackets_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"list\.json: not a JSON file"):
        load_sections(write(tmp_path / "list.json", b"[" * 10**5))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("lung_cxr_rescrnet", overrides={"fast": False, "max_image_mib": LIMIT})


@pytest.mark.parametrize("name", ["png, checksums fit", "jpeg", "radiograph"])
def test_a_mask_has_the_size_of_its_damaged_image_or_the_case_fails_in_one_line(name, predictor, tmp_path):
    seed = SEEDS[name](tmp_path)
    (tmp_path / "in").mkdir()

    @settings(tried, max_examples=max(8, EXAMPLES // 8))
    @given(damages)
    def attempt(changes: list[Damage]) -> None:
        path = write(tmp_path / "in" / seed.name, damaged(seed, changes))
        (case,) = predict_cases(predictor, [{"image": str(path)}], tmp_path / "out").cases
        if case.status == "failed":
            assert re.fullmatch(rf"{re.escape(str(path))}: .*", case.error)
        else:
            with Image.open(next(file for file in case.outputs if file.endswith(".png"))) as mask:
                assert mask.size == declared_size(path)

    attempt()


def declared_size(path: Path) -> tuple[int, int]:
    """Width and height by the header."""
    if path.suffix == ".dcm":
        header = dcmread(path, stop_before_pixels=True, force=True)
        return header.Columns, header.Rows
    with Image.open(path) as image:
        return image.size
