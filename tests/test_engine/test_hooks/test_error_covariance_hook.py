"""The errors of KDCL's students on held-out images."""

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.functional import one_hot
from toy_runs import build_runner, loader, make_dataset
from toy_students import online

from mmkd_plugin.engine.hooks import ErrorCovarianceHook
from mmkd_plugin.models.algorithms.kdcl import inverse_covariance_weights


def held_out(num=7, **options):
    return loader(make_dataset(num, seed=1, **options))


def hook(**options):
    return dict(type='ErrorCovarianceHook', dataloader=held_out(**options))


def covariance_by_loops(model, num=7):
    dataset = make_dataset(num, seed=1)
    data = model.data_preprocessor(dataset.__getitems__(range(num)))
    labels = data['data_samples'].gt_label
    model.eval()
    errors = []
    for student in model.students.values():
        with torch.no_grad():
            prob = student(data['inputs'], mode='tensor').double().softmax(1)
        errors.append(prob - one_hot(labels, 3))
    return torch.tensor(
        [[(a * b).sum().item() / num for a in errors] for b in errors]
    )


def run(tmp_path, model, *hooks, epochs=1, **kwargs):
    runner = build_runner(
        tmp_path, model, loader(make_dataset(8)), hooks, epochs, **kwargs
    )
    runner.train()
    return runner


def test_weights_after_an_epoch(tmp_path):
    model = online('KDCL', target='general', widths=(2, 3, 4))
    run(tmp_path, model, hook())
    expected = inverse_covariance_weights(covariance_by_loops(model))
    assert torch.allclose(model.general_weights, expected.float(), atol=1e-5)
    assert (model.general_weights - 1 / 3).abs().max() > 1e-3


def test_errors_are_of_what_the_students_teach_by(tmp_path):
    model = online('KDCL', target='general', logits='head.fc')
    # What this student answers is not what its module ``logits`` returns.
    handle = model.students.b.register_forward_hook(
        lambda module, args, output: (
            5 * output if isinstance(output, torch.Tensor) else output
        )
    )
    run(tmp_path, model, hook())
    answered = inverse_covariance_weights(covariance_by_loops(model))
    handle.remove()
    expected = inverse_covariance_weights(covariance_by_loops(model))
    assert (answered - expected).abs().max() > 1e-2
    assert torch.allclose(model.general_weights, expected.float(), atol=1e-5)


def test_weights_are_those_of_the_next_epoch(tmp_path):
    model = online('KDCL', target='general')
    runner = run(tmp_path, model, hook(), epochs=2)
    history = runner.message_hub.get_scalar('train/distill.weight.a').data[0]
    # Two batches an epoch.
    first, second = history[:2], history[2:]
    assert list(first) == [0.5, 0.5]
    assert second[0] == second[1] != 0.5
    # Measured again.
    assert model.general_weights[0] != second[0]


def test_modes_and_running_statistics_are_left_alone(tmp_path):
    model = online('KDCL', target='general')
    runner = run(tmp_path, model, hook())
    (measure,) = (
        h for h in runner.hooks if isinstance(h, ErrorCovarianceHook)
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for mode in (True, False):
        model.train(mode)
        measure.after_train_epoch(runner)
        assert model.training is mode
        assert model.students.a.backbone.bn1.training is mode
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_checkpoint_of_the_epoch_has_the_weights(tmp_path):
    model = online('KDCL', target='general')
    run(
        tmp_path,
        model,
        hook(),
        default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook')),
    )
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    weights = saved['state_dict']['general_weights']
    assert torch.equal(weights, model.general_weights)
    assert weights[0] != 0.5


def test_training_without_it_stops(tmp_path):
    model = online('KDCL', target='general')
    with pytest.raises(ValueError, match="type='ErrorCovarianceHook'"):
        run(tmp_path, model)


def test_errors(tmp_path):
    for bad in (None, dict(batch_size=2)):
        with pytest.raises(ValueError, match='config of a loader'):
            ErrorCovarianceHook(dataloader=bad)
    with pytest.raises(ValueError, match=r'must not shuffle.* shuffle=True'):
        ErrorCovarianceHook(dataloader=loader(make_dataset(7), shuffle=True))
    for model in (online(), online('KDCL', target='linear')):
        with pytest.raises(ValueError, match=f'is {type(model).__name__} wi'):
            run(tmp_path, model, hook())
    with pytest.raises(ValueError, match='needs a run by epochs'):
        run(
            tmp_path,
            online('KDCL', target='general'),
            hook(),
            train_cfg=dict(by_epoch=False, max_iters=2),
        )
    options = dict(held_out(num=3), drop_last=True)
    with pytest.raises(ValueError, match='no held-out images'):
        run(
            tmp_path,
            online('KDCL', target='general'),
            dict(type='ErrorCovarianceHook', dataloader=options),
        )


def test_inputs_are_checked_beforehand():
    init_default_scope('mmpretrain')
    model = online('KDCL', target='general')
    measure = ErrorCovarianceHook(dataloader=held_out(labels=False))
    with pytest.raises(ValueError, match='held-out images have no labels'):
        measure.check_inputs(model, None, {})
    with pytest.raises(ValueError, match='nothing does that'):
        model.check_hooks()
    measure = ErrorCovarianceHook(dataloader=held_out())
    with pytest.raises(ValueError, match='for KDCL with target="general"'):
        measure.check_inputs(online(), None, {})
    measure.check_inputs(model, None, {})
    model.check_hooks()


def test_resumed_equals_uninterrupted(tmp_path):
    checkpoint = dict(checkpoint=dict(type='SafeCheckpointHook'))

    def train(folder, epochs, **kwargs):
        model = online('KDCL', target='general')
        run(
            tmp_path / folder,
            model,
            hook(),
            epochs=epochs,
            default_hooks=checkpoint,
            **kwargs,
        )
        return model.state_dict()

    whole = train('whole', 3)
    train('part', 2)
    resumed = train(
        'part',
        3,
        resume=True,
        load_from=str(tmp_path / 'part' / 'epoch_2.pth'),
    )
    assert whole['general_weights'][0] != 0.5
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
