import torch

from . import NetworkCase


def _label(x: torch.Tensor) -> torch.Tensor:
    """Any label: what matters in this suite is that there is one."""
    return torch.arange(x[:, :1].numel()).reshape(x[:, :1].shape) % 6


CASE = NetworkCase(
    kwargs={
        "stage1_features": (4, 4, 4, 6, 6, 6, 8, 8, 6, 6, 6, 4, 4, 4),
        "stage2_features": (4, 4, 6, 6, 6, 6, 8, 8, 6, 6, 6, 6, 4, 4),
        "embedding_channels": 4,
        "patch_size": 92,
    },
    parameters=30_042,
    in_shapes=((1, 1, 32, 32, 32), (1, 1, 32, 48, 32)),
    out_channels=6,
    illegal_shape=(1, 1, 33, 40, 16),
    padding="48x48x32",
    train_inputs=lambda x: (_label(x),),
)
