"""Validation of several students."""

from mmengine.registry import LOOPS
from mmengine.runner import ValLoop

from .students_loop import StudentsLoop


@LOOPS.register_module()
class StudentsValLoop(StudentsLoop, ValLoop):
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

    stage = 'val'
