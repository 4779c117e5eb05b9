import pytest
from mmengine.registry import MODELS, DefaultScope

from mmkd_plugin.models import KLDivergence
from mmkd_plugin.utils.build import build_part


def test_builds():
    loss = build_part('part', MODELS, dict(type='KLDivergence', tau=3.0))
    assert type(loss) is KLDivergence
    assert loss.tau == 3.0
    assert type(build_part('part', MODELS, dict(type=KLDivergence))) is (
        KLDivergence
    )


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
def test_scopes(scope):
    with DefaultScope.overwrite_default_scope(scope):
        for name in ('mmengine.KLDivergence', 'mmpretrain.CrossEntropyLoss'):
            kind = name.split('.')[1]
            assert (
                type(build_part('part', MODELS, dict(type=name))).__name__
                == kind
            )
        config = dict(type='CrossEntropyLoss', _scope_='mmpretrain')
        assert build_part('part', MODELS, config).loss_weight == 1.0


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (None, 'part must be a config with its type, but got None'),
        ('KLDivergence', "part must be .* but got 'KLDivergence'"),
        (dict(tau=1.0), r"part must be .* but got \{'tau': 1.0\}"),
        (
            dict(type='KLDivergense'),
            "part: there is no 'KLDivergense' in .*; nearest: KLDivergence",
        ),
        (
            dict(type='mmengine.KLDivergense'),
            "part: there is no 'mmengine.KLDivergense' .* KLDivergence",
        ),
        (
            dict(type='KLDivergence', tua=4.0),
            "part: KLDivergence has no option 'tua'; nearest: tau",
        ),
        (
            dict(type='KLDivergence', tau=-1.0),
            'part: tau must be .* got -1.0',
        ),
        (
            dict(type='LinearConnector', in_channels=3),
            r"part: LinearConnector needs \['out_channels'\]",
        ),
        *(
            (dict(type=bad), 'part: type must be a name or a class, but got')
            for bad in (None, 5, '', ['X'])
        ),
        (
            dict(type='LabelSmoothLoss', label_smooth_val=3),
            "there is no 'LabelSmoothLoss' .* mmpretrain.LabelSmoothLoss",
        ),
        (
            dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=3),
            'part: LabelSmoothLoss accepts a float .* gets 3',
        ),
    ],
)
def test_names_the_part(config, message):
    with (
        # None would leave the scope of an earlier run in place.
        DefaultScope.overwrite_default_scope('mmengine'),
        pytest.raises(ValueError, match=message),
    ):
        build_part('part', MODELS, config)
