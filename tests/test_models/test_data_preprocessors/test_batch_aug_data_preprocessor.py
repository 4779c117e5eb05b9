"""mmpretrain's preprocessor, and what is added to it."""

import copy

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

import mmkd_plugin.models.data_preprocessors.batch_aug_data_preprocessor as m
from mmkd_plugin.datasets import ArrayImages, array_collate
from mmkd_plugin.models import BatchAugDataPreprocessor
from mmkd_plugin.structures import BatchSamples
from mmkd_plugin.utils.counter_rng import counter_rng

STATISTICS = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
AUGMENTS = [
    dict(type='BatchRandomCrop', crop_size=6, padding=2),
    dict(type='BatchRandomFlip'),
]


def make_dataset(num=8, labels=True):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num, 6, 6, 3), dtype=np.uint8)
    return ArrayImages(images, labels=np.arange(num) % 3 if labels else None)


@pytest.fixture
def hub(monkeypatch):
    """A run of its own, with seed 7, in iteration 0."""
    run = MessageHub('preprocessor test')
    monkeypatch.setattr(
        m.MessageHub, 'get_current_instance', classmethod(lambda _: run)
    )
    run.update_info('seed', 7)
    run.update_info('iter', 0)
    return run


def array_batch(**kwargs):
    return make_dataset(**kwargs).__getitems__(range(8))


def listed_batch(**kwargs):
    dataset = make_dataset(**kwargs)
    return pseudo_collate([dataset[i] for i in range(8)])


def stock(batch, training=False, **options):
    """What mmpretrain makes of the same images."""
    preprocessor = ClsDataPreprocessor(**options)
    dataset = make_dataset()
    batch = pseudo_collate([dataset[i] for i in batch['sample_idx'].tolist()])
    return preprocessor(batch, training)


def test_registered():
    assert MODELS.get('BatchAugDataPreprocessor') is BatchAugDataPreprocessor
    assert issubclass(BatchAugDataPreprocessor, ClsDataPreprocessor)


@pytest.mark.parametrize(
    ('augments', 'training'),
    [(None, False), (None, True), ([], True), (AUGMENTS, False)],
)
@pytest.mark.parametrize('make', [array_batch, listed_batch])
@pytest.mark.parametrize(
    'options',
    [
        {},
        STATISTICS,
        dict(STATISTICS, to_rgb=True),
        dict(to_rgb=True),
        dict(STATISTICS, pad_size_divisor=4, pad_value=9),
        dict(STATISTICS, to_onehot=True, num_classes=3),
    ],
)
def test_equals_mmpretrain_bit_for_bit(options, make, augments, training):
    preprocessor = BatchAugDataPreprocessor(augments=augments, **options)
    data = preprocessor(make(), training)
    expected = stock(array_batch(), training, **options)
    assert data['inputs'].dtype == torch.float32
    assert torch.equal(data['inputs'], expected['inputs'])
    assert len(data['data_samples']) == 8
    for one, two in zip(
        data['data_samples'], expected['data_samples'], strict=True
    ):
        assert isinstance(one, DataSample)
        assert one.sample_idx == two.sample_idx
        assert one.gt_label.tolist() == two.gt_label.tolist()
        assert one.gt_label.dtype == two.gt_label.dtype == torch.int64
        assert ('gt_score' in one) == ('gt_score' in two)
        if 'gt_score' in two:
            assert torch.equal(one.gt_score, two.gt_score)


def test_array_batches_stay_tensors():
    data = BatchAugDataPreprocessor()(array_batch())
    assert isinstance(data['data_samples'], BatchSamples)
    assert data['data_samples'].gt_label.tolist() == [0, 1, 2] * 2 + [0, 1]
    assert data['data_samples'].sample_idx.tolist() == list(range(8))
    unlabeled = BatchAugDataPreprocessor()(array_batch(labels=False))
    assert unlabeled['data_samples'].gt_label is None


def test_channels_last_is_kept():
    data = BatchAugDataPreprocessor(**STATISTICS)(array_batch())
    assert data['inputs'].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('make', [array_batch, listed_batch])
@pytest.mark.parametrize('augments', [None, AUGMENTS])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32, torch.float64])
def test_the_batch_is_not_changed(make, augments, dtype, hub):
    batch = make()
    images = batch['inputs']
    batch['inputs'] = (
        images.to(dtype)
        if isinstance(images, torch.Tensor)
        else [image.to(dtype) for image in images]
    )
    before = copy.deepcopy(batch)
    preprocessor = BatchAugDataPreprocessor(augments=augments, **STATISTICS)
    for training in (False, True):
        preprocessor(batch, training)
    assert batch.keys() == before.keys()
    for image, old in zip(batch['inputs'], before['inputs'], strict=True):
        assert image.dtype == dtype
        assert torch.equal(image, old)


@pytest.mark.parametrize('make', [array_batch, listed_batch])
def test_augments_act_in_order_on_uint8_images(make, hub):
    hub.update_info('iter', 13)
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS, **STATISTICS)
    data = preprocessor(make(), True)
    rng = counter_rng(7, 0, 13)
    images = array_batch()['inputs']
    for transform in preprocessor.augments:
        images = transform(images, rng)
        assert images.dtype == torch.uint8
    expected = (images.float() - preprocessor.mean) / preprocessor.std
    assert torch.equal(data['inputs'], expected)
    assert data['data_samples'][3].gt_label.tolist() == [0]


def augmented(preprocessor):
    return preprocessor(array_batch(), True)['inputs'].tolist()


def test_random_numbers_depend_on_seed_rank_and_iteration(hub, monkeypatch):
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS)
    first = augmented(preprocessor)
    assert augmented(preprocessor) == first
    assert augmented(BatchAugDataPreprocessor(augments=AUGMENTS)) == first
    torch.manual_seed(99)
    np.random.seed(99)
    assert augmented(preprocessor) == first
    hub.update_info('iter', 1)
    second = augmented(preprocessor)
    hub.update_info('seed', 8)
    third = augmented(preprocessor)
    monkeypatch.setattr(m, 'get_rank', lambda: 1)
    fourth = augmented(preprocessor)
    for one, two in (
        (first, second),
        (second, third),
        (third, fourth),
        (first, fourth),
    ):
        assert one != two
    hub.update_info('iter', 0)
    hub.update_info('seed', 7)
    monkeypatch.setattr(m, 'get_rank', lambda: 0)
    assert augmented(preprocessor) == first


def test_validation_draws_nothing(hub):
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS)
    plain = BatchAugDataPreprocessor()(array_batch())
    data = preprocessor(array_batch(), False)
    assert torch.equal(data['inputs'], plain['inputs'])


def test_outside_of_a_run_calls_are_counted(hub):
    hub.pop_info('iter')
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS)
    calls = [augmented(preprocessor) for _ in range(3)]
    assert calls[0] != calls[1] != calls[2]
    again = BatchAugDataPreprocessor(augments=AUGMENTS)
    assert [augmented(again) for _ in range(3)] == calls


def test_workers_do_not_matter(hub):
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS, **STATISTICS)
    runs = []
    for workers in (0, 1, 2):
        loader = DataLoader(
            make_dataset(16),
            batch_size=4,
            num_workers=workers,
            collate_fn=array_collate,
        )
        batches = []
        for step, batch in enumerate(loader):
            hub.update_info('iter', step)
            batches.append(preprocessor(batch, True)['inputs'])
        runs.append(torch.cat(batches))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    assert len(torch.unique(runs[0], dim=0)) == 16


def test_images_of_different_sizes(hub):
    images = [torch.zeros(3, 6, 6), torch.zeros(3, 6, 8)]
    batch = dict(inputs=[image.to(torch.uint8) for image in images])
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS)
    with pytest.raises(
        ValueError, match=r'one size, but got \[\(3, 6, 6\), \(3, 6, 8\)\]'
    ):
        preprocessor(batch, True)
    # Without augmentation they are padded, as mmpretrain does.
    assert preprocessor(batch, False)['inputs'].shape == (2, 3, 6, 8)


def test_batch_augments_of_mmpretrain():
    options = dict(
        num_classes=3,
        batch_augments=dict(augments=dict(type='Mixup', alpha=0.8)),
    )
    np.random.seed(0)
    torch.manual_seed(0)
    data = BatchAugDataPreprocessor(**options)(array_batch(), True)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = stock(array_batch(), True, **options)
    assert torch.equal(data['inputs'], expected['inputs'])
    for one, two in zip(
        data['data_samples'], expected['data_samples'], strict=True
    ):
        assert torch.equal(one.gt_score, two.gt_score)
        assert 0 < one.gt_score.max() <= 1


@pytest.mark.parametrize('make', [array_batch, listed_batch])
@pytest.mark.parametrize('training', [False, True])
def test_synthetic_images_come_first(make, training, hub):
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS, **STATISTICS)
    synthetic = torch.randn(3, 3, 6, 6)
    batch = dict(make(), synthetic=synthetic)
    names = set(batch)
    data = preprocessor(batch, training)
    assert batch.keys() == names
    # As they are, before the others, which are as ever.
    assert data['inputs'][:3].equal(synthetic)
    alone = preprocessor(make(), training)
    assert data['inputs'][3:].equal(alone['inputs'])
    samples = data['data_samples']
    ids = [sample.sample_idx for sample in samples]
    assert ids == [-1] * 3 + list(range(8))
    assert not any('gt_label' in sample for sample in samples[:3])
    if make is array_batch:
        assert isinstance(samples, BatchSamples)
        assert samples.gt_label is None
    else:
        assert [int(s.gt_label) for s in samples[3:]] == [
            0,
            1,
            2,
            0,
            1,
            2,
            0,
            1,
        ]


@pytest.mark.parametrize('make', [array_batch, listed_batch])
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('options', [{}, dict(to_rgb=True)])
def test_other_statistics_of_real_images(options, training, make, hub):
    own = dict(mean=[30.0, 60.0, 90.0], std=[20.0, 40.0, 80.0])
    preprocessor = BatchAugDataPreprocessor(
        augments=AUGMENTS, **STATISTICS, **options
    )
    synthetic = torch.randn(3, 3, 6, 6)
    batch = dict(make(), synthetic=synthetic, real_statistics=own)
    data = preprocessor(batch, training)
    assert set(batch) == {*make(), 'synthetic', 'real_statistics'}
    assert data['inputs'][:3].equal(synthetic)
    # As if they were the preprocessor's; the same pixels.
    expected = BatchAugDataPreprocessor(augments=AUGMENTS, **own, **options)(
        make(), training
    )
    torch.testing.assert_close(
        data['inputs'][3:], expected['inputs'], rtol=1e-5, atol=1e-5
    )
    images = array_batch()['inputs'].double()
    if not training:
        if options:
            images = images.flip(1)
        mean, std = (
            torch.tensor(own[name], dtype=torch.double).view(3, 1, 1)
            for name in ('mean', 'std')
        )
        torch.testing.assert_close(
            data['inputs'][3:].double(),
            (images - mean) / std,
            rtol=1e-5,
            atol=1e-5,
        )
    # The next batch has the preprocessor's own again.
    alone = preprocessor(make(), training)['inputs']
    data = preprocessor(dict(make(), synthetic=synthetic), training)
    assert data['inputs'][3:].equal(alone)


def test_synthetic_images_alone():
    synthetic = torch.randn(3, 3, 6, 6)
    data = BatchAugDataPreprocessor(augments=AUGMENTS, **STATISTICS)(
        dict(synthetic=synthetic, sample_idx=torch.arange(8)), True
    )
    assert data['inputs'] is synthetic
    assert data['data_samples'].sample_idx.tolist() == [-1] * 3
    assert data['data_samples'].gt_label is None


def test_synthetic_images_of_another_size():
    batch = dict(array_batch(), synthetic=torch.zeros(3, 3, 4, 4))
    match = r'shape \(3, 4, 4\), but the others \(3, 6, 6\)'
    with pytest.raises(ValueError, match=match):
        BatchAugDataPreprocessor(**STATISTICS)(batch)


def test_unknown_augment():
    with pytest.raises(KeyError, match='BatchRandomSpin'):
        BatchAugDataPreprocessor(augments=[dict(type='BatchRandomSpin')])


def views_of(preprocessor, make=array_batch):
    return [v.tolist() for v in preprocessor(make(), True)['inputs']]


@pytest.mark.parametrize('make', [array_batch, listed_batch])
def test_views_have_draws_of_their_own(make, hub, monkeypatch):
    hub.update_info('iter', 13)
    options = dict(augments=AUGMENTS, **STATISTICS)
    three = BatchAugDataPreprocessor(views=3, **options)
    data = three(make(), True)
    assert [view.shape for view in data['inputs']] == [(8, 3, 6, 6)] * 3
    labels = [sample.gt_label.item() for sample in data['data_samples']]
    assert labels == [0, 1, 2] * 2 + [0, 1]
    first, second, third = views_of(three, make)
    # The first one is what it is alone.
    alone = BatchAugDataPreprocessor(**options)(make(), True)['inputs']
    assert first == alone.tolist()
    assert first != second != third != first
    # More views, or another one before, change none; nor do other numbers.
    torch.manual_seed(99)
    np.random.seed(99)
    more = views_of(BatchAugDataPreprocessor(views=4, **options), make)
    assert more[:3] == [first, second, third]
    for change in (
        lambda: hub.update_info('iter', 14),
        lambda: hub.update_info('seed', 8),
        lambda: monkeypatch.setattr(m, 'get_rank', lambda: 1),
    ):
        before = views_of(three, make)
        change()
        after = views_of(three, make)
        assert all(a != b for a, b in zip(after, before, strict=True))


def test_views_of_a_run_are_no_stream_of_others(hub):
    # 0 to 4 are those of augmentation, reseeding and MosaicKD.
    draws = {
        counter_rng(7, 0, 0, stream).integers(2**62) for stream in range(5)
    }
    rngs = BatchAugDataPreprocessor(augments=AUGMENTS, views=3)._rngs()
    first, *others = (int(rng.integers(2**62)) for rng in rngs)
    assert first in draws
    assert len({*draws, *others}) == 7


def test_validation_has_one_view(hub):
    options = dict(augments=AUGMENTS, **STATISTICS)
    data = BatchAugDataPreprocessor(views=2, **options)(array_batch(), False)
    plain = BatchAugDataPreprocessor(**STATISTICS)(array_batch())
    assert torch.equal(data['inputs'], plain['inputs'])


def test_calls_are_counted_once_for_all_views(hub):
    hub.pop_info('iter')
    one = BatchAugDataPreprocessor(augments=AUGMENTS)
    two = BatchAugDataPreprocessor(augments=AUGMENTS, views=2)
    for _ in range(3):
        assert views_of(two)[0] == augmented(one)


def test_bad_views():
    for views in (0, 1.5, True):
        with pytest.raises(ValueError, match=f'views .* but got {views}'):
            BatchAugDataPreprocessor(augments=AUGMENTS, views=views)
    with pytest.raises(ValueError, match='views=2 without augments'):
        BatchAugDataPreprocessor(views=2)
    mixup = dict(augments=dict(type='Mixup', alpha=0.8))
    with pytest.raises(ValueError, match='views=2 share their labels'):
        BatchAugDataPreprocessor(
            augments=AUGMENTS, views=2, batch_augments=mixup, num_classes=3
        )
    preprocessor = BatchAugDataPreprocessor(augments=AUGMENTS, views=2)
    batch = dict(array_batch(), synthetic=torch.zeros(3, 3, 6, 6))
    with pytest.raises(ValueError, match=r'have one view, but got views=2'):
        preprocessor(batch, True)
    images = array_batch()['inputs']
    batch = dict(inputs=[images, images])
    with pytest.raises(ValueError, match=r'2 views .*, which SelfSupDataPre'):
        preprocessor(batch, True)
