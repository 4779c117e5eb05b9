"""What validation and test of several students share."""

import copy
from typing import Any, Union

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
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


class StudentsLoop:
    """What makes one of mmengine's loops one for several students.

    It comes before that loop among the bases. Its arguments are those of
    :class:`StudentsValLoop`.
    """

    #: As in the names of the hooks' methods, ``'val'`` or ``'test'``.
    stage: str

    def __init__(
        self,
        runner: Runner,
        dataloader: Union[DataLoader, dict],
        evaluator: Union[Evaluator, dict, list],
        fp16: bool = False,
        metric: str = 'accuracy/top1',
        rule: str = 'greater',
    ) -> None:
        model = get_ori_model(runner.model)
        check_students(model)
        evaluators = {}
        for name in model.students:
            own = copy.deepcopy(evaluator)
            if not isinstance(own, Evaluator):
                own = runner.build_evaluator(own)
            evaluators[name] = own
        evaluator = StudentsEvaluator(evaluators, metric=metric, rule=rule)
        super().__init__(runner, dataloader, evaluator, fp16)

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Iterate one batch.

        Args:
            idx (int): Its index.
            data_batch (Any): The batch, as the loader gives it.
        """
        self.runner.call_hook(
            f'before_{self.stage}_iter', batch_idx=idx, data_batch=data_batch
        )
        model = get_ori_model(self.runner.model)
        with autocast(enabled=self.fp16):
            data = model.data_preprocessor(data_batch, False)
            answers = model.predict_students(**data)
        self.evaluator.process(answers, data_batch)
        self.runner.call_hook(
            f'after_{self.stage}_iter',
            batch_idx=idx,
            data_batch=data_batch,
            outputs=answers[model.main_student],
        )
