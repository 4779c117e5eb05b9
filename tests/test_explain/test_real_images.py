"""Photographs with masks, a ResNet of mmpretrain, the whole way."""

import json
import tarfile

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from shared_data import shared_file
from toy_courses import write_course

import mmkd_plugin  # noqa: F401
from mmkd_plugin.explain import Experiment, render_explanation

MODEL = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=512),
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
)


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """Every 20th image of Penn-Fudan, with the masks of its pedestrians."""
    folder = tmp_path_factory.mktemp('fudan')
    with tarfile.open(shared_file('data/foreground.tar.xz')) as archive:
        names = sorted(
            name
            for name in archive.getnames()
            if '/penn_fudan/images/' in name
        )[::20]
        wanted = {name.rsplit('/', 1)[1].split('.')[0] for name in names}
        members = [
            member
            for member in archive.getmembers()
            if '/penn_fudan/' in member.name
            and member.name.rsplit('/', 1)[1]
            .split('.')[0]
            .removesuffix('_mask')
            in wanted
        ]
        archive.extractall(folder, members, filter='data')
    (root,) = folder.glob('*/penn_fudan')
    return root, sorted(wanted)


def weights(seed):
    init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    return MODELS.build(MODEL).state_dict()


def test_end_to_end(photographs, tmp_path):
    root, names = photographs
    torch.save(weights(0), tmp_path / 'teacher.pth')
    start = weights(1)
    student = {0: start, 5: weights(2)}
    baseline = {0: start, 5: weights(3)}
    experiment = Experiment(
        Config(
            dict(
                explain=dict(
                    model=MODEL,
                    teacher_ckpt=str(tmp_path / 'teacher.pth'),
                    student=str(write_course(tmp_path / 's', student)),
                    baseline=str(write_course(tmp_path / 'b', baseline)),
                    images=str(root),
                    folder_pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='LoadForeground'),
                        dict(type='CropObject', scale=1.2),
                        dict(type='Resize', scale=(64, 64)),
                        dict(
                            type='PackInputs', algorithm_keys=('gt_seg_map',)
                        ),
                    ],
                    protocol=dict(layer='backbone.layer4', probes=8),
                )
            )
        )
    )
    image_set = experiment.load_images()
    found = experiment.explain(experiment.read_runs(''), image_set)
    assert [name.split('.')[0] for name in found.names] == names
    assert len(names) == 9
    assert found.networks['student'].entropy.shape == (2, 9, 16, 16)
    # Cut out with a little around them, the pedestrians reach the middle.
    reach = [np.ptp(mask.nonzero(), axis=1) + 1 for mask in found.masks]
    assert (np.array(reach) >= 64 / 1.2 - 2).all()
    # Image and mask are the files', cut alike: RGB, and in their place.
    original = np.asarray(Image.open(next(root.glob(f'images/{names[0]}.*'))))
    mask = np.asarray(Image.open(next(root.glob(f'masks/{names[0]}*')))) > 0
    inside = original[mask].mean(0)
    shown = found.images[0][found.masks[0]].mean(0)
    np.testing.assert_allclose(shown, inside, atol=8)
    assert abs(shown - original[~mask].mean(0)).max() > 8
    told = json.dumps(found.as_dict(), allow_nan=False)
    assert names[0] in told
    page = render_explanation(found, title='pedestrians', examples=2)
    assert page.count('<img') == 2 * 4 + 1
