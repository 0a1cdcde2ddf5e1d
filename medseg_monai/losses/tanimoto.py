"""The loss of Res-CR-Net: Tanimoto with complement, plain or weighted towards contours."""

from __future__ import annotations

import torch
from monai.networks import one_hot
from monai.networks.layers import Pool
from monai.utils import convert_to_tensor
from torch import nn

__all__ = ["TanimotoCoefficient", "TanimotoLoss", "contour_weights", "contour_window", "tanimoto_coefficient"]

#: largest short axis -> side of the window, in pixels; longer axes take ``_LARGEST_WINDOW``
_WINDOWS = {150: 11, 300: 21, 600: 31}
_LARGEST_WINDOW = 41

_BORDER = (0.005, 0.995)  # a pixel is at a contour if the share of foreground in its window is between these
_BORDER_WEIGHT = 3.0  # weight of a pixel at a contour before normalising and squaring; the others have 1


def contour_window(short_axis: int) -> int:
    """Choose the side of the window in which contours are sought from the size of the image.

    Args:
        short_axis: length of the image's shortest side in pixels.

    Returns:
        11, 21, 31 or 41 for a side of up to 150, 300, 600 or more pixels.

    Example:
        >>> from medseg_monai.losses import contour_window
        >>> [contour_window(side) for side in (150, 151, 512, 1024)]
        [11, 21, 31, 41]

    Source: the authors' published code of Res-CR-Net; the paper gives no figures.
    """
    return next((window for limit, window in _WINDOWS.items() if short_axis <= limit), _LARGEST_WINDOW)


def contour_weights(target: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """Weight the pixels of a batch, nine times as much near a contour as elsewhere.

    A pixel is near a contour of a class if the class takes up between 0.5 % and 99.5 % of the window around the pixel;
    where the window reaches beyond the image, only the part inside counts. Such pixels get 3 and the others 1; then the
    weights are divided by their mean over the whole batch, including all classes, and squared.

    Args:
        target: 0 or 1, ``[B, C, *spatial]`` with one channel for each class, 2D or 3D.
        window: side of the window in pixels, odd; ``None`` takes :func:`contour_window` of the shortest side.

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: the window is not odd and positive.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import contour_weights
        >>> weights = contour_weights(torch.tensor([[[[0, 0, 0, 1, 1, 1]]]]), window=3)
        >>> (weights / weights.min()).round()
        tensor([[[[1., 1., 9., 9., 1., 1.]]]])

    Source: Abdulah et al., "Lung segmentation in chest X-rays with Res-CR-Net", Section 1.3: "replacing a step-shaped
    cutoff at the edges of the mask foreground with a raised border". The figures and the squaring are those of the
    authors' published code.
    """
    side = contour_window(min(target.shape[2:])) if window is None else window
    if side < 1 or side % 2 == 0:
        raise ValueError(f"window must be odd and positive, got {window}.")
    share = _plain(target)
    spatial_dims = target.ndim - 2
    for axis in range(spatial_dims):  # averaging over rows, then columns, is faster than over the square and the same
        window_along_axis = [side if other == axis else 1 for other in range(spatial_dims)]
        padding = [length // 2 for length in window_along_axis]
        mean = Pool[Pool.AVG, spatial_dims](window_along_axis, stride=1, padding=padding, count_include_pad=False)
        share = mean(share)
    near_contour = (share > _BORDER[0]) & (share < _BORDER[1])
    weights = torch.where(near_contour, _BORDER_WEIGHT, 1.0)
    return (weights / weights.mean()) ** 2


def tanimoto_coefficient(
    probability: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None, *, smooth: float = 1.0
) -> torch.Tensor:
    """Compute the Tanimoto coefficient with complement, ``(T(p, y) + T(1 - p, 1 - y)) / 2``.

    ``T(p, y)`` is ``(sum w p y + s) / (sum w (p^2 + y^2) - sum w p y + s)``. The sums run over all pixels, classes and
    images of the batch.

    Args:
        probability: ``p``, 0 to 1, any shape.
        target: ``y``, 0 or 1, of the same shape.
        weights: ``w`` of the same shape; ``None`` weights all pixels equally.
        smooth: ``s``, which keeps the result finite for a batch without foreground.

    Returns:
        a scalar, 1 for a perfect prediction.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import tanimoto_coefficient
        >>> target = torch.tensor([1.0, 0.0, 0.0, 0.0])
        >>> tanimoto_coefficient(target, target)
        tensor(1.)
        >>> prediction = torch.tensor([1.0, 1.0, 0.0, 0.0])  # T is 1 / 2, and 2 / 3 for the complement
        >>> round(tanimoto_coefficient(prediction, target, smooth=0.0).item(), 4)
        0.5833

    Source: Abdulah et al., "Lung segmentation in chest X-rays with Res-CR-Net", Section 1.3.
    """
    return (_overlap(probability, target, weights, smooth) + _overlap(1 - probability, 1 - target, weights, smooth)) / 2


def _overlap(
    probability: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None, smooth: float
) -> torch.Tensor:
    w = 1.0 if weights is None else weights
    common = (w * probability * target).sum()
    return (common + smooth) / ((w * (probability**2 + target**2)).sum() - common + smooth)


class TanimotoLoss(nn.Module):
    """``1 -`` :func:`tanimoto_coefficient` of the network's output, weighted towards the contours of the label.

    The loss is computed in float32 even under mixed precision, where sums over pixels would overflow.

    Args:
        sigmoid: whether to apply a sigmoid to the output first.
        softmax: whether to apply a softmax over the channels to the output first.
        to_onehot_y: whether the label is one channel of class numbers, to be converted to one channel for each class.
        weighted: whether pixels near a contour count more (:func:`contour_weights`).
        window: side of the weights' window in pixels, odd; ``None`` chooses it by the size of the image.
        smooth: smoothing of the coefficient; the authors' code uses 1 with these weights.

    Raises:
        ValueError: both activations are given.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import TanimotoLoss
        >>> loss = TanimotoLoss(softmax=True, to_onehot_y=True)
        >>> label = torch.tensor([[[[0, 0, 0, 1], [0, 0, 1, 1]]]])
        >>> good = 20.0 * torch.cat([label == 0, label == 1], dim=1)  # logits of background and foreground
        >>> bool(loss(good, label) < 1e-4), bool(loss(torch.zeros_like(good), label) > 0.1)
        (True, True)

    Source: Abdulah et al., "Lung segmentation in chest X-rays with Res-CR-Net", Section 1.3: "we have used a weighted
    Tanimoto loss function throughout for training".
    """

    def __init__(
        self,
        *,
        sigmoid: bool = False,
        softmax: bool = False,
        to_onehot_y: bool = False,
        weighted: bool = True,
        window: int | None = None,
        smooth: float = 1.0,
    ) -> None:
        super().__init__()
        if sigmoid and softmax:
            raise ValueError("sigmoid and softmax exclude each other: choose one.")
        self.sigmoid = sigmoid
        self.softmax = softmax
        self.to_onehot_y = to_onehot_y
        self.weighted = weighted
        self.window = window
        self.smooth = smooth

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare a batch with its label.

        Args:
            input: the network's output ``[B, C, *spatial]``.
            target: the label, of the same shape, or ``[B, 1, *spatial]`` with ``to_onehot_y``.

        Returns:
            the loss, a scalar.

        Raises:
            ValueError: the label has another shape.
        """
        probability, truth = _plain(input), _plain(target)
        expected = (len(probability), 1 if self.to_onehot_y else probability.shape[1], *probability.shape[2:])
        if truth.shape != expected:
            raise ValueError(
                f"label has shape {tuple(truth.shape)}, but an output of shape {tuple(probability.shape)} needs "
                f"{expected}."
            )
        if self.sigmoid:
            probability = torch.sigmoid(probability)
        elif self.softmax:
            probability = torch.softmax(probability, dim=1)
        if self.to_onehot_y:
            truth = one_hot(truth, num_classes=probability.shape[1])
        weights = contour_weights(truth, self.window) if self.weighted else None
        return 1 - tanimoto_coefficient(probability, truth, weights, smooth=self.smooth)


class TanimotoCoefficient(TanimotoLoss):
    """:func:`tanimoto_coefficient` of the network's output, of all pixels alike: what the paper plots beside the loss.

    Args:
        sigmoid: whether to apply a sigmoid to the output first.
        softmax: whether to apply a softmax over the channels to the output first.
        to_onehot_y: whether the label is one channel of class numbers, to be converted to one channel for each class.

    Raises:
        ValueError: both activations are given.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import TanimotoCoefficient
        >>> label = torch.tensor([[[[0, 0, 0, 1], [0, 0, 1, 1]]]])
        >>> good = 20.0 * torch.cat([label == 0, label == 1], dim=1)  # logits of background and foreground
        >>> round(TanimotoCoefficient(softmax=True, to_onehot_y=True)(good, label).item(), 4)
        1.0

    Source: Abdulah et al., "Lung segmentation in chest X-rays with Res-CR-Net", Section 1.3, Fig. 2 and 4.
    """

    def __init__(self, *, sigmoid: bool = False, softmax: bool = False, to_onehot_y: bool = False) -> None:
        super().__init__(sigmoid=sigmoid, softmax=softmax, to_onehot_y=to_onehot_y, weighted=False)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare a batch with its label.

        Args:
            input: the network's output ``[B, C, *spatial]``.
            target: the label, of the same shape, or ``[B, 1, *spatial]`` with ``to_onehot_y``.

        Returns:
            the coefficient, a scalar; 1 for a perfect prediction.

        Raises:
            ValueError: the label has another shape.
        """
        return 1 - super().forward(input, target)


def _plain(values: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = convert_to_tensor(values, track_meta=False).float()
    return result
