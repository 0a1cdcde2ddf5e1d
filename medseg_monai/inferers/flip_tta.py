"""Test-time augmentation by flips, around any MONAI inferer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import torch
from monai.inferers import Inferer, SimpleInferer

__all__ = ["FlipTTAInferer"]

Views = Literal["dihedral", "flips", "mirror"]
Activation = Literal["sigmoid", "softmax"]


class _View(NamedTuple):
    """One view: flip ``axes``, then swap height and width if ``transposed``."""

    axes: tuple[int, ...]
    transposed: bool

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Turn ``x`` into this view."""
        x = torch.flip(x, self.axes) if self.axes else x
        return x.transpose(2, 3).contiguous() if self.transposed else x

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """Turn a prediction of this view back to the orientation of the input."""
        x = x.transpose(2, 3) if self.transposed else x
        return torch.flip(x, self.axes) if self.axes else x


class FlipTTAInferer(Inferer):
    """Predict flipped views of the input and average the predictions in the input's own orientation.

    It keeps a running mean, so only the accumulated map and the map of the current view are in memory, whatever the
    number of views. (MONAI's ``TestTimeAugmentation`` runs dictionary transforms through a data loader and keeps every
    prediction.)

    **What is averaged.** The networks of this package return logits. With ``activation`` the logits of each view become
    probabilities first; their mean is what CE-Net's authors call the average of the 8 predictions (their code sums 8
    sigmoid maps and thresholds at 4). The result is then a map of **probabilities**: the postprocessing that follows
    thresholds it or takes its argmax and must not apply the activation again. Without ``activation`` the network's
    output itself is averaged and keeps its own scale, so that logits stay logits (for a sigmoid, their mean is the
    geometric mean of the odds, which is not what the authors average).

    The diagonal flip turns ``H x W`` into ``W x H``. A network that takes only one size, which is not square, cannot
    use it and needs ``views="flips"``.

    Args:
        inferer: inferer that predicts each view; ``None`` takes :class:`monai.inferers.SimpleInferer`. With a
            :class:`monai.inferers.SlidingWindowInferer` each view is a whole sliding-window pass.
        views: ``"dihedral"`` for the 8 views of a 2D image (horizontal, vertical and diagonal flip); ``"flips"`` for
            the ``2**n`` flips of the ``n`` spatial axes, 2D or 3D; ``"mirror"`` for the input and its mirror image, the
            last axis reversed: the views of an image that has an upper and a lower side, such as a B-scan.
        activation: ``None``, ``"sigmoid"``, or ``"softmax"`` over the channels; applied to each view before averaging.

    Raises:
        ValueError: ``views`` or ``activation`` is unknown.

    Example:
        >>> import torch
        >>> from medseg_monai.inferers import FlipTTAInferer
        >>> network = torch.nn.Conv2d(1, 1, kernel_size=3, padding=1).eval()
        >>> average = FlipTTAInferer(activation="sigmoid")
        >>> x = torch.rand(1, 1, 6, 8)
        >>> probability = average(x, network)
        >>> probability.shape
        torch.Size([1, 1, 6, 8])
        >>> torch.allclose(average(x.flip(2), network), probability.flip(2), atol=1e-5)  # whatever the network is
        True

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Section III-A.2; Guzaiwang/CE-Net, test_cenet.py.
    """

    def __init__(
        self, inferer: Inferer | None = None, *, views: Views = "dihedral", activation: Activation | None = None
    ) -> None:
        super().__init__()
        if views not in get_args(Views):
            raise ValueError(f"FlipTTAInferer: views must be one of {get_args(Views)}, got {views!r}.")
        if activation is not None and activation not in get_args(Activation):
            raise ValueError(
                f"FlipTTAInferer: activation must be None or one of {get_args(Activation)}, got {activation!r}."
            )
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.views = views
        self.activation = activation

    def _list_views(self, spatial_dims: int) -> list[_View]:
        if self.views == "dihedral" and spatial_dims != 2:
            raise ValueError(
                f"FlipTTAInferer: views='dihedral' is for 2D images, got {spatial_dims} spatial dimensions: "
                "use views='flips'."
            )
        if self.views == "mirror":
            return [_View((), False), _View((spatial_dims + 1,), False)]
        diagonal = (False, True) if self.views == "dihedral" else (False,)
        return [
            _View(tuple(axis + 2 for axis, flipped in enumerate(flips) if flipped), transposed)
            for transposed in diagonal
            for flips in product((False, True), repeat=spatial_dims)
        ]

    def _predict(
        self, view: _View, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        prediction = self.inferer(view.apply(inputs), network, *args, **kwargs)
        if not isinstance(prediction, torch.Tensor) or prediction.ndim != inputs.ndim:
            raise ValueError(
                "FlipTTAInferer averages one map [B, C, *spatial], but the network returned "
                f"{type(prediction).__name__} {tuple(getattr(prediction, 'shape', ()))}; put it into eval mode, "
                "or wrap it so that it returns only that map."
            )
        if self.activation == "sigmoid":
            prediction = torch.sigmoid(prediction)
        elif self.activation == "softmax":
            prediction = torch.softmax(prediction, dim=1)
        return view.undo(prediction)

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Average the predictions of all views.

        Args:
            inputs: batch of shape ``[B, C, H, W]`` or, without ``"dihedral"`` views, ``[B, C, *spatial]``. The result
                has the same metadata as the result of the plain inferer.
            network: the network, or anything else that the wrapped inferer takes for one.
            args: further arguments of the wrapped inferer; they are passed on without being flipped.
            kwargs: further keyword arguments of the wrapped inferer, passed on in the same way.

        Returns:
            the mean of shape ``[B, C_out, *spatial]``: probabilities if ``activation`` is set, else values on the
            network's own scale.

        Raises:
            ValueError: ``views="dihedral"`` is used with images that are not 2D, or the network does not return a
                single map.
        """
        views = self._list_views(inputs.ndim - 2)
        # the division makes a new tensor: a network may return its input, which must not change
        mean = self._predict(views[0], inputs, network, *args, **kwargs) / len(views)
        for view in views[1:]:
            mean.add_(self._predict(view, inputs, network, *args, **kwargs), alpha=1 / len(views))
        return mean
