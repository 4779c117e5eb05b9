"""Random mirror images of a batch."""

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor

from mmkd_plugin.utils.checks import check_number


@TRANSFORMS.register_module()
class BatchRandomFlip:
    """Mirror every image of a batch left to right, or not, at random.

    The batch form of mmpretrain's ``RandomFlip``.

    Args:
        prob (float): Probability for an image to be mirrored. Defaults to
            0.5.

    Raises:
        ValueError: If ``prob`` is not within [0, 1].
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = check_number('prob', prob, least=0, most=1)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Mirror.

        Args:
            images (Tensor): Shape ``(B, C, H, W)``, any dtype.
            rng (np.random.Generator): Source of the random numbers.

        Returns:
            Tensor: Same shape.
        """
        chosen = np.flatnonzero(rng.random(len(images)) < self.prob)
        # Indices, not a mask: they are known without asking the device.
        index = torch.from_numpy(chosen).to(images.device, non_blocking=True)
        return images.index_copy(0, index, images[index].flip(-1))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'
