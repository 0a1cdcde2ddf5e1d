"""One line that explains a user's mistake."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["NotEnoughMemoryError", "explain", "is_users_mistake", "memory_for", "printable", "shorten"]

#: the errors for a wrong file, value or permission; anything else is a fault in the program
_MISTAKES = (ValueError, OSError)
#: how many of many names a line lists
_LISTED = 10
#: how many characters of a text from a file a line has
_SHOWN = 100
#: a data loader's worker sends its error as the text of a traceback, from the innermost error outwards
_WORKER = re.compile(r"^Caught \w+ in \w+ worker process ")
_ERROR_LINE = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?:: (?P<message>\S.*))?$", re.MULTILINE)
#: what MONAI wraps around an error names an object in its code, and nothing that helps
_WRAPPER = re.compile(r"applying transform <|Failed to (evaluate|instantiate) ")
#: torch has a type of its own for the memory of an accelerator, and none for that of the processor
_TORCH_TYPE, _TORCH_SIGN = "OutOfMemoryError", "DefaultCPUAllocator"
_ASKED = re.compile(r"allocate (\d[\d.]* ?[A-Za-z]+)")


class NotEnoughMemoryError(MemoryError):
    """The memory did not suffice for a file or a case; the message names it in one line with the remedy.

    Example:
        >>> from medseg_monai.errors import NotEnoughMemoryError, memory_for
        >>> try:
        ...     with memory_for("scan.nii"):
        ...         raise MemoryError
        ... except NotEnoughMemoryError as error:
        ...     print(error)
        scan.nii: not enough memory; use a machine with more, or a smaller image.
    """


@contextmanager
def memory_for(name: object) -> Iterator[None]:
    """Say what the memory did not suffice for, if it does not suffice for the block.

    Args:
        name: the file or case.

    Raises:
        NotEnoughMemoryError: for a ``MemoryError`` in the block.

    Example:
        >>> from medseg_monai.errors import memory_for
        >>> with memory_for("scan.nii"):
        ...     voxels = bytes(8)
    """
    try:
        yield
    except NotEnoughMemoryError:
        raise
    except MemoryError as error:
        raise NotEnoughMemoryError(f"{name}: {_not_enough_memory(str(error))}") from error


def _not_enough_memory(message: str) -> str:
    asked = _ASKED.search(message)
    told = f" ({asked[1]} asked for)" if asked else ""
    return f"not enough memory{told}; use a machine with more, or a smaller image."


def _chain(error: BaseException) -> Iterator[tuple[bool, str, type]]:
    """The error and its causes, from the outermost inwards: whether each is a user's mistake, its message and type."""
    link: BaseException | None = error
    seen = []
    while link is not None and link not in seen:
        seen.append(link)
        if _WORKER.match(str(link)):
            yield from _worker_chain(str(link))
        else:
            yield _judge(type(link), str(link))
        link = link.__cause__ if link.__suppress_context__ else link.__context__


def _worker_chain(text: str) -> Iterator[tuple[bool, str, type]]:
    for line in reversed(list(_ERROR_LINE.finditer(text))):
        module, _, name = line["name"].rpartition(".")
        kind = getattr(sys.modules.get(module or "builtins"), name, None)
        if isinstance(kind, type):
            yield _judge(kind, line["message"] or "")


def _judge(kind: type, message: str) -> tuple[bool, str, type]:
    """Whether an error is a user's mistake, its message and type; too little memory is one, whoever tells it."""
    if issubclass(kind, NotEnoughMemoryError):
        return True, message, kind
    if issubclass(kind, MemoryError) or kind.__name__ == _TORCH_TYPE or _TORCH_SIGN in message:
        return True, _not_enough_memory(message), kind
    return issubclass(kind, _MISTAKES), message, kind


def is_users_mistake(error: BaseException) -> bool:
    """Whether the error comes from a file, a value, a permission or too little memory, not from a fault in the program.

    Args:
        error: the error that was caught.

    Example:
        >>> from medseg_monai.errors import is_users_mistake
        >>> is_users_mistake(ValueError("scan.nii: truncated")), is_users_mistake(KeyError("pred"))
        (True, False)
    """
    return any(mistake for mistake, *_ in _chain(error))


def explain(error: BaseException) -> str:
    """The one line that tells a user what is wrong.

    MONAI wraps the errors of transforms and config components in a ``RuntimeError`` that names an object in its code,
    and a data loader's worker sends a whole traceback. The user's mistake is below these. The errors below the mistake,
    such as that of the library that read a file, say less than the mistake itself.

    Args:
        error: the error that was caught.

    Returns:
        the first line of the first mistake that has a message, or else of the error itself; of a fault of the program
        within MONAI's wrappers, its type and its message.

    Example:
        >>> from medseg_monai.errors import explain
        >>> try:
        ...     try:
        ...         raise ValueError("scan.nii: truncated; copy it again.")
        ...     except ValueError as mistake:
        ...         raise RuntimeError("applying transform <LoadImaged>") from mistake
        ... except RuntimeError as error:
        ...     explain(error)
        'scan.nii: truncated; copy it again.'
    """
    links = list(_chain(error))
    messages = [message for mistake, message, _ in links if mistake]
    text = next((message for message in messages if message.strip()), None) or _fault(error, links)
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _fault(error: BaseException, links: Sequence[tuple[bool, str, type]]) -> str:
    """What a fault of the program says of itself, or below MONAI's wrappers the first error that is none."""
    if not _WRAPPER.match(str(error)):
        return str(error)
    below = ((message, kind) for _, message, kind in links if message.strip() and not _WRAPPER.match(message))
    return next((f"{kind.__name__}: {message}" for message, kind in below), str(error))


def printable(value: object) -> str:
    r"""Text from a file for a line of a message: damage, or whoever made the file, may have put anything there.

    Args:
        value: what the file holds; its text is taken.

    Returns:
        the text with single spaces, a question mark for each character that a terminal would obey, and three points for
        what is beyond the first hundred characters.

    Example:
        >>> from medseg_monai.errors import printable
        >>> printable("CHEST\n  PA"), printable("CT\x1b[2J")
        ('CHEST PA', 'CT?[2J')
    """
    text = " ".join(str(value).split())
    shown = "".join(character if character.isprintable() else "?" for character in text[:_SHOWN])
    return shown if len(text) <= _SHOWN else f"{shown}..."


def shorten(names: Iterable[str]) -> str:
    """Join names for a line: the first ten, and the total if there are more.

    Args:
        names: what the line names.

    Example:
        >>> from medseg_monai.errors import shorten
        >>> shorten(["a.png", "b.png"])
        'a.png, b.png'
    """
    every = list(names)
    listed = ", ".join(every[:_LISTED])
    return listed if len(every) <= _LISTED else f"{listed} ... ({len(every)} in all)"
