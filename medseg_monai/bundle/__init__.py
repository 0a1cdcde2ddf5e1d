"""The one runner of all bundles."""

from .batch import predict_cases
from .fine_tuning import trained_settings
from .loader import (
    BundleError,
    build_workflow,
    bundle_root,
    check_overrides,
    example_input_shape,
    find_bundle,
    flat_keys,
    list_bundles,
    merged_config,
    read_metadata,
)
from .predictor import Prediction, Predictor
from .processes import end_process_group, start_process_group
from .pruning import LevelResult, PruningResult, choose_level, prune
from .training import TrainingResult, evaluate, train
from .weights import file_sha256, load_network, read_state_dict

__all__ = [
    "BundleError",
    "LevelResult",
    "Prediction",
    "Predictor",
    "PruningResult",
    "TrainingResult",
    "build_workflow",
    "bundle_root",
    "check_overrides",
    "choose_level",
    "end_process_group",
    "evaluate",
    "example_input_shape",
    "file_sha256",
    "find_bundle",
    "flat_keys",
    "list_bundles",
    "load_network",
    "merged_config",
    "predict_cases",
    "prune",
    "read_metadata",
    "read_state_dict",
    "start_process_group",
    "train",
    "trained_settings",
]
