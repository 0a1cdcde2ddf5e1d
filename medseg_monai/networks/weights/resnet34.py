"""Loading of ImageNet weights into a MONAI ResNet-34 encoder, from a documented address or from a local file."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

from medseg_monai.files import file_sha256

from .state_dict import as_state_dict, check_fits, read_tensors

__all__ = ["RESNET34_SHA256_PREFIX", "RESNET34_URL", "load_resnet34_encoder", "resnet34_cache_path"]

#: torchvision's ``ResNet34_Weights.IMAGENET1K_V1``; the file name contains the start of its SHA-256.
RESNET34_URL = "https://download.pytorch.org/models/resnet34-b627a593.pth"
RESNET34_SHA256_PREFIX = "b627a593"


def resnet34_cache_path() -> Path:
    """Return where the ImageNet weights are cached: ``<torch.hub directory>/checkpoints/resnet34-b627a593.pth``.

    Example:
        >>> from medseg_monai.networks.weights.resnet34 import resnet34_cache_path
        >>> resnet34_cache_path().name
        'resnet34-b627a593.pth'
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(RESNET34_URL).name


def _download() -> Path:
    target = resnet34_cache_path()
    if target.is_file():
        digest = file_sha256(target)
        if not digest.startswith(RESNET34_SHA256_PREFIX):
            raise ValueError(
                f"{target}: SHA-256 starts with {digest[:8]}, expected {RESNET34_SHA256_PREFIX}: "
                f"delete the file, or download it again from {RESNET34_URL}."
            )
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(RESNET34_URL, str(target), hash_prefix=RESNET34_SHA256_PREFIX, progress=True)
    except RuntimeError as error:  # torch.hub's "invalid hash value"; it has removed the downloaded file
        raise OSError(
            f"{RESNET34_URL}: the download is damaged ({error}); try again, "
            "or give the path of a copy: pretrained=/path/to/resnet34.pth."
        ) from error
    except (URLError, OSError) as error:
        raise OSError(
            f"Cannot download {RESNET34_URL} ({error}). On a machine without internet access, copy the file to "
            f"{target}, or give its path: pretrained=/path/to/resnet34.pth."
        ) from error
    return target


def load_resnet34_encoder(encoder: nn.Module, path: str | os.PathLike[str] | None = None) -> None:
    """Load a ResNet-34 state dict with torchvision's names into ``encoder``, in place.

    The classifier (``fc.weight``, ``fc.bias``) is left out; every other key must fit.

    Args:
        encoder: MONAI's ``resnet34(spatial_dims=2, shortcut_type="B", bias_downsample=False)``.
        path: file with the state dict; ``None`` takes :data:`RESNET34_URL` from the cache or downloads it.

    Raises:
        OSError: the weights cannot be downloaded, or the download is damaged; the message names the address and says
            how to use a copy.
        FileNotFoundError: ``path`` does not exist.
        ValueError: the cached file has the wrong checksum, the file cannot be read as weights, or the state dict fits
            only in part.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.networks.weights.resnet34 import load_resnet34_encoder
        >>> encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7))  # stands for MONAI's resnet34
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({**encoder.state_dict(), "fc.bias": torch.zeros(1000)}, f"{folder}/resnet34.pth")
        ...     load_resnet34_encoder(encoder, f"{folder}/resnet34.pth")
    """
    source = _download() if path is None else Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file with ResNet-34 weights.")
    state = as_state_dict(read_tensors(source), source)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    expected = encoder.state_dict()
    # torchvision's oldest files lack the batch counters, which the forward pass does not use
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    check_fits(state, expected, network="a ResNet-34 with torchvision's names", source=source)
    encoder.load_state_dict(state)
