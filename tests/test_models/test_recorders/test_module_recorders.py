import copy
import gc
import pickle
from collections import namedtuple

import pytest
import torch
from mmengine.registry import MODELS, TASK_UTILS
from torch import nn
from toys import architecture

from mmkd_plugin.models import ModuleInputs, ModuleOutputs, Parameter
from mmkd_plugin.models.recorders import BaseRecorder
from mmkd_plugin.models.recorders.base_recorder import keep


@pytest.fixture
def images(seed):
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def resnet(seed):
    return MODELS.build(architecture(stages=2))


def attached(recorder, model):
    recorder.initialize(model)
    return recorder


def hook_count(model):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in model.modules()
    )


# ------------------------------------------------------------ outputs


def test_first_batch_norm_is_recorded_before_its_relu(resnet, images):
    """Though the ReLU works in place."""
    backbone = resnet.backbone
    assert backbone.relu.inplace
    recorder = attached(ModuleOutputs('backbone.bn1'), resnet)
    resnet.eval()
    with recorder:
        resnet(images)
    record = recorder.get_record()
    assert record.min() < 0
    bn = backbone.bn1
    shape = (1, -1, 1, 1)
    mapped = nn.functional.conv2d(images, backbone.conv1.weight, padding=1)
    expected = (mapped - bn.running_mean.view(shape)) * (
        bn.weight / (bn.running_var + bn.eps).sqrt()
    ).view(shape) + bn.bias.view(shape)
    torch.testing.assert_close(record, expected)


def test_first_batch_norm_in_training(resnet, images):
    recorder = attached(ModuleOutputs('backbone.bn1'), resnet)
    resnet.train()
    with recorder:
        resnet(images)
    mapped = nn.functional.conv2d(
        images, resnet.backbone.conv1.weight, padding=1
    )
    mean = mapped.mean((0, 2, 3), keepdim=True)
    var = mapped.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = (mapped - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(
        recorder.get_record(), expected, rtol=1e-4, atol=1e-5
    )


def test_gradient_flows_through_a_record(resnet, images):
    recorder = attached(ModuleOutputs('backbone.bn1'), resnet)
    with recorder:
        resnet(images)
    recorder.get_record().abs().sum().backward()
    assert resnet.backbone.conv1.weight.grad.abs().sum() > 0
    # It is the only path: nothing after the batch norm takes part.
    assert resnet.head.fc.weight.grad is None


def test_one_record_a_call():
    shared = nn.Linear(2, 2, bias=False)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    # One module, two paths.
    first = attached(ModuleOutputs('0'), net)
    second = attached(ModuleOutputs('2'), net)
    value = torch.ones(1, 2)
    with first, second:
        out = net(value)
    for recorder in (first, second):
        assert len(recorder.records) == 2
        assert torch.equal(recorder.get_record(), shared(value))
        assert torch.equal(recorder.get_record(record_idx=1), out)
        assert torch.equal(recorder.get_record(record_idx=-1), out)
        with pytest.raises(
            RuntimeError, match=r"on '.' has 2 record\(s\), .* record_idx=2"
        ):
            recorder.get_record(record_idx=2)


class Structured(nn.Module):
    def forward(self, x, scale=1.0, *, shift=None):
        shift = 0 if shift is None else shift
        return {'a': x * scale + shift, 'b': [x, (x + 1, x + 2)]}


def test_data_idx():
    net = nn.Sequential(Structured())
    recorder = attached(ModuleOutputs('0'), net)
    with recorder:
        net(torch.zeros(2))
    assert set(recorder.get_record()) == {'a', 'b'}
    assert torch.equal(recorder.get_record(data_idx='a'), torch.zeros(2))
    assert len(recorder.get_record(data_idx='b')) == 2
    with pytest.raises(
        RuntimeError,
        match=r"ModuleOutputs on '0' recorded a dict of 2, .* data_idx='c'",
    ):
        recorder.get_record(data_idx='c')


def test_data_idx_of_a_tensor_is_a_mistake():
    """It would be one of the samples."""
    net = nn.Sequential(nn.Identity())
    recorder = attached(ModuleOutputs('0'), net)
    with recorder:
        net(torch.zeros(4, 2))
    assert recorder.get_record().shape == (4, 2)
    for index in (0, 1, 'a'):
        with pytest.raises(
            RuntimeError, match=f'recorded a Tensor, .* data_idx={index!r}'
        ):
            recorder.get_record(data_idx=index)


def test_keep_copies_nested_tensors():
    Pair = namedtuple('Pair', 'x y')
    one = torch.ones(2)
    values = dict(
        pair=Pair(one, 3), top=torch.eye(2).max(dim=0), many=[(one, None)]
    )
    kept = keep(values)
    assert type(kept['pair']) is Pair
    assert type(kept['many'][0]) is tuple
    assert kept['many'][0][1] is None
    assert kept['pair'].y == 3
    one.zero_()
    assert kept['pair'].x.tolist() == [1, 1]
    assert kept['many'][0][0].tolist() == [1, 1]
    values['top'].values.zero_()
    assert kept['top'].values.tolist() == [1, 1]


# ------------------------------------------------------------- inputs


def test_inputs_by_place_and_by_name():
    net = Structured()
    recorder = attached(ModuleInputs(''), net)
    x, shift = torch.ones(2), torch.full((2,), 5.0)
    with recorder:
        net(x, 2.0, shift=shift)
        net(x=x, scale=3.0)
    assert torch.equal(recorder.get_record(data_idx=0), x)
    assert recorder.get_record(data_idx=1) == 2.0
    assert torch.equal(recorder.get_record(data_idx='shift'), shift)
    assert recorder.get_record(record_idx=1, data_idx='scale') == 3.0
    assert len(recorder.get_record()) == 2
    with pytest.raises(RuntimeError, match=r"a CallArguments of 2, .*'x'"):
        recorder.get_record(data_idx='x')
    with pytest.raises(RuntimeError, match='data_idx=2'):
        recorder.get_record(data_idx=2)


def test_input_of_the_last_layer(resnet, images):
    recorder = attached(ModuleInputs('head.fc'), resnet)
    with recorder:
        out = resnet(images)
    record = recorder.get_record(data_idx=0)
    assert record.shape == (4, 8)
    assert torch.equal(resnet.head.fc(record), out)


def test_inputs_are_copies():
    net = nn.Sequential(nn.ReLU(inplace=True))
    recorder = attached(ModuleInputs('0'), net)
    with recorder:
        net(torch.tensor([-1.0]))
    assert recorder.get_record(data_idx=0).item() == -1


# ---------------------------------------------------------- parameter


def test_parameter(resnet, images):
    recorder = attached(Parameter('head.fc.weight'), resnet)
    with recorder:
        resnet(images)
    assert recorder.get_record() is resnet.head.fc.weight
    recorder.get_record().sum().backward()
    assert (resnet.head.fc.weight.grad == 1).all()


def test_parameter_that_is_replaced():
    net = nn.Linear(2, 2)
    recorder = attached(Parameter('weight'), net)
    net.weight = nn.Parameter(torch.zeros(2, 2))
    with recorder:
        pass
    assert recorder.get_record() is net.weight


def test_parameter_with_two_names():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    for name in ('0.weight', '1.weight'):
        recorder = attached(Parameter(name), net)
        with recorder:
            pass
        assert recorder.get_record() is net[0].weight


def test_parameter_lets_go_of_the_model():
    net = nn.Linear(2, 2)
    recorder = attached(Parameter('weight'), net)
    recorder.remove()
    assert recorder._model is None


# ----------------------------------------------------- life of a record


@pytest.mark.parametrize('recorder', [ModuleOutputs('0'), ModuleInputs('0')])
def test_nothing_is_recorded_outside(recorder):
    net = nn.Sequential(nn.Identity())
    recorder.initialize(net)
    net(torch.zeros(1))
    assert recorder.records == []
    with recorder as entered:
        assert entered is recorder
        net(torch.zeros(1))
    net(torch.ones(1))
    assert len(recorder.records) == 1
    recorder.clear()
    assert recorder.records == []
    with pytest.raises(RuntimeError, match='recorded nothing'):
        recorder.get_record()


def test_records_of_the_last_time_are_forgotten():
    net = nn.Sequential(nn.Identity())
    recorder = attached(ModuleOutputs('0'), net)
    for value in (1.0, 2.0):
        with recorder:
            net(torch.tensor(value))
        assert recorder.get_record() == value
        assert len(recorder.records) == 1


def test_exception_ends_the_recording():
    net = nn.Sequential(nn.Identity())
    recorder = attached(ModuleOutputs('0'), net)
    with pytest.raises(KeyError), recorder:
        raise KeyError
    assert not recorder.recording
    net(torch.zeros(1))
    assert recorder.records == []


def test_hook_is_installed_once_and_removed():
    net = nn.Sequential(nn.Identity())
    for recorder in (ModuleOutputs('0'), ModuleInputs('0')):
        recorder.initialize(net)
        handle = recorder._handle
        recorder.initialize(net)
        # The same one, or a compiled step would be compiled again.
        assert recorder._handle is handle
        assert hook_count(net) == 1
        recorder.remove()
        recorder.remove()
        assert hook_count(net) == 0


def test_hook_follows_a_replaced_module():
    """As when batch norms become synchronised ones."""
    net = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    recorder = attached(ModuleOutputs('0'), net)
    old = net[0]
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert net[0] is not old
    recorder.initialize(net)
    assert hook_count(old) == 0
    assert hook_count(net) == 1
    net.eval()
    net[0] = nn.Identity()
    recorder.initialize(net)
    with recorder:
        net(torch.full((1,), -1.0))
    assert recorder.get_record().item() == -1


def test_hook_does_not_keep_anything_alive():
    net = nn.Sequential(nn.Identity())
    recorder = attached(ModuleOutputs('0'), net)
    handle = recorder._handle
    del net
    gc.collect()
    assert handle.hooks_dict_ref() is None
    recorder.remove()


@pytest.mark.parametrize('copier', [copy.deepcopy, None])
def test_a_copy_records_its_own_model(copier):
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    recorders = dict(
        out=ModuleOutputs('0'), inp=ModuleInputs('1'), par=Parameter('0.bias')
    )
    for recorder in recorders.values():
        recorder.initialize(net)
    both = (net, recorders)
    other, theirs = (
        copier(both) if copier else pickle.loads(pickle.dumps(both))
    )
    nn.init.constant_(other[0].bias, 100.0)
    for recorder in (*recorders.values(), *theirs.values()):
        recorder.__enter__()
    other(torch.zeros(1, 1))
    assert recorders['out'].records == []
    assert recorders['inp'].records == []
    assert recorders['par'].get_record() is net[0].bias
    assert theirs['out'].get_record().item() == 100
    assert theirs['inp'].get_record(data_idx=0).item() == 100
    assert theirs['par'].get_record() is other[0].bias
    theirs['out'].remove()
    theirs['inp'].remove()
    assert hook_count(other) == 0
    assert hook_count(net) == 2


# ------------------------------------------------------------- errors


def test_unknown_module(resnet):
    for recorder in (ModuleOutputs('backbone.bn3'), ModuleInputs('head.fcc')):
        with pytest.raises(ValueError) as error:
            recorder.initialize(resnet)
        near = 'backbone.bn1' if 'bn' in recorder.source else 'head.fc'
        text = str(error.value)
        assert f'ImageClassifier has no module {recorder.source!r}' in text
        assert f'nearest: {near}' in text


def test_unknown_parameter(resnet):
    with pytest.raises(
        ValueError,
        match=r"ImageClassifier has no parameter 'head\.fc\.weights'; "
        r'nearest: head\.fc\.weight',
    ):
        Parameter('head.fc.weights').initialize(resnet)


def test_list_of_modules_is_never_called():
    net = nn.Module()
    net.blocks = nn.ModuleList([nn.Identity() for _ in range(12)])
    net.table = nn.ModuleDict(dict(a=nn.Identity()))
    with pytest.raises(ValueError) as error:
        ModuleOutputs('blocks').initialize(net)
    assert "'blocks' is a ModuleList, which is never called" in str(
        error.value
    )
    assert 'blocks.0, blocks.1' in str(error.value)
    with pytest.raises(ValueError, match=r'is a ModuleDict.*table\.a'):
        ModuleInputs('table').initialize(net)


def test_unused_module(resnet, images):
    recorder = attached(ModuleOutputs('head.loss_module'), resnet)
    with recorder:
        resnet(images)
    with pytest.raises(
        RuntimeError,
        match=r"ModuleOutputs on 'head\.loss_module' recorded nothing: "
        'the forward pass did not use it',
    ):
        recorder.get_record()


@pytest.mark.parametrize(
    'kind', ['ModuleOutputs', 'ModuleInputs', 'Parameter', 'MethodInputs']
)
@pytest.mark.parametrize('source', [None, 3, ['head']])
def test_source_is_a_string(kind, source):
    with pytest.raises(ValueError, match='source must be a string, but got'):
        TASK_UTILS.build(dict(type=kind, source=source))


def test_base_recorder_has_nothing_to_remove():
    class Constant(BaseRecorder):
        def initialize(self, model):
            self.records = [model]

    recorder = Constant('x')
    recorder.initialize(1)
    recorder.remove()
    assert recorder.get_record() == 1
