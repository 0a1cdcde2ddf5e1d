"""The data list: the one format between data sets and bundles.

It is MONAI's own JSON, ``{"training": [{"image": ..., "label": ...}], "validation": [...], "test": [...]}``, with paths
relative to the file's folder. An item may name further masks (``fov``, ``label_expert1`` ...) and states the
``patient`` and the ``source`` that it comes from. It may have a ``name`` of its own, which results and tables then use.

Source: the data list of the Medical Segmentation Decathlon, read by :func:`monai.data.load_decathlon_datalist`.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg_monai.errors import shorten
from medseg_monai.files import write_json

from .names import NAME_KEY, name_cases

__all__ = [
    "Datalist",
    "Item",
    "item_paths",
    "load_datalist",
    "load_sections",
    "patient_rank",
    "read_sections",
    "refuse_leaks",
    "shorten",
    "split_by_patient",
    "write_datalist",
]

Item = dict[str, Any]
Datalist = dict[str, list[Item]]

PATH_KEYS = ("image", "label", "fov")
PATH_KEY_PREFIX = "label_"


def write_datalist(datalist: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a data list as JSON, all or nothing.

    Args:
        datalist: sections (lists of items) and any further top-level entries that JSON can hold, such as
            ``description``, ``split``, ``seed`` or ``counts``, which are kept as they are. In the items, the values of
            ``image``, ``label``, ``fov`` and each key that starts with ``label_`` are paths; a relative path starts at
            the working directory. They are written relative to the folder of ``path``, with forward slashes.
        path: the JSON file. Its folder is created if it is missing, and an existing file is replaced.

    Example:
        >>> import json
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import write_datalist
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "datalist.json")
        ...     write_datalist({"training": [{"image": f"{folder}/images/a.png", "patient": "1"}]}, path)
        ...     json.loads(path.read_text())["training"]
        [{'image': 'images/a.png', 'patient': '1'}]
    """
    target = Path(path)
    folder = os.path.realpath(target.parent)

    def relative(value: str) -> str:
        # The folder is resolved, so that ".." means the same to the operating system. The name is not: the file may be
        # a link into a store where its name and suffix are lost.
        parent, name = os.path.split(os.path.abspath(value))
        return Path(os.path.relpath(os.path.join(os.path.realpath(parent), name), folder)).as_posix()

    written = {
        key: [_with_paths(item, relative) for item in value] if _is_section(value) else value
        for key, value in datalist.items()
    }
    write_json(target, written)


def load_datalist(
    path: str | os.PathLike[str], section: str, *, allow_empty: bool = False, keys: Sequence[str] | None = None
) -> list[Item]:
    """Read one section of a data list, with absolute paths to files that exist.

    Args:
        path: a JSON file that :func:`write_datalist` wrote, or one written by hand in MONAI's format.
        section: ``"training"``, ``"validation"``, ``"test"`` or any other section of the file.
        allow_empty: return an empty list for an empty section instead of refusing it.
        keys: keep only these keys and the name. Images of which some have a further mask and some have none do not make
            a batch.

    Returns:
        The items in the order of the file, each with its ``name``, which tells its results, overlays and rows of tables
        from those of the others (see :func:`medseg_monai.data.names.name_cases`).

    Raises:
        FileNotFoundError: if the data list or files that it names are missing; the message names the first ten.
        ValueError: if the file is not a data list, the section is unknown or empty, items have no ``image`` or have it
            as their label too, or an image or a patient is in two sections.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_fundus_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_fundus_phantoms(folder, task="disc", counts={"test": 2}, size=(64, 64), seed=0)
        ...     items = load_datalist(path, "test")
        >>> len(items), sorted(items[0])
        (2, ['fov', 'image', 'label', 'name', 'patient', 'source'])
    """
    items = name_cases(_load(path, section, allow_empty=allow_empty))
    kept = None if keys is None else {*keys, NAME_KEY}
    return [{key: value for key, value in item.items() if kept is None or key in kept} for item in items]


def _load(path: str | os.PathLike[str], section: str, *, allow_empty: bool = False) -> list[Item]:
    source = Path(path)
    sections = read_sections(source)
    if section not in sections:
        raise ValueError(f"{source}: no section '{section}'; it has {', '.join(sections) or 'none'}")
    items = sections[section]
    if not items and not allow_empty:
        raise ValueError(f"{source}: section '{section}' is empty; choose another or write a list that fills it")
    if without := [str(index) for index, item in enumerate(items) if not item.get("image")]:
        raise ValueError(f"{source}: items without 'image' in section '{section}': {shorten(without)}; add the key")
    if missing := [file for item in items for file in item_paths(item) if not os.path.exists(file)]:
        raise FileNotFoundError(
            f"{source}: section '{section}' names files that are missing: {shorten(missing)}; "
            "put them back or write the list again with 'medseg data'"
        )
    if unlabelled := [item["image"] for item in items if _is_its_own_label(item)]:
        raise ValueError(f"{source}: the label is the image itself: {shorten(unlabelled)}; name the mask as 'label'")
    return items


def read_sections(path: str | os.PathLike[str]) -> Datalist:
    """Read every section of a data list with absolute paths, whether or not the files are there.

    Args:
        path: the JSON file.

    Returns:
        The sections, of which no two have an image or a patient in common. As in
        :func:`medseg_monai.data.combine`, patients of two sources may have the same number.

    Raises:
        FileNotFoundError: if the data list is missing.
        ValueError: if the file is not a data list, or an image or a patient is in two sections.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data.datalist import read_sections
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "datalist.json")
        ...     _ = path.write_text('{"training": [{"image": "/a.png"}], "test": [{"image": "/a.png"}]}')
        ...     try:
        ...         read_sections(path)
        ...     except ValueError as error:
        ...         print(str(error).partition(": ")[2])
        image in two sections: /a.png (training), /a.png (test); keep it in one
    """
    source = Path(path)
    folder = os.path.realpath(source.parent)
    content = _read_content(source)
    _refuse_no_paths(source, content)
    sections = {
        key: [_with_paths(item, lambda value: os.path.normpath(os.path.join(folder, value))) for item in value]
        for key, value in content.items()
        if _is_section(value)
    }
    refuse_leaks(source, "image", sections, lambda item: os.path.realpath(item["image"]) if item.get("image") else None)
    refuse_leaks(source, "patient", sections, _patient)
    return sections


def refuse_leaks(
    source: Path, what: str, sections: Mapping[str, Sequence[Item]], identity: Callable[[Item], Hashable | None]
) -> None:
    """Refuse a data list in which two sections have something in common.

    Args:
        source: the data list.
        what: what they may not have in common, for the message.
        sections: its sections.
        identity: what an item has of it; ``None`` is not compared.

    Raises:
        ValueError: names the first two items that have it in common, and their sections.
    """
    seen: dict[Hashable, tuple[str, Item]] = {}
    for section, items in sections.items():
        for item in items:
            if (found := identity(item)) is None:
                continue
            other, first = seen.setdefault(found, (section, item))
            if other != section:
                entries = f"{first.get('image')} ({other}), {item.get('image')} ({section})"
                raise ValueError(f"{source}: {what} in two sections: {entries}; keep it in one")


def _patient(item: Item) -> tuple[str, str] | None:
    return None if item.get("patient") is None else (str(item.get("source", "")), str(item["patient"]))


def _is_its_own_label(item: Item) -> bool:
    image, label = item["image"], item.get("label", "")
    if not _is_path("label", label) or not (os.path.isfile(image) and os.path.isfile(label)):
        return bool(label == image)
    return os.path.getsize(image) == os.path.getsize(label) and filecmp.cmp(image, label, shallow=False)


def load_sections(path: str | os.PathLike[str]) -> Datalist:
    """Read every section of a data list as the file has it, with absolute paths; sections may be empty.

    Args:
        path: the JSON file.

    Raises:
        FileNotFoundError: if the data list or files that it names are missing.
        ValueError: as :func:`load_datalist`.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_sections
        >>> from medseg_monai.phantoms import write_fundus_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_fundus_phantoms(folder, task="disc", counts={"training": 2}, size=(64, 64), seed=0)
        ...     {section: len(items) for section, items in load_sections(path).items()}
        {'training': 2, 'validation': 0, 'test': 0}
    """
    # a file without any section gets the error for a missing training section
    names = list(read_sections(path)) or ["training"]
    return {name: _load(path, name, allow_empty=True) for name in names}


def split_by_patient(items: Sequence[Item], *, fractions: Mapping[str, float], seed: int) -> Datalist:
    """Divide items into sections so that no patient is in two of them.

    Patients are ranked by a hash of seed and name and not by a random generator, so the split is the same on every
    machine, with every version of every library, and for every order of ``items``.

    Args:
        items: items with a ``patient``.
        fractions: section name -> fraction of the *patients*; the fractions sum to 1. A fraction of 0 gives an empty
            section, any other fraction at least one patient.
        seed: another seed gives another split.

    Returns:
        The sections in the order of ``fractions``, each sorted by patient and image.

    Raises:
        ValueError: if an item has no patient, the fractions do not sum to 1 or are negative, or there are fewer
            patients than sections to fill.

    Example:
        >>> from medseg_monai.data import split_by_patient
        >>> items = [{"image": f"{number}.png", "patient": str(number // 2)} for number in range(8)]
        >>> split = split_by_patient(items, fractions={"training": 0.5, "validation": 0.25, "test": 0.25}, seed=0)
        >>> {section: len(found) for section, found in split.items()}
        {'training': 4, 'validation': 2, 'test': 2}
    """
    if without := [str(item.get("image", index)) for index, item in enumerate(items) if item.get("patient") is None]:
        raise ValueError(f"items without 'patient' can't be split by patient: {shorten(without)}; add the key")
    patients = sorted({str(item["patient"]) for item in items}, key=lambda name: (patient_rank(name, seed), name))
    counts = _counts(len(patients), fractions)
    names = [section for section, count in counts.items() for _ in range(count)]
    section_of = dict(zip(patients, names, strict=True))
    split: Datalist = {section: [] for section in fractions}
    for item in sorted(items, key=lambda item: (str(item["patient"]), str(item.get("image", "")))):
        split[section_of[str(item["patient"])]].append(item)
    return split


def patient_rank(patient: str, seed: int) -> str:
    """A patient's rank when splits choose patients: a hash, which is the same on every machine.

    Args:
        patient: name of the patient.
        seed: another seed gives another order.
    """
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()


def _read_content(source: Path) -> dict[str, Any]:
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such data list; write one with 'medseg data'")
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not a JSON file ({error}); write the list again with 'medseg data'") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source}: a data list is a JSON object of sections; write one with 'medseg data'")
    return content


def _refuse_no_paths(source: Path, content: Mapping[str, Any]) -> None:
    """Refuse an image that is no text, and text that can be no path of this system."""
    items = [item for value in content.values() if _is_section(value) for item in value]
    given = [(key, value) for item in items for key, value in item.items() if key == "image" or _is_path(key, value)]
    if strange := [
        f"{key}: {json.dumps(value)}" for key, value in given if value is not None and not _can_be_path(value)
    ]:
        raise ValueError(f"{source}: not paths: {shorten(strange)}; name the files")


def _can_be_path(value: object) -> bool:
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_section(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_path(key: str, value: object) -> bool:
    # MONAI's classification lists have a class number as the label, which is not a path
    return (key in PATH_KEYS or key.startswith(PATH_KEY_PREFIX)) and isinstance(value, str | os.PathLike)


def item_paths(item: Mapping[str, Any]) -> list[str]:
    """The files and folders that an item of a data list names.

    Args:
        item: the item.

    Example:
        >>> from medseg_monai.data.datalist import item_paths
        >>> item_paths({"image": "a.png", "label": "b.png", "patient": "17"})
        ['a.png', 'b.png']
    """
    return [value for key, value in item.items() if _is_path(key, value)]


def _with_paths(item: Item, change: Callable[[str], str]) -> Item:
    return {key: change(os.fspath(value)) if _is_path(key, value) else value for key, value in item.items()}


def _counts(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Number of patients in each section by largest remainder; at least one where the fraction is not 0."""
    if any(fraction < 0 for fraction in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions must be 0 or more and sum to 1, got {dict(fractions)}")
    filled = [section for section, fraction in fractions.items() if fraction > 0]
    if total < len(filled):
        raise ValueError(
            f"{total} patients can't fill the sections {', '.join(filled)}; use more data or set a fraction to 0"
        )
    quota = {section: fractions[section] * total for section in filled}
    # with the tolerance, 0.2 * 35 = 7.000000000000001 and 6.999999999999999 give the same number of patients
    counts = {section: int(share + 1e-9) for section, share in quota.items()}
    remainders = sorted(filled, key=lambda section: counts[section] - quota[section])
    for section in remainders[: total - sum(counts.values())]:
        counts[section] += 1
    for section in filled:
        if counts[section] == 0:
            counts[max(filled, key=counts.__getitem__)] -= 1
            counts[section] = 1
    return {section: counts.get(section, 0) for section in fractions}
