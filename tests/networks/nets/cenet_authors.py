"""The authors' CE-Net checkpoint (Guzaiwang/CE-Net): its names and shapes in its order, and weights by rule."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.networks.fill_rule import make_state

__all__ = ["author_shapes", "author_state", "decoder_shapes", "resnet34_stage_shapes"]

Named = Iterator[tuple[str, tuple[int, ...]]]
BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)


def _norm(name: str, width: int) -> Named:
    for key in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{key}", (width,)
    yield f"{name}.num_batches_tracked", ()


def _conv(name: str, *shape: int, bias: int) -> Named:
    """A convolution of kernel ``shape`` with ``bias`` output channels."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", (bias,)


def resnet34_stage_shapes(name: str, stage: int) -> Named:
    """One of ResNet-34's four stages; ``name`` is ``encoder1.`` for the authors, ``layer1.`` for torchvision."""
    width = WIDTHS[stage]
    for block in range(BLOCKS[stage]):
        narrows = block == 0 and stage > 0
        yield f"{name}{block}.conv1.weight", (width, width // 2 if narrows else width, 3, 3)
        yield from _norm(f"{name}{block}.bn1", width)
        yield f"{name}{block}.conv2.weight", (width, width, 3, 3)
        yield from _norm(f"{name}{block}.bn2", width)
        if narrows:
            yield f"{name}{block}.downsample.0.weight", (width, width // 2, 1, 1)
            yield from _norm(f"{name}{block}.downsample.1", width)


def decoder_shapes(name: str, width: int, out: int) -> Named:
    """One decoder block."""
    inner = width // 4
    yield from _conv(f"{name}conv1", inner, width, 1, 1, bias=inner)
    yield from _norm(f"{name}norm1", inner)
    yield from _conv(f"{name}deconv2", inner, inner, 3, 3, bias=inner)
    yield from _norm(f"{name}norm2", inner)
    yield from _conv(f"{name}conv3", out, inner, 1, 1, bias=out)
    yield from _norm(f"{name}norm3", out)


def _all_shapes(out_channels: int) -> Named:
    yield "firstconv.weight", (64, 3, 7, 7)
    yield from _norm("firstbn", 64)
    for stage in range(4):
        yield from resnet34_stage_shapes(f"encoder{stage + 1}.", stage)
    for name in ("dilate1", "dilate2", "dilate3"):
        yield from _conv(f"dblock.{name}", 512, 512, 3, 3, bias=512)
    yield from _conv("dblock.conv1x1", 512, 512, 1, 1, bias=512)
    yield from _conv("spp.conv", 1, 512, 1, 1, bias=1)
    for level, (width, out) in zip((4, 3, 2, 1), ((516, 256), (256, 128), (128, 64), (64, 64)), strict=True):
        yield from decoder_shapes(f"decoder{level}.", width, out)
    yield from _conv("finaldeconv1", 64, 32, 4, 4, bias=32)
    yield from _conv("finalconv2", 32, 32, 3, 3, bias=32)
    yield from _conv("finalconv3", out_channels, 32, 3, 3, bias=out_channels)


def author_shapes(out_channels: int = 1) -> dict[str, tuple[int, ...]]:
    """Every tensor of the authors' checkpoint."""
    return dict(_all_shapes(out_channels))


def _gain(key: str) -> float:
    if key.startswith(("spp", "decoder")):
        return 2.0
    return 1.2 if key.startswith("final") else 0.8


def author_state(out_channels: int = 1) -> dict[str, torch.Tensor]:
    """The whole rule-made checkpoint."""
    return make_state(author_shapes(out_channels), _gain)
