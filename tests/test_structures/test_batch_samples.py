"""Data samples that are made on demand."""

import pickle

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample

from mmkd_plugin.structures import BatchSamples


def make_samples(labels=True):
    return BatchSamples(
        torch.tensor([11, 5, 7]), torch.tensor([2, 0, 1]) if labels else None
    )


def listed():
    return [
        DataSample(metainfo=dict(sample_idx=index)).set_gt_label(label)
        for index, label in ((11, 2), (5, 0), (7, 1))
    ]


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='mmpretrain.LinearClsHead',
            num_classes=3,
            in_channels=4,
            cal_acc=True,
        )
    )


def test_is_a_sequence_of_data_samples():
    samples = make_samples()
    assert len(samples) == 3
    for one, two in zip(samples, listed(), strict=True):
        assert isinstance(one, DataSample)
        assert one.sample_idx == two.sample_idx
        assert one.gt_label.tolist() == two.gt_label.tolist()
        assert one.gt_label.shape == two.gt_label.shape
    assert samples[-1].sample_idx == 7
    assert [s.sample_idx for s in samples[1:]] == [5, 7]
    assert [s.sample_idx for s in reversed(samples)] == [7, 5, 11]
    with pytest.raises(IndexError):
        samples[3]


def test_samples_are_made_once():
    samples = make_samples()
    samples[0].set_pred_label(1)
    assert samples[0].pred_label.tolist() == [1]
    assert 'pred_label' not in samples[1]


def test_nothing_is_made_until_it_is_wanted():
    samples = make_samples()
    assert samples.gt_label.tolist() == [2, 0, 1]
    assert len(samples) == 3
    assert samples._samples is None


def test_unlabeled_samples_have_no_label():
    assert all('gt_label' not in sample for sample in make_samples(False))


def test_labels_that_do_not_fit():
    samples = BatchSamples(torch.tensor([1, 2]), torch.tensor([0]))
    with pytest.raises(ValueError, match='shorter'):
        samples[0]


def test_loss_of_a_head(head):
    feats = (torch.randn(3, 4),)
    ours = head.loss(feats, make_samples())
    theirs = head.loss(feats, listed())
    assert ours.keys() == theirs.keys()
    assert ours['loss'] == theirs['loss']
    assert ours['accuracy_top-1'] == theirs['accuracy_top-1']
    expected = torch.nn.functional.cross_entropy(
        head.fc(feats[0]), torch.tensor([2, 0, 1])
    )
    assert ours['loss'].item() == pytest.approx(expected.item())


def test_predictions_of_a_head(head):
    feats = (torch.randn(3, 4),)
    ours = head.predict(feats, make_samples())
    theirs = head.predict(feats, listed())
    assert [s.sample_idx for s in ours] == [11, 5, 7]
    for one, two in zip(ours, theirs, strict=True):
        assert torch.equal(one.pred_score, two.pred_score)
        assert one.pred_label.tolist() == two.pred_label.tolist()
        assert one.gt_label.tolist() == two.gt_label.tolist()
    unlabeled = head.predict(feats, make_samples(labels=False))
    assert torch.equal(unlabeled[2].pred_score, theirs[2].pred_score)


def test_pickled():
    samples = pickle.loads(pickle.dumps(make_samples()))
    assert samples[1].gt_label.tolist() == [0]


@pytest.mark.parametrize('labels', [True, False])
def test_rows(labels):
    samples = make_samples(labels)
    some = samples.rows(slice(0, None, 2))
    assert isinstance(some, BatchSamples)
    assert some.sample_idx.tolist() == [11, 7]
    assert [s.sample_idx for s in some] == [11, 7]
    if labels:
        assert [s.gt_label.item() for s in some] == [2, 1]
    else:
        assert some.gt_label is None
    # Nothing was made for it.
    assert samples._samples is None
