"""The pages name files, names and keys that exist."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate

import pytest

from medseg_monai.bundle import check_overrides, find_bundle, list_bundles

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "benchmarks/*.md", "bundles/*/docs/*.md")
ANY_VALUE = "$None"  # an expression, whose value nobody knows before it is run
PAGES = sorted(path.relative_to(ROOT) for pattern in PATTERNS for path in ROOT.glob(pattern))
FOLDERS = "medseg_monai|tests|docs|benchmarks|bundles|docker"
#: options of MONAI's command line itself
OF_MONAI = {"config_file", "meta_file", "tracking", "run_name", "save_execute_config"}


@pytest.fixture(params=PAGES, ids=str)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def read(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(text: str) -> Iterator[str]:
    """The lines of the blocks of code; one that ends with a backslash goes on in the next."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def test_every_file_that_a_page_names_is_there(page: Path):
    names = re.findall(rf"(?<![\w/.])((?:{FOLDERS})/[\w./-]*\w)(?![\w<*])", read(page))
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_link_to_a_file_leads_to_one(page: Path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(page))
    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []


def test_every_name_of_the_package_on_a_page_is_where_the_page_says(page: Path):
    names = set(re.findall(r"\bmedseg_monai(?:\.\w+)+", read(page)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # of names that have moved
        assert [name for name in names if locate(name) is None] == []


def test_a_command_of_medseg_names_keys_that_its_bundle_has(page: Path):
    for command in commands(read(page)):
        found = re.search(rf"medseg (train|evaluate|predict) ({'|'.join(list_bundles())})\b", command)
        if found:
            configs = {"train": ["train"], "evaluate": ["train", "evaluate"], "predict": ["inference"]}[found[1]]
            configs += re.findall(r"--config (\w+)", command)
            check_overrides(found[2], configs, dict.fromkeys(re.findall(r"--set '?(\w+)=", command), ANY_VALUE))


def test_a_command_of_monai_names_keys_that_its_bundle_has(page: Path):
    for command in commands(read(page)):
        if "monai.bundle run" in command and page.parts[0] == "bundles":
            configs = re.findall(r"configs/(\w+)\.json", command)
            keys = set(re.findall(r" --(\w+) ", command.partition("monai.bundle run")[2])) - OF_MONAI
            check_overrides(find_bundle(page.parts[1]), configs, dict.fromkeys(keys, ANY_VALUE))
