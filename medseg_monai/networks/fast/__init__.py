"""The fast forms of networks, which prediction uses: the same logits in less time."""

from .form import FastForm, make_fast

__all__ = ["FastForm", "make_fast"]
