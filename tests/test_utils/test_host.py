import importlib.util
import warnings

import pytest

from mmkd_plugin.utils import host


@pytest.fixture
def installed(monkeypatch):
    """Function that pretends which modules and distributions are there."""

    def pretend(modules, distributions):
        monkeypatch.setattr(
            importlib.util,
            'find_spec',
            lambda name: object() if name in modules else None,
        )

        def distribution(name):
            if name not in distributions:
                raise host.importlib.metadata.PackageNotFoundError(name)
            return object()

        monkeypatch.setattr(
            host.importlib.metadata, 'distribution', distribution
        )

    return pretend


ALL = ('mmengine', 'mmcv', 'mmpretrain')
ONEDL = {f'onedl-{name}' for name in ALL}


def test_this_installation_is_fine():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        host.check_host()


@pytest.mark.parametrize(
    'distributions', [ONEDL, set(ALL), {'mmengine', 'mmcv-lite', 'mmpretrain'}]
)
def test_one_family_is_fine(installed, distributions):
    installed(ALL, distributions)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        host.check_host()


def test_missing_engines_are_named_together(installed):
    installed({'mmcv'}, {'onedl-mmcv'})
    with pytest.raises(ImportError) as error:
        host.check_host()
    text = str(error.value)
    assert 'needs mmengine, mmpretrain.' in text
    assert "pip install 'mmkd_plugin[onedl]'" in text
    assert "pip install 'mmkd_plugin[openmmlab]'" in text


@pytest.mark.parametrize(
    ('extra', 'name'),
    [
        ('mmengine', 'mmengine'),
        ('mmcv', 'mmcv'),
        ('mmcv-lite', 'mmcv'),
        ('mmpretrain', 'mmpretrain'),
    ],
)
def test_both_families_are_warned_of(installed, extra, name):
    installed(ALL, ONEDL | {extra})
    with pytest.warns(
        UserWarning, match=f'Both onedl-{name} and {extra} are installed'
    ) as caught:
        host.check_host()
    assert len(caught) == 1
