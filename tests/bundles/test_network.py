"""Check 3: the bundle's network takes and gives what the metadata says, and survives its exports."""

from pathlib import Path

import pytest
from monai.bundle import verify_net_in_out

from medseg_monai.bundle.export import export_network

from .conftest import Trained, config_files


def test_the_network_takes_and_gives_what_the_metadata_says(bundle: Path):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=config_files(bundle, "inference")[0],
        device="cpu",
    )


@pytest.mark.parametrize("export_format", ["torchscript", "onnx"])
def test_an_export_computes_what_pytorch_computes(bundle: Path, trained: Trained, tmp_path: Path, export_format: str):
    report = export_network(
        bundle, tmp_path / f"model.{export_format}", export_format=export_format, checkpoint=trained.model
    )
    assert (tmp_path / f"model.{export_format}").is_file()
    assert report["max_difference"] <= 1e-4
