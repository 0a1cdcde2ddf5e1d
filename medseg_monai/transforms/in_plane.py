"""The grid of a lobe network: a fixed in-plane size, isotropic voxels, and sides that can be halved."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import DivisiblePad, InvertibleTransform, MapTransform, Padd, Resize
from monai.transforms.spatial.functional import resize
from monai.utils import Method, TraceKeys, ensure_tuple_rep

from .same_size import file_name

__all__ = ["PadToMultipled", "ResizeInPlaned"]

# as many slices would take the memory of a wrong voxel size; a whole body is seven times as long as wide
_LONGEST = 32


class ResizeInPlaned(MapTransform, InvertibleTransform):
    """Resize scans to a fixed in-plane size, and along the slices so that the voxels become isotropic.

    Images ``[C, D, H, W]`` with ``H`` and ``W`` in plane become ``[C, D', S, S]`` with
    ``D' = round(D * spacing_D / s)``, at least 1, where ``s`` is the in-plane spacing in mm after resizing (the mean of
    the two spacings where the field of view is not square). Size and spacing come from the first key and apply to all.
    The field of view does not change, and the affine is updated. MONAI's ``Spacingd`` fixes the spacing and ``Resized``
    fixes the size; neither fixes the in-plane size and adapts the third axis.

    ``"nearest"`` takes the voxel whose centre is nearest (PyTorch's ``"nearest-exact"``), in ``Invertd`` too. PyTorch's
    own ``"nearest"`` takes the voxel below, which moves a mask by half a voxel on average.

    Args:
        keys: images and masks to resize, all of one size.
        in_plane_size: rows and columns of the result.
        mode: MONAI's interpolation modes, one for all keys or one for each, such as ``["trilinear", "nearest"]``.
        anti_aliasing: whether to smooth an image before it is made smaller, one value for all keys or one for each.
            Linear interpolation from 512 to 256 already averages the voxels, and MONAI's filter assumes zeros outside
            the scan, so that the first and last slices fade.
        allow_missing_keys: whether a key may be missing.

    Raises:
        ValueError: the size is below 1.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.transforms import ResizeInPlaned
        >>> affine = torch.diag(torch.tensor([2.0, 0.5, 0.5, 1.0]))  # spacing of slices, rows and columns in mm
        >>> scan = MetaTensor(torch.zeros(1, 10, 32, 32), affine=affine)
        >>> ResizeInPlaned(keys="image", in_plane_size=16)({"image": scan})["image"].shape  # 1 mm along each axis
        torch.Size([1, 20, 16, 16])

    Source: Xie et al., "CTSU-Net", IEEE TMI 2020, Section IV-D: "all scans were down-sampled to have a 256x256 in-plane
    resolution while z-spacing is adjusted to make the scan isotropic". The paper names no interpolation.
    """

    backend = Resize.backend

    def __init__(
        self,
        keys: KeysCollection,
        in_plane_size: int = 256,
        *,
        mode: Sequence[str] | str = "trilinear",
        anti_aliasing: Sequence[bool] | bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if in_plane_size < 1:
            raise ValueError(f"in_plane_size must be positive, got {in_plane_size}.")
        self.in_plane_size = in_plane_size
        self.mode = tuple(_true_nearest(entry) for entry in ensure_tuple_rep(mode, len(self.keys)))
        self.anti_aliasing = ensure_tuple_rep(anti_aliasing, len(self.keys))
        self.resizer = Resize(spatial_size=-1)  # owns the traces and inverts them; the size differs from item to item

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Resize ``keys``.

        Args:
            data: item with images ``[C, D, H, W]`` that have an affine.

        Returns:
            the item with the resized images, as float32.

        Raises:
            TypeError: an image has no affine.
            ValueError: an image is not 3D, its size differs from that of the first, or the voxels of its header make it
                far longer than wide.
        """
        d = dict(data)
        keys = list(self.key_iterator(d, self.mode, self.anti_aliasing))
        for key, *_ in keys:
            _check_image(d[key], key, d[keys[0][0]], keys[0][0])
        size = self._new_size(d[keys[0][0]], keys[0][0]) if keys else ()
        for key, mode, anti_aliasing in keys:
            d[key] = resize(
                d[key],
                size,
                mode=mode,
                align_corners=None,
                dtype=torch.float32,
                input_ndim=3,
                anti_aliasing=anti_aliasing,
                anti_aliasing_sigma=None,
                lazy=False,
                transform_info=self.resizer.get_transform_info(),
            )
        return d

    def _new_size(self, image: MetaTensor, key: Hashable) -> tuple[int, int, int]:
        slices, rows, columns = image.shape[1:]
        between, *in_plane = affine_to_spacing(image.affine).tolist()
        extent = (rows * in_plane[0] + columns * in_plane[1]) / 2
        length = slices * between / extent
        if not length <= _LONGEST:
            raise ValueError(
                f"{file_name(image, key)}: {length:.4g} times as long as wide, expected at most {_LONGEST}; correct "
                "the voxel size in its header."
            )
        return max(1, round(length * self.in_plane_size)), self.in_plane_size, self.in_plane_size

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Resize ``keys`` back with the interpolation that their traces name.

        Args:
            data: item with images that this transform has resized, or with copies of their traces (``Invertd``).

        Returns:
            the item with the images at their original sizes and affines.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            trace = self.resizer.pop_transform(d[key])
            extra = trace[TraceKeys.EXTRA_INFO]
            trace[TraceKeys.EXTRA_INFO] = {**extra, "mode": _true_nearest(extra["mode"])}
            d[key] = self.resizer.inverse_transform(d[key], trace)
        return d


def _true_nearest(mode: str) -> str:
    return "nearest-exact" if mode == "nearest" else str(mode)


def _check_image(image: torch.Tensor, key: Hashable, first: torch.Tensor, first_key: Hashable) -> None:
    if not isinstance(image, MetaTensor):
        raise TypeError(f"'{key}' has no affine, so its spacing is unknown; load it with LoadImaged.")
    if image.ndim != 4:
        raise ValueError(f"'{key}' has shape {tuple(image.shape)}; give one image [C, D, H, W].")
    if image.shape[1:] != first.shape[1:]:
        raise ValueError(f"'{key}' is {tuple(image.shape[1:])}, but '{first_key}' is {tuple(first.shape[1:])}.")


class PadToMultipled(Padd):
    """Pad with zeros in front, at the low index of each axis, to a multiple of ``k``.

    MONAI's ``DivisiblePadd`` pads on both sides or at the end. ``Invertd`` removes the padding again.

    Args:
        keys: images and masks to pad, each ``[C, *spatial]``.
        k: number that must divide the sides of the result, one for all axes or one for each.
        allow_missing_keys: whether a key may be missing.
        lazy: whether MONAI may postpone the padding.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import PadToMultipled
        >>> padded = PadToMultipled(keys="image", k=4)({"image": torch.ones(1, 2, 3, 4)})["image"]
        >>> padded.shape
        torch.Size([1, 4, 4, 4])
        >>> padded[0, :, -1, -1].tolist()
        [0.0, 0.0, 1.0, 1.0]

    Source: the authors' published test code of CTSU-Net, which pads in front to a multiple of 16; the paper is silent.
    """

    def __init__(
        self,
        keys: KeysCollection,
        k: Sequence[int] | int = 16,
        *,
        allow_missing_keys: bool = False,
        lazy: bool = False,
    ) -> None:
        if min(ensure_tuple_rep(k, 1) if isinstance(k, int) else k) < 1:
            raise ValueError(f"k must be positive, got {k}.")
        padder = _FrontPad(k, method=Method.END, lazy=lazy)
        super().__init__(keys, padder=padder, allow_missing_keys=allow_missing_keys, lazy=lazy)


class _FrontPad(DivisiblePad):
    """MONAI's padding at the end, moved to the front."""

    def compute_pad_width(self, spatial_shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Compute the numbers of voxels to add before and after each axis, starting with the channels."""
        return tuple((after, before) for before, after in super().compute_pad_width(spatial_shape))
