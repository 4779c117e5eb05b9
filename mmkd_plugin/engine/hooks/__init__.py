"""Hooks."""

from .distill_report_hook import DistillReportHook
from .evaluate_teacher_hook import EvaluateTeacherHook
from .non_finite_loss_hook import NonFiniteLossHook
from .reseed_hook import ReseedHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .selection_report_hook import SelectionReportHook

__all__ = [
    'DistillReportHook',
    'EvaluateTeacherHook',
    'NonFiniteLossHook',
    'ReseedHook',
    'SafeCheckpointHook',
    'SelectionReportHook',
]
