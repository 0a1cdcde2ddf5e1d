"""The one line that a user reads."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImaged, MapTransform
from PIL import Image

from medseg_monai.bundle import BundleError
from medseg_monai.data import RasterReader, VolumeReader
from medseg_monai.errors import explain, is_users_mistake


def caught(run: Any) -> Exception:
    """What ``run`` raises."""
    with pytest.raises(Exception, match=r".") as error:
        run()
    return error.value


def refuse(message: str) -> None:
    raise ValueError(message)


def reading(path: Path, *, num_workers: int | None = None) -> Any:
    """Read an image by MONAI's transforms, here or in a data loader's worker."""
    transform = Compose([LoadImaged("image", reader=RasterReader(channels=3), ensure_channel_first=True)])
    if num_workers is None:
        return lambda: transform({"image": str(path)})
    return lambda: list(DataLoader(Dataset([{"image": str(path)}], transform), num_workers=num_workers))


@pytest.fixture
def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "eye.png"
    Image.radial_gradient("L").resize((90, 60)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize("num_workers", [None, 0, 1])
def test_below_the_wrappers_of_transforms_and_workers_lies_the_mistake(num_workers, truncated):
    error = caught(reading(truncated, num_workers=num_workers))
    assert isinstance(error, RuntimeError)  # MONAI's
    direct = caught(lambda: RasterReader(channels=3).get_data(RasterReader(channels=3).read(str(truncated))))
    assert str(truncated) in str(direct)
    assert explain(error) == str(direct)
    assert is_users_mistake(error)


def test_below_the_wrappers_of_a_config_lies_the_mistake():
    config = {"a": {"_target_": "medseg_monai.networks.nets.CENet", "spatial_dims": 3}, "b": "$[@a]"}
    error = caught(lambda: ConfigParser(config).get_parsed_content("b"))
    assert not isinstance(error, ValueError)
    assert explain(error) == "CENet is a 2D network: spatial_dims must be 2, got 3."
    assert is_users_mistake(error)


def test_a_mistake_says_more_than_the_error_that_showed_it():
    def read() -> None:
        try:
            raise OSError("cannot identify image file <_io.BytesIO object>")
        except OSError as error:
            raise BundleError("eye.png: no image; save it anew.") from error

    def transform() -> None:
        try:
            read()
        except BundleError as error:
            raise RuntimeError("applying transform <LoadImaged object at 0x7f>") from error

    assert explain(caught(transform)) == "eye.png: no image; save it anew."


def test_a_mistake_without_a_message_gives_way_to_one_that_has_it():
    def read() -> None:
        try:
            raise OSError("disc is full")
        except OSError as error:
            raise ValueError from error

    with pytest.raises(ValueError, match=r"^$") as error:
        read()
    assert explain(error.value) == "disc is full"


def test_a_message_is_cut_to_its_first_line():
    assert explain(ValueError("\n  a.png: broken\nsecond line")) == "a.png: broken"


def test_a_fault_of_the_program_is_none_of_the_users_and_keeps_its_own_message():
    error = caught(lambda: {}["missing"])
    assert not is_users_mistake(error)
    assert explain(error) == "'missing'"


def test_an_error_without_a_message_is_called_by_its_name():
    assert explain(RuntimeError()) == "RuntimeError"


def test_a_cause_that_was_set_aside_is_not_told():
    def run() -> None:
        try:
            refuse("tried this first")
        except ValueError:
            raise RuntimeError("a fault") from None

    error = caught(run)
    assert not is_users_mistake(error)
    assert explain(error) == "a fault"


def test_errors_that_name_each_other_as_cause_come_to_an_end():
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert explain(first) == "first"


def test_a_workers_fault_of_the_program_stays_one():
    def fail(item: Any) -> None:
        raise TypeError("no such operation")

    error = caught(lambda: list(DataLoader(Dataset([1], fail), num_workers=1)))
    assert not is_users_mistake(error)


class Hungry(MapTransform):
    """Asks for more memory than any machine has, or fails in another way."""

    def __init__(self, fail: Callable[[], object]) -> None:
        super().__init__("image")
        self.fail = fail

    def __call__(self, data: Any) -> Any:
        return self.fail()


def too_much_of_numpy() -> object:
    return np.empty((30000, 30000, 30000, 1000), np.int16)


def too_much_of_torch() -> object:
    return torch.empty(30000, 30000, 30000, 1000, dtype=torch.int16)


def too_much() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("fail", "asked", "num_workers"),
    [
        (too_much, "", None),
        (too_much, "", 1),
        (too_much_of_numpy, " (48.0 PiB asked for)", None),
        (too_much_of_torch, " (54000000000000000 bytes asked for)", None),
    ],
)
def test_too_little_memory_in_a_transform_is_told_in_a_line_that_says_so(fail, asked, num_workers):
    transform = Compose([Hungry(fail)])
    if num_workers is None:
        error = caught(lambda: transform({"image": "a.png"}))
    else:
        error = caught(lambda: list(DataLoader(Dataset([{"image": "a.png"}], transform), num_workers=num_workers)))
    assert explain(error) == f"not enough memory{asked}; use a machine with more, or a smaller image."
    assert is_users_mistake(error)


def test_too_little_memory_of_an_accelerator_is_told_in_the_same_way():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8")
    assert explain(error) == "not enough memory (20.00 GiB asked for); use a machine with more, or a smaller image."
    assert is_users_mistake(error)


@pytest.mark.parametrize("num_workers", [None, 1])
def test_a_file_that_the_memory_does_not_suffice_for_is_named(num_workers, truncated, monkeypatch):
    monkeypatch.setattr("medseg_monai.data.readers.raster.open_raster", lambda *_: too_much_of_numpy())
    error = caught(reading(truncated, num_workers=num_workers))
    assert explain(error) == (
        f"{truncated}: not enough memory (48.0 PiB asked for); use a machine with more, or a smaller image."
    )
    assert is_users_mistake(error)


def test_a_nifti_header_that_claims_more_than_any_memory_is_told_with_its_file(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([1, 1, 2, 1]))
    content = bytearray(image.to_bytes())
    content[42:48] = np.full(3, 30000, np.int16).tobytes()
    for name in ("scan.nii", "scan.nii.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        error = caught(lambda path=path: Compose([LoadImaged("image", reader=VolumeReader())])({"image": str(path)}))
        assert explain(error).startswith(f"{path}: ")
        assert is_users_mistake(error)


def test_a_fault_of_the_program_in_a_transform_is_told_without_the_name_of_an_object():
    error = caught(lambda: Compose([Hungry(lambda: {}["missing"])])({"image": "a.png"}))
    assert not is_users_mistake(error)
    assert explain(error) == "KeyError: 'missing'"


def test_a_fault_of_the_program_in_a_config_is_told_without_the_expression():
    error = caught(lambda: ConfigParser({"a": "$[0][1]"}).get_parsed_content("a"))
    assert explain(error) == "IndexError: list index out of range"
