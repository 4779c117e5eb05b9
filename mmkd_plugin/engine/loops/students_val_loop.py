"""Validation of several students."""

import copy
from typing import Any, Union

import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner, ValLoop
from mmengine.runner.amp import autocast
from mmpretrain.utils import get_ori_model
from torch import nn
from torch.utils.data import DataLoader

from .students_evaluator import StudentsEvaluator


def check_students(model: nn.Module) -> None:
    """Check that a model has several students.

    Args:
        model (nn.Module): The model.

    Raises:
        ValueError: If it has none.
    """
    if not hasattr(model, 'predict_students'):
        raise ValueError(
            f'StudentsValLoop and StudentsTestLoop are for models with '
            f'several students, such as DML, but got {type(model).__name__}: '
            f'set val_cfg=dict() and test_cfg=dict()'
        )


def build_students_evaluator(
    runner: Runner, evaluator: Union[Evaluator, dict, list], **options: Any
) -> StudentsEvaluator:
    """Build an evaluator for each student of a runner's model.

    Args:
        runner (Runner): The runner.
        evaluator (Evaluator or dict or list): An evaluator of one student,
            or its config.
        **options: Options of :class:`StudentsEvaluator`.

    Returns:
        StudentsEvaluator: The evaluator of all.

    Raises:
        ValueError: If the model has no students.
    """
    model = get_ori_model(runner.model)
    check_students(model)
    evaluators = {}
    for name in model.students:
        own = copy.deepcopy(evaluator)
        if not isinstance(own, Evaluator):
            own = runner.build_evaluator(own)
        evaluators[name] = own
    return StudentsEvaluator(evaluators, **options)


def answer_batch(runner: Runner, batch: dict, fp16: bool) -> dict[str, list]:
    """Let all students answer a batch.

    Args:
        runner (Runner): The runner.
        batch (dict): The batch.
        fp16 (bool): Whether to compute in mixed precision.

    Returns:
        dict[str, list]: The answers by the students' names.
    """
    model = get_ori_model(runner.model)
    with autocast(enabled=fp16):
        data = model.data_preprocessor(batch, False)
        return model.predict_students(**data)


@LOOPS.register_module()
class StudentsValLoop(ValLoop):
    """mmengine's ``ValLoop`` for a model with several students.

    All students answer each batch, and each has an evaluator of its own, see
    :class:`StudentsEvaluator` for the names of the metrics. Hooks are called
    as often as with one student; ``after_val_iter`` gets the answers of the
    model's ``main_student``.

    .. code-block:: python

        val_cfg = dict(type='StudentsValLoop')

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The loader, or its config.
        evaluator (Evaluator or dict or list): Evaluator of a student, or its
            config.
        fp16 (bool): Whether to validate in mixed precision. Defaults to
            False.
        metric (str): The metric that decides which student is best.
            Defaults to ``'accuracy/top1'``.
        rule (str): ``'greater'`` or ``'less'``, which is better. Defaults to
            ``'greater'``.

    Raises:
        ValueError: If the model has no students, or if an option is wrong.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Union[DataLoader, dict],
        evaluator: Union[Evaluator, dict, list],
        fp16: bool = False,
        metric: str = 'accuracy/top1',
        rule: str = 'greater',
    ) -> None:
        evaluator = build_students_evaluator(
            runner, evaluator, metric=metric, rule=rule
        )
        super().__init__(runner, dataloader, evaluator, fp16)

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Iterate one batch.

        Args:
            idx (int): Its index.
            data_batch (dict): The batch.
        """
        self.runner.call_hook(
            'before_val_iter', batch_idx=idx, data_batch=data_batch
        )
        answers = answer_batch(self.runner, data_batch, self.fp16)
        self.evaluator.process(answers, data_batch)
        main = get_ori_model(self.runner.model).main_student
        self.runner.call_hook(
            'after_val_iter',
            batch_idx=idx,
            data_batch=data_batch,
            outputs=answers[main],
        )
