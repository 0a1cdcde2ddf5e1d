"""The sizes of images that a network takes."""

from __future__ import annotations

__all__ = ["check_size"]


def check_size(size: list[int], step: int, network: str, smallest: int = 0, remedy: str = "pad or resize") -> None:
    """Make sure that a network takes images of a size; TorchScript can compile this function.

    Args:
        size: spatial size of the image.
        step: each edge must be a multiple of it.
        network: name of the network, for the error message.
        smallest: shortest edge that the network takes, a multiple of ``step``; by default one step.
        remedy: what to do with an image of another size.

    Raises:
        ValueError: an edge is not a multiple of ``step`` or is too short; the message names the next size that fits.

    Example:
        >>> from medseg_monai.networks.blocks.input_size import check_size
        >>> check_size([64, 48], 16, "DEFUNet")
        >>> check_size([60, 48], 16, "DEFUNet")
        Traceback (most recent call last):
        ValueError: DEFUNet takes sizes that are multiples of 16, got 60x48: pad or resize to 64x48.
    """
    padded = [max(max(step, smallest), (length + step - 1) // step * step) for length in size]
    if size != padded:
        fitting = f"multiples of {step}" + (f" and at least {smallest}" if smallest > 0 else "")
        got, wanted = "x".join([str(length) for length in size]), "x".join([str(length) for length in padded])
        raise ValueError(f"{network} takes sizes that are {fitting}, got {got}: {remedy} to {wanted}.")
