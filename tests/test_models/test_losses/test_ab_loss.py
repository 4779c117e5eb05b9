import torch
from torch.testing import assert_close
from toys import architecture, teacher

from mmkd_plugin.models import ABLoss, SingleTeacherDistill, ab_loss


def test_magnitude_of_the_teacher_has_no_influence(seed):
    preds_S, preds_T = torch.randn(2, 4, 3, 5, 5)
    loss = ABLoss()
    value = loss(preds_S, preds_T)
    assert_close(loss(preds_S, 100 * preds_T), value)
    assert_close(loss(preds_S, preds_T.sign()), value)
    assert loss(preds_S, -preds_T) != value


def test_gradient_ends_at_the_margin():
    preds_S = torch.tensor([[2.0, 0.5, -2.0, -0.5, 0.5, -0.5]])
    preds_T = torch.tensor([[1.0, 1.0, -1.0, -1.0, -1.0, 1.0]])
    preds_S.requires_grad_()
    ab_loss(preds_S, preds_T).backward()
    expected = torch.tensor([[0.0, -1.0, 0.0, 1.0, 3.0, -3.0]])
    assert_close(preds_S.grad, expected)


def test_a_neuron_at_its_boundary_is_not_active():
    zero = torch.zeros(1, 1)
    assert ab_loss(torch.full((1, 1), -1.0), zero).item() == 0
    assert ab_loss(torch.full((1, 1), 1.0), zero).item() == 4


def test_initialisation_stage(seed):
    """The student's neurons come to fire where the teacher's do."""
    tap = dict(type='ModuleInputs', source='backbone.layer1.1.relu')
    source = dict(recorder='pre', record_idx=1, data_idx=0)
    model = SingleTeacherDistill(
        student=dict(
            architecture(3), type='PartlyFrozenClassifier', frozen=['head']
        ),
        teacher=teacher(),
        calculate_student_loss=False,
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(pre=tap),
            teacher_recorders=dict(pre=tap),
            connectors=dict(
                wide=dict(
                    type='ConvConnector',
                    in_channels=3,
                    out_channels=4,
                    norm_cfg=dict(type='BN'),
                )
            ),
            distill_losses=dict(loss_ab=dict(type='ABLoss', loss_weight=3e-3)),
            loss_forward_mappings=dict(
                loss_ab=dict(
                    preds_S=dict(source, from_student=True, connector='wide'),
                    preds_T=dict(source, from_student=False),
                )
            ),
        ),
    ).train()
    images = torch.randn(16, 3, 6, 6)
    seen = []
    model.distiller.distill_losses['loss_ab'].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            ((kwargs['preds_S'] > 0) == (kwargs['preds_T'] > 0)).float().mean()
        ),
        with_kwargs=True,
    )
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 0.5
    )
    for _ in range(40):
        (value,) = model(images, mode='loss').values()
        optimizer.zero_grad()
        value.backward()
        # Under DDP, each of these has to take part.
        assert all(
            p.grad is not None for p in optimizer.param_groups[0]['params']
        )
        optimizer.step()
    assert seen[0] < 0.6
    assert seen[-1] > 0.7
