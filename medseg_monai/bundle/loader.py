"""Finding bundles, and building their workflows with overrides that are checked."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import _get_fake_spatial_shape

from .monai_calls import config_files_in_use
from .overrides import as_it_is, is_code
from .ranges import value_fault

__all__ = [
    "BundleError",
    "build_workflow",
    "bundle_root",
    "check_overrides",
    "check_values",
    "example_input_shape",
    "find_bundle",
    "flat_keys",
    "list_bundles",
    "merged_config",
    "read_metadata",
    "refuse_replaced",
]


class BundleError(ValueError):
    """An error about a bundle, a config file or an override; the message is one line with the remedy.

    Example:
        >>> from medseg_monai.bundle import BundleError, find_bundle
        >>> try:
        ...     find_bundle("lung_cxr_rescnet")
        ... except BundleError as error:
        ...     print(error)  # doctest: +ELLIPSIS
        lung_cxr_rescnet: no such bundle. Did you mean lung_cxr_rescrnet? There are: ...
    """


def _shelves() -> list[Path]:
    """Folders with bundles: the checkout's ``bundles/``, or the copy inside the installed package."""
    package = Path(__file__).resolve().parents[1]
    return [shelf for shelf in (package.parent / "bundles", package / "bundles") if shelf.is_dir()]


def list_bundles() -> list[str]:
    """Names of the bundles that come with the package, in alphabetical order.

    Example:
        >>> from medseg_monai.bundle import list_bundles
        >>> "lung_cxr_rescrnet" in list_bundles()
        True
    """
    return sorted({p.parents[1].name for shelf in _shelves() for p in shelf.glob("*/configs/metadata.json")})


def find_bundle(bundle: str | os.PathLike[str]) -> Path:
    """Folder of a bundle that is given by its name or by its path.

    Args:
        bundle: name of a bundle that comes with the package, or path of a bundle's folder.

    Returns:
        absolute path of the bundle's root.

    Raises:
        BundleError: there is no such bundle; the message lists the bundles that there are.

    Example:
        >>> from medseg_monai.bundle import find_bundle
        >>> find_bundle("lung_cxr_rescrnet").name
        'lung_cxr_rescrnet'
    """
    path = Path(bundle)
    if (path / "configs" / "metadata.json").is_file():
        return path.resolve()
    for shelf in _shelves():
        if (shelf / str(bundle) / "configs" / "metadata.json").is_file():
            return shelf / str(bundle)
    near = difflib.get_close_matches(str(bundle), list_bundles(), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BundleError(f"{bundle}: no such bundle.{hint} There are: {', '.join(list_bundles())}.")


def bundle_root(name: str) -> str:
    """Root of the bundle that a config belongs to, for ``bundle_root`` in its config files.

    A config does not know where it was read from. So the root is that of the config files that MONAI is working with
    (``monai.bundle``'s commands, :func:`monai.bundle.load`, a ``ConfigWorkflow``). If MONAI's parser is used alone, the
    root is the current folder if that is a bundle of this name, and otherwise the bundle that comes with the package.
    The key ``bundle_root`` overrides it.

    Args:
        name: name of the bundle.

    Returns:
        absolute path.

    Raises:
        BundleError: no such bundle.

    Example:
        >>> from pathlib import Path
        >>> from medseg_monai.bundle import bundle_root
        >>> Path(bundle_root("lung_cxr_rescrnet")).name
        'lung_cxr_rescrnet'
    """
    files = config_files_in_use()
    roots = [root for file in files for root in file.parents if (root / "configs" / "metadata.json").is_file()]
    named = [root for root in [*roots, Path.cwd()] if _is_bundle(root, name)]
    if named or roots:
        return str((named or roots)[0])
    if files:
        raise BundleError(
            f"{files[0].parent}: no folder of a bundle (configs/metadata.json) above this config file; name it: "
            "--bundle_root FOLDER."
        )
    try:
        return str(find_bundle(name))
    except BundleError as error:
        raise BundleError(f"{error} If it is in a folder of your own, add --bundle_root FOLDER.") from error


def _is_bundle(root: Path, name: str) -> bool:
    metadata = root / "configs" / "metadata.json"
    return metadata.is_file() and json.loads(metadata.read_text(encoding="utf-8")).get("name") == name


def read_metadata(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Content of a bundle's ``metadata.json``.

    Args:
        bundle: name or path.

    Raises:
        BundleError: no such bundle.

    Example:
        >>> from medseg_monai.bundle import read_metadata
        >>> read_metadata("liver_ct_anunet")["name"]
        'liver_ct_anunet'
    """
    content: dict[str, Any] = json.loads((find_bundle(bundle) / "configs" / "metadata.json").read_text())
    return content


def example_input_shape(metadata: Mapping[str, Any]) -> list[int]:
    """Shape ``[1, C, *spatial]`` of the smallest input that the metadata of a bundle allow for its network.

    Args:
        metadata: content of ``metadata.json``; ``spatial_shape`` may hold MONAI's formulas such as ``"32*n"``.

    Raises:
        BundleError: the metadata do not state such a shape.

    Example:
        >>> from medseg_monai.bundle import example_input_shape
        >>> image = {"num_channels": 3, "spatial_shape": ["32*n", 64]}
        >>> example_input_shape({"network_data_format": {"inputs": {"image": image}}})
        [1, 3, 32, 64]
    """
    image = metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    channels, spatial = image.get("num_channels"), image.get("spatial_shape", [])
    if not isinstance(channels, int) or not spatial or "*" in spatial:
        raise BundleError(
            f"{metadata.get('name')}: its metadata.json states no input shape: set num_channels and spatial_shape in "
            "network_data_format#inputs#image."
        )
    return [1, channels, *_get_fake_spatial_shape(spatial)]


def _is_flat(value: Any) -> bool:
    """Whether a user may change a config entry: it is a scalar, an expression or a list of scalars."""
    if isinstance(value, dict):
        return False
    if isinstance(value, list):
        return all(isinstance(item, (int, float, str, bool)) and not str(item).startswith("$") for item in value)
    return True


#: keys of earlier versions, and their replacements
REPLACED = {
    "retrain_from": "set initial_weights (medseg train --checkpoint FILE); the paper's recipe is --config retrain"
}

#: keys that are flat in form but belong to the workflow itself
_STEPS = ("imports", "initialize", "run", "finalize", "model_file", "initial_network", "network")


def flat_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config that a user may change, with their values.

    Args:
        config: merged content of config files.

    Example:
        >>> from medseg_monai.bundle import flat_keys
        >>> flat_keys({"learning_rate": 0.001, "optimizer": {"_target_": "Adam"}, "run": "$@trainer.run()"})
        {'learning_rate': 0.001}
    """
    return {key: value for key, value in config.items() if key not in (*_STEPS, *REPLACED) and _is_flat(value)}


def check_overrides(bundle: str | os.PathLike[str], configs: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Refuse overrides for keys that no config has and values that a key cannot have; MONAI itself accepts them all.

    Args:
        bundle: name or path of the bundle.
        configs: names of its config files, as in :func:`build_workflow`.
        overrides: key to value; ``a#b`` or ``a::b`` reach nested entries.

    Raises:
        BundleError: an unknown key (the message names the closest known keys), a value of another type or outside its
            range, an unknown bundle or an unknown config.

    Example:
        >>> from medseg_monai.bundle import BundleError, check_overrides
        >>> check_overrides("liver_ct_anunet", ["train"], {"max_epochs": 5})
        >>> try:
        ...     check_overrides("liver_ct_anunet", ["train"], {"max_epoch": 5})
        ... except BundleError as error:
        ...     print(error)  # doctest: +ELLIPSIS
        max_epoch: liver_ct_anunet (train) has no such key; did you mean max_epochs...?
    """
    config = merged_config(bundle, configs)
    flat = flat_keys(config)
    parser = ConfigParser(config)
    for key, value in overrides.items():
        nested = key.replace("::", "#")
        if nested in flat or ("#" in nested and nested in parser):
            _check_value(nested, value, flat.get(nested))
            continue
        if key in REPLACED:
            refuse_replaced(key)
        near = difflib.get_close_matches(key, flat, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(flat))}."
        raise BundleError(f"{key}: {find_bundle(bundle).name} ({', '.join(configs)}) has no such key; {hint}")


def _check_value(key: str, value: Any, default: Any) -> None:
    is_expression = isinstance(value, str) and is_code(value)
    fault = "" if is_expression else value_fault(key, value, default)
    if fault:
        raise BundleError(f"{key}: {fault}; the bundle has {default!r}.")


def check_values(values: Mapping[str, Any], source: str) -> None:
    """Refuse values that would be run as code.

    Args:
        values: flat keys and their values.
        source: where they come from, for the message.

    Raises:
        BundleError: a value is code.
    """
    for key, value in values.items():
        if is_code(value):
            raise BundleError(
                f"{source} {key}={value}: would be run as code; give a value, or --allow-expressions if you trust it."
            )


def refuse_replaced(key: str) -> NoReturn:
    """Refuse a key that a bundle no longer has, for configs that would otherwise ignore it silently.

    Args:
        key: name of the key.

    Raises:
        BundleError: always; the message names the replacement.

    Example:
        >>> from medseg_monai.bundle import BundleError, refuse_replaced
        >>> try:
        ...     refuse_replaced("retrain_from")
        ... except BundleError as error:
        ...     print(error)  # doctest: +ELLIPSIS
        retrain_from: is no longer a key of this bundle; set initial_weights ...
    """
    raise BundleError(f"{key}: is no longer a key of this bundle; {REPLACED[key]}.")


def build_workflow(
    bundle: str | os.PathLike[str],
    configs: Sequence[str],
    *,
    workflow_type: str,
    overrides: Mapping[str, Any] | None = None,
    tracking: Mapping[str, Any] | None = None,
) -> ConfigWorkflow:
    """Build the workflow that ``python -m monai.bundle run`` would run, after checking the overrides.

    Args:
        bundle: name or path of the bundle.
        configs: names of config files; the first is complete and the others are overlays: ``["train", "evaluate"]``. A
            path to your own JSON or YAML file works as an overlay too.
        workflow_type: ``"train"`` or ``"infer"``, which decides the properties of the workflow.
        overrides: flat keys and their values.
        tracking: settings of experiment tracking in MONAI's form.

    Returns:
        the workflow, not yet initialized.

    Raises:
        BundleError: unknown bundle, config file or override.

    Example:
        >>> from medseg_monai.bundle import build_workflow
        >>> workflow = build_workflow(
        ...     "lung_cxr_rescrnet", ["inference"], workflow_type="infer", overrides={"threshold": 0.4}
        ... )
        >>> workflow.parser["threshold"]
        0.4
    """
    root = find_bundle(bundle)
    files = [_config_file(root, name) for name in configs]
    checked = dict(overrides or {})
    check_overrides(root, configs, checked)
    checked.setdefault("bundle_root", str(root))
    checked = as_it_is(checked)
    return ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,  # keep the caller's logging
        workflow_type=workflow_type,
        tracking={**tracking, "configs": as_it_is(dict(tracking["configs"]))} if tracking else None,
        **checked,
    )


def merged_config(bundle: str | os.PathLike[str], configs: Sequence[str]) -> dict[str, Any]:
    """Content of several config files, merged as MONAI merges them.

    Args:
        bundle: name or path of the bundle.
        configs: names of config files of the bundle, or paths.

    Raises:
        BundleError: unknown bundle or config.

    Example:
        >>> from medseg_monai.bundle import merged_config
        >>> merged_config("lung_cxr_rescrnet", ["train"])["seed"]
        0
    """
    root = find_bundle(bundle)
    parser = ConfigParser()
    parser.read_config([str(_config_file(root, name)) for name in configs])
    content: dict[str, Any] = parser.get()
    return content


def _config_file(root: Path, name: str) -> Path:
    shipped = root / "configs" / f"{name}.json"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    there = sorted(p.stem for p in (root / "configs").glob("*.json") if p.stem != "metadata")
    raise BundleError(f"{name}: neither a config of {root.name} nor a file; its configs are: {', '.join(there)}.")
