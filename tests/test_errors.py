"""The one line that a user reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImaged
from PIL import Image

from medseg_monai.bundle import BundleError
from medseg_monai.data import RasterReader
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
