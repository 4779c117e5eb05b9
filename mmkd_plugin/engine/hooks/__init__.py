"""Hooks."""

from .dataset_labels_hook import DatasetLabelsHook
from .distill_report_hook import DistillReportHook
from .error_covariance_hook import ErrorCovarianceHook
from .evaluate_teacher_hook import EvaluateTeacherHook
from .interval_param_scheduler_hook import IntervalParamSchedulerHook
from .mosaic_generator_hook import MosaicGeneratorHook
from .non_finite_loss_hook import NonFiniteLossHook
from .reseed_hook import ReseedHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .selection_report_hook import SelectionReportHook
from .snapshot_hook import SnapshotHook
from .weight_distance_hook import WeightDistanceHook

__all__ = [
    'DatasetLabelsHook',
    'DistillReportHook',
    'ErrorCovarianceHook',
    'EvaluateTeacherHook',
    'IntervalParamSchedulerHook',
    'MosaicGeneratorHook',
    'NonFiniteLossHook',
    'ReseedHook',
    'SafeCheckpointHook',
    'SelectionReportHook',
    'SnapshotHook',
    'WeightDistanceHook',
]
