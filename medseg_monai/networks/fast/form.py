"""The form of a network that prediction uses: same logits, less time."""

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
    """The faster layout: channels last for 2D convolutions, unless instance norms would turn it back each time.

    In 3D the measured difference went either way (``benchmarks/README.md``), so the default stays.
    """
    modules = list(network.modules())
    two_dimensional = any(isinstance(module, nn.Conv2d) for module in modules)
    if two_dimensional and not any(isinstance(module, _INSTANCE_NORMS) for module in modules):
        return torch.channels_last
    return torch.contiguous_format


def _freeze(network: nn.Module, memory_format: torch.memory_format) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Script and freeze a copy, which folds batch norms into convolutions; ``None`` if it cannot be scripted."""
    body = copy.deepcopy(network)
    if memory_format is torch.channels_last:
        body.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stub lacks the keyword
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return cast(Callable[[torch.Tensor], torch.Tensor], torch.jit.freeze(torch.jit.script(body)))
    except Exception as error:  # scripting a module raises almost anything; the plain form always works
        _LOGGER.info("%s is not scriptable and predicts in its plain form: %s", type(network).__name__, error)
        return None


class FastForm(nn.Module):
    """A network's copy for prediction: scripted, batch norms folded, channels last where that pays.

    Made by :func:`make_fast`. It is always in eval mode and records no gradients. Moving it (``.to``) or
    loading weights into it makes the frozen form anew, so that it never disagrees with :attr:`network`.

    Args:
        network: a network that maps one tensor to one tensor; it is copied, never changed.
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
        """Whether the frozen form is in use; ``False`` after falling back to the plain eval network."""
        return self._frozen is not None

    def _refresh(self) -> None:
        # past nn.Module's registration: the frozen copy has no parameters to move, list or save
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
            RuntimeError: for ``mode=True``.
        """
        if mode:
            raise RuntimeError("A network optimized for inference cannot be trained: train the one it was made from.")
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits without gradients.

        Args:
            x: image of shape ``[B, C, *spatial]`` of any size that the network takes, not only the first one seen; a
                :class:`monai.data.MetaTensor` hands its metadata on, as in the plain network.

        Returns:
            the logits in the default memory format, equal to the plain network's to 1e-4 of their largest value.

        Raises:
            ValueError: whatever the plain network says of a size that it does not take.
        """
        plain = x.as_tensor() if isinstance(x, MetaTensor) else x
        with torch.no_grad():
            logits = self._predict(plain).contiguous()
        return MetaTensor(logits).copy_meta_from(x, copy_attr=True) if isinstance(x, MetaTensor) else logits

    def _predict(self, x: torch.Tensor) -> torch.Tensor:
        if self._frozen is None:
            return cast(torch.Tensor, self.network(x))
        try:
            # the graph is final: without this the executor would profile the first calls and fuse anew for each size
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return self._frozen(x.contiguous(memory_format=self.memory_format))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            # the plain network says what is wrong with x in its own words; if it finds nothing, the form is at fault
            logits = cast(torch.Tensor, self.network(x))
            _LOGGER.warning("%s falls back to its plain form: %s", type(self.network).__name__, error)
            object.__setattr__(self, "_frozen", None)
            return logits

    _frozen: Callable[[torch.Tensor], torch.Tensor] | None


def make_fast(network: nn.Module) -> nn.Module:
    """Make the fastest form of ``network`` that keeps the logits to 1e-4 of their scale.

    A copy in eval mode is scripted and frozen (``torch.jit.freeze`` folds batch norms into the convolutions before
    them) and, for 2D networks without instance norms, laid out channels last. It needs no compiler and no warm-up, and
    takes every size that the network takes. A network that cannot be scripted, or whose frozen form raises where the
    plain one does not, predicts in its plain eval form. ``benchmarks/README.md`` has the measured candidates.

    On CUDA the same is done (folded batch norms, channels last); this is untested and unmeasured there.

    A network with a method ``fast_form`` makes its own instead: one whose inferer calls its parts
    (:class:`medseg_monai.networks.nets.CTSUNet`).

    Args:
        network: a network that maps ``[B, C_in, *spatial]`` to ``[B, C_out, *spatial]`` in eval mode. Neither its
            weights nor its mode change. It may be in train mode. The result does not follow later changes of it.

    Returns:
        an :class:`FastForm`, or the network's own form, for prediction only.
    """
    if hasattr(network, "fast_form"):
        return cast(nn.Module, cast(Any, network).fast_form())
    return FastForm(network)
