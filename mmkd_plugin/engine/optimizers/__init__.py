"""Optimizers of several students."""

from .joint_optim_wrapper import JointOptimWrapper, StudentAmpOptimWrapper
from .per_student_optim_wrapper_constructor import (
    PerStudentOptimWrapperConstructor,
)

__all__ = [
    'JointOptimWrapper',
    'PerStudentOptimWrapperConstructor',
    'StudentAmpOptimWrapper',
]
