"""Recorders: taps on the modules of a model."""

from .base_recorder import BaseRecorder
from .function_inputs import FunctionInputs
from .function_outputs import FunctionOutputs
from .logit_map_outputs import LogitMapOutputs
from .method_inputs import MethodInputs
from .method_outputs import MethodOutputs
from .module_inputs import ModuleInputs
from .module_outputs import ModuleOutputs
from .parameter import Parameter

__all__ = [
    'BaseRecorder',
    'FunctionInputs',
    'FunctionOutputs',
    'LogitMapOutputs',
    'MethodInputs',
    'MethodOutputs',
    'ModuleInputs',
    'ModuleOutputs',
    'Parameter',
]
