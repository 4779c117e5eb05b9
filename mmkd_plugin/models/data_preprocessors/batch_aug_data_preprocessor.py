"""Augmentation and normalisation of whole batches, on the device."""

from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, TRANSFORMS
from mmpretrain.models import ClsDataPreprocessor
from torch import Tensor

from mmkd_plugin.structures import BatchSamples
from mmkd_plugin.utils.counter_rng import counter_rng


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
        **kwargs: ``mean``, ``std``, ``to_rgb`` (channel order of the images
            is reversed) and the other arguments of
            :class:`mmpretrain.models.ClsDataPreprocessor`.
    """

    def __init__(
        self, *, augments: Optional[Sequence[dict]] = None, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.augments = [TRANSFORMS.build(a) for a in augments or []]
        self._calls = 0

    def _rng(self):
        """Get the generator of this iteration."""
        hub = MessageHub.get_current_instance()
        # Outside of a runner there is no iteration: count calls instead.
        step = hub.get_info('iter', self._calls)
        self._calls += 1
        return counter_rng(hub.get_info('seed') or 0, get_rank(), step)

    def _augment(self, images: Tensor) -> Tensor:
        rng = self._rng()
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
            dict: ``inputs``, float32 ``(B, 3, H', W')`` or, with synthetic
            images before the others, ``(N + B, 3, H', W')``, and
            ``data_samples``, a sequence of data samples. Synthetic images
            have -1 as ``sample_idx`` and no label; in a batch of tensors,
            the others then have none either.

        Raises:
            ValueError: If images of different sizes are to be augmented, or
                if the synthetic ones have another size.
        """
        if 'synthetic' not in data:
            return self._prepare(data, training)
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
        if training and self.augments:
            if not isinstance(images, Tensor):
                shapes = {tuple(image.shape) for image in images}
                if len(shapes) > 1:
                    raise ValueError(
                        f'batch augmentation needs images of one size, but '
                        f'got {sorted(shapes)}: resize them in the pipeline'
                    )
                images = torch.stack(images)
            images = self._augment(images)
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
