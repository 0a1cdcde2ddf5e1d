"""Ignite handlers that MONAI lacks, for exact seeding and resuming, tables of results, overlays, and MLflow runs."""

from medseg_monai.deprecation import moved

from .case_metrics import TABLES, CaseMetrics
from .clip_gradients import ClipGradients
from .coverage_schedule import CoverageSchedule
from .early_stop import EarlyStop
from .epoch_seed import EpochSeed
from .label_metrics import LabelMetrics
from .layer_metrics import LayerMetrics
from .mean_dice import MeanDice, MeanIoU
from .overlay_saver import OverlaySaver
from .run_tracker import RunTracker
from .training_precision import TrainingPrecision
from .training_state import CHECKPOINT_NAME, MODEL_NAME, TrainingState
from .weight_average import WeightAverage

__all__ = [
    "CHECKPOINT_NAME",
    "MODEL_NAME",
    "TABLES",
    "CaseMetrics",
    "ClipGradients",
    "CoverageSchedule",
    "EarlyStop",
    "EpochSeed",
    "LabelMetrics",
    "LayerMetrics",
    "MeanDice",
    "MeanIoU",
    "OverlaySaver",
    "RunTracker",
    "TrainingPrecision",
    "TrainingState",
    "WeightAverage",
]

__getattr__ = moved(__name__, {"trained_with": "medseg_monai.networks.weights.model_file.trained_with"})
