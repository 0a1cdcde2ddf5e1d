"""The authors' CTSU-Net checkpoint (DIAGNijmegen/bodyct-pulmonary-lobe-segmentation): names and shapes in its order.

Weights by the rule of ``fill_rule.py``, and the inputs that the authors' code was given for the stored outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tests.networks.fill_rule import make_state

__all__ = [
    "QUARTER_STAGE1",
    "QUARTER_STAGE2",
    "QUARTER_STAGE2_RELEASED",
    "attention_state",
    "author_state",
    "unet_state",
    "uniform",
    "waves",
]

Named = Iterator[tuple[str, tuple[int, ...]]]
GAIN = math.sqrt(2)
LOBES = 6
QUARTER_STAGE1 = (4, 6, 6, 12, 16, 32, 32, 64, 32, 32, 12, 12, 6, 6)
QUARTER_STAGE2 = (6, 12, 12, 24, 24, 48, 48, 96, 48, 48, 24, 24, 12, 12)
QUARTER_STAGE2_RELEASED = (6, 8, 12, 24, 24, 48, 48, 96, 48, 48, 24, 24, 12, 12)


def _affine(name: str, *shape: int) -> Named:
    """A linear map or a convolution with bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _batch_norm(name: str, width: int) -> Named:
    yield from _affine(name, width)
    yield f"{name}.running_mean", (width,)
    yield f"{name}.running_var", (width,)
    yield f"{name}.num_batches_tracked", ()


def _two_convolutions(name: str, in_channels: int, widths: Sequence[int]) -> Named:
    for layer, (before, after) in enumerate(zip((in_channels, *widths), widths, strict=False)):
        yield f"{name}.conv_blocks.{layer}.0.weight", (after, before, 3, 3, 3)
        yield from _batch_norm(f"{name}.conv_blocks.{layer}.1", after)


def _attention(name: str, channels: int, width: int) -> Named:
    for embedding in ("G", "theta", "phi"):
        yield from _affine(f"{name}{embedding}", width, channels)
    yield from _affine(f"{name}r.0", channels, width)
    for embedding in ("geo_theta", "geo_phi"):
        yield from _affine(f"{name}{embedding}", width, 3)
    for step in range(3):
        yield from _affine(f"{name}bns.{step}", channels)
    yield from _batch_norm(f"{name}bn", channels)


def _unet(name: str, in_channels: int, features: Sequence[int], embedding_channels: int) -> Named:
    pairs = [features[i : i + 2] for i in range(0, 14, 2)]
    skip1, skip2, skip3, bridge, wide, middle, narrow = (last for _, last in pairs)
    for level, before in enumerate((in_channels, skip1, skip2)):
        yield from _two_convolutions(f"{name}ds_modules.{level}", before, pairs[level])
    yield from _two_convolutions(f"{name}bg", skip3, pairs[3])
    yield from _attention(f"{name}middle_psa.", bridge, embedding_channels)
    for level, before in enumerate((bridge + skip3, wide + skip2, middle + skip1)):
        yield from _two_convolutions(f"{name}us_modules.{level}", before, pairs[4 + level])
    yield from _affine(f"{name}outs.0", LOBES, narrow, 1, 1, 1)
    yield from _affine(f"{name}outs.1", 1, narrow, 1, 1, 1)


def attention_state(channels: int, embedding_channels: int) -> dict[str, torch.Tensor]:
    """The weights of a non-local module alone."""
    return make_state(dict(_attention("", channels, embedding_channels)), lambda key: 1.0)


def unet_state(in_channels: int, features: Sequence[int], embedding_channels: int) -> dict[str, torch.Tensor]:
    """The weights of one U-Net alone."""
    return make_state(dict(_unet("", in_channels, features, embedding_channels)), lambda key: GAIN)


def author_state(
    stage1_features: Sequence[int] = QUARTER_STAGE1,
    stage2_features: Sequence[int] = QUARTER_STAGE2,
    embedding_channels: int = 8,
) -> dict[str, torch.Tensor]:
    """Every tensor of the authors' checkpoint."""
    shapes = dict(_unet("unet1.", 1, stage1_features, embedding_channels))
    shapes |= dict(_unet("unet2.", 1 + LOBES + 1, stage2_features, embedding_channels))
    return make_state(shapes, lambda key: GAIN)


def uniform(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Uniform noise from 0 to 1."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, tuple(shape)).astype(np.float32))


def waves(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """A smooth volume from 0 to 1: a plane wave for each item of the batch and channel."""
    generator = np.random.default_rng(seed)
    vectors = generator.uniform(0.02, 0.25, (*shape[:2], 3))
    phases = generator.uniform(0, 2 * np.pi, tuple(shape[:2]))
    z, y, x = np.ogrid[tuple(slice(float(edge)) for edge in shape[2:])]
    along_z, along_y, along_x = (vectors[..., axis, None, None, None] for axis in range(3))
    angle = along_z * z + along_y * y + along_x * x + phases[..., None, None, None]
    return torch.from_numpy((0.5 + 0.5 * np.sin(angle)).astype(np.float32))
