"""The teacher's pass over the unlabeled set, and its cache."""

import io
import json
import zipfile
from decimal import Decimal, localcontext
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.registry import TRANSFORMS, init_default_scope
from mmengine.utils import ProgressBar
from torch import nn
from torch.utils.data import Subset

import mmkd_plugin.datasets.scoring as scoring
from mmkd_plugin.datasets import ArrayImages
from mmkd_plugin.datasets.scoring import (
    Scores,
    cached_scores,
    check_deterministic,
    dataset_fingerprint,
    load_scores,
    save_scores,
    score_dataset,
    score_logits,
    weights_fingerprint,
)
from mmkd_plugin.models import BatchAugDataPreprocessor

KEY = dict(teacher='a', dataset='b', transform='c')
FIELDS = ('uncertainty', 'entropy', 'predicted')


def make_images(num=10, side=4):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def make_scores(num=4):
    return Scores(
        np.linspace(0.1, 1, num), np.ones(num), np.arange(num) % 3, 3
    )


def teacher(batch):
    """Logits that tell every image from every other."""
    pixels = batch['inputs'].flatten(1).double()
    weight = torch.linspace(-1, 1, 3 * pixels.shape[1]).double()
    return pixels @ weight.reshape(-1, 3) / 50


def exact(logits):
    """Uncertainty and entropy with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        powers = [Decimal(float(z)).exp() for z in logits]
        total = sum(powers)
        p = [power / total for power in powers]
        entropy = -sum(q * q.ln() for q in p)
        return float(-max(p).ln()), float(entropy)


@pytest.mark.parametrize(
    'logits',
    [
        [0.3, -1.2, 2.0, 0.0],
        [5, 5, 5, 5],
        [40, 0, 0, 0],
        [0, 0, 40, 39],
        [-60, -100, -100.5, -120],
        [300, 250, -400, 0],
        [1e4, 1e4 - 37, 0, 1e4 - 700],
    ],
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_scores_of_logits_keep_their_digits(logits, dtype):
    uncertainty, entropy, predicted = score_logits(
        torch.tensor([logits], dtype=dtype)
    )
    assert uncertainty.dtype == entropy.dtype == torch.float64
    expected = exact(torch.tensor(logits, dtype=dtype).tolist())
    assert uncertainty.item() == pytest.approx(expected[0], rel=1e-13, abs=0)
    assert entropy.item() == pytest.approx(expected[1], rel=1e-12, abs=0)
    assert predicted.tolist() == [int(np.argmax(logits))]


def test_a_margin_beyond_the_smallest_number_is_certainty():
    uncertainty, entropy, predicted = score_logits(
        torch.tensor([[0.0, 800.0, 0.0], [0.0, 700.0, 0.0]])
    )
    assert uncertainty.tolist() == [
        0,
        pytest.approx(2 * np.exp(-700.0), abs=0),
    ]
    assert entropy[0] == 0
    assert 0 < entropy[1] < 1e-300
    assert predicted.tolist() == [1, 1]


def test_half_precision_logits_are_scored_in_float64():
    logits = torch.tensor([[20.0, 0.0, 1.0]], dtype=torch.float16)
    uncertainty, _, _ = score_logits(logits)
    assert uncertainty.item() == pytest.approx(
        exact([20, 0, 1])[0], rel=1e-13, abs=0
    )


def test_broken_logits_give_nan_for_their_image_alone():
    inf, nan = torch.inf, torch.nan
    uncertainty, entropy, _ = score_logits(
        torch.tensor([[1, nan], [inf, 0], [-inf, 0], [nan, nan], [1, 0]])
    )
    for values in (uncertainty, entropy):
        assert values.isnan().tolist() == [True, True, True, True, False]


@pytest.mark.parametrize('workers', [0, 2])
def test_every_image_is_scored_in_order(workers):
    dataset = ArrayImages(make_images())
    scores = score_dataset(teacher, dataset, batch_size=3, num_workers=workers)
    for index in range(len(dataset)):
        one = score_logits(teacher(dataset.__getitems__([index])))
        for name, value in zip(FIELDS, one, strict=True):
            # not equal: sums of other batch sizes are rounded otherwise
            assert getattr(scores, name)[index] == pytest.approx(
                value.item(), rel=1e-9
            )
    assert scores.num_classes == 3
    assert len(set(scores.uncertainty)) == 10
    assert scores.predicted.dtype == np.int64


def test_progress_is_shown(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(
        scoring, 'ProgressBar', partial(ProgressBar, file=shown)
    )
    score_dataset(teacher, ArrayImages(make_images()), batch_size=4)
    for count in ('0/10', '4/10', '8/10', '10/10'):
        assert count in shown.getvalue()


def test_labels_are_not_looked_at():
    images = make_images()
    plain = score_dataset(teacher, ArrayImages(images))
    labeled = score_dataset(teacher, ArrayImages(images, labels=[1] * 10))
    assert plain.uncertainty.tolist() == labeled.uncertainty.tolist()


def test_the_preprocessor_does_not_augment():
    options = dict(mean=[120.0] * 3, std=[60.0] * 3)
    augments = [
        dict(type='BatchRandomCrop', crop_size=4, padding=2),
        dict(type='BatchRandomFlip'),
    ]
    results = []
    for preprocessor in (
        BatchAugDataPreprocessor(**options),
        BatchAugDataPreprocessor(augments=augments, **options),
    ):

        def logits(batch, preprocessor=preprocessor):
            return teacher(preprocessor(batch, False))

        dataset = ArrayImages(make_images())
        results.append(score_dataset(logits, dataset).uncertainty.tolist())
    assert results[0] == results[1]


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match='the unlabeled set is empty'):
        score_dataset(teacher, Subset(ArrayImages(make_images()), []))


@pytest.mark.parametrize('shape', [(), (10,), (10, 3, 1)])
def test_logits_of_another_shape_are_refused(shape):
    dataset = ArrayImages(make_images())
    with pytest.raises(ValueError, match=r'\(B, C\), but gave \(') as error:
        score_dataset(lambda batch: torch.zeros(shape), dataset)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_broken_logits_are_refused(value):
    def broken(batch):
        logits = teacher(batch)
        for index in (4, 7):
            logits[batch['sample_idx'] == index] = value
        return logits

    with pytest.raises(ValueError, match='2 of 10 images, first for image 4'):
        score_dataset(broken, ArrayImages(make_images()), batch_size=4)


class Listed(BaseDataset):
    """An mmengine data set with a pipeline, without files."""

    def load_data_list(self):
        return [dict(img=image) for image in make_images(6, side=20)]


def listed(*pipeline):
    init_default_scope('mmpretrain')
    return Listed(pipeline=list(pipeline), serialize_data=False)


PACK = dict(type='PackInputs')


def test_data_sets_with_a_pipeline_are_scored():
    dataset = listed(PACK)
    expected = score_dataset(teacher, ArrayImages(make_images(6, side=20)))

    def stacked(batch):
        return teacher(dict(inputs=torch.stack(batch['inputs'])))

    scores = score_dataset(stacked, dataset)
    assert scores.uncertainty == pytest.approx(expected.uncertainty)


@pytest.mark.parametrize(
    ('transform', 'name'),
    [
        (dict(type='RandomCrop', crop_size=4), 'RandomCrop'),
        (dict(type='RandomFlip', prob=0.5), 'RandomFlip'),
        (dict(type='EfficientNetRandomCrop', scale=4), 'EfficientNetRandomC'),
        (dict(type='ColorJitter', brightness=0.5), 'ColorJitter'),
        (dict(type='Rotate', angle=30.0), 'Rotate'),
        (
            dict(
                type='RandomApply',
                transforms=[dict(type='Resize', scale=4)],
                prob=0.5,
            ),
            'RandomApply',
        ),
        (
            dict(type='torchvision/RandomHorizontalFlip'),
            'RandomHorizontalFlip',
        ),
        (
            dict(
                type='MultiView',
                num_views=1,
                transforms=[[dict(type='RandomFlip', prob=0.5)]],
            ),
            'RandomFlip',
        ),
    ],
)
def test_pipelines_that_augment_are_refused(transform, name):
    with pytest.raises(ValueError, match=f'Listed has {name}') as error:
        score_dataset(teacher, listed(transform, PACK))
    assert 'data_preprocessor.augments' in str(error.value)


def test_wrapped_data_sets_are_looked_into():
    still = listed(dict(type='CenterCrop', crop_size=4), PACK)
    shaking = listed(dict(type='RandomFlip', prob=0.5), PACK)
    check_deterministic(still)
    check_deterministic(ConcatDataset([still, still]))
    check_deterministic(Subset(ArrayImages(make_images()), [0]))
    for wrapped in (ConcatDataset([still, shaking]), Subset(shaking, [0])):
        with pytest.raises(ValueError, match='RandomFlip'):
            check_deterministic(wrapped)


def test_weights_fingerprint():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = weights_fingerprint(model)
    assert weights_fingerprint(model) == before
    prints = {before}
    with torch.no_grad():
        model[0].weight[2, 1, 0, 0] += 1e-6
        prints.add(weights_fingerprint(model))
        model[1].running_var[3] += 1e-6
        prints.add(weights_fingerprint(model))
        model[1].num_batches_tracked += 1
        prints.add(weights_fingerprint(model))
    prints.add(weights_fingerprint(model.double()))
    prints.add(weights_fingerprint(model.bfloat16()))
    prints.add(weights_fingerprint(nn.Sequential(model)))
    assert len(prints) == 7


def test_dataset_fingerprint_of_arrays():
    images = make_images()
    whole = dataset_fingerprint(ArrayImages(images))
    assert whole == dataset_fingerprint(ArrayImages(images.copy()))
    assert whole != dataset_fingerprint(ArrayImages(images[:9]))
    changed = images.copy()
    changed[5, 2, 2, 1] ^= 1
    assert whole != dataset_fingerprint(ArrayImages(changed))


def test_dataset_fingerprint_of_mmengine_data_sets():
    def changed(image):
        dataset = listed(PACK)
        dataset.data_list[image]['img'][10, 10, 1] ^= 1
        return dataset

    prints = [
        dataset_fingerprint(dataset)
        for dataset in (
            listed(PACK),
            changed(0),
            changed(3),
            listed(dict(type='CenterCrop', crop_size=4), PACK),
            listed(dict(type='CenterCrop', crop_size=5), PACK),
            listed(PACK).get_subset([0, 1]),
            ConcatDataset([listed(PACK), listed(PACK)]),
        )
    ]
    assert len(set(prints)) == 7
    assert dataset_fingerprint(listed(PACK)) == prints[0]


def test_dataset_fingerprint_of_files(tmp_path):
    class Files(BaseDataset):
        def load_data_list(self):
            return [dict(img_path=str(tmp_path / 'a.png'))]

    path = tmp_path / 'a.png'
    path.write_bytes(b'12')
    before = dataset_fingerprint(Files())
    assert dataset_fingerprint(Files()) == before
    path.write_bytes(b'123')
    assert dataset_fingerprint(Files()) != before


def test_transforms_without_a_repr_do_not_change_the_fingerprint():
    @TRANSFORMS.register_module(name='Mute', force=True)
    class Mute:
        def __call__(self, results):
            return results

    one, two = listed(dict(type='Mute')), listed(dict(type='Mute'))
    assert repr(one.pipeline) != repr(two.pipeline)
    assert dataset_fingerprint(one) == dataset_fingerprint(two)


def test_data_sets_without_a_fingerprint_cannot_be_cached():
    with pytest.raises(TypeError, match=r'Subset has neither a fingerprint'):
        dataset_fingerprint(Subset(ArrayImages(make_images()), [0]))


def test_scores_come_back_from_a_file(tmp_path):
    path = str(tmp_path / 'scores.npz')
    scores = make_scores()
    save_scores(path, scores, KEY)
    loaded = load_scores(path, KEY)
    for name in FIELDS:
        assert getattr(loaded, name).dtype == getattr(scores, name).dtype
        assert getattr(loaded, name).tolist() == getattr(scores, name).tolist()
    assert loaded.num_classes == 3


@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        (dict(teacher='x'), 'another teacher. Delete'),
        (dict(dataset='x'), 'another dataset. Delete'),
        (dict(transform='x'), 'another transform. Delete'),
        (
            dict(teacher='x', transform='y'),
            'another teacher and another transform. Delete',
        ),
    ],
)
def test_stale_scores_are_refused(tmp_path, changes, match):
    path = str(tmp_path / 'scores.npz')
    save_scores(path, make_scores(), KEY)
    with pytest.raises(ValueError, match=match) as error:
        load_scores(path, {**KEY, **changes})
    assert path in str(error.value)


def empty(path):
    path.write_bytes(b'')


def text(path):
    path.write_text('scores\n')


def plain_array(path):
    with open(path, 'wb') as file:
        np.save(file, np.ones(3))


def pickled(path):
    with open(path, 'wb') as file:
        np.savez(file, uncertainty=np.array([{}], dtype=object))


def foreign(path):
    with open(path, 'wb') as file:
        np.savez(file, images=np.ones(3))


def no_key(path):
    with open(path, 'wb') as file:
        np.savez(file, **{name: np.ones(3) for name in FIELDS}, num_classes=3)


def odd_key(path):
    arrays = {name: np.ones(3) for name in FIELDS}
    with open(path, 'wb') as file:
        np.savez(file, **arrays, num_classes=3, key=json.dumps([1]))


def truncated(path):
    save_scores(str(path), make_scores(1000), KEY)
    path.write_bytes(path.read_bytes()[:5000])


def flipped(path):
    save_scores(str(path), make_scores(1000), KEY)
    content = bytearray(path.read_bytes())
    content[3000] ^= 0xFF
    path.write_bytes(bytes(content))


def other_zip(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('uncertainty.npy', 'nothing')


def folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    'damage',
    [
        empty,
        text,
        plain_array,
        pickled,
        foreign,
        no_key,
        odd_key,
        truncated,
        flipped,
        other_zip,
        folder,
    ],
)
def test_damaged_caches_are_refused(tmp_path, damage):
    path = tmp_path / 'scores.npz'
    damage(path)
    with pytest.raises(ValueError, match='cannot be read') as error:
        cached_scores(lambda: make_scores(), str(path), lambda: KEY)
    assert str(path) in str(error.value)
    assert 'Delete it to score the images anew' in str(error.value)


class Opens:
    """What is run when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_a_cache_runs_no_code(tmp_path):
    arrays = {name: np.ones(3) for name in FIELDS}
    arrays['entropy'] = np.array([Opens(tmp_path / 'run')], dtype=object)
    path = str(tmp_path / 'scores.npz')
    np.savez(path, **arrays, num_classes=3, key=json.dumps(KEY))
    with pytest.raises(ValueError, match='cannot be read'):
        load_scores(path, KEY)
    assert not (tmp_path / 'run').exists()


def test_cache_is_made_once_and_read_afterwards(tmp_path):
    path = str(tmp_path / 'new' / 'scores.npz')
    calls = []

    def make():
        calls.append(1)
        return make_scores()

    first = cached_scores(make, path, lambda: KEY)
    second = cached_scores(make, path, lambda: KEY)
    assert len(calls) == 1
    assert first.uncertainty.tolist() == second.uncertainty.tolist()
    with pytest.raises(ValueError, match='another teacher'):
        cached_scores(make, path, lambda: {**KEY, 'teacher': 'x'})
    assert len(calls) == 1


def test_without_a_cache_nothing_is_hashed(tmp_path):
    scores = make_scores()
    assert cached_scores(lambda: scores, None, lambda: 1 / 0) is scores
    assert not list(tmp_path.iterdir())


def test_a_key_that_cannot_be_made_is_an_error_before_the_scoring(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached_scores(
            lambda: pytest.fail('scored'),
            str(tmp_path / 'scores.npz'),
            lambda: 1 / 0,
        )


def test_a_folder_that_cannot_be_made_is_an_error_before_the_scoring(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file'):
        cached_scores(
            lambda: pytest.fail('scored'),
            str(tmp_path / 'file' / 'scores.npz'),
            lambda: KEY,
        )


def test_interrupted_writing_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / 'scores.npz'

    def interrupted(file, **arrays):
        file.write(b'PK half of it')
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring.np, 'savez', interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_scores(str(path), make_scores(), KEY)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    save_scores(str(path), make_scores(), KEY)
    before = path.read_bytes()
    monkeypatch.setattr(scoring.np, 'savez', interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_scores(str(path), make_scores(9), KEY)
    assert [p.name for p in tmp_path.iterdir()] == ['scores.npz']
    assert path.read_bytes() == before
