"""Work directories as WeightDistanceHook and SnapshotHook leave them."""

import json

import torch
from mmengine.registry import MODELS, init_default_scope
from toy_runs import PREPROCESSOR, classifier

import mmkd_plugin  # noqa: F401

#: What the networks of the toy courses are.
MODEL = classifier(data_preprocessor=PREPROCESSOR)


def toy_weights(seed=0):
    """Weights of a network of the toy config."""
    init_default_scope('mmpretrain')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS.build(MODEL).state_dict()


def write_course(folder, weights, *, lengths=None, norm=2.0, **changes):
    """Write the checkpoints and distances of a run.

    Args:
        folder (Path): Where to.
        weights (dict[int, dict]): State dicts by epoch.
        lengths (dict[int, float]): Path lengths by epoch; the epoch by
            default.
        norm (float): Norm of the initial weights.
        **changes: Other fields of weight_distance.json.
    """
    lengths = lengths or {epoch: float(epoch) for epoch in weights}
    (folder / 'snapshots').mkdir(parents=True)
    for epoch, state_dict in weights.items():
        torch.save(
            dict(state_dict=state_dict, meta=dict(iter=10 * epoch)),
            folder / 'snapshots' / f'epoch_{epoch}.pth',
        )
    content = dict(
        granularity='step',
        parameters=['backbone.conv1.weight'],
        initial_norm=norm,
        epochs=[
            dict(epoch=e, iteration=10 * e, path_length=x, distance=x / norm)
            for e, x in lengths.items()
        ],
    )
    path = folder / 'weight_distance.json'
    path.write_text(json.dumps({**content, **changes}))
    return folder
