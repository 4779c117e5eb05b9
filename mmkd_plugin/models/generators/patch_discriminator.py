"""Is a patch of an image a real one?"""

from typing import Optional, Union

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_count, check_flag

from .receptive_field import receptive_field

# Patch size -> (convolutions of 4x4 with stride 2, kernel of the last one).
# The former see 3 * 2**n - 2 pixels, at a stride of 2**n; a wider last kernel
# adds one or two strides. A kernel of 4 would give the size of the next n.
PATCH_SIZES = {
    (kernel + 2) * 2**downs - 2: (downs, kernel)
    for downs in range(7)
    for kernel in (1, 2, 3)
}
# The last convolution has two hidden ones before it at least.
LEAST_HIDDEN = 2
# The widest map has so many times the channels of the first one.
LARGEST_FACTOR = 4
# A discriminator of whole images goes down to maps of this side or less.
LARGEST_LAST_MAP = 4


@MODELS.register_module()
class PatchDiscriminator(BaseModule):
    """Judge each patch of an image by a convolutional network.

    Reference:
        Fang et al., Mosaicking to Distill: Knowledge Distillation from
        Out-of-Domain Data, NeurIPS 2021, https://arxiv.org/abs/2110.15094.
        Nothing is cropped: patches are the receptive fields of a network
        that is convolutional throughout. Those at the border of the image
        see zeros beyond it.

        With the default options it is the published network, of 531 328
        parameters: 4x4 convolutions with stride 2, a bias in the first one
        and normalisation after the second one, each with ``LeakyReLU(0.2)``,
        then a 1x1 convolution without bias.

        Other patch sizes are ours. The number of 4x4 convolutions and the
        kernel of the last one (1, 2 or 3) make the size, such that
        ``patch_size + 2`` is 3, 4 or 5 times a power of two. Where fewer
        than two 4x4 convolutions are needed, 1x1 ones stand in the place of
        the others; channels double up to ``4 * base_channels``. The
        published ablation names sizes of 1, 2, 4, 10, 18 and 22, of which
        the networks of two see 8 and 15 pixels in truth; here
        ``receptive_field`` is computed of the layers.

        ``patch_size='image'`` is our form of a discriminator of whole
        images, to measure what patches are good for: 4x4 convolutions down
        to a map of 4x4 or less, and a last one of the size of that map.

    Args:
        in_channels (int): Channels of the images. Defaults to 3.
        base_channels (int): Channels after the first convolution. Defaults
            to 128.
        patch_size (int or str): Side of a patch, pixels: 1, 2, 3, 4, 6, 8,
            10, 14, 18, 22, 30, 38, 46, 62, 78, 94, 126, 158, 190, 254, 318,
            or ``'image'``. Defaults to 10.
        image_size (int, optional): Height and width of the images, pixels;
            others are then an error. It is needed for
            ``patch_size='image'``. Defaults to None: any size that a patch
            fits in.
        allow_larger_patch (bool): Whether images smaller than a patch are
            judged, as the published network does without a word. Zeros then
            surround the image in every patch, so that the discriminator
            judges whole images. Defaults to False: an error.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            None, which keeps that of the layers, as published.

    Attributes:
        receptive_field (int): Side of the square that a logit depends on,
            pixels. For whole images it reaches beyond the image.
        stride (int): Distance of neighbouring squares, pixels.

    Raises:
        ValueError: If an option is out of its range, or if a patch is larger
            than the image.

    Example:
        >>> import torch
        >>> discriminator = PatchDiscriminator(base_channels=4)
        >>> discriminator.receptive_field, discriminator.stride
        (10, 4)
        >>> discriminator(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 128,
        patch_size: Union[int, str] = 10,
        image_size: Optional[int] = None,
        allow_larger_patch: bool = False,
        init_cfg: Optional[Union[dict, list[dict]]] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_count('in_channels', in_channels)
        check_count('base_channels', base_channels)
        if image_size is not None:
            check_count('image_size', image_size)
        check_flag('allow_larger_patch', allow_larger_patch)
        if patch_size == 'image':
            downs, kernel = _whole_image(image_size)
        else:
            downs, kernel = _patch(patch_size)

        self.in_channels = in_channels
        self.patch_size = patch_size
        self.image_size = image_size
        # A whole image is one patch, which reaches beyond it.
        self.allow_larger_patch = allow_larger_patch or patch_size == 'image'
        layers, channels = [], in_channels
        for index in range(max(downs, LEAST_HIDDEN)):
            out_channels = base_channels * min(2**index, LARGEST_FACTOR)
            shape = (4, 2, 1) if index < downs else (1, 1, 0)
            layers.append(
                nn.Conv2d(channels, out_channels, *shape, bias=index == 0)
            )
            if index > 0:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            channels = out_channels
        # A padding of one keeps the map of a 3x3 kernel; with 2x2 it is one
        # smaller; one of the map's own size leaves a single logit.
        padding = 1 if patch_size != 'image' and kernel == 3 else 0
        layers.append(
            nn.Conv2d(channels, 1, kernel, padding=padding, bias=False)
        )
        self.layers = nn.Sequential(*layers)
        self.receptive_field, self.stride = receptive_field(self.layers)
        if image_size is not None:
            self.check_image_size(image_size, image_size)

    def extra_repr(self) -> str:
        return (
            f'patch_size={self.patch_size!r}, '
            f'receptive_field={self.receptive_field}, stride={self.stride}'
        )

    def check_image_size(self, height: int, width: int) -> None:
        """Check that images of this size can be judged.

        Args:
            height (int): Height of the images, pixels.
            width (int): Width of the images, pixels.

        Raises:
            ValueError: If a patch is larger and must not be, or if another
                ``image_size`` is set.
        """
        size = self.image_size
        if size is not None and (height, width) != (size, size):
            raise ValueError(
                f'the discriminator is for images of {size}x{size}, but got '
                f'{height}x{width}'
            )
        side = min(height, width)
        if self.receptive_field > side and not self.allow_larger_patch:
            fits = [str(p) for p in sorted(PATCH_SIZES) if p <= side]
            raise ValueError(
                f'patch_size must not be larger than the image, but got '
                f'{self.patch_size} for images of {height}x{width}, '
                f'nearest: {", ".join(fits[-2:])}'
            )

    def forward(self, x: Tensor) -> Tensor:
        """Judge images.

        Args:
            x (Tensor): Normalised images, shape ``(N, in_channels, H, W)``.

        Returns:
            Tensor: A logit a patch, shape ``(N, 1, h, w)``: high where the
            patch looks real. ``h = w = 1`` for whole images.

        Raises:
            ValueError: If the images are not of that shape, or not of a size
                that can be judged.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'images must have the shape (N, {self.in_channels}, H, W), '
                f'but got {tuple(x.shape)}'
            )
        self.check_image_size(*x.shape[2:])
        return self.layers(x)


def _whole_image(image_size: Optional[int]) -> tuple[int, int]:
    if image_size is None:
        raise ValueError(
            "image_size is needed for patch_size='image', but got None"
        )
    check_count('image_size', image_size, least=2**LEAST_HIDDEN)
    downs, side = 0, image_size
    while downs < LEAST_HIDDEN or side > LARGEST_LAST_MAP:
        downs, side = downs + 1, side // 2
    return downs, side


def _patch(patch_size: int) -> tuple[int, int]:
    if type(patch_size) is int and patch_size in PATCH_SIZES:
        return PATCH_SIZES[patch_size]
    known = sorted(PATCH_SIZES)
    hint = ''
    if isinstance(patch_size, (int, float)):
        near = sorted(known, key=lambda size: abs(size - patch_size))[:2]
        hint = f', nearest: {", ".join(map(str, sorted(near)))}'
    raise ValueError(
        f"patch_size must be 'image' or one of {known}, but got "
        f'{patch_size!r}{hint}'
    )
