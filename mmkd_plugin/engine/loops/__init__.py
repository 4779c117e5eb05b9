"""Loops."""

from .students_evaluator import StudentsEvaluator
from .students_test_loop import StudentsTestLoop
from .students_val_loop import StudentsValLoop

__all__ = ['StudentsEvaluator', 'StudentsTestLoop', 'StudentsValLoop']
