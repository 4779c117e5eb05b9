"""Training schemes: teachers and students as one mmengine model."""

from .base_distill import BaseDistill
from .cskd import CSKD
from .dlb import DLB
from .dml import DML
from .kdcl import KDCL
from .multi_teacher_distill import MultiTeacherDistill
from .one import ONE
from .online_distill import OnlineDistill
from .pskd import PSKD
from .self_distill import SelfDistill
from .single_teacher_distill import SingleTeacherDistill

__all__ = [
    'CSKD',
    'DLB',
    'DML',
    'KDCL',
    'ONE',
    'PSKD',
    'BaseDistill',
    'MultiTeacherDistill',
    'OnlineDistill',
    'SelfDistill',
    'SingleTeacherDistill',
]
