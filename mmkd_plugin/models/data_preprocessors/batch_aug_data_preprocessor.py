"""Augmentation and normalisation of whole batches, on the device."""

from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, TRANSFORMS
from mmpretrain.models import ClsDataPreprocessor
from torch import Tensor

from mmkd_plugin.structures import BatchSamples
from mmkd_plugin.utils.checks import check_count
from mmkd_plugin.utils.counter_rng import counter_rng

# The first view has stream 0; those between belong to others.
_VIEW_STREAM = 1000


@MODELS.register_module()
class BatchAugDataPreprocessor(ClsDataPreprocessor):
    """mmpretrain's preprocessor, with random augmentation on the device.

    It takes the batches of :class:`~mmkd_plugin.datasets.ArrayImages` as
    well as mmpretrain's own. The random numbers depend on the seed of the
    run, the rank and the iteration alone, so the number of workers does not
    change what the model sees, and a resumed run sees what an uninterrupted
    one sees.

    In distillation, ``mean`` and ``std`` are those of the teacher.

    Args:
        augments (Sequence[dict], optional): Configs of batch transforms,
            applied in order to the uint8 images in training. Defaults to
            None.
        views (int): How many views of each image there are in training. With
            more than one, ``inputs`` is a list of that many batches, each
            augmented with random numbers of its own, the first as it would
            be alone. Defaults to 1.
        **kwargs: ``mean``, ``std``, ``to_rgb`` (channel order of the images
            is reversed) and the other arguments of
            :class:`mmpretrain.models.ClsDataPreprocessor`.

    Raises:
        ValueError: If ``views`` is no integer of 1 or more, or if there are
            several views, but no ``augments``, or ``batch_augments``, which
            would mix the labels of each view in another way.
    """

    def __init__(
        self,
        *,
        augments: Optional[Sequence[dict]] = None,
        views: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.augments = [TRANSFORMS.build(a) for a in augments or []]
        self.views = check_count('views', views)
        if views > 1 and not self.augments:
            raise ValueError(
                f'views={views} without augments would all be the same'
            )
        if views > 1 and self.batch_augments is not None:
            raise ValueError(
                f'views={views} share their labels, which batch_augments '
                f'would mix in another way for each: leave them out'
            )
        self._calls = 0

    def _rngs(self) -> list[np.random.Generator]:
        """Get the generators of this iteration, one a view."""
        hub = MessageHub.get_current_instance()
        # Outside of a runner there is no iteration: count calls instead.
        step = hub.get_info('iter', self._calls)
        self._calls += 1
        seed, rank = hub.get_info('seed') or 0, get_rank()
        streams = [0, *range(_VIEW_STREAM + 1, _VIEW_STREAM + self.views)]
        return [counter_rng(seed, rank, step, stream) for stream in streams]

    def _augment(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        for transform in self.augments:
            images = transform(images, rng)
        return images

    def _normalise(self, images: Tensor) -> Tensor:
        if self.to_rgb:
            images = images.flip(1)
        # In place on the copy that float() made: two passes less.
        if images.dtype == torch.float32:
            images = images.clone()
        images = images.float()
        if self._enable_normalize:
            images = images.sub_(self.mean).div_(self.std)
        return images

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device, augment and normalise it.

        Args:
            data (dict): ``inputs``, uint8 ``(B, 3, H, W)`` or a list of
                images ``(3, H, W)``, and either ``sample_idx`` and,
                optionally, ``gt_label``, int64 ``(B,)``, or ``data_samples``.
                Then, from a hook, there may be ``synthetic``, images that
                are made on the device and normalised, ``(N, 3, H', W')``;
                beside these, the others may be missing, or have
                ``real_statistics``, a dict of ``mean`` and ``std``, which
                they are normalised with instead.
            training (bool): Whether to augment. Defaults to False.

        Returns:
            dict: ``inputs``, float32 ``(B, 3, H', W')``, in training with
            several ``views`` a list of such, or, with synthetic images
            before the others, ``(N + B, 3, H', W')``, and
            ``data_samples``, a sequence of data samples. Synthetic images
            have -1 as ``sample_idx`` and no label; in a batch of tensors,
            the others then have none either.

        Raises:
            ValueError: If images of different sizes are to be augmented, if
                there are views already, if the synthetic images have another
                size, or if these come with several views.
        """
        if 'synthetic' not in data:
            return self._prepare(data, training)
        if self.views > 1:
            raise ValueError(
                f'synthetic images have one view, but got views={self.views}'
            )
        data = dict(data)
        synthetic = data.pop('synthetic')
        statistics = data.pop('real_statistics', None)
        unknown = torch.full((len(synthetic),), -1)
        if 'inputs' not in data:
            return dict(inputs=synthetic, data_samples=BatchSamples(unknown))
        batch = self._prepare(data, training)
        images, samples = batch['inputs'], batch['data_samples']
        if statistics is not None:
            mean, std = (
                torch.tensor(statistics[name]).view(-1, 1, 1).to(images)
                for name in ('mean', 'std')
            )
            images = (images * self.std + (self.mean - mean)) / std
        if images.shape[1:] != synthetic.shape[1:]:
            raise ValueError(
                f'synthetic images have the shape '
                f'{tuple(synthetic.shape[1:])}, but the others '
                f'{tuple(images.shape[1:])}'
            )
        if isinstance(samples, BatchSamples):
            index = torch.cat([unknown, samples.sample_idx.cpu()])
            samples = BatchSamples(index)
        elif samples is not None:
            samples = [*BatchSamples(unknown), *samples]
        return dict(
            inputs=torch.cat([synthetic, images]), data_samples=samples
        )

    def _prepare(self, data: dict, training: bool) -> dict:
        images = self.cast_data(data['inputs'])
        if not isinstance(images, Tensor) and images[0].ndim == 4:
            raise ValueError(
                f'the pipeline gives {len(images)} views of each image, which '
                f'SelfSupDataPreprocessor takes; {type(self).__name__} makes '
                f'its own, with views={len(images)}'
            )
        if training and self.augments:
            if not isinstance(images, Tensor):
                shapes = {tuple(image.shape) for image in images}
                if len(shapes) > 1:
                    raise ValueError(
                        f'batch augmentation needs images of one size, but '
                        f'got {sorted(shapes)}: resize them in the pipeline'
                    )
                images = torch.stack(images)
            batches = [
                self._finish(data, self._augment(images, rng), training)
                for rng in self._rngs()
            ]
            if self.views == 1:
                return batches[0]
            return dict(
                inputs=[batch['inputs'] for batch in batches],
                data_samples=batches[0]['data_samples'],
            )
        return self._finish(data, images, training)

    def _finish(
        self, data: dict, images: Union[Tensor, list[Tensor]], training: bool
    ) -> dict:
        """Normalise images and put their data samples beside them."""
        if 'sample_idx' not in data:
            data = {**data, 'inputs': images}
            return super().forward(data, training)
        samples = BatchSamples(
            data['sample_idx'], self.cast_data(data.get('gt_label'))
        )
        # to_onehot is on wherever batch_augments are.
        if self.to_onehot or self.pad_size_divisor > 1:
            data = dict(inputs=images, data_samples=list(samples))
            return super().forward(data, training)
        return dict(inputs=self._normalise(images), data_samples=samples)
