"""Plain text tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_table"]


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows as columns: text on the left, numbers on the right, floats with four digits, nothing for ``None``.

    Args:
        header: names of the columns.
        rows: values; each row has as many as the header.

    Returns:
        lines joined by newlines.

    Example:
        >>> from medseg_monai.report import format_table
        >>> print(format_table(["case", "dice"], [["a.png", 0.5], ["b.png", 0.25]]))
        case     dice
        a.png  0.5000
        b.png  0.2500
    """
    texts = [[_text(value) for value in row] for row in rows]
    numeric = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(header))]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    lines = []
    for line in [list(header), *texts]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)
