"""docs/inputs.md has a row for every refusal and every warning about an input that the code knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "medseg_monai" / "data"
PAGE = ROOT / "docs" / "inputs.md"
MODULES = [path for name in ("readers", "dicom", "inputs") for path in sorted((DATA / name).rglob("*.py"))]
MODULES += sorted(DATA.glob("*.py"))
MODULES += [
    ROOT / "medseg_monai" / "transforms" / f"{name}.py"
    for name in ("binarize", "hounsfield", "in_plane", "layers", "not_blank", "same_size")
]
MODULES += [ROOT / "medseg_monai" / "bundle" / "training_data.py"]
OTHER_PAGES = ("datalist.py", "segments.py", "splits.py")  # of data lists and structures, not of images
ERRORS = ("ValueError", "FileNotFoundError", "OSError", "TooLargeError")
# reasons that are caught and told in another message, and faults of a program that calls a reader or a writer
INTERNAL = {
    "no sex that DICOM knows",
    "several values, as a backslash separates them",
    "another picture than the header says",
    "a document type",
    "the same number twice",
    "no context or no picture",
    "…: labels …, but segments for 1 to …; describe each label.",
    "…: no source files; a DICOM SEG needs the series that it was made from.",
    "…: the label map is …, its DICOM series …; apply Invertd first.",
    "…: the label map is …, its image …; apply Invertd first.",
    "RasterReader has 1 or 3 channels, got channels=….",
    "channel_order must be 'RGB' or 'BGR', got '…'.",
    "in_plane_size must be positive, got ….",
    "spatial_size must be rows and columns of 1 or more, got ….",
    "k must be positive, got ….",
    "'…' is …, but '…' is ….",
    "'…' has shape …; give one image [C, D, H, W].",
}


def stem(node: ast.expr) -> str:
    """A message with ``…`` for whatever is filled in; empty if the expression is no message."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%\.?\d*[a-z]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def messages(tree: ast.AST) -> set[str]:
    """Everything that a module raises, warns of, or finds wrong with a series."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and name_of(node.exc.func) in ERRORS:
            found |= {stem(argument) for argument in node.exc.args[:1]}
        elif isinstance(node, ast.Call) and name_of(node.func) in ("warning", "one_line"):
            found |= {stem(argument) for argument in node.args[:1]}
        elif isinstance(node, ast.FunctionDef) and (node.name.endswith("_faults") or node.name == "_partly_scaled"):
            found |= {text for part in ast.walk(node) for text in fault(part)}
    return {text.strip() for text in found if text.strip()}


def fault(node: ast.AST) -> list[str]:
    """What a part of a function adds to its list of faults."""
    if isinstance(node, ast.Call) and name_of(node.func) == "append":
        return [stem(argument) for argument in node.args]
    if isinstance(node, ast.Return) and isinstance(node.value, ast.List):
        return [stem(element) for element in node.value.elts]
    return []


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def in_code() -> dict[str, str]:
    """Every message with the module that has it."""
    found = {
        text: path.relative_to(ROOT).as_posix()
        for path in MODULES
        if path.name not in OTHER_PAGES
        for text in messages(ast.parse(path.read_text(encoding="utf-8")))
    }
    return {text: module for text, module in found.items() if text not in INTERNAL}


def rows() -> list[list[str]]:
    """Cells of the page's table, without its head."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def on_page() -> set[str]:
    """The messages of the table."""
    return {text for row in rows() for text in re.findall(r"`([^`]+)`", row[2])}


def test_the_code_has_messages_of_every_kind():
    found = set(in_code())
    assert "…: singular affine; restore the geometry from the original image." in found  # raised
    assert "…: truncated, damaged or incomplete; copy it again." in found  # by one_line
    assert "…: DICOM series …: localiser left out: …." in found  # logged
    assert "…: RescaleSlope 0, so all values are equal; export the series again" in found  # a fault of a series


@pytest.mark.parametrize("module", sorted(set(in_code().values())))
def test_every_refusal_and_every_warning_has_a_row(module: str):
    assert {text for text, path in in_code().items() if path == module} - on_page() == set()


def test_no_row_quotes_a_message_that_is_not_in_the_code():
    assert on_page() - set(in_code()) == set()


def test_every_row_says_what_happens_what_is_told_and_why():
    assert {len(row) for row in rows()} == {4}
    assert {row[1] for row in rows()} <= {"read", "warning", "refused"}
    assert all(all(row) for row in rows())
