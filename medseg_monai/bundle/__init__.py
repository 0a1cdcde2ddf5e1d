"""The runner of all bundles: finding, training, evaluating, predicting, pruning and exporting."""

from medseg_monai.files import file_sha256

from .allocator import keep_freed_memory
from .distributed import end_process_group, start_process_group
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
    refuse_replaced,
)
from .monai_calls import loaded_by_monai
from .predict_cases import predict_cases
from .predictor import Prediction, Predictor
from .pruning import LevelResult, PruningResult, choose_level, prune
from .training import TrainingResult, evaluate, train
from .weights import choose_pretrained, load_initial_weights, load_network, place_network

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
    "choose_pretrained",
    "end_process_group",
    "evaluate",
    "example_input_shape",
    "file_sha256",
    "find_bundle",
    "flat_keys",
    "keep_freed_memory",
    "list_bundles",
    "load_initial_weights",
    "load_network",
    "loaded_by_monai",
    "merged_config",
    "place_network",
    "predict_cases",
    "prune",
    "read_metadata",
    "refuse_replaced",
    "start_process_group",
    "train",
]
