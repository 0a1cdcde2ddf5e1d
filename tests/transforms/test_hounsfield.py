"""CheckHounsfieldd: a CT in other units is refused, or doubted where a right answer is likely."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from medseg_monai.bundle import bundle_root
from medseg_monai.transforms import CheckHounsfieldd


def volume(low: float, high: float) -> MetaTensor:
    values = torch.linspace(low, high, 120).reshape(1, 4, 5, 6)
    return MetaTensor(values, meta={"filename_or_obj": "scan.nii.gz"})


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 0), (-3, 3), (-1000, -1000)])
def test_values_that_span_less_than_tissues_do_are_refused(low, high):
    with pytest.raises(ValueError, match=f"scan.nii.gz: values from {low} to {high} are not Hounsfield units"):
        CheckHounsfieldd("image")({"image": volume(low, high)})


@pytest.mark.parametrize(("low", "high"), [(0, 4095), (24, 2000), (0, 255)])
def test_values_without_air_and_fat_are_taken_with_a_warning(low, high, caplog):
    item = {"image": volume(low, high)}
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        assert CheckHounsfieldd("image")(item)["image"] is item["image"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"scan.nii.gz: values from {low} to {high}, so neither air nor fat")


@pytest.mark.parametrize(("low", "high"), [(-1024, 3071), (-200, 300), (-3024, 1500), (-1000, 0)])
def test_hounsfield_units_pass_without_a_word(low, high, caplog):
    item = {"image": volume(low, high)}
    CheckHounsfieldd("image")(item)
    assert not caplog.records


@pytest.mark.parametrize("bundle", ["liver_ct_anunet", "lung_lobe_ct_ctsunet"])
@pytest.mark.parametrize("config", ["train", "inference"])
def test_every_bundle_for_ct_looks_at_the_values_that_it_loads(bundle, config):
    parser = ConfigParser()
    parser.read_config(Path(bundle_root(bundle), "configs", f"{config}.json"))
    used = [value for value in _targets(parser.config) if value.endswith("CheckHounsfieldd")]
    assert used == ["medseg_monai.transforms.CheckHounsfieldd"]


def _targets(config: object) -> list[str]:
    if isinstance(config, dict):
        return [t for value in config.values() for t in _targets(value)] + [config.get("_target_", "")]
    return [t for value in config for t in _targets(value)] if isinstance(config, list) else []
