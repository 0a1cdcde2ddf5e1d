"""Several data lists joined into one, as they are or with a paper's split."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .datalist import Datalist, Item, patient_rank, shorten

__all__ = ["SPLITS", "NamedSplit", "combine"]

# source and number: patients of two data sets may have the same number
Patient = tuple[str, str]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedSplit:
    """A paper's split.

    Attributes:
        sources: number of images from each data set (``source`` of the items).
        sections: number of images in each section; with the published numbers, training has what they lack less.
        published: number of images of the data sets of which other numbers are published than the paper's.
    """

    sources: Mapping[str, int]
    sections: Mapping[str, int]
    published: Mapping[str, int] = field(default_factory=dict)


SPLITS = {
    # DEFU-Net, section IV.A: 138 and 566 images, "divided into 528 training set, 76 images for validation set and 100"
    "defu": NamedSplit({"montgomery": 138, "shenzhen": 566}, {"training": 528, "validation": 76, "test": 100}),
    # Res-CR-Net, 1.2.2: "952 CXRs derived by combining the JSRT, MC, and SH datasets", 904 and 48. The paper names 247
    # and 138 of the first two, which leaves 567, one more than the published mask set of Shenzhen has
    "jms": NamedSplit(
        {"jsrt": 247, "montgomery": 138, "shenzhen": 567},
        {"training": 904, "validation": 48, "test": 0},
        published={"shenzhen": 566},
    ),
    # Res-CR-Net, 1.2.2: 6395 images, 6191 and 204
    "v7": NamedSplit({"v7_darwin": 6395}, {"training": 6191, "validation": 204, "test": 0}),
}
"""Splits by name. The papers do not publish which image is in which section, so each split is drawn by a seed."""


def combine(datalists: Sequence[Mapping[str, list[Item]]], *, split: str | None = None, seed: int = 0) -> Datalist:
    """Pool several data lists.

    Without ``split`` each section holds the items of that section from every list, in the given order. With one of
    :data:`SPLITS` the items of all sections are divided again, by patient and with a seed, into exactly the paper's
    numbers of images. ``"jms"`` also takes the 951 images that are published of the paper's 952: training then has 903
    instead of 904, and a warning says so.

    A patient is identified by ``source`` and ``patient``, and patients are ranked by a hash as in
    :func:`medseg_monai.data.split_by_patient`. The small sections take patients in that order as long as all their
    images fit; the rest is for training.

    Args:
        datalists: sections of items with absolute paths, as :func:`medseg_monai.data.load_sections` and the readers in
            :mod:`medseg_monai.datasets` return them.
        split: ``"defu"``, ``"jms"``, ``"v7"`` or ``None``.
        seed: another seed gives another split.

    Returns:
        The sections; with ``split`` ``training``, ``validation`` and ``test``, sorted by source, patient and image.

    Raises:
        ValueError: for an unknown split, an image that occurs twice, a patient in two sections of the result, items
            without a patient, or data that are not those of the split (the message states the expected numbers and the
            numbers found).

    Example:
        >>> from medseg_monai.data import combine
        >>> first = {"training": [{"image": "a.png", "patient": "1", "source": "montgomery"}], "test": []}
        >>> second = {"training": [], "test": [{"image": "b.png", "patient": "1", "source": "shenzhen"}]}
        >>> {section: len(items) for section, items in combine([first, second]).items()}
        {'training': 1, 'test': 1}
    """
    pooled = [item for datalist in datalists for section in datalist.values() for item in section]
    counted = Counter(os.path.abspath(item["image"]) for item in pooled)
    if twice := [image for image, count in counted.items() if count > 1]:
        raise ValueError(f"images that occur twice in the data lists: {shorten(twice)}; combine each data set once")
    if split is None:
        return _joined(datalists)
    if split not in SPLITS:
        raise ValueError(f"split '{split}' is unknown: choose from {', '.join(SPLITS)}")
    _refuse_other_data(pooled, split)
    return _divided(pooled, split, seed)


def _patient(item: Item) -> Patient:
    return str(item.get("source", "")), str(item["patient"])


def _joined(datalists: Iterable[Mapping[str, list[Item]]]) -> Datalist:
    joined: Datalist = defaultdict(list)
    for datalist in datalists:
        for name, section in datalist.items():
            joined[name] += section
    sections_of = defaultdict(set)
    for name, section in joined.items():
        for item in section:
            if item.get("patient") is not None:
                sections_of[_patient(item)].add(name)
    if torn := ["/".join(patient) for patient, names in sections_of.items() if len(names) > 1]:
        raise ValueError(f"patients in two sections: {shorten(sorted(torn))}; make the lists of one data set at once")
    return dict(joined)


def _refuse_other_data(items: Sequence[Item], split: str) -> None:
    expected, published = SPLITS[split].sources, {**SPLITS[split].sources, **SPLITS[split].published}
    found = Counter(str(item.get("source", "no source")) for item in items)
    if dict(found) not in (expected, published):
        accepted = " or ".join(dict.fromkeys(map(_counts_text, (expected, published))))
        raise ValueError(
            f"split '{split}' needs {accepted}, found {_counts_text(dict(sorted(found.items())))}; "
            "combine the complete data sets and no others"
        )
    if without := [str(item["image"]) for item in items if item.get("patient") is None]:
        raise ValueError(f"items without 'patient' can't be split by patient: {shorten(without)}; add the key")
    if dict(found) != expected:
        _say_what_training_lacks(split, sum(found.values()))


def _say_what_training_lacks(split: str, images: int) -> None:
    training, expected = SPLITS[split].sections["training"], sum(SPLITS[split].sources.values())
    _LOGGER.warning(
        "split '%s': %d of the paper's %d images are published, so training has %d instead of %d.",
        split,
        images,
        expected,
        training - (expected - images),
        training,
    )


def _counts_text(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{source} {count}" for source, count in counts.items()) or "nothing"
    return f"{listed} ({sum(counts.values())} images)"


def _divided(items: Sequence[Item], split: str, seed: int) -> Datalist:
    images: dict[Patient, list[Item]] = defaultdict(list)
    for item in items:
        images[_patient(item)].append(item)
    ranked = sorted(images, key=lambda patient: (patient_rank("/".join(patient), seed), patient))
    sections = SPLITS[split].sections
    chosen: dict[str, list[Patient]] = {}
    for name in ("test", "validation"):
        room = sections[name]
        chosen[name] = []
        for patient in ranked:
            if len(images[patient]) <= room:
                chosen[name].append(patient)
                room -= len(images[patient])
        if room:
            raise ValueError(
                f"split '{split}': no choice of patients gives {sections[name]} images for {name}; try another seed"
            )
        taken = set(chosen[name])
        ranked = [patient for patient in ranked if patient not in taken]
    chosen["training"] = ranked
    return {
        name: sorted(
            (item for patient in chosen[name] for item in images[patient]),
            key=lambda item: (_patient(item), str(item["image"])),
        )
        for name in sections
    }
