"""Algorithms: teacher(s) and student(s) as one mmengine model."""

from .single_teacher_distill import SingleTeacherDistill

__all__ = ['SingleTeacherDistill']
