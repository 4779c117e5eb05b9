"""What the schemes find wrong with the training data, before a run."""

import pytest
from toy_runs import make_dataset
from toy_self import build
from toys import algorithm, kd_distiller

LABELED, UNLABELED = make_dataset(), make_dataset(labels=False)
PAIRS = dict(batch_size=4, sampler=dict(type='SameClassPairSampler'))
LAST = dict(batch_size=4, batch_sampler=dict(type='LastBatchSampler'))


@pytest.mark.parametrize(
    ('name', 'loader'),
    [('PSKD', {}), ('CSKD', PAIRS), ('DLB', LAST), ('TFKD', {})],
)
def test_labels(name, loader):
    model = build(name)
    model.check_data(LABELED, loader)
    # A data set that does not tell is let pass.
    model.check_data(range(12), loader)
    reader = 'mappings reads them' if name in ('PSKD', 'TFKD') else 'own loss'
    with pytest.raises(ValueError, match=rf'ArrayImages.*no labels.*{reader}'):
        model.check_data(UNLABELED, loader)


def test_no_labels_are_asked_for():
    model = algorithm(distiller=kd_distiller())
    model.check_data(UNLABELED, {})
    model.calculate_student_loss = True
    with pytest.raises(ValueError, match='calculate_student_loss=False'):
        model.check_data(UNLABELED, {})


@pytest.mark.parametrize(
    ('loader', 'message'),
    [
        (dict(PAIRS, batch_size=5), r'must be even.* got 5'),
        (
            dict(batch_size=4, sampler=dict(type='DefaultSampler')),
            r"SameClassPairSampler.* got 'DefaultSampler'",
        ),
    ],
)
def test_pairs(loader, message):
    with pytest.raises(ValueError, match=message):
        build('CSKD').check_data(LABELED, loader)


@pytest.mark.parametrize(
    ('loader', 'message'),
    [
        (dict(batch_size=4), 'LastBatchSampler.* no batch_sampler'),
        (dict(LAST, batch_size=6), 'batch_size=4 of the model.* is 6'),
        (dict(LAST, drop_last=True), 'drop_last must be False'),
    ],
)
def test_last_batches(loader, message):
    with pytest.raises(ValueError, match=message):
        build('DLB').check_data(LABELED, loader)


@pytest.mark.parametrize('name', ['PSKD', 'TFKD'])
def test_cross_entropy_counts_once(name):
    with pytest.raises(ValueError, match=f'{name}Loss holds .* twice'):
        build(name, calculate_student_loss=True)
