"""What MosaicKD asks of a model and of images."""

import copy

import pytest
from mmengine.registry import DATASETS, MODELS
from mmpretrain.models import ClsDataPreprocessor
from toy_runs import (
    PREPROCESSOR,
    classifier,
    distillation,
    loader,
    make_dataset,
    save_teacher,
)

from mmkd_plugin.engine.mosaic_inputs import (
    check_algorithm,
    check_images,
    check_size,
    real_dataset,
)

GLYPHS = dict(type='DemoGlyphs', num_images=4, size=8)


@pytest.fixture
def build(tmp_path):
    """Function that builds an algorithm."""
    teacher = save_teacher(tmp_path / 'teacher.pth')

    def built(**options):
        return MODELS.build(distillation(teacher, **options))

    return built


def test_a_good_algorithm(build):
    check_algorithm(build())


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (
            dict(
                data_preprocessor=dict(PREPROCESSOR, type=ClsDataPreprocessor)
            ),
            'needs a BatchAugDataPreprocessor, .* but got ClsDataPreprocessor',
        ),
        (
            dict(data_preprocessor=dict(type='BatchAugDataPreprocessor')),
            "the teacher's normalisation is unknown",
        ),
        (dict(calculate_student_loss=True), 'synthetic images have no labels'),
    ],
)
def test_wrong_algorithms(options, match, build):
    with pytest.raises(ValueError, match=match):
        check_algorithm(build(**copy.deepcopy(options)))


def test_no_algorithm(build):
    model = MODELS.build(classifier(data_preprocessor=dict(PREPROCESSOR)))
    with pytest.raises(ValueError, match='ImageClassifier has no teacher'):
        check_algorithm(model)
    model = build()
    del model.student
    with pytest.raises(ValueError, match='has no student'):
        check_algorithm(model)


@pytest.mark.parametrize(
    ('loader', 'count'),
    [
        (dict(batch_size=6, drop_last=True), 5),
        (dict(batch_size=4, drop_last=True, sampler=dict(num_samples=3)), 3),
        (dict(batch_size=6, drop_last=True, sampler=dict(num_samples=9)), 5),
    ],
)
def test_too_few_images(loader, count):
    match = f'the data set of {count} real images is smaller than a batch of'
    with pytest.raises(ValueError, match=match):
        check_size('real', range(5), loader)
    check_size('real', range(5), dict(loader, drop_last=False))
    check_size('real', range(5), dict(loader, batch_size=count))


def test_sizes_of_images(build):
    check_images(build(), make_dataset(2), 8)
    with pytest.raises(
        ValueError, match=r'images of 16x16, but the real images are 8x8$'
    ):
        check_images(build(), make_dataset(2), 16)
    crop = [dict(type='BatchRandomCrop', crop_size=4)]
    model = build(data_preprocessor=dict(PREPROCESSOR, augments=crop))
    with pytest.raises(
        ValueError, match='the training images are 4x4 after augmentation'
    ):
        check_images(model, make_dataset(2), 8)


@pytest.mark.parametrize(
    ('first', 'gave'), [((1, 2), 'tuple'), (dict(img=1), "'img'")]
)
def test_other_datasets(first, gave, build):
    with pytest.raises(ValueError, match=f'dicts with `inputs`.*{gave}'):
        check_images(build(), [first], 8)


def test_images_of_the_discriminator():
    students = make_dataset(2)
    config = loader(dict(GLYPHS))
    # The same ones are not built again.
    same = real_dataset(config, students, loader(dict(GLYPHS)))
    assert same is students
    others = real_dataset(config, students, loader(dict(GLYPHS, size=9)))
    assert type(others) is DATASETS.get('DemoGlyphs')
    assert len(others) == 4 and len(others[0]['inputs'][0]) == 8
    # A built one, as a runner takes it.
    built = make_dataset(3)
    assert real_dataset(loader(built), students, config) is built
    assert config == loader(dict(GLYPHS))


@pytest.mark.parametrize(
    ('changes', 'error', 'match'),
    [
        (
            dict(sampler=dict(type='DefaultSamplr')),
            KeyError,
            'no sampler .*DefaultSamplr.*nearest: Def',
        ),
        (
            dict(sampler=dict(type='DefaultSampler', shufle=True)),
            TypeError,
            'DefaultSampler: .*shufle',
        ),
        (dict(sampler=None), ValueError, r"needs \['sampler'\] as well"),
        (dict(dataset=None), ValueError, r"needs \['dataset'\] as well"),
        (
            dict(dataset=dict(type='Glyphs')),
            ValueError,
            "real_dataloader.dataset: there is no 'Glyphs'",
        ),
        (
            dict(dataset=dict(GLYPHS, nun_images=3)),
            ValueError,
            "real_dataloader.dataset: DemoGlyphs has no option 'nun_images'",
        ),
    ],
)
def test_wrong_loaders(changes, error, match):
    config = dict(loader(dict(GLYPHS)), **changes)
    with pytest.raises(error, match=match):
        real_dataset(config, make_dataset(2), {})


def test_no_loader():
    with pytest.raises(ValueError, match="must be a config, but got 'images'"):
        real_dataset('images', make_dataset(2), {})
