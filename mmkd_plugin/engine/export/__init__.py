"""A distilled student as files that need nothing of this package."""

from .choice import choose_student
from .config import student_config
from .student import HEADER, Export, export_student, take_student

__all__ = [
    'HEADER',
    'Export',
    'choose_student',
    'export_student',
    'student_config',
    'take_student',
]
