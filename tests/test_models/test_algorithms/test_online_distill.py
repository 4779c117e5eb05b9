"""What DML and KDCL have in common."""

import copy
import gc
import pickle

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from toy_runs import PREPROCESSOR, classifier
from toy_students import batch, labels_of, online, students

from mmkd_plugin.models import DML, OnlineDistill
from mmkd_plugin.structures import BatchSamples


def test_base_has_no_losses():
    with pytest.raises(TypeError, match='peer_losses'):
        OnlineDistill(students=students(2, 3), peer_loss={})


def test_students_are_submodules():
    model = online(widths=(2, 3, 2))
    assert list(model.students) == ['a', 'b', 'c']
    heads = {key.split('.')[0] for key in model.state_dict()}
    assert heads == {'students'}
    assert 'students.b.head.fc.weight' in dict(model.named_parameters())


def test_init_weights_reaches_the_students():
    config = classifier()
    config['backbone']['init_cfg'] = dict(
        type='Constant', layer='Conv2d', val=0.25
    )
    model = MODELS.build(
        dict(type='DML', students=dict(a=config, b=classifier()))
    )
    model.init_weights()
    assert model.students.a.backbone.conv1.weight.eq(0.25).all()
    assert not model.students.b.backbone.conv1.weight.eq(0.25).any()


def test_students_of_one_config_start_apart():
    model = MODELS.build(dict(type='DML', students=students(2, 2)))
    model.init_weights()
    a, b = (s.backbone.conv1.weight for s in model.students.values())
    assert not torch.equal(a, b)


def test_main_student_answers():
    data = batch()
    for main, name in ((None, 'a'), ('b', 'b')):
        model = online(main_student=main)
        assert model.main_student == name
        model.eval()
        expected = model.students[name](data['inputs'], mode='tensor')
        assert torch.equal(model(data['inputs']), expected)
        # A list of one view is one.
        assert torch.equal(model([data['inputs']]), expected)
        samples = model(**copy.deepcopy(data), mode='predict')
        scores = torch.stack([s.pred_score for s in samples])
        assert torch.equal(scores, expected.softmax(1))
        with pytest.raises(ValueError, match=r'one view .* but got 2'):
            model([data['inputs']] * 2)


def test_all_students_answer_each_on_samples_of_its_own():
    model, data = online().eval(), batch()
    answers = model.predict_students(**data)
    assert list(answers) == ['a', 'b']
    for name, samples in answers.items():
        expected = model.students[name](data['inputs'], mode='tensor')
        scores = torch.stack([s.pred_score for s in samples])
        assert torch.equal(scores, expected.softmax(1))
        assert [s.gt_label.item() for s in samples] == labels_of(data).tolist()
    assert not any('pred_score' in s for s in data['data_samples'])
    # Samples are made where there are none.
    (one, *_), _ = model.predict_students(data['inputs']).values()
    assert torch.equal(one.pred_score, answers['a'][0].pred_score)


def test_entries_that_are_added_up():
    model = online(widths=(2, 3))
    losses = model(**batch(), mode='loss')
    assert set(losses) == {
        'a.loss',
        'b.loss',
        'a.distill.loss_peer',
        'b.distill.loss_peer',
    }
    total, log = model.parse_losses(losses)
    assert total == sum(losses.values())
    assert log['a.loss'] == losses['a.loss']


def test_accuracy_of_a_student_is_no_loss():
    given = students(2, 3)
    given['a']['head'].update(cal_acc=True)
    model = MODELS.build(dict(type='DML', students=given))
    losses = model(**batch(), mode='loss')
    assert 'a.accuracy_top-1' in losses
    total, _ = model.parse_losses(losses)
    parts = [v for k, v in losses.items() if 'accuracy' not in k]
    assert total == sum(parts)


def test_views_are_dealt_out():
    model, data = online(widths=(2, 3)).eval(), batch(views=2)
    losses = model(**data, mode='loss')
    for (name, student), view in zip(
        model.students.items(), data['inputs'], strict=True
    ):
        own = student(view, data['data_samples'], mode='loss')
        assert torch.equal(losses[f'{name}.loss'], own['loss'])
    # One view is for all, as a tensor or in a list.
    same = model(data['inputs'][0], data['data_samples'], mode='loss')
    listed = model(data['inputs'][:1], data['data_samples'], mode='loss')
    assert same == listed
    assert same['a.loss'] == losses['a.loss']
    assert same['b.loss'] != losses['b.loss']
    with pytest.raises(
        ValueError, match=r'3 views .* 2 students: set views=2 in data_prep'
    ):
        model([data['inputs'][0]] * 3, data['data_samples'], mode='loss')


def test_views_of_the_preprocessor_and_those_of_a_pipeline():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    arrays = dict(
        inputs=images, sample_idx=torch.arange(4), gt_label=torch.arange(4) % 3
    )
    flip = dict(type='BatchRandomFlip', prob=1.0)
    model = online(
        data_preprocessor=dict(PREPROCESSOR, views=2, augments=[flip])
    )
    data = model.data_preprocessor(arrays, True)
    assert set(model(**data, mode='loss')) >= {'a.loss', 'b.loss'}
    model = online(
        data_preprocessor=dict(
            type='mmpretrain.SelfSupDataPreprocessor',
            mean=[120.5] * 3,
            std=[60.0] * 3,
        )
    )
    # What MultiView and default_collate make.
    listed = dict(
        inputs=[images.flip(3), images.flip(3)],
        data_samples=[DataSample().set_gt_label(i % 3) for i in range(4)],
    )
    again = model.data_preprocessor(listed, True)
    assert torch.equal(again['inputs'][1], data['inputs'][1])
    assert set(model(**again, mode='loss')) >= {'a.loss', 'b.loss'}
    # And in the validation, one view.
    listed['inputs'] = images
    data = model.data_preprocessor(listed, False)
    assert len(model(**data, mode='predict')) == 4


def test_batches_of_tensors():
    model, data = online().eval(), batch()
    samples = BatchSamples(torch.arange(6), labels_of(data))
    losses = model(data['inputs'], samples, mode='loss')
    assert losses == model(**data, mode='loss')


def test_batch_without_labels():
    model, data = online(), batch()
    for samples in (None, BatchSamples(torch.arange(6)), [DataSample()] * 6):
        with pytest.raises(ValueError, match='no labels for the losses of'):
            model(data['inputs'], samples, mode='loss')
    samples = BatchSamples(torch.arange(6), torch.full((6,), 3))
    with pytest.raises(ValueError, match=r'in \[0, 3\).* but got 3'):
        model(data['inputs'], samples, mode='loss')


def test_mixed_labels():
    data = batch()
    for sample in data['data_samples']:
        sample.set_gt_score(torch.tensor([0.5, 0.5, 0.0]))
    # Fine where no class is needed.
    assert online()(**data, mode='loss')['a.loss'] > 0
    for model in (
        online('KDCL'),
        online(peer_loss=dict(type='DKDLoss')),
    ):
        with pytest.raises(ValueError, match='leave out batch_augments'):
            model(**data, mode='loss')


def test_checkpoints_of_students(tmp_path):
    theirs = online(seed=5, widths=(3, 3))
    path = tmp_path / 'b.pth'
    torch.save(theirs.students.b.state_dict(), path)
    model = online(student_ckpts=dict(b=str(path)))
    # online() has changed the head.
    model.init_weights()
    for key, value in theirs.students.b.state_dict().items():
        assert torch.equal(model.students.b.state_dict()[key], value), key
    with pytest.raises(FileNotFoundError, match=r'no\.pth'):
        online(student_ckpts=dict(b='no.pth'))
    with pytest.raises(ValueError, match=r'student a from .* do not fit'):
        online(student_ckpts=dict(a=str(path)))
    with pytest.raises(ValueError, match=r"student_ckpts: .* no student 'B'"):
        online(student_ckpts=dict(B=str(path)))


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(a=classifier()), 'two or more configs'),
        ([classifier(), classifier()], 'two or more configs'),
        ({'a': classifier(), 'b.c': classifier()}, "but got 'b.c'"),
        ({'a': classifier(), 1: classifier()}, 'but got 1'),
        (dict(a=classifier(), lossy=classifier()), 'contain "loss"'),
        (classifier(), "student 'type' must be a config"),
        (dict(type=classifier(), a=classifier()), "be called 'type'"),
        (dict(a=classifier(), training=classifier()), "called 'training'"),
    ],
)
def test_bad_students(given, message):
    with pytest.raises(ValueError, match=message):
        DML(students=given)


def test_students_must_fit_together():
    one = MODELS.build(classifier())
    with pytest.raises(ValueError, match="'a' and 'b' share parameters"):
        DML(students=dict(a=one, b=one))
    other = classifier()
    other['head']['num_classes'] = 4
    with pytest.raises(ValueError, match=r"classes, .* \{'a': 3, 'b': 4\}"):
        DML(students=dict(a=classifier(), b=other))
    with pytest.raises(ValueError, match=r"main_student: .* no student 'c'"):
        online(main_student='c')


def test_module_of_the_logits():
    with pytest.raises(
        ValueError, match=r"logits of 'a': .* 'head.f'; nearest: head.fc"
    ):
        online(logits='head.f')
    with pytest.raises(ValueError, match=r"no module for \['b'\]"):
        online(logits=dict(a='head.fc'))
    with pytest.raises(ValueError, match="logits: there is no student 'c'"):
        online(logits=dict(a='head.fc', b='head.fc', c='head.fc'))
    model = online(logits=dict(a='head.fc', b='head'))
    assert online()(**batch(), mode='loss') == model(**batch(), mode='loss')
    model = online(logits='backbone.conv1')
    with pytest.raises(ValueError, match=r'logits must have the shape'):
        model(**batch(), mode='loss')


class Odd(nn.Module):
    """A loss that needs more than logits."""

    def forward(self, preds_S, preds_T, sample_idx):
        raise AssertionError


class Plain(nn.Module):
    """A loss whose value tells its arguments."""

    def __init__(self, loss_weight=1.0):
        super().__init__()
        self.loss_weight = loss_weight
        self.calls = []

    def forward(self, preds_S, preds_T, gt_labels=None):
        self.calls.append((preds_S, preds_T, gt_labels))
        return self.loss_weight * (preds_S - preds_T).square().mean()


def test_arguments_of_the_peer_loss():
    with pytest.raises(ValueError, match=r"takes \['preds_S', .*sample_idx"):
        online(peer_loss=dict(type=Odd))
    with pytest.raises(ValueError, match=r"takes \['pred', 'avg_factor'\]"):
        online(peer_loss=dict(type=_Other))
    with pytest.raises(ValueError, match="peer_loss: there is no 'NoLoss'"):
        online(peer_loss=dict(type='NoLoss'))
    model, data = online(peer_loss=dict(type=Plain)), batch()
    model(**data, mode='loss')
    assert len(model.peer_loss.calls) == 2
    for preds_S, preds_T, labels in model.peer_loss.calls:
        assert preds_S.requires_grad and not preds_T.requires_grad
        assert labels.tolist() == labels_of(data).tolist()


class _Other(nn.Module):
    def forward(self, pred, avg_factor):
        raise AssertionError


@pytest.mark.parametrize('kind', ['DML', 'KDCL'])
def test_weight_of_the_peer_loss_may_be_a_schedule(kind):
    ramp = dict(type='LinearWarmup', value=3.0, end=4)
    model = online(
        kind,
        peer_loss=dict(type='KLDivergence', tau=2.0, loss_weight=ramp),
    ).eval()
    plain = online(kind, peer_loss=dict(type='KLDivergence', tau=2.0)).eval()
    expected = plain(**batch(), mode='loss')
    with pytest.raises(RuntimeError, match='no runner of mmengine'):
        model(**batch(), mode='loss')
    for epoch, weight in ((0, 0.75), (2, 2.25), (7, 3.0)):
        model.set_progress(epoch=epoch)
        losses = model(**batch(), mode='loss')
        for name, value in expected.items():
            factor = weight if 'peer' in name else 1.0
            assert losses[name].item() == pytest.approx(
                factor * value.item(), rel=1e-6
            ), name


def test_copies_and_pickles_after_a_step():
    model, data = online(), batch()
    sum(model(**data, mode='loss').values()).backward()
    model.zero_grad()
    model.eval()
    expected = model(**data, mode='loss')
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert twin(**data, mode='loss') == expected
        # It records its own students.
        twin.students.a.head.fc.weight.data.zero_()
        assert twin(**data, mode='loss') != expected
        assert model(**data, mode='loss') == expected


def test_no_graph_outlives_a_step_and_no_hook_the_model():
    built = {name: MODELS.build(classifier()) for name in 'ab'}
    model = DML(students=built)
    model(**batch(), mode='loss')
    assert not any(r.records for r in model._recorders.values())
    with pytest.raises(ValueError):
        model(batch()['inputs'], batch(views=1, num=2)['data_samples'], 'loss')
    assert not any(r.records for r in model._recorders.values())
    assert built['a'].head.fc._forward_hooks
    del model
    gc.collect()
    assert not built['a'].head.fc._forward_hooks


def test_replaced_modules_are_recorded():
    model, data = online(), batch()
    model.students.b.head.fc = nn.Linear(3, 3)
    # Every change of the mode looks for them anew, as SyncBN replaces some.
    model.train()
    assert model(**data, mode='loss')['b.distill.loss_peer'] > 0


def test_channels_last():
    model = online(channels_last=True)
    for student in model.students.values():
        weight = student.backbone.conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
    expected = online().eval()(**batch(), mode='loss')
    found = model.eval()(**batch(), mode='loss')
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4)
