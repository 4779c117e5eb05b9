"""Test of several students."""

from mmengine.registry import LOOPS
from mmengine.runner import TestLoop

from .students_loop import StudentsLoop


@LOOPS.register_module()
class StudentsTestLoop(StudentsLoop, TestLoop):
    """mmengine's ``TestLoop`` for a model with several students.

    It is to ``TestLoop`` what :class:`StudentsValLoop` is to ``ValLoop``.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The loader, or its config.
        evaluator (Evaluator or dict or list): Evaluator of a student, or its
            config.
        fp16 (bool): Whether to test in mixed precision. Defaults to
            False.
        metric (str): The metric that decides which student is best.
            Defaults to ``'accuracy/top1'``.
        rule (str): ``'greater'`` or ``'less'``, which is better. Defaults to
            ``'greater'``.

    Raises:
        ValueError: If the model has no students, or if an option is wrong.
    """

    stage = 'test'
