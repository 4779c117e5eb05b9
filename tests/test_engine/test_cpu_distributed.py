"""Distributed runs where there is no accelerator."""

import pytest
from mmengine.config import Config

import mmkd_plugin.engine.cpu_distributed as module
from mmkd_plugin.engine.cpu_distributed import prepare_distributed


@pytest.fixture
def started(monkeypatch):
    """What process groups would have been started."""
    groups = []
    monkeypatch.setattr(module, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(module.dist, 'is_initialized', lambda: bool(groups))
    monkeypatch.setattr(module.dist, 'init_process_group', groups.append)
    return groups


def test_without_a_launcher_nothing_is_done(started):
    for config in (Config(), Config(dict(launcher='none'))):
        prepare_distributed(config)
        assert config.get('model_wrapper_cfg') is None
    assert started == []


def test_with_an_accelerator_nothing_is_done(started, monkeypatch):
    monkeypatch.setattr(module, 'get_device', lambda: 'cuda')
    config = Config(dict(launcher='pytorch'))
    prepare_distributed(config)
    assert config.get('model_wrapper_cfg') is None
    assert started == []


def test_the_group_is_started_once(started):
    config = Config(dict(launcher='pytorch'))
    prepare_distributed(config)
    prepare_distributed(config)
    assert started == ['gloo']
    assert config.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        device_ids=None,
    )


def test_a_wrapper_of_the_config_is_kept(started):
    wrapper = dict(
        type='Mine', broadcast_buffers=True, find_unused_parameters=True
    )
    config = Config(dict(launcher='pytorch', model_wrapper_cfg=wrapper))
    prepare_distributed(config)
    assert config.model_wrapper_cfg == dict(wrapper, device_ids=None)


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_other_launchers(started, launcher):
    with pytest.raises(ValueError, match=f"but got '{launcher}'"):
        prepare_distributed(Config(dict(launcher=launcher)))
    assert started == []
