"""Random crops of a padded batch."""

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor
from torch.nn.functional import pad

from mmkd_plugin.utils.checks import check_number


@TRANSFORMS.register_module()
class BatchRandomCrop:
    """Crop every image of a batch at a place of its own.

    The batch form of mmpretrain's ``RandomCrop``.

    Args:
        crop_size (int): Height and width of the result, pixels.
        padding (int): Pixels of zeros added on every side first. Defaults
            to 0.

    Raises:
        ValueError: If a size is out of its range, or when images are smaller
            than the crop.
    """

    def __init__(self, crop_size: int, *, padding: int = 0) -> None:
        self.crop_size = check_number('crop_size', crop_size, least=1)
        self.padding = check_number('padding', padding, least=0)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Crop.

        Args:
            images (Tensor): Shape ``(B, C, H, W)``, any dtype.
            rng (np.random.Generator): Source of the random numbers.

        Returns:
            Tensor: Shape ``(B, C, crop_size, crop_size)``.
        """
        count, size, border = len(images), self.crop_size, self.padding
        padded = pad(images, (border,) * 4)
        room = [side - size for side in padded.shape[-2:]]
        if min(room) < 0:
            raise ValueError(
                f'a crop of {size} pixels and a padding of {border} do not '
                f'fit images of {tuple(images.shape[-2:])}'
            )
        tops = rng.integers(0, room[0] + 1, count)
        lefts = rng.integers(0, room[1] + 1, count)
        places = torch.from_numpy(np.stack([tops, lefts])).to(
            images.device, non_blocking=True
        )
        # Every window of the batch as a view; one gather picks one of each.
        pixels = padded.permute(0, 2, 3, 1)
        windows = pixels.unfold(1, size, 1).unfold(2, size, 1)
        index = torch.arange(count, device=images.device)
        return windows[index, places[0], places[1]]

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(crop_size={self.crop_size}, '
            f'padding={self.padding})'
        )
