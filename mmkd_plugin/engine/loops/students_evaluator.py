"""The metrics of several students."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from mmengine.evaluator import Evaluator
from mmengine.logging import MessageHub, print_log

from mmkd_plugin.utils.checks import check_choice, nearest

#: Where the metrics lie in the runner's message hub.
STUDENT_METRICS = 'student_metrics'
RULES = ('greater', 'less')


class StudentsEvaluator(Evaluator):
    """An evaluator for each student, and the best of them.

    Metrics are called ``<name>/accuracy/top1`` and the like. Those of the
    best student are there as ``accuracy/top1``, too, so that what asks for
    such a metric, ``save_best`` of the checkpoint hook for one, works as with
    a single student. Which one it is goes into the log.

    The values of the deciding metric are also kept in the message hub, from
    where they get into checkpoints: ``'student_metrics'`` is a dict of
    ``metric``, ``best`` (a name), ``values`` (by name) and ``iteration``.

    Args:
        evaluators (Mapping[str, Evaluator]): The evaluators by the students'
            names.
        metric (str): The metric that decides. Defaults to
            ``'accuracy/top1'``.
        rule (str): Which value of it is best, ``'greater'`` or ``'less'``.
            Defaults to ``'greater'``.

    Raises:
        ValueError: If an option is wrong, or, in the first evaluation, if
            there is no such metric.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        *,
        metric: str = 'accuracy/top1',
        rule: str = 'greater',
    ) -> None:
        self.evaluators = dict(evaluators)
        self.metric = metric
        self.rule = check_choice('rule', rule, RULES)
        super().__init__([m for e in evaluators.values() for m in e.metrics])

    def process(
        self,
        data_samples: Mapping[str, Sequence],
        data_batch: Optional[Any] = None,
    ) -> None:
        """Take the answers to a batch.

        Args:
            data_samples (Mapping[str, Sequence]): The answers by the
                students' names.
            data_batch (Any, optional): The batch. Defaults to None.
        """
        for name, evaluator in self.evaluators.items():
            evaluator.process(data_samples[name], data_batch)

    def evaluate(self, size: int) -> dict:
        """Compute the metrics of all students.

        Args:
            size (int): Length of the data set.

        Returns:
            dict: The metrics.

        Raises:
            ValueError: If the deciding one is not among them.
        """
        found = {n: e.evaluate(size) for n, e in self.evaluators.items()}
        values = {}
        for name, metrics in found.items():
            if self.metric not in metrics:
                raise ValueError(
                    f'there is no metric {self.metric!r} to choose the best '
                    f'student by; {nearest(self.metric, metrics)}'
                )
            values[name] = float(metrics[self.metric])
        # The first of equals.
        choose = max if self.rule == 'greater' else min
        best = choose(values, key=values.get)
        shown = ', '.join(f'{n} {value:.4f}' for n, value in values.items())
        print_log(f'best student: {best} ({self.metric}: {shown})', 'current')
        hub = MessageHub.get_current_instance()
        hub.update_info(
            STUDENT_METRICS,
            dict(
                metric=self.metric,
                best=best,
                values=values,
                iteration=hub.get_info('iter', -1) + 1,
            ),
        )
        # The first one is what save_best='auto' goes by.
        return {
            **found[best],
            **{
                f'{name}/{key}': value
                for name, metrics in found.items()
                for key, value in metrics.items()
            },
        }
