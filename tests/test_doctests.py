"""The examples in the docstrings do what they say."""

import doctest
import importlib
import pkgutil

import pytest

import mmkd_plugin

MODULES = [
    'mmkd_plugin',
    *(
        info.name
        for info in pkgutil.walk_packages(mmkd_plugin.__path__, 'mmkd_plugin.')
    ),
]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        for test in finder.find(importlib.import_module(name)):
            if test.examples:
                yield pytest.param(test, id=test.name)


EXAMPLES = list(examples())


def test_there_are_examples():
    # None would be found either where the finder is broken.
    names = {parameter.id for parameter in EXAMPLES}
    assert 'mmkd_plugin.models.losses.kl_divergence.KLDivergence' in names


@pytest.mark.parametrize('test', EXAMPLES)
def test_example(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    runner.run(test, out=said.append)
    assert runner.failures == 0, ''.join(said)
