"""One page about a training run, written when it ends."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.dist import all_reduce, get_dist_info, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmpretrain.utils import get_ori_model
from torch import nn

from mmkd_plugin.utils.checks import nearest

from ..report import (
    finite,
    make_report,
    read_pictures,
    render_page,
    thin_curve,
    write_file,
)
from .validation_classes import validation_classes

_STATE_KEY = 'distill_report'


@HOOKS.register_module()
class DistillReportHook(Hook):
    """Write ``<work_dir>/report/report.json`` and ``index.html``.

    The page shows teacher and student in figures, the curves of every loss
    and its terms, of the learning rate and of the validation metrics, the
    confusion matrix of the student's last validation, the selection of its
    images or the synthetic ones, and the config. It also works for a run
    without a teacher or without validation.

    **Curves after a resume.** Losses and learning rates are taken from the
    message hub: it has one value per iteration, and it is in the checkpoint,
    so that a resumed run continues exactly the curve that led to the
    checkpoint. The hub does not do for the metrics: an epoch's checkpoint is
    saved before the epoch is validated, and a resumed run does not validate
    it again, so one validation is missing per resume, and the values carry no
    step that would show it. (``vis_data/scalars.json`` has steps, but also
    iterations after the checkpoint that the resumed run repeats, and runs
    that were abandoned.) So the hook keeps the validations itself: in the
    checkpoint, and in ``report/validations.json``, from which a resumed run
    takes the one validation that its checkpoint is too early for.

    **Confusion matrix.** Samplers for several processes repeat some samples
    at the end, so that all processes get equally many. As mmengine's
    evaluator does, the hook takes it that the k-th sample of rank r is the
    number ``k * world_size + r`` of the data set, and leaves out those beyond
    its end. So every image counts once. Where a sample has not exactly one
    true and one predicted class there is no matrix. Of several students that
    are trained together, it is that of the model's ``main_student``.

    Args:
        metric (str): The validation metric, higher is better, which is shown
            as top-1 and decides which validation is best. Defaults to
            ``'accuracy/top1'``.
    """

    def __init__(self, *, metric: str = 'accuracy/top1') -> None:
        self.metric = metric
        self._restored = self._new_state()
        self._state = self._new_state()
        self._is_training = False
        self._labels: Optional[list] = []
        self._num_scores = 0
        self._num_seen = 0

    @staticmethod
    def _new_state() -> dict:
        return dict(validations=[], confusion=None)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take the validations so far from a checkpoint.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The loaded checkpoint.
        """
        self._restored = checkpoint.get(_STATE_KEY, self._new_state())

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put the validations so far into a checkpoint.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint that is going to be saved.
        """
        checkpoint[_STATE_KEY] = dict(
            validations=list(self._state['validations']),
            confusion=self._state['confusion'],
        )

    def before_train(self, runner) -> None:
        """Go on from a checkpoint, or start anew.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._is_training = True
        self._state = self._new_state()
        if runner.iter > 0:
            self._state = self._restored
            if is_main_process():
                self._add_last_validation(runner)
        elif is_main_process():
            # Those of an abandoned run in the same folder.
            self._validations_file(runner).unlink(missing_ok=True)

    def _add_last_validation(self, runner) -> None:
        path = self._validations_file(runner)
        try:
            saved = json.loads(path.read_text(encoding='utf-8'))
            validations, confusion = saved['validations'], saved['confusion']
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            runner.logger.warning(f'{path} cannot be read: {error!r}')
            return
        known = {v['iteration'] for v in self._state['validations']}
        if runner.iter in known:
            return
        self._state['validations'] += [
            v for v in validations if v['iteration'] == runner.iter
        ]
        if validations and validations[-1]['iteration'] == runner.iter:
            self._state['confusion'] = confusion

    def before_val_epoch(self, runner) -> None:
        """Forget the labels of the validation before.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._labels, self._num_scores, self._num_seen = [], 0, 0

    def after_val_iter(
        self,
        runner,
        batch_idx: int,
        data_batch=None,
        outputs: Optional[Sequence] = None,
    ) -> None:
        """Keep the true and the predicted classes of a batch.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): The index of the batch.
            data_batch (dict or tuple or list, optional): The batch.
            outputs (Sequence[DataSample], optional): The predictions.
        """
        if not self._is_training or self._labels is None:
            return
        rank, world_size = get_dist_info()
        left = len(runner.val_dataloader.dataset) - rank
        limit = -(-left // world_size) - self._num_seen
        samples = list(outputs or ())
        self._num_seen += len(samples)
        samples = samples[: max(limit, 0)]
        if not samples:
            return
        pairs = [
            (getattr(s, 'gt_label', None), getattr(s, 'pred_label', None))
            for s in samples
        ]
        if any(x is None or x.numel() != 1 for pair in pairs for x in pair):
            self._labels = None
            return
        self._labels.append(
            torch.stack(
                [
                    torch.cat([x.reshape(1) for x in side]).cpu().long()
                    for side in zip(*pairs, strict=True)
                ]
            )
        )
        scores = getattr(samples[0], 'pred_score', None)
        if scores is not None:
            self._num_scores = scores.numel()

    def after_val_epoch(self, runner, metrics: Optional[dict] = None) -> None:
        """Keep the metrics and the confusion matrix.

        Args:
            runner (Runner): The runner of the training process.
            metrics (dict, optional): The metrics of the validation.
        """
        if not self._is_training:
            return
        confusion = self._confusion(validation_classes(runner))
        values = {
            name: finite(value)
            for name, value in (metrics or {}).items()
            if _is_scalar(value)
        }
        is_first = not self._state['validations']
        if is_first and metrics and self.metric not in metrics:
            runner.logger.warning(
                f'{type(self).__name__}: there is no metric '
                f'{self.metric!r}; {nearest(self.metric, metrics)}'
            )
        self._state['validations'].append(
            dict(iteration=runner.iter, epoch=runner.epoch, metrics=values)
        )
        self._state['confusion'] = confusion
        if is_main_process():
            write_file(self._validations_file(runner), json.dumps(self._state))

    def _confusion(self, classes: Sequence[str]) -> Optional[list]:
        """Count over all processes; each of them has to call this."""
        if self._labels:
            true, predicted = torch.cat(self._labels, dim=1)
        else:
            true = predicted = torch.zeros(0, dtype=torch.long)
        both = torch.cat([true, predicted])
        unusable = self._labels is None or bool((both < 0).any())
        highest = int(both.max()) + 1 if len(both) else 0
        sizes = torch.tensor(
            [max(highest, self._num_scores, len(classes)), int(unusable)]
        )
        all_reduce(sizes, 'max')
        size, unusable = sizes.tolist()
        if unusable or size == 0:
            return None
        counts = torch.bincount(true * size + predicted, minlength=size**2)
        all_reduce(counts, 'sum')
        if not counts.any():
            return None
        return counts.reshape(size, size).tolist()

    def after_train(self, runner) -> None:
        """Write the report.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._is_training = False
        if not is_main_process():
            return
        report = self._report(runner)
        folder = self._folder(runner)
        # Strict JSON has no NaN, and the report holds none.
        write_file(folder / 'report.json', json.dumps(report, allow_nan=False))
        page = render_page([report], [read_pictures(runner.work_dir)])
        write_file(folder / 'index.html', page)
        runner.logger.info(f'The report is at {folder / "index.html"}')

    def _report(self, runner) -> dict:
        model = get_ori_model(runner.model)
        metrics = runner.message_hub.get_info('teacher_metrics')
        several = getattr(model, 'teachers', {})
        teacher = getattr(model, 'teacher', None)
        has_teacher = teacher is not None or (bool(metrics) and not several)
        selection = Path(runner.work_dir) / 'selection' / 'selection.json'
        return make_report(
            run_name=Path(runner.work_dir).resolve().name,
            config_name=Path(runner.cfg.filename or '').name,
            config=runner.cfg.pretty_text,
            trained_on=str(runner.cfg.get('trained_on', '')),
            metric=self.metric,
            epochs=runner.epoch,
            iterations=runner.iter,
            curves=_training_curves(runner),
            validations=self._state['validations'],
            confusion=self._state['confusion'],
            classes=validation_classes(runner),
            **_describe_students(model),
            teacher=dict(_describe(teacher), metrics=metrics)
            if has_teacher
            else None,
            teachers=[
                dict(
                    _describe(one),
                    name=name,
                    metrics=(metrics or {}).get(name),
                )
                for name, one in several.items()
            ],
            selection=json.loads(selection.read_text(encoding='utf-8'))
            if selection.is_file()
            else None,
        )

    @staticmethod
    def _folder(runner) -> Path:
        return Path(runner.work_dir) / 'report'

    def _validations_file(self, runner) -> Path:
        return self._folder(runner) / 'validations.json'


def _is_scalar(value) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float, np.number))


def _describe(model: Optional[nn.Module]) -> dict:
    if not isinstance(model, nn.Module):
        return {}
    network = getattr(model, 'backbone', model)
    name = type(network).__name__
    depth = getattr(network, 'depth', None)
    return dict(
        architecture=name if depth is None else f'{name}-{depth}',
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _describe_students(model: nn.Module) -> dict:
    students = getattr(model, 'students', None)
    if students is None:
        return dict(student=_describe(getattr(model, 'student', model)))
    return dict(
        student=dict(
            architecture=f'{len(students)} students',
            main=model.main_student,
        ),
        students={name: _describe(s) for name, s in students.items()},
    )


def _training_curves(runner) -> dict:
    interval = next(
        (h.interval for h in runner.hooks if isinstance(h, LoggerHook)), 1
    )
    losses, rates = {}, {}
    for name, buffer in runner.message_hub.log_scalars.items():
        values = buffer.data[0]
        if not name.startswith('train/'):
            continue
        # The terms of a loss, such as distill.sdd_consistent, too, and what
        # MosaicKD's generator is judged by.
        if 'loss' in name or name.startswith(
            ('train/distill.', 'train/mosaic.')
        ):
            losses[name] = thin_curve(values, runner.iter, interval)
        # With several optimizers, theirs are called 'train/<name>.lr'.
        elif name.endswith('lr'):
            rates[name] = thin_curve(values, runner.iter, interval, 'last')
    return {**losses, **rates}
