"""The floors of the house: which room may import which (the table of docs/architecture.md), and how large they are."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "medseg_monai"
PAGE = ROOT / "docs" / "architecture.md"
LONGEST_FILE = 500
MAY_BE_LONG = ("networks", "phantoms")  # a network or a drawing is one piece, whatever its length


def find_modules() -> dict[str, Path]:
    """The package's modules by their dotted names."""
    found = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in sorted(found.items())}


def imported_names(module: str, path: Path) -> set[str]:
    """Absolute dotted names of all that a module imports, wherever in the file it does so."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str:
    """``networks`` for ``medseg_monai.networks.nets.CENet``; empty for the package itself."""
    return name.split(".")[1] if "." in name else ""


def read_table() -> dict[str, set[str]]:
    """The page's table, from the top down: room -> rooms that it may import."""
    rows = re.findall(r"^\| (`.+?) \|.*\|(.*)\|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    names = [(re.findall(r"`(\w+)`", rooms), re.findall(r"`(\w+)`", allowed)) for rooms, allowed in rows]
    return {room: set(allowed) for rooms, allowed in names for room in rooms}


MODULES = find_modules()
IMPORTS = {name: imported_names(name, path) for name, path in MODULES.items()}
ROOMS = sorted({room_of(name) for name in MODULES} - {""})
MAY_IMPORT = read_table()


def test_every_room_has_a_row_in_the_table_and_no_row_lacks_its_room():
    assert sorted(MAY_IMPORT) == ROOMS


def test_the_table_lets_a_room_import_only_rooms_that_stand_further_down():
    order = list(MAY_IMPORT)
    upward = {room: MAY_IMPORT[room] - set(order[place + 1 :]) for place, room in enumerate(order)}
    assert {room: rooms for room, rooms in upward.items() if rooms} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_of_its_row(room: str):
    allowed = {"", room, *MAY_IMPORT[room]}
    wrong = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if room_of(module) == room and name.startswith("medseg_monai") and room_of(name) in ROOMS
        if room_of(name) not in allowed
    }
    assert wrong == set()


def test_the_package_itself_imports_none_of_its_rooms():
    assert IMPORTS["medseg_monai"] == set()


def test_no_module_imports_itself_by_way_of_others():
    graph: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        targets = {name if name in MODULES else name.rpartition(".")[0] for name in names}
        graph[module] = (targets & MODULES.keys()) - {module}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def test_networks_import_torch_and_monai_and_only_weights_read_other_files():
    others = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if room_of(module) == "networks" and not module.startswith("medseg_monai.networks.weights")
        if name.partition(".")[0] not in {"medseg_monai", "torch", "monai", *sys.stdlib_module_names}
    }
    assert others == set()


def test_data_has_at_most_ten_entries():
    entries = {path.name for path in (PACKAGE / "data").iterdir() if path.name != "__pycache__"}
    assert 1 < len(entries) <= 10


def test_no_file_is_longer_than_500_lines_unless_it_is_a_network_or_a_drawing():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    long = {name for name, lines in lengths.items() if lines > LONGEST_FILE}
    assert {name for name in long if room_of(name) not in MAY_BE_LONG} == set()


def test_the_page_on_the_architecture_is_short():
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 80


def test_importing_the_package_loads_no_library_and_prints_nothing():
    code = "import medseg_monai, sys; sys.exit(' '.join({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr.strip()) == ("", "")
