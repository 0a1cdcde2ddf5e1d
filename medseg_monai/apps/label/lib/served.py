"""What an annotator's client has to know of a bundle, read off the bundle's own files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medseg_monai.bundle import (
    BundleError,
    build_workflow,
    find_bundle,
    flat_keys,
    list_bundles,
    merged_config,
    read_metadata,
)
from medseg_monai.data.dicom_seg import Segment
from medseg_monai.data.radiographs import RADIOGRAPH_MODALITIES
from medseg_monai.data.savers import SaveDicomSegd

__all__ = ["PALETTE", "ServedBundle", "check_options", "choose_bundles"]

Colour = tuple[int, int, int]

#: of Okabe and Ito, which colour-blind people tell apart; for labels that the bundle describes in no DICOM SEG
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)

_VOLUME_READER = "medseg_monai.data.VolumeReader"
_RADIOGRAPH_READER = "medseg_monai.data.RadiographReader"

#: flat keys of a bundle that are the server's business and not the annotator's
_NO_OPTIONS = ("amp", "dataset_dir", "device", "dicom_seg", "fast", "num_workers", "output_dir", "sw_batch_size")

_TYPE_NAMES = {bool: "yes or no", int: "whole number", float: "number", str: "plain word"}

_WORD = re.compile(r"[\w .+-]*")  # MONAI would run a text that starts with $, and follow one with @ or %


@dataclass(frozen=True)
class ServedBundle:
    """A bundle as a client sees it.

    Attributes:
        name: name of the bundle.
        root: its folder.
        version: its version.
        description: one line on it.
        dimension: 2 for images, 3 for volumes.
        labels: name of each label and its value in the mask, without the background: those of the bundle's DICOM SEG,
            if it writes one, else those of its metadata.
        colours: colour of each label, RGB from 0 to 255.
        softmax: whether the channels of the network's output exclude each other; otherwise each is its own yes or no.
        options: flat keys of ``inference.json`` that a client may change, with their values; an empty text stands for a
            whole number that the network takes or leaves.
        modalities: DICOM modalities of the images that it reads; none if it reads no DICOM.
        segments: how its DICOM SEG describes the labels, in their order; none if it writes no such file.
    """

    name: str
    root: Path
    version: str
    description: str
    dimension: int
    labels: dict[str, int]
    colours: dict[str, Colour]
    softmax: bool
    options: dict[str, Any]
    modalities: tuple[str, ...]
    segments: tuple[Segment, ...]

    @property
    def shipped_weights(self) -> Path:
        """The weights that come with the bundle, whether they are there or not."""
        return self.root / "models" / "model.pt"

    @classmethod
    def read(cls, bundle: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> ServedBundle:
        """Read a bundle's files; its network is not built.

        Args:
            bundle: name or path.
            checkpoint: weights to use instead of the bundle's; they may say what the label is.

        Raises:
            BundleError: no such bundle, or its metadata name no labels.
        """
        metadata = read_metadata(bundle)
        outputs = metadata.get("network_data_format", {}).get("outputs", {}).get("pred", {})
        channels = [str(outputs["channel_def"][key]) for key in sorted(outputs.get("channel_def", {}), key=int)]
        softmax = bool(channels) and channels[0].lower() == "background"
        names = channels[1:] if softmax else channels
        if not names:
            raise BundleError(
                f"{metadata['name']}: its metadata.json names no labels; set channel_def in "
                "network_data_format#outputs#pred."
            )
        segments = _segments(bundle, checkpoint)
        colours = [PALETTE[index % len(PALETTE)] for index in range(len(names))]
        if len(segments) == len(names):
            names, colours = [one.name for one in segments], [one.colour for one in segments]
        config = merged_config(bundle, ["inference"])
        shape = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
        return cls(
            name=metadata["name"],
            root=find_bundle(bundle),
            version=metadata["version"],
            description=metadata["description"],
            # a 2D network may go through a volume slice by slice
            dimension=3 if any(part["_target_"] == _VOLUME_READER for part in _parts(config)) else len(shape),
            labels={name: value for value, name in enumerate(names, start=1)},
            colours=dict(zip(names, colours, strict=True)),
            softmax=softmax,
            options=_options(config),
            modalities=_modalities(config),
            segments=tuple(segments),
        )


def choose_bundles(
    names: Sequence[str] | None = None, weights: Mapping[str, str | os.PathLike[str]] | None = None
) -> dict[str, ServedBundle]:
    """The bundles to serve.

    Args:
        names: names or paths of bundles; by default all that come with the package and have weights.
        weights: weights to use instead of those that a bundle has, by the bundle's name.

    Returns:
        the bundles by their names.

    Raises:
        BundleError: a bundle that there is not, or that has no weights; no bundle at all.
    """
    given = dict(weights or {})
    listed = list_bundles() if names is None else names
    chosen = {
        bundle.name: bundle
        for bundle in (ServedBundle.read(name, given.get(find_bundle(name).name)) for name in listed)
    }
    if unknown := sorted(set(given) - set(chosen)):
        raise BundleError(f"{', '.join(unknown)}: weights for bundles that are not served; serve {', '.join(chosen)}.")
    missing = [name for name, one in chosen.items() if not Path(given.get(name, one.shipped_weights)).is_file()]
    if names is not None and missing:
        raise BundleError(
            f"{', '.join(missing)}: no weights; train the bundle and name them: --weights {missing[0]}=FILE."
        )
    served = {name: bundle for name, bundle in chosen.items() if name not in missing}
    if not served:
        raise BundleError("No bundle has weights; train one and name them: --weights BUNDLE=FILE.")
    return served


def check_options(bundle: ServedBundle, request: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a request changes, each of the type that the bundle has for it.

    Clients send much beside the options (device, file types, their own name), so other keys are passed over.

    Args:
        bundle: the bundle.
        request: what the client sent.

    Returns:
        keys of ``inference.json`` and values that differ from the bundle's.

    Raises:
        ValueError: an option with a value of another type.
    """
    changed = {}
    for key, default in bundle.options.items():
        value = _as_type_of(default, request.get(key, default))
        if value is None:
            expected = "whole number" if default == "" else _TYPE_NAMES[type(default)]
            raise ValueError(f"{key}: {request[key]!r} is no {expected}; the bundle's own value is {default!r}.")
        if value != default:
            changed[key] = value
    return changed


def _as_type_of(default: Any, value: Any) -> Any:
    """The value in the type of the default; ``None`` if it has no such value."""
    if isinstance(default, bool):
        words = {"true": True, "false": False, "1": True, "0": False}
        return words.get(str(value).lower())
    if default == "" and value != "":
        return _as_type_of(0, value)
    if isinstance(default, str):
        return value if isinstance(value, str) and _WORD.fullmatch(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if isinstance(default, float) else int(number) if number.is_integer() else None


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    network = config["network_def"].values()
    options: dict[str, Any] = {}
    for key, value in flat_keys(config).items():
        is_word = isinstance(value, str) and value and _WORD.fullmatch(value)
        if key in _NO_OPTIONS:
            continue
        if isinstance(value, (bool, int, float)) or is_word:
            options[key] = value
        elif value is None and f"@{key}" in network:  # the network's own choice, which a number overrules
            options[key] = ""
    return options


def _parts(config: Any) -> Iterator[Mapping[str, Any]]:
    """The parts of a config that name a class."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from _parts(value)
    elif isinstance(config, list):
        for value in config:
            yield from _parts(value)


def _modalities(config: Mapping[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for part in _parts(config):
        if part["_target_"] == _VOLUME_READER:
            found[str(part.get("modality", "CT"))] = None
        elif part["_target_"] == _RADIOGRAPH_READER:
            found.update(dict.fromkeys(RADIOGRAPH_MODALITIES))
    return tuple(found)


def _segments(bundle: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None) -> Sequence[Segment]:
    """How the bundle's DICOM SEG describes the labels; none if it writes no such file."""
    overrides = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
    workflow = build_workflow(bundle, ["inference"], workflow_type="infer", overrides=overrides)
    parser: ConfigParser = workflow.parser
    parser.parse(reset=True)
    try:
        transforms = parser.get_parsed_content("postprocessing").transforms
    except RuntimeError:  # MONAI's round any error; one bundle asks its weights what it segments, and there are none
        return []
    return next((one.segments for one in transforms if isinstance(one, SaveDicomSegd)), [])
