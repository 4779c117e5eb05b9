"""Networks written with functions and a state dict, to compare with."""

import torch
from torch import nn
from torch.nn import functional


def randomise(net):
    """Give a network normalisations that are not the identity."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.double().eval()


class PlainLayers:
    """The layers of a network in evaluation, by the names of its weights."""

    def __init__(self, net):
        self.state = net.state_dict()

    def has(self, name):
        return f'{name}.weight' in self.state

    def conv(self, x, name, stride=1, groups=1):
        weight = self.state[f'{name}.weight']
        return functional.conv2d(
            x,
            weight,
            self.state.get(f'{name}.bias'),
            stride=stride,
            padding=weight.shape[-1] // 2,
            groups=groups,
        )

    def norm(self, x, name):
        weight, bias, mean, var = (
            self.state[f'{name}.{part}'].view(1, -1, 1, 1)
            for part in ('weight', 'bias', 'running_mean', 'running_var')
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def relu_norm(self, x, name):
        return self.norm(x, name).clamp(min=0)


def images(size=32):
    return torch.randn(2, 3, size, size, dtype=torch.float64)


def shuffle(x, groups):
    """Channel ``k`` of every group, then channel ``k + 1`` of every one."""
    per_group = x.shape[1] // groups
    order = [
        group * per_group + k
        for k in range(per_group)
        for group in range(groups)
    ]
    return x[:, order]


def assert_same(outputs, expected):
    assert len(outputs) == len(expected)
    for output, value in zip(outputs, expected, strict=True):
        # A map of zeros would prove nothing.
        assert value.std() > 1e-3
        torch.testing.assert_close(output, value, rtol=1e-9, atol=1e-9)
