"""Training schemes: teachers and students as one mmengine model."""

from .base_distill import BaseDistill
from .self_distill import SelfDistill
from .single_teacher_distill import SingleTeacherDistill

__all__ = ['BaseDistill', 'SelfDistill', 'SingleTeacherDistill']
