"""Test of several students."""

from typing import Union

import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmpretrain.utils import get_ori_model
from torch.utils.data import DataLoader

from .students_val_loop import answer_batch, build_students_evaluator


@LOOPS.register_module()
class StudentsTestLoop(TestLoop):
    """mmengine's ``TestLoop`` for a model with several students.

    It is to ``TestLoop`` what :class:`StudentsValLoop` is to ``ValLoop``.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The loader, or its config.
        evaluator (Evaluator or dict or list): Evaluator of a student, or its
            config.
        fp16 (bool): Whether to test in mixed precision. Defaults to False.
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
            'before_test_iter', batch_idx=idx, data_batch=data_batch
        )
        answers = answer_batch(self.runner, data_batch, self.fp16)
        self.evaluator.process(answers, data_batch)
        main = get_ori_model(self.runner.model).main_student
        self.runner.call_hook(
            'after_test_iter',
            batch_idx=idx,
            data_batch=data_batch,
            outputs=answers[main],
        )
