"""Tests of the protocol of a count."""

import pytest
import torch

from mmkd_plugin.explain import (
    Protocol,
    cell_energy,
    entropy_converged,
    entropy_flow,
    entropy_sgd,
)

IMAGES = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def feature(images):
    return images.flatten(1) @ WEIGHT.t()


def test_entropy_is_that_of_the_method():
    memory = 1 << 24
    energy = cell_energy(feature, IMAGES, (2, 2), relu=False)
    common = dict(layer='x', grid=(2, 2), relu=False)
    flow = Protocol(**common, constants=dict(lam=6.0))
    torch.testing.assert_close(
        flow.entropy(feature, IMAGES, memory).entropy,
        entropy_flow(energy, lam=6.0).entropy,
    )
    converged = Protocol(**common, method='converged')
    torch.testing.assert_close(
        converged.entropy(feature, IMAGES, memory).entropy,
        entropy_converged(energy).entropy,
    )
    few = dict(iterations=3, extra_iterations=0, samples=4)
    sgd = Protocol(**common, method='sgd', constants=few, seed=5)
    wanted = entropy_sgd(
        feature,
        IMAGES,
        (2, 2),
        **few,
        relu=False,
        generator=torch.Generator().manual_seed(5),
    )
    for _ in range(2):
        found = sgd.entropy(feature, IMAGES, memory)
        torch.testing.assert_close(found.entropy, wanted.entropy)


def test_probes_are_the_same_for_every_network():
    protocol = Protocol(layer='x', grid=(2, 2), probes=2)
    first = protocol.entropy(feature, IMAGES, 1 << 24).entropy
    torch.rand(3)
    again = protocol.entropy(feature, IMAGES, 1 << 24).entropy
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_all_that_matters_is_told():
    options = dict(layer='x', constants=dict(lam=6.0), grid=[8, 8])
    told = Protocol.from_options(options).as_dict()
    assert told['layer'] == told['teacher_layer'] == 'x'
    assert told['grid'] == [8, 8]
    assert told['constants']['lam'] == 6.0
    # Also what was not given.
    assert told['constants']['target'] == -2.8
    assert told['constants']['iterations'] == 60
    assert told['b'] == 0.2
    assert 'memory' not in told['constants']
    sgd = Protocol(layer='x', method='sgd').as_dict()
    assert 'probes' not in sgd and sgd['constants']['samples'] == 96


def test_number_of_probes():
    protocol = Protocol(layer='x')
    assert protocol.num_probes(200) == 200
    assert protocol.num_probes(5000) == 64
    assert Protocol(layer='x', probes=9).num_probes(5000) == 9
    assert Protocol(layer='x', method='sgd').num_probes(5000) is None


@pytest.mark.parametrize('method', ['flow', 'sgd', 'converged'])
def test_check_finds_wrong_constants_with_little_work(method):
    passes = []

    def counted(images):
        passes.append(len(images))
        return feature(images)

    common = dict(layer='x', grid=(2, 2), method=method)
    Protocol(**common).check(counted, IMAGES, 1 << 24)
    assert len(passes) < 10
    for constants in (dict(lam=-1.0), dict(sigma_min=2.0)):
        wrong = Protocol(**common, constants=constants)
        with pytest.raises(ValueError, match='must be'):
            wrong.check(counted, IMAGES, 1 << 24)
    uneven = Protocol(layer='x', grid=(3, 2), method=method)
    with pytest.raises(ValueError, match='3 rows do not divide'):
        uneven.check(counted, IMAGES, 1 << 24)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(layer='x', bb=1), "no 'bb'; "),
        (dict(b=0.2), 'needs layer'),
        (dict(layer=''), 'layer must be the path'),
        (dict(layer='x', method='adam'), "method must be one of .*'adam'"),
        (dict(layer='x', reference='mean'), 'reference must be one of'),
        (dict(layer='x', grid=[4]), 'grid must be two positive integers'),
        (dict(layer='x', grid=4), 'grid must be two positive .* got 4'),
        (dict(layer='x', data_idx=0.5), 'data_idx must be'),
        (dict(layer='x', b=-1), 'b must be'),
        (dict(layer='x', probes=0), 'probes must be'),
        (
            dict(layer='x', constants=dict(lamb=7)),
            "'flow' has no 'lamb'; nearest: lam",
        ),
        (
            dict(layer='x', method='converged', constants=dict(lr=1)),
            "'converged' has no 'lr'",
        ),
        (dict(layer='x', constants=dict(memory=1)), "no 'memory'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Protocol.from_options(options)
