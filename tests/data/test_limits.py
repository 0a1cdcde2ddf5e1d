"""What an image declares is compared with a limit before anything is allocated for it, whatever the format."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medseg_monai.data import RadiographReader, RasterReader, VolumeReader, find_radiographs, find_volumes
from medseg_monai.data.dicom.files import DamagedFile, read_slice_header
from medseg_monai.data.limits import MAX_IMAGE_MIB, TooLargeError, check_size
from tests.data.dicom_files import write_series
from tests.data.radiograph_files import asymmetric, code_as_jpeg_ls, write_radiograph

NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {}\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
)
MHA = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = {}\n"
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
PIXEL_DATA = b"\xe0\x7f\x10\x00OW"


@pytest.fixture
def little_memory():
    """What Python and NumPy allocate in a test stays below 64 MiB."""
    assert itk.NrrdImageIO  # what it loads now takes more memory than a test may
    assert itk.MetaImageIO
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def write_nifti(path: Path, shape: tuple[int, ...]) -> Path:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.diag((1, 1, 2, 1)), code=1)
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + bytes(2**10)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_volume(path: Path, shape: tuple[int, int, int]) -> Path:
    if path.suffix in (".nii", ".gz"):
        return write_nifti(path, shape)
    sizes = " ".join(str(length) for length in shape)
    path.write_bytes((NRRD if path.suffix == ".nrrd" else MHA).format(sizes).encode() + bytes(2**10))
    return path


def insert(path: Path, elements: bytes) -> Path:
    """Insert data elements in front of the pixels of an explicit VR file."""
    content = path.read_bytes()
    place = content.index(PIXEL_DATA)
    path.write_bytes(content[:place] + elements + content[place:])
    return path


def items(count: int, *, with_length: bool) -> bytes:
    """A sequence with empty items: RequestAttributesSequence."""
    head = b"\x40\x00\x75\x02SQ\x00\x00"
    if with_length:
        return head + (8 * count).to_bytes(4, "little") + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * count
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\xfe\xff\x0d\xe0\x00\x00\x00\x00"
    return head + b"\xff\xff\xff\xff" + item * count + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def elements(count: int) -> bytes:
    """Empty private elements."""
    places = (divmod(number, 2**16) for number in range(count))
    return b"".join(
        (0x41 + group).to_bytes(2, "little") + element.to_bytes(2, "little") + b"UN" + bytes(6)
        for group, element in places
    )


def test_a_large_ct_and_a_large_photograph_are_within_the_default():
    check_size("scan", (512, 512, 2000), MAX_IMAGE_MIB)
    check_size("photograph", (15000, 20000), MAX_IMAGE_MIB, bytes_each=12)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_a_volume_that_declares_a_terabyte_is_refused_before_it_is_read(suffix, tmp_path):
    path = write_volume(tmp_path / f"scan.{suffix}", (8000, 8100, 8190))
    with pytest.raises(ValueError, match=r"scan\.\S+: 8000 x 8100 x 8190 takes \d+ MiB, more than max_image_mib=4096"):
        VolumeReader().get_data((path,))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_a_volume_of_countless_tiny_slices_is_refused(suffix, tmp_path):
    path = write_volume(tmp_path / f"scan.{suffix}", (2, 3, 30000))
    with pytest.raises(ValueError, match="2 x 3 x 30000 voxels, expected at most 8192 along an axis; crop the volume"):
        VolumeReader().get_data((path,))


def test_the_limit_of_a_dicom_series_is_that_of_its_volume(tmp_path):
    write_series(tmp_path, shape=(64, 48, 6))
    assert VolumeReader(max_image_mib=1).get_data((tmp_path,))[0].shape == (64, 48, 6)
    with pytest.raises(ValueError, match=r": 64 x 48 x 6 takes 0 MiB, more than max_image_mib=0\.05"):
        VolumeReader(max_image_mib=0.05).get_data((tmp_path,))


def test_the_limit_of_a_picture_counts_three_channels(tmp_path):
    Image.new("L", (1000, 700)).save(tmp_path / "a.png")
    write_radiograph(tmp_path / "a.dcm", asymmetric(700, 1000))
    readers: list[Callable[[float], RasterReader | RadiographReader]] = [
        lambda limit: RasterReader(channels=1, max_image_mib=limit),
        lambda limit: RadiographReader(max_image_mib=limit),
    ]
    for reader, name in [(readers[0], "a.png"), (readers[1], "a.png"), (readers[1], "a.dcm")]:
        assert reader(8.1).get_data((tmp_path / name,))[0].shape == (1, 700, 1000)
        with pytest.raises(ValueError, match=rf"{name}: 700 x 1000 takes 8 MiB, more than max_image_mib=7"):
            reader(7).get_data((tmp_path / name,))


@pytest.mark.usefixtures("little_memory")
def test_a_header_with_a_gibibyte_in_front_of_its_voxels_is_damaged(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header["vox_offset"] = 2**30
    extension = b"\x01\x00\x00\x00" + (2**30).to_bytes(4, "little") + b"\x06\x00\x00\x00"
    with gzip.open(tmp_path / "scan.nii.gz", "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + extension)
        for _ in range(100):
            stream.write(bytes(2**20))
    with pytest.raises(ValueError, match="truncated, damaged or incomplete"):
        VolumeReader().get_data((tmp_path / "scan.nii.gz",))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_byte_flipped_in_a_compressed_volume_is_noticed(suffix, tmp_path):
    voxels = np.random.default_rng(1).integers(-1000, 1000, (40, 30, 20)).astype(np.int16)
    content = bytearray(gzip.compress(nib.Nifti1Image(voxels, np.diag((1, 1, 2, 1))).to_bytes(), compresslevel=0))
    content[20000] ^= 4
    (tmp_path / f"scan.{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=r"scan\.\S+: truncated, damaged or incomplete; copy it again\."):
        VolumeReader().get_data((tmp_path / f"scan.{suffix}",))


@pytest.mark.usefixtures("little_memory")
def test_a_deflated_radiograph_is_refused_by_the_size_that_it_declares(tmp_path):
    path = write_radiograph(
        tmp_path / "a.dcm",
        np.zeros((64, 48), np.uint16),
        syntax=DeflatedExplicitVRLittleEndian,
        Rows=46000,
        Columns=31000,
    )
    with pytest.raises(ValueError, match=r"a\.dcm: 46000 x 31000 takes 16319 MiB, more than max_image_mib=4096"):
        RadiographReader().get_data((path,))


def test_a_deflated_radiograph_that_inflates_to_more_than_it_declares_is_refused(tmp_path):
    whole = write_radiograph(
        tmp_path / "a.dcm", asymmetric(64, 48), syntax=DeflatedExplicitVRLittleEndian, PixelData=bytes(200 * 2**20)
    )
    assert whole.stat().st_size < 2**18
    tracemalloc.start()
    try:
        assert find_radiographs(whole)
        with pytest.raises(ValueError, match=r"a\.dcm: inflates to more than the image that it declares; export it"):
            RadiographReader().get_data((whole,))
        assert tracemalloc.get_traced_memory()[1] < 2**28  # up to 64 MiB of header, inflated and packed for pydicom
    finally:
        tracemalloc.stop()


def test_a_deflated_radiograph_is_read(tmp_path):
    pixels = asymmetric(64, 48)
    path = write_radiograph(tmp_path / "a.dcm", pixels, syntax=DeflatedExplicitVRLittleEndian)
    np.testing.assert_allclose(RadiographReader().get_data((path,))[0][0], pixels / 4095 * 255, atol=1e-4)


@pytest.mark.parametrize(
    "added", [items(600_000, with_length=True), items(200_000, with_length=False), elements(260_000)]
)
def test_a_dicom_file_of_countless_parts_is_refused(added, tmp_path):
    path = insert(write_radiograph(tmp_path / "a.dcm", asymmetric(64, 48)), added)
    with pytest.raises(ValueError, match=r"a\.dcm: more than 500000 data elements and items; export it again\."):
        RadiographReader().get_data((path,))


def test_a_slice_of_countless_parts_counts_as_damaged(tmp_path):
    series = write_series(tmp_path, name=lambda z: f"{z}.dcm")
    insert(series.files[2], items(200_000, with_length=False))
    assert isinstance(read_slice_header(series.files[2]), DamagedFile)
    with pytest.raises(ValueError, match=r"empty, damaged or not DICOM beside the slices: 2\.dcm"):
        find_volumes(tmp_path)


@pytest.mark.usefixtures("little_memory")
def test_code_that_declares_more_pixels_than_the_header_is_not_decoded(tmp_path):
    dataset = dcmread(write_radiograph(tmp_path / "a.dcm", asymmetric(64, 48), BitsStored=16))
    code_as_jpeg_ls(dataset)
    dataset.save_as(tmp_path / "a.dcm")
    assert RadiographReader().get_data((tmp_path / "a.dcm",))[0].shape == (1, 64, 48)
    dataset = dcmread(write_radiograph(tmp_path / "a.dcm", asymmetric(64, 48), BitsStored=16))
    code_as_jpeg_ls(dataset, size=(30000, 40000))
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(TooLargeError, match=r"a\.dcm: 30000 x 40000 pixels are coded, the header says 64 x 48"):
        RadiographReader().get_data((tmp_path / "a.dcm",))
