"""Show which unlabeled images a sampler has chosen."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.utils import get_ori_model

from mmkd_plugin.datasets.selection import EntropySelection
from mmkd_plugin.utils.checks import check_number

from ..report import (
    CONFIDENCE_PICTURE,
    MONTAGE_PICTURE,
    Picked,
    class_name,
    confidence_figure,
    finite,
    montage_figure,
    png,
    render,
    write_file,
)
from .validation_classes import validation_classes

# What the candidates that were not chosen are, by the order of choosing.
_LEFT_OUT = {
    'informative': 'rejected: too certain to be informative',
    'confident': 'rejected: over delta, but others are more certain',
    'random': 'rejected: over delta, but not drawn',
}


@HOOKS.register_module()
class SelectionReportHook(Hook):
    """Draw the selection of a sampler that scores the images.

    Such are :class:`AdaptiveThresholdSampler` and
    :class:`EntropySubsetSampler`. Before training, the hook writes into
    ``<work_dir>/selection``:

    * ``confidence.png``: the histogram of the teacher's confidences with the
      threshold, the chosen band, and the classes that were chosen (not for
      a choice by entropy, which has no threshold on the confidence);
    * ``montage.png``: some of the chosen images, of those that the teacher is
      too uncertain about, and of the other candidates; by entropy, some of
      the chosen and of the other images;
    * ``selection.json``: the numbers.

    The pictures go to the visualizer, too, so that TensorBoard shows them.
    Where the sampler of the training set has no ``scores`` and no
    ``selection``, the hook does nothing.

    Args:
        num_images (int): Images per row of the montage. Defaults to 12.
        seed (int): Decides which images the montage shows. Defaults to 0.

    Raises:
        ValueError: If ``num_images`` or ``seed`` is out of its range.
    """

    def __init__(self, *, num_images: int = 12, seed: int = 0) -> None:
        self.num_images = int(check_number('num_images', num_images, least=1))
        self.seed = int(check_number('seed', seed, least=0))

    @master_only
    def before_train(self, runner) -> None:
        """Write the pictures and the numbers.

        Args:
            runner (Runner): The runner of the training process.
        """
        dataloader = runner.train_loop.dataloader
        sampler = dataloader.sampler
        if not (hasattr(sampler, 'scores') and hasattr(sampler, 'selection')):
            return
        scores, selection = sampler.scores, sampler.selection
        folder = Path(runner.work_dir) / 'selection'
        classes = validation_classes(runner)

        swap = not self._is_rgb(runner)
        rows = [
            (
                title,
                [
                    self._pick(dataloader.dataset, i, scores, classes, swap)
                    for i in indices
                ],
            )
            for title, indices in self._montage_rows(scores, selection)
        ]
        pictures = {}
        if isinstance(selection, EntropySelection):
            # One of an earlier run here would pass for this run's.
            (folder / CONFIDENCE_PICTURE).unlink(missing_ok=True)
        else:
            pictures[CONFIDENCE_PICTURE] = self._histogram(scores, selection)
        pictures[MONTAGE_PICTURE] = montage_figure(rows, self.num_images)

        for name, figure in pictures.items():
            image = render(figure)
            write_file(folder / name, png(image))
            runner.visualizer.add_image(
                f'selection_{Path(name).stem}', image, step=runner.iter
            )
        numbers = self._numbers(scores, selection, classes)
        write_file(folder / 'selection.json', json.dumps(numbers, indent=2))
        runner.logger.info(
            f'{len(selection.indices):,} of {len(scores.uncertainty):,} '
            f'images are selected; see {folder}'
        )

    @staticmethod
    def _histogram(scores, selection) -> Figure:
        note = f'threshold: {selection.threshold}, order: {selection.order}'
        if selection.fallback:
            note += (
                ' - no image is over delta, so the most certain ones are taken'
            )
        return confidence_figure(
            scores.uncertainty,
            scores.predicted,
            selection.candidates,
            selection.indices,
            selection.delta,
            selection.gamma,
            scores.num_classes,
            note,
        )

    def _montage_rows(self, scores, selection) -> list:
        chosen = np.zeros(len(scores.uncertainty), dtype=bool)
        chosen[selection.indices] = True
        if isinstance(selection, EntropySelection):
            groups = {'chosen': chosen, 'rejected: less entropy': ~chosen}
        else:
            candidates = np.asarray(selection.candidates, dtype=bool)
            left_out = _LEFT_OUT.get(selection.order, 'rejected: over delta')
            groups = {
                'chosen': chosen,
                'rejected: too uncertain': ~candidates & ~chosen,
                left_out: candidates & ~chosen,
            }
        generator = np.random.default_rng(self.seed)
        rows = []
        for title, where in groups.items():
            pool = np.flatnonzero(where)
            drawn = generator.choice(
                pool, min(self.num_images, len(pool)), replace=False
            )
            # The least certain first, so that a row reads like an axis.
            order = np.argsort(-scores.uncertainty[drawn], kind='stable')
            rows.append((f'{title} ({len(pool):,} images)', drawn[order]))
        return rows

    @staticmethod
    def _pick(
        dataset, index: int, scores, classes: Sequence[str], swap: bool
    ) -> Picked:
        image = dataset[int(index)]['inputs'].numpy().transpose(1, 2, 0)
        predicted = int(scores.predicted[index])
        return Picked(
            image=image[..., ::-1] if swap else image,
            label=class_name(classes, predicted),
            uncertainty=float(scores.uncertainty[index]),
        )

    @staticmethod
    def _is_rgb(runner) -> bool:
        """Tell whether the data set's images are RGB.

        A preprocessor that converts to RGB gets them in BGR.
        """
        model = get_ori_model(runner.model)
        preprocessor = getattr(model, 'data_preprocessor', None)
        return not getattr(preprocessor, 'to_rgb', False)

    @staticmethod
    def _numbers(scores, selection, classes: Sequence[str]) -> dict:
        confidence = np.exp(-scores.uncertainty)

        def summary(where: np.ndarray) -> dict:
            return dict(
                count=len(confidence[where]),
                mean_confidence=_mean(confidence[where]),
                mean_entropy=_mean(scores.entropy[where]),
            )

        everything = summary(np.ones(len(confidence), dtype=bool))
        if isinstance(selection, EntropySelection):
            rule = dict(
                order='entropy',
                min_entropy=finite(selection.min_entropy),
                all=everything,
            )
        else:
            rule = dict(
                threshold=selection.threshold,
                order=selection.order,
                gamma=finite(selection.gamma),
                delta=finite(selection.delta),
                fallback=bool(selection.fallback),
                all=everything,
                candidates=summary(
                    np.asarray(selection.candidates, dtype=bool)
                ),
            )
        chosen = scores.predicted[selection.indices]
        return dict(
            **rule,
            chosen=summary(selection.indices),
            classes=[str(c) for c in classes],
            chosen_per_class=np.bincount(
                chosen, minlength=scores.num_classes
            ).tolist(),
        )


def _mean(values: np.ndarray):
    return float(values.mean()) if len(values) else None
