"""A bundle's network as one file that runs without this package, TorchScript or ONNX, after comparison with PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import save_net_with_metadata
from monai.networks.utils import convert_to_onnx, convert_to_torchscript
from monai.utils import optional_import
from torch import nn

from medseg_monai.files import atomic_path, file_sha256
from medseg_monai.networks.weights import ModelFile

from .loader import build_workflow, example_input_shape
from .weights import load_network

__all__ = ["TOLERANCE", "export_network"]

#: largest difference from PyTorch, relative to the largest logit
TOLERANCE = 1e-4
INPUT_NAME, OUTPUT_NAME = "image", "pred"


def _write_torchscript(network: nn.Module, example: torch.Tensor, file: Path, metadata: dict[str, Any]) -> None:
    scripted = convert_to_torchscript(network)
    with file.open("wb") as stream:  # MONAI would add ".ts" to a name without a suffix
        save_net_with_metadata(scripted, stream, meta_values=metadata)


def _run_torchscript(file: Path, example: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = torch.jit.load(str(file), map_location="cpu")(example)
    return result


def _write_onnx(network: nn.Module, example: torch.Tensor, file: Path, metadata: dict[str, Any]) -> None:
    # a network that cuts its input into tiles is traced with the tiles of the example, so each size needs its own file
    tiled = getattr(network, "tiles_its_input", False)
    axes = {} if tiled else {0: "batch", **{axis: f"size{axis - 2}" for axis in range(2, example.ndim)}}
    convert_to_onnx(
        network,
        [example],
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_axes={INPUT_NAME: axes, OUTPUT_NAME: axes},
        filename=str(file),
        dynamo=False,  # the tracing exporter keeps the axes dynamic even if the network checks sizes
    )


def _run_onnx(file: Path, example: torch.Tensor) -> torch.Tensor:
    onnxruntime, _ = optional_import("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT_NAME], {INPUT_NAME: example.numpy()})[0])


@dataclass(frozen=True)
class _Format:
    write: Callable[[nn.Module, torch.Tensor, Path, dict[str, Any]], None]
    run: Callable[[Path, torch.Tensor], torch.Tensor]
    packages: tuple[str, ...] = ()


_FORMATS = {
    "torchscript": _Format(_write_torchscript, _run_torchscript),
    "onnx": _Format(_write_onnx, _run_onnx, ("onnx", "onnxruntime")),
}


def _check_format(name: str) -> _Format:
    if name not in _FORMATS:
        raise ValueError(f"{name}: no such export format; there are {', '.join(_FORMATS)}.")
    missing = [package for package in _FORMATS[name].packages if not optional_import(package)[1]]
    if missing:
        raise ValueError(f"{name}: needs the package {' and '.join(missing)}: pip install medseg-monai[export].")
    return _FORMATS[name]


def _relative_difference(exported: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value; infinite if the shapes differ or a value is not finite."""
    if exported.shape != expected.shape or not torch.isfinite(exported).all():
        return float("inf")
    return float((exported - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def export_network(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    export_format: Literal["torchscript", "onnx"] | str,
    checkpoint: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Write a bundle's network with its weights as one file, and compare the output of the file with PyTorch.

    Inputs and outputs of the network are those of ``network_data_format`` in the bundle's ``metadata.json``; pre- and
    postprocessing are not part of the file. A TorchScript file holds the metadata and, as ``"trained_with"``, the
    settings that the weights were trained with (see :func:`monai.data.load_net_with_metadata`). In an ONNX file the
    batch size and the spatial axes of the input ``"image"`` and the output ``"pred"`` are dynamic, within the sizes
    that the network accepts; for a network that tiles its input (``tiles_its_input``) they are fixed to the size in the
    metadata.

    Args:
        bundle: name or path of the bundle.
        output: file to write; it only appears after the comparison, and completely.
        export_format: ``"torchscript"`` or ``"onnx"``.
        checkpoint: weights; by default those that the bundle's ``inference.json`` names (``models/model.pt``).

    Returns:
        a dictionary for JSON with ``bundle``, ``format``, ``file``, ``checkpoint``, ``sha256`` of the file,
        ``input_shape`` of the comparison, and ``max_difference``, the largest difference between the logits divided by
        the largest logit.

    Raises:
        BundleError: no such bundle, or weights that are missing or do not fit.
        ValueError: an unknown format, or one whose packages are not installed.
        OSError: ``output`` cannot be written.
        RuntimeError: the output of the file differs from that of PyTorch.

    Example:
        >>> import tempfile
        >>> from medseg_monai.bundle.export import export_network
        >>> from medseg_monai.networks.nets import ResCRNet
        >>> from medseg_monai.networks.weights import write_model
        >>> network = ResCRNet(filters=2, num_blocks=1)  # with random weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model, file = f"{folder}/model.pt", f"{folder}/lungs.ts"
        ...     write_model(model, network.state_dict(), {"filters": 2, "num_blocks": 1})
        ...     report = export_network("lung_cxr_rescrnet", file, export_format="torchscript", checkpoint=model)
        >>> report["format"], report["max_difference"] < 1e-4
        ('torchscript', True)
    """
    chosen = _check_format(export_format)
    overrides = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
    parser = build_workflow(bundle, ["inference"], workflow_type="infer", overrides=overrides).parser
    parser.parse(reset=True)
    model = ModelFile(parser.get_parsed_content("checkpoint"))
    network = load_network(parser.get_parsed_content("network_def"), model, "cpu", fast=False)
    metadata = dict(parser.config["_meta_"])
    example = torch.rand(example_input_shape(metadata), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(example)
    with atomic_path(output) as temporary:
        chosen.write(network, example, temporary, {**metadata, "trained_with": model.settings})
        difference = _relative_difference(chosen.run(temporary, example), expected)
        if difference > TOLERANCE:
            raise RuntimeError(
                f"{output}: not written: the {export_format} file's logits differ from PyTorch's by {difference:.1e} "
                f"of the largest, more than {TOLERANCE:.0e}."
            )
    return {
        "bundle": metadata["name"],
        "format": export_format,
        "file": str(output),
        "checkpoint": str(model.path),
        "sha256": file_sha256(output),
        "input_shape": list(example.shape),
        "max_difference": difference,
    }
