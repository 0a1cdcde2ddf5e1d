"""What an annotator's client needs to know about a bundle, read from the bundle's own files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.transforms import LoadImaged

from medseg_monai.bundle import (
    BundleError,
    build_workflow,
    find_bundle,
    flat_keys,
    list_bundles,
    merged_config,
    read_metadata,
)
from medseg_monai.bundle.ranges import value_fault
from medseg_monai.data import DicomSegWriter, LayerWriter, SaveResultsd, Segment
from medseg_monai.data.results.case import ResultWriter

__all__ = ["PALETTE", "ServedBundle", "check_option", "check_options", "choose_bundles"]

Colour = tuple[int, int, int]

#: colours of Okabe and Ito, which colour-blind people can distinguish; for labels without a colour in a DICOM SEG
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)

#: flat keys of a bundle that concern the server and not the annotator
_NO_OPTIONS = (
    *("amp", "dataset_dir", "device", "dicom_seg", "fast", "num_workers", "output_dir", "probabilities", "stack"),
    "sw_batch_size",
)

_TYPE_NAMES = {bool: "yes or no", int: "whole number", float: "number", str: "plain word"}

_WORD = re.compile(r"[\w .+-]*")  # MONAI would run a text that starts with $, and resolve one with @ or %


@dataclass(frozen=True)
class ServedBundle:
    """A bundle as a client sees it.

    Attributes:
        name: name of the bundle.
        root: its folder.
        version: its version.
        description: one line on it.
        dimension: 2 for images, 3 for volumes.
        labels: name of each label and its value in the mask, without the background: those of the bundle's DICOM SEG
            if it writes one, those of the layers that its weights tell apart, otherwise those of its metadata.
        colours: colour of each label, RGB from 0 to 255.
        softmax: whether the channels of the network's output exclude each other; otherwise each is an independent yes
            or no.
        options: flat keys of ``inference.json`` that a client may change, with their values; an empty string stands for
            an optional whole number.
        modalities: DICOM modalities of the images that it reads; none if it reads no DICOM.
        segments: descriptions of the labels in its DICOM SEG, in their order; none if it writes no such file.
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
        """Path of the weights that come with the bundle, which may not exist."""
        return self.root / "models" / "model.pt"

    @classmethod
    def read(cls, bundle: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> ServedBundle:
        """Read a bundle's files; its network is not built.

        Args:
            bundle: name or path.
            checkpoint: weights to use instead of the bundle's; they may state what the label is.

        Raises:
            BundleError: no such bundle, or its metadata do not name the labels.
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
        parser = _inference(bundle, checkpoint)
        writers, reader = _writers(parser), _reader(parser)
        segments = next((writer.segments for writer in writers if isinstance(writer, DicomSegWriter)), ())
        layers = next((writer for writer in writers if isinstance(writer, LayerWriter)), None)
        colours = [PALETTE[index % len(PALETTE)] for index in range(len(names))]
        if layers is not None:
            names, colours = list(layers.labels), list(layers.colours)
        elif len(segments) == len(names):
            names, colours = [one.name for one in segments], [one.colour for one in segments]
        return cls(
            name=metadata["name"],
            root=find_bundle(bundle),
            version=metadata["version"],
            description=metadata["description"],
            dimension=reader.spatial_dims,  # a 2D network may be applied to a volume slice by slice
            labels={name: value for value, name in enumerate(names, start=1)},
            colours=dict(zip(names, colours, strict=True)),
            softmax=softmax,
            options=_options(merged_config(bundle, ["inference"])),
            modalities=tuple(reader.modalities),
            segments=tuple(segments),
        )


def choose_bundles(
    names: Sequence[str] | None = None, weights: Mapping[str, str | os.PathLike[str]] | None = None
) -> dict[str, ServedBundle]:
    """The bundles to serve.

    Args:
        names: names or paths of bundles; by default all bundles that come with the package and have weights.
        weights: weights to use instead of a bundle's own, by the bundle's name.

    Returns:
        the bundles by their names.

    Raises:
        BundleError: a bundle that does not exist or has no weights; no bundle at all.
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
            f"{', '.join(missing)}: no weights; train the bundle and give them: --weights {missing[0]}=FILE."
        )
    served = {name: bundle for name, bundle in chosen.items() if name not in missing}
    if not served:
        raise BundleError("No bundle has weights; train one and give its weights: --weights BUNDLE=FILE.")
    return served


def check_options(bundle: ServedBundle, request: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a request changes, each with the type that it has in the bundle.

    Clients send much more than the options (device, file types, their own name), so other keys are ignored.

    Args:
        bundle: the bundle.
        request: the client's request.

    Returns:
        keys of ``inference.json`` with the values that differ from the bundle's.

    Raises:
        ValueError: an option with a value of another type or outside its range.
    """
    return {
        key: value
        for key, default in bundle.options.items()
        if (value := check_option(key, request.get(key, default), default)) != default
    }


def check_option(key: str, given: Any, default: Any) -> Any:
    """The value of one option in the type of its default.

    Args:
        key: the option.
        given: the value that a client sent.
        default: the bundle's value; an empty string stands for an optional whole number.

    Raises:
        ValueError: a value of another type or outside its range.
    """
    value = _as_type_of(default, given)
    if value is None:
        expected = "whole number" if default == "" else _TYPE_NAMES[type(default)]
        raise ValueError(f"{key}: expected {expected}, got {given!r}; the bundle has {default!r}.")
    if fault := value_fault(key, value, default):
        raise ValueError(f"{key}: {fault}; the bundle has {default!r}.")
    return value


def _as_type_of(default: Any, value: Any) -> Any:
    """The value in the type of the default; ``None`` if it cannot have this type."""
    if isinstance(default, bool):
        words = {"true": True, "false": False, "1": True, "0": False}
        return words.get(str(value).lower())
    if default == "" and value != "":
        return _as_type_of(0, value)
    if isinstance(default, str):
        return value if isinstance(value, str) and _WORD.fullmatch(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
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
        elif value is None and f"@{key}" in network:  # the network's own default, which a number overrides
            options[key] = ""
    return options


def _inference(bundle: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None) -> ConfigParser:
    """The bundle's ``inference.json``, whose parts are built when they are requested."""
    overrides = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
    parser: ConfigParser = build_workflow(bundle, ["inference"], workflow_type="infer", overrides=overrides).parser
    parser.parse(reset=True)
    return parser


def _reader(parser: ConfigParser) -> Any:
    """The reader of the bundle's images."""
    transforms = parser.get_parsed_content("preprocessing").transforms
    load = next(transform for transform in transforms if isinstance(transform, LoadImaged))
    return load._loader.readers[-1]  # the given reader is last, after MONAI's own


def _writers(parser: ConfigParser) -> Sequence[ResultWriter]:
    """What writes the bundle's results."""
    try:
        transforms = parser.get_parsed_content("postprocessing").transforms
    except RuntimeError:  # from MONAI: one bundle reads the organ from its weights, and there are none
        return []
    return [writer for step in transforms if isinstance(step, SaveResultsd) for writer in step.writers]
