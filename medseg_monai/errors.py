"""One line that explains a user's mistake."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

__all__ = ["explain", "is_users_mistake", "printable", "shorten"]

#: the errors for a wrong file, value or permission; anything else is a fault in the program
_MISTAKES = (ValueError, OSError)
#: how many of many names a line lists
_LISTED = 10
#: how many characters of a text from a file a line has
_SHOWN = 100
#: a data loader's worker sends its error as the text of a traceback, from the innermost error outwards
_WORKER = re.compile(r"^Caught \w+ in \w+ worker process ")
_ERROR_LINE = re.compile(r"^(?P<name>[A-Za-z_][\w.]*): (?P<message>\S.*)$", re.MULTILINE)


def _chain(error: BaseException) -> Iterator[tuple[bool, str]]:
    """The error and its causes, from the outermost inwards: whether each is a user's mistake, and its message."""
    link: BaseException | None = error
    seen = []
    while link is not None and link not in seen:
        seen.append(link)
        if _WORKER.match(str(link)):
            yield from _worker_chain(str(link))
        else:
            yield isinstance(link, _MISTAKES), str(link)
        link = link.__cause__ if link.__suppress_context__ else link.__context__


def _worker_chain(text: str) -> Iterator[tuple[bool, str]]:
    for line in reversed(list(_ERROR_LINE.finditer(text))):
        module, _, name = line["name"].rpartition(".")
        kind = getattr(sys.modules.get(module or "builtins"), name, None)
        yield isinstance(kind, type) and issubclass(kind, _MISTAKES), line["message"]


def is_users_mistake(error: BaseException) -> bool:
    """Whether the error comes from a file, a value or a permission rather than from a fault in the program.

    Args:
        error: the error that was caught.

    Example:
        >>> from medseg_monai.errors import is_users_mistake
        >>> is_users_mistake(ValueError("scan.nii: truncated")), is_users_mistake(KeyError("pred"))
        (True, False)
    """
    return any(mistake for mistake, _ in _chain(error))


def explain(error: BaseException) -> str:
    """The one line that tells a user what is wrong.

    MONAI wraps the errors of transforms and config components in a ``RuntimeError`` that names an object in its code,
    and a data loader's worker sends a whole traceback. The user's mistake is below these. The errors below the mistake,
    such as that of the library that read a file, say less than the mistake itself.

    Args:
        error: the error that was caught.

    Returns:
        the first line of the first mistake that has a message, or else of the error itself.

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
    messages = [message for mistake, message in _chain(error) if mistake]
    text = next((message for message in messages if message.strip()), str(error))
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
