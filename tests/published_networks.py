"""The networks of RepDistiller, mdistiller and akamaster, once more.

Written from their architecture in plain functions on a state dict with the
published names, independent of the package. A forward pass asks for the
tensors that it needs; where there is none yet, it makes a random one. So the
functions are generator and reference in one.
"""

import torch
import torch.nn.functional as F


class Tensors:
    """A state dict that grows on demand.

    Args:
        state (dict, optional): The state dict. Defaults to None, which is an
            empty one that the first forward pass fills.
        tracked (bool): Whether there is a ``num_batches_tracked``. Defaults
            to True.
    """

    def __init__(self, state=None, tracked=True):
        self.grows = state is None
        self.state = {} if state is None else state
        self.tracked = tracked
        self.used = set()

    def take(self, name, *shape, low=None, scale=1.0):
        if self.grows:
            value = (
                torch.rand(shape) if low is not None else torch.randn(shape)
            )
            self.state[name] = value * scale + (low or 0.0)
        assert self.state[name].shape == shape, name
        self.used.add(name)
        return self.state[name]

    def conv(self, name, x, channels, size=1, stride=1, groups=1, bias=False):
        fan_in = x.shape[1] // groups * size**2
        weight = self.take(
            f'{name}.weight',
            channels,
            x.shape[1] // groups,
            size,
            size,
            scale=(2 / fan_in) ** 0.5,
        )
        bias = self.take(f'{name}.bias', channels) if bias else None
        return F.conv2d(x, weight, bias, stride, size // 2, groups=groups)

    def bn(self, name, x):
        channels = x.shape[1]
        if self.grows and self.tracked:
            self.state[f'{name}.num_batches_tracked'] = torch.tensor(187680)
        return F.batch_norm(
            x,
            self.take(f'{name}.running_mean', channels, scale=0.3),
            self.take(f'{name}.running_var', channels, low=0.5),
            self.take(f'{name}.weight', channels, low=0.5),
            self.take(f'{name}.bias', channels, scale=0.3),
            eps=1e-5,
        )

    def conv_bn(self, x, conv, bn, channels, size=1, **options):
        return self.bn(bn, self.conv(conv, x, channels, size, **options))

    def pool_linear(self, name, x, classes):
        x = x.mean((2, 3))
        weight = self.take(
            f'{name}.weight', classes, x.shape[1], scale=x.shape[1] ** -0.5
        )
        return F.linear(x, weight, self.take(f'{name}.bias', classes))


def resnet(t, x, classes, depth, width=1):
    """RepDistiller's ``resnet.py``: the shortcut is a convolution."""

    def shortcut(x, block, channels, stride):
        names = f'{block}.downsample.0', f'{block}.downsample.1'
        return t.conv_bn(x, *names, channels, stride=stride)

    stem = 16 if width == 1 else 32
    x = _basic_stages(t, x, depth, stem, 16 * width, shortcut)
    return t.pool_linear('fc', x, classes)


def akamaster(t, x, classes, depth):
    """akamaster's ``resnet.py``, option A: the shortcut has no parameters."""

    def shortcut(x, block, channels, stride):
        more = channels - x.shape[1]
        skipped = x[:, :, ::stride, ::stride]
        return F.pad(skipped, (0, 0, 0, 0, more // 2, more // 2))

    x = _basic_stages(t, x, depth, 16, 16, shortcut)
    return t.pool_linear('linear', x, classes)


def _basic_stages(t, x, depth, stem, base, shortcut):
    x = t.conv_bn(x, 'conv1', 'bn1', stem, 3).relu()
    for stage in range(3):
        channels = base * 2**stage
        for index in range((depth - 2) // 6):
            block = f'layer{stage + 1}.{index}'
            stride = 2 if stage and not index else 1
            y = t.conv_bn(
                x,
                f'{block}.conv1',
                f'{block}.bn1',
                channels,
                3,
                stride=stride,
            ).relu()
            y = t.conv_bn(y, f'{block}.conv2', f'{block}.bn2', channels, 3)
            if stride > 1 or x.shape[1] != channels:
                x = shortcut(x, block, channels, stride)
            x = (x + y).relu()
    return x


def resnet_v2(t, x, classes, blocks=(3, 4, 6, 3), bottleneck=True):
    """RepDistiller's ``resnetv2.py``: ImageNet's ResNet, 3x3 stem."""
    x = t.conv_bn(x, 'conv1', 'bn1', 64, 3).relu()
    for stage, count in enumerate(blocks):
        middle = 64 * 2**stage
        channels = middle * 4 if bottleneck else middle
        for index in range(count):
            block = f'layer{stage + 1}.{index}'
            stride = 2 if stage and not index else 1
            # (channels, size, stride) of each convolution.
            convs = [(middle, 3, stride), (middle, 3, 1)]
            if bottleneck:
                convs = [(middle, 1, 1), convs[0], (channels, 1, 1)]
            y = x
            for i, (width, size, step) in enumerate(convs, 1):
                names = f'{block}.conv{i}', f'{block}.bn{i}'
                y = y.relu() if i > 1 else y
                y = t.conv_bn(y, *names, width, size, stride=step)
            if stride > 1 or x.shape[1] != channels:
                names = f'{block}.shortcut.0', f'{block}.shortcut.1'
                x = t.conv_bn(x, *names, channels, stride=stride)
            x = (x + y).relu()
    return t.pool_linear('linear', x, classes)


def wide_resnet(t, x, classes, depth, widen):
    """RepDistiller's ``wrn.py``: pre-activation."""
    x = t.conv('conv1', x, 16, 3)
    for stage in range(3):
        channels = 16 * widen * 2**stage
        for index in range((depth - 4) // 6):
            block = f'block{stage + 1}.layer.{index}'
            stride = 2 if stage and not index else 1
            y = t.bn(f'{block}.bn1', x).relu()
            if x.shape[1] != channels:
                # Of the activated input, unlike the identity.
                names = f'{block}.convShortcut', y, channels
                x = t.conv(*names, stride=stride)
            y = t.conv(f'{block}.conv1', y, channels, 3, stride)
            y = t.bn(f'{block}.bn2', y).relu()
            x = x + t.conv(f'{block}.conv2', y, channels, 3)
    return t.pool_linear('fc', t.bn('bn1', x).relu(), classes)


def vgg(t, x, classes, counts):
    """RepDistiller's ``vgg.py``: no pooling between the last two blocks."""
    for stage, count in enumerate(counts):
        channels = (64, 128, 256, 512, 512)[stage]
        for index in range(count):
            # A ReLU stands between two layers and has a number as well.
            names = [f'block{stage}.{3 * index + i}' for i in (0, 1)]
            x = t.conv_bn(x, *names, channels, 3, bias=True).relu()
        if stage < 3:
            x = F.max_pool2d(x, 2)
    return t.pool_linear('classifier', x, classes)


def mobilenet_v2(t, x, classes, width=0.5):
    """RepDistiller's ``mobilenetv2.py``: ReLU, not ReLU6."""
    x = t.conv_bn(x, 'conv1.0', 'conv1.1', int(32 * width), 3, stride=2).relu()
    plan = (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)
    plan += (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    for stage, (expansion, channels, count, first_stride) in enumerate(plan):
        channels = int(channels * width)
        for index in range(count):
            conv = f'blocks.{stage}.{index}.conv'
            stride = first_stride if index == 0 else 1
            wide = x.shape[1] * expansion
            # Also where it does not widen.
            y = t.conv_bn(x, f'{conv}.0', f'{conv}.1', wide).relu()
            names = f'{conv}.3', f'{conv}.4'
            y = t.conv_bn(y, *names, wide, 3, stride=stride, groups=wide)
            y = t.conv_bn(y.relu(), f'{conv}.6', f'{conv}.7', channels)
            x = x + y if stride == 1 and x.shape[1] == channels else y
    x = t.conv_bn(x, 'conv2.0', 'conv2.1', 1280).relu()
    return t.pool_linear('classifier.0', x, classes)


def _shuffle(x, groups):
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def shufflenet_v1(t, x, classes):
    """RepDistiller's ``ShuffleNetv1.py``: 3 groups, 1x1 stem."""
    x = t.conv_bn(x, 'conv1', 'bn1', 24).relu()
    for stage, count in enumerate((4, 8, 4)):
        for index in range(count):
            block = f'layer{stage + 1}.{index}'
            convs = [(f'{block}.conv{i}', f'{block}.bn{i}') for i in (1, 2, 3)]
            down = index == 0
            channels = 240 * 2**stage - (x.shape[1] if down else 0)
            middle = channels // 4
            groups = 1 if x.shape[1] == 24 else 3
            y = t.conv_bn(x, *convs[0], middle, groups=groups).relu()
            y = t.conv_bn(
                _shuffle(y, groups),
                *convs[1],
                middle,
                3,
                stride=2 if down else 1,
                groups=middle,
            ).relu()
            y = t.conv_bn(y, *convs[2], channels, groups=3)
            if down:
                y = torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1)
            x = (y if down else x + y).relu()
    return t.pool_linear('linear', x, classes)


def shufflenet_v2(t, x, classes):
    """RepDistiller's ``ShuffleNetv2.py``: 1x1 stem, no max-pooling."""
    x = t.conv_bn(x, 'conv1', 'bn1', 24).relu()
    for stage, count in enumerate((3, 7, 3)):
        half = (116, 232, 464)[stage] // 2
        for index in range(count + 1):
            block = f'layer{stage + 1}.{index}'
            down = index == 0
            stride = 2 if down else 1
            convs = [(f'{block}.conv{i}', f'{block}.bn{i}') for i in range(6)]
            if down:
                inner = x.shape[1]
                left = t.conv_bn(
                    x, *convs[1], inner, 3, stride=2, groups=inner
                )
                left = t.conv_bn(left, *convs[2], half).relu()
                right, convs = x, convs[3:]
            else:
                left, right = x[:, :half], x[:, half:]
                convs = convs[1:]
            right = t.conv_bn(right, *convs[0], half).relu()
            right = t.conv_bn(
                right, *convs[1], half, 3, stride=stride, groups=half
            )
            right = t.conv_bn(right, *convs[2], half).relu()
            x = _shuffle(torch.cat([left, right], 1), 2)
    x = t.conv_bn(x, 'conv2', 'bn2', 1024).relu()
    return t.pool_linear('linear', x, classes)


_VGG = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
# By the names in the published model lists; akamaster's have a prefix, since
# theirs are the same.
NETWORKS = {
    **{
        f'resnet{depth}': (resnet, dict(depth=depth))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    'resnet8x4': (resnet, dict(depth=8, width=4)),
    'resnet32x4': (resnet, dict(depth=32, width=4)),
    **{
        f'akamaster_resnet{depth}': (akamaster, dict(depth=depth))
        for depth in (20, 32, 44, 56, 110)
    },
    'ResNet18': (resnet_v2, dict(blocks=(2, 2, 2, 2), bottleneck=False)),
    'ResNet50': (resnet_v2, {}),
    **{
        f'wrn_{depth}_{widen}': (wide_resnet, dict(depth=depth, widen=widen))
        for depth in (16, 40)
        for widen in (1, 2)
    },
    **{
        f'vgg{depth}': (vgg, dict(counts=counts))
        for depth, counts in _VGG.items()
    },
    'mobile_half': (mobilenet_v2, {}),
    'ShuffleV1': (shufflenet_v1, {}),
    'ShuffleV2': (shufflenet_v2, {}),
}


def published_state(name, classes=100, seed=0, tracked=True):
    """Make the state dict of a published network, with random values.

    Args:
        name (str): One of ``NETWORKS``.
        classes (int): Number of logits. Defaults to 100.
        seed (int): Seed of the values. Defaults to 0.
        tracked (bool): Whether the batch normalisations have a
            ``num_batches_tracked``, as those of PyTorch 0.4.1 and later.
            Defaults to True.

    Returns:
        dict: The tensors, float32.
    """
    function, options = NETWORKS[name]
    tensors = Tensors(tracked=tracked)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        function(tensors, torch.zeros(1, 3, 8, 8), classes, **options)
    return tensors.state


@torch.no_grad()
def published_logits(name, state, images):
    """Compute what the published network computes in evaluation mode.

    Args:
        name (str): One of ``NETWORKS``.
        state (dict): Its state dict, with the published names.
        images (Tensor): Shape (B, 3, 32, 32), normalised.

    Returns:
        Tensor: Shape (B, classes).
    """
    function, options = NETWORKS[name]
    head = next(reversed(state))
    tensors = Tensors(state)
    logits = function(tensors, images, state[head].shape[0], **options)
    unused = {k for k in state if not k.endswith('tracked')} - tensors.used
    assert not unused, unused
    return logits
