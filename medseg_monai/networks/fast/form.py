"""The fast form of a network, which prediction uses: the same logits in less time."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from monai.data import MetaTensor
from torch import nn

__all__ = ["FastForm", "make_fast"]

_LOGGER = logging.getLogger(__name__)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def _memory_format(network: nn.Module) -> torch.memory_format:
    """Choose the faster layout: channels last for 2D convolutions, unless instance norms would undo it each time.

    In 3D the measured difference went either way (``benchmarks/README.md``), so the default layout stays.
    """
    modules = list(network.modules())
    two_dimensional = any(isinstance(module, nn.Conv2d) for module in modules)
    if two_dimensional and not any(isinstance(module, _INSTANCE_NORMS) for module in modules):
        return torch.channels_last
    return torch.contiguous_format


def _freeze(network: nn.Module, memory_format: torch.memory_format) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Script and freeze a copy, which folds batch norms into convolutions; return ``None`` if it cannot be scripted."""
    body = copy.deepcopy(network)
    if memory_format is torch.channels_last:
        body.to(memory_format=memory_format)  # type: ignore[call-overload]  # the keyword is missing in torch's stub
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return cast(Callable[[torch.Tensor], torch.Tensor], torch.jit.freeze(torch.jit.script(body)))
    except Exception as error:  # scripting can raise almost anything; the plain form always works
        _LOGGER.info("%s is not scriptable and predicts in its plain form: %s", type(network).__name__, error)
        return None


class FastForm(nn.Module):
    """A copy of a network for prediction: scripted, with folded batch norms, and channels last where that pays off.

    :func:`make_fast` makes it. It is always in eval mode and records no gradients. Moving it (``.to``) or loading
    weights into it freezes it again, so that it always agrees with :attr:`network`.

    Args:
        network: a network that maps one tensor to one tensor; it is copied, never changed.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.fast import FastForm
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
        >>> fast = FastForm(network)
        >>> fast.is_frozen, fast.memory_format, fast.training
        (True, torch.channels_last, False)
        >>> fast(torch.zeros(1, 1, 6, 8)).shape
        torch.Size([1, 4, 4, 6])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.memory_format = _memory_format(self.network)
        self._refresh()
        self.register_load_state_dict_post_hook(lambda module, _: cast(FastForm, module)._refresh())
        super().train(False)

    @property
    def is_frozen(self) -> bool:
        """Whether the frozen copy is in use; ``False`` after a fallback to the plain network."""
        return self._frozen is not None

    def _refresh(self) -> None:
        # bypass nn.Module's registration: the frozen copy has no parameters to move, list or save
        object.__setattr__(self, "_frozen", _freeze(self.network, self.memory_format))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        before = self._placement()
        super()._apply(fn, recurse)
        if self._placement() != before:
            self._refresh()
        return self

    def _placement(self) -> list[tuple[torch.device, torch.dtype]]:
        return [(parameter.device, parameter.dtype) for parameter in self.network.parameters()]

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode.

        Raises:
            RuntimeError: ``mode`` is ``True``.
        """
        if mode:
            raise RuntimeError("The fast form of a network cannot be trained: train the network it was made from.")
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits without gradients.

        Args:
            x: image of shape ``[B, C, *spatial]`` of any size that the network takes, not only the first one it has
                seen; the metadata of a :class:`monai.data.MetaTensor` is kept, as in the plain network.

        Returns:
            the logits in the default memory format, equal to the plain network's up to 1e-4 of their largest value.

        Raises:
            ValueError: the plain network does not take this size; the message is that of the plain network.
        """
        plain = x.as_tensor() if isinstance(x, MetaTensor) else x
        with torch.no_grad():
            logits = self._predict(plain).contiguous()
        return MetaTensor(logits).copy_meta_from(x, copy_attr=True) if isinstance(x, MetaTensor) else logits

    def _predict(self, x: torch.Tensor) -> torch.Tensor:
        if self._frozen is None:
            return cast(torch.Tensor, self.network(x))
        try:
            # the graph is final: otherwise the executor would profile the first calls and fuse again for each size
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return self._frozen(x.contiguous(memory_format=self.memory_format))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            # the plain network reports what is wrong with x; if it accepts x, the frozen copy is at fault
            logits = cast(torch.Tensor, self.network(x))
            _LOGGER.warning("%s falls back to its plain form: %s", type(self.network).__name__, error)
            object.__setattr__(self, "_frozen", None)
            return logits

    _frozen: Callable[[torch.Tensor], torch.Tensor] | None


def make_fast(network: nn.Module) -> nn.Module:
    """Make the fast form of a network, which predicts the same logits up to 1e-4 of their largest value.

    A copy in eval mode is scripted and frozen (``torch.jit.freeze`` folds batch norms into the convolutions before
    them), and a 2D network without instance norms is laid out channels last. The copy needs no compiler and no warm-up,
    and it takes every size that the network takes. A network that cannot be scripted, or whose frozen copy raises an
    error where the plain network does not, predicts in its plain form. ``benchmarks/README.md`` lists the measured
    candidates.

    On CUDA the same is done (folded batch norms, channels last), but it is untested and unmeasured there.

    A network with a method ``fast_form`` makes its own fast form instead. The inferer of such a network calls its parts
    (:class:`medseg_monai.networks.nets.CTSUNet`).

    Args:
        network: a network that maps ``[B, C_in, *spatial]`` to ``[B, C_out, *spatial]`` in eval mode. It may be in
            train mode; neither its weights nor its mode change. The fast form does not follow later changes of it.

    Returns:
        a :class:`FastForm` or the network's own fast form, for prediction only.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.fast import make_fast
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
        >>> fast, x = make_fast(network), torch.rand(1, 1, 6, 8)
        >>> torch.allclose(fast(x), network.eval()(x), atol=1e-5)
        True
        >>> fast.train()
        Traceback (most recent call last):
        RuntimeError: The fast form of a network cannot be trained: train the network it was made from.
    """
    if hasattr(network, "fast_form"):
        return cast(nn.Module, cast(Any, network).fast_form())
    return FastForm(network)
