"""Ignite handlers that MONAI lacks: exact seeding and resuming, result tables, overlays, MLflow extras."""

from .case_metrics import CaseMetrics
from .epoch_seed import EpochSeed
from .overlay_saver import OverlaySaver
from .run_tracker import RunTracker
from .training_state import CHECKPOINT_NAME, MODEL_NAME, TrainingState, read_settings, trained_with

__all__ = [
    "CHECKPOINT_NAME",
    "MODEL_NAME",
    "CaseMetrics",
    "EpochSeed",
    "OverlaySaver",
    "RunTracker",
    "TrainingState",
    "read_settings",
    "trained_with",
]
