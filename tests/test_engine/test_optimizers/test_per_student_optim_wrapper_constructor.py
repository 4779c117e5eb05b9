"""An optimizer for each student, from a config."""

import copy

import pytest
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn
from toy_students import online
from toys import algorithm

from mmkd_plugin.engine.optimizers import JointOptimWrapper

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)


def build(model=None, **config):
    config = dict(
        constructor='PerStudentOptimWrapperConstructor',
        **{'optimizer': SGD, **config},
    )
    return build_optim_wrapper(model or online(widths=(2, 3, 2)), config)


def settings(wrapper, name):
    return wrapper[name].optimizer.param_groups[0]


def test_common_settings():
    wrapper = build()
    assert isinstance(wrapper, JointOptimWrapper)
    assert list(wrapper.keys()) == ['a', 'b', 'c']
    for name in 'abc':
        assert type(wrapper[name]) is OptimWrapper
        assert len(wrapper[name].optimizer.param_groups) == 1
        assert settings(wrapper, name)['lr'] == 0.1
        assert settings(wrapper, name)['momentum'] == 0.9
        assert wrapper[name].clip_grad_kwargs is None
    assert wrapper.get_lr() == {f'{name}.lr': [0.1] for name in 'abc'}


def test_own_settings():
    given = ConfigDict(
        optimizer=SGD,
        clip_grad=dict(max_norm=40),
        students=dict(
            a=dict(optimizer=dict(lr=0.01)),
            b=dict(
                optimizer=dict(type='Adam', lr=0.5),
                clip_grad=dict(type='value', clip_value=2.0),
                paramwise_cfg=dict(custom_keys={'head.fc': dict(lr_mult=0.1)}),
            ),
            c=dict(clip_grad=None),
        ),
    )
    before = copy.deepcopy(given)
    wrapper = build(**given)
    assert given == before
    a, c = (settings(wrapper, name) for name in 'ac')
    assert (a['lr'], a['momentum'], a['weight_decay']) == (0.01, 0.9, 1e-4)
    assert c['lr'] == 0.1
    assert type(wrapper['b'].optimizer).__name__ == 'Adam'
    rates = {g['lr'] for g in wrapper['b'].optimizer.param_groups}
    assert rates == {0.5, 0.05}
    assert wrapper['a'].clip_grad_kwargs == dict(max_norm=40)
    assert wrapper['b'].clip_grad_kwargs == dict(clip_value=2.0)
    assert wrapper['c'].clip_grad_kwargs is None
    assert wrapper['a'].grad_name == 'a.grad_norm'
    assert wrapper['b'].grad_name == 'b.grad_value'


def test_names_of_paramwise_settings_are_those_within_a_student():
    wrapper = build(
        paramwise_cfg=dict(custom_keys={'students.a': dict(lr_mult=0.1)}),
    )
    for name in 'abc':
        rates = {g['lr'] for g in wrapper[name].optimizer.param_groups}
        assert rates == {0.1}
    wrapper = build(paramwise_cfg=dict(norm_decay_mult=0.0))
    for name in 'abc':
        decays = {
            g['weight_decay'] for g in wrapper[name].optimizer.param_groups
        }
        assert decays == {0.0, 1e-4}


def test_wrapped_model():
    class Wrapper(nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

    assert list(build(Wrapper(online())).keys()) == ['a', 'b']


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(students=dict(d={})), "there is no student 'd'; known: a, b, c"),
        (
            dict(students=dict(a=dict(lr=0.1))),
            r"students\['a'\] has no option 'lr'",
        ),
        (dict(students=dict(a=0.1)), 'must be a dict, but got 0.1'),
        (dict(clip=1), "has no option 'clip'; nearest: clip_grad"),
        (dict(loss_scale='dynamic'), "has no option 'loss_scale'"),
        (dict(optimizer=dict(lr=0.1)), 'a config with its type, but got'),
        (dict(optimizer=None), 'a config with its type, but got None'),
        (dict(type='ApexOptimWrapper'), "AmpOptimWrapper .* got 'ApexOptim"),
        (dict(type='NoWrapper'), "AmpOptimWrapper .* but got 'NoWrapper'"),
        (dict(accumulative_counts=0), 'accumulative_counts .* but got 0'),
    ],
)
def test_errors(config, message):
    with pytest.raises(ValueError, match=message):
        build(**config)


def test_models_that_it_is_not_for():
    with pytest.raises(
        ValueError, match=r'several students, such as DML, .* SingleTeacher'
    ):
        build(algorithm())
    model = online()
    model.mine = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"\['mine.weight', 'mine.bias'\]"):
        build(model)
    model.mine.requires_grad_(False)
    assert list(build(model).keys()) == ['a', 'b']
