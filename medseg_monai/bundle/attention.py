"""The coefficients of a network's attention gates, drawn over the slice with the largest predicted area."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import ResampleToMatch, SpatialCrop, SqueezeDim
from monai.utils import convert_to_tensor
from torch.nn.functional import interpolate

from medseg_monai.data.names import item_name
from medseg_monai.visualize import save_map_sheet, upright_slice

from .loader import BundleError
from .predictor import Prediction, Predictor

__all__ = ["FOLDER", "check_attention", "save_attention"]

#: folder for the drawings inside that of the predictions, so that no drawing has the name of a mask
FOLDER = "attention"


class _Gates:
    """A network's gates with the interface of a network, so that any inferer can apply them to slices and windows."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.names: list[str] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Coefficients of all gates at the size of the input, ``[B, gates, *spatial]``, in the order of ``names``.

        A node ``Xi_j`` gates the latest nodes of its row; ``Xi_(j-1)`` is the last of them.
        """
        maps = self.network.attention_maps(x.as_tensor() if isinstance(x, MetaTensor) else x)
        self.names = []
        for node, coefficients in maps.items():
            level, column = node.removeprefix("X").split("_")
            first = int(column) - coefficients.shape[1]
            self.names += [f"{node} gates X{level}_{source}" for source in range(first, int(column))]
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        return torch.cat([interpolate(one, x.shape[2:], mode=mode) for one in maps.values()], dim=1)

    def by_level(self, values: np.ndarray[Any, Any]) -> list[dict[str, np.ndarray[Any, Any]]]:
        """Maps ``[gates, H, W]`` by their names, with one row for each level of the network."""
        rows: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
        for name, one in zip(self.names, values, strict=True):
            rows.setdefault(name.partition("_")[0], {})[name] = one
        return [rows[level] for level in sorted(rows)]


def check_attention(predictor: Predictor) -> None:
    """Check that :func:`save_attention` can draw the attention of a bundle's network.

    Args:
        predictor: the loaded bundle.

    Raises:
        BundleError: the network has no attention gates, or predicts whole volumes at once.

    Example:
        >>> from medseg_monai.bundle import BundleError, Predictor
        >>> from medseg_monai.bundle.attention import check_attention
        >>> predictor = Predictor("lung_cxr_rescrnet", overrides={"fast": False})
        >>> try:
        ...     check_attention(predictor)
        ... except BundleError as error:
        ...     print(error)
        lung_cxr_rescrnet: ResCRNet has no attention gates to draw; leave --attention out.
    """
    network = predictor.network_def
    bundle = predictor.workflow.parser.config["_meta_"]["name"]
    if not hasattr(network, "attention_maps"):
        raise BundleError(f"{bundle}: {type(network).__name__} has no attention gates to draw; leave --attention out.")
    if getattr(network, "spatial_dims", 2) != 2:
        raise BundleError(f"{bundle}: attention is drawn only for networks that predict slices; leave --attention out.")


def save_attention(predictor: Predictor, prediction: Prediction, output_dir: str | os.PathLike[str]) -> Path:
    """Draw a sheet with the coefficients of every attention gate over the image, as in Fig. 12 of the paper.

    For a volume, the slice with the largest predicted area is drawn (the middle slice if nothing is predicted). The
    maps are computed on the network's input and resampled to the grid of the case's file.

    Args:
        predictor: the bundle that made the prediction; it must pass :func:`check_attention`.
        prediction: the prediction to draw.
        output_dir: the drawing goes to its folder ``attention``, as ``<case>.png`` for an image and as
            ``<case>_slice041.png`` for a volume, with the index of the slice in the file of the case, starting at 0.

    Returns:
        the file that was written.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> from medseg_monai.bundle import Predictor
        >>> from medseg_monai.bundle.attention import save_attention
        >>> from medseg_monai.networks.nets import ANUNet
        >>> from medseg_monai.networks.weights import write_model
        >>> from medseg_monai.phantoms import write_abdomen_phantoms
        >>> features = [4, 4, 8, 8, 8]
        >>> network = ANUNet(2, 1, 1, features=features)  # with random weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_abdomen_phantoms(folder, counts={"test": 1}, size=(8, 32, 40), seed=0)
        ...     settings = {"features": features, "image_size": [32, 48]}
        ...     write_model(f"{folder}/model.pt", network.state_dict(), settings)
        ...     predictor = Predictor("liver_ct_anunet", checkpoint=f"{folder}/model.pt", overrides={"fast": False})
        ...     prediction = predictor({"image": f"{folder}/images/phantom_0001.nii.gz"})
        ...     save_attention(predictor, prediction, folder).name.startswith("phantom_0001_slice")
        True

    Source: Li et al., "ANU-Net", Computers & Graphics 2020, Section 4.4 and Fig. 12.
    """
    gates = _Gates(predictor.network_def)
    image, mask = prediction.image.cpu(), prediction.mask[:1].cpu()
    name, axis = item_name(prediction.data), None
    if mask.ndim == 4:
        image, mask, axis, index = _same_slice(image, mask, _slice_axis(predictor))
        name = f"{name}_slice{index:03d}"
    maps = convert_to_tensor(predictor.infer(image[None], gates)[0], dtype=image.dtype, device="cpu", track_meta=False)
    stack = MetaTensor(torch.cat([image.as_tensor(), maps]), affine=image.affine)
    if stack.ndim > mask.ndim:  # an image that the bundle treats as a volume of one slice
        stack = SqueezeDim(1 + _slice_axis(predictor))(stack)
    stack = ResampleToMatch(mode="bilinear", padding_mode="border")(stack, mask)
    shown, outlined = (np.asarray(s) if axis is None else upright_slice(s, axis=axis) for s in (stack, mask))
    path = Path(output_dir) / FOLDER / f"{name}.png"
    save_map_sheet(
        path,
        shown[: len(image)],
        gates.by_level(shown[len(image) :]),
        prediction=outlined[0] > 0,
        what="attention coefficient",
    )
    return path


def _slice_axis(predictor: Predictor) -> int:
    """The axis along which the bundle cuts a volume into the slices that its network sees."""
    if not isinstance(predictor.inferer, SliceInferer):
        raise TypeError(f"attention needs the slices of a SliceInferer, not {type(predictor.inferer).__name__}.")
    return int(predictor.inferer.spatial_dim)


def _same_slice(image: MetaTensor, mask: MetaTensor, axis: int) -> tuple[MetaTensor, MetaTensor, int, int]:
    """Cut out the slice of a mask with the largest area and the corresponding slice of the network's input.

    Args:
        image: the network's input ``[C, *spatial]``.
        mask: ``[1, *spatial]`` in the grid of the file, which may have other axes.
        axis: axis of ``image`` that counts the slices.

    Returns:
        the slices of image and mask (of length 1 along one axis) with their affines, that axis of the mask, and the
        index of its slice.
    """
    to_mask = np.linalg.solve(np.asarray(mask.affine), np.asarray(image.affine))
    mask_axis = int(np.abs(to_mask[:3, axis]).argmax())
    areas = (mask[0] > 0).sum(dim=[other for other in range(3) if other != mask_axis])
    index = int(areas.argmax()) if bool(areas.any()) else mask.shape[1 + mask_axis] // 2
    centre = np.append((np.asarray(mask.shape[1:]) - 1) / 2, 1.0)
    centre[mask_axis] = index
    place = round(float(np.linalg.solve(to_mask, centre)[axis]))
    place = min(max(place, 0), image.shape[1 + axis] - 1)
    return _one_slice(image, axis, place), _one_slice(mask, mask_axis, index), mask_axis, index


def _one_slice(volume: MetaTensor, axis: int, index: int) -> MetaTensor:
    start, stop = [0, 0, 0], list(volume.shape[1:])
    start[axis], stop[axis] = index, index + 1
    slab: MetaTensor = SpatialCrop(roi_start=start, roi_end=stop)(volume)
    return slab
