"""What a teacher says about every image of a data set, computed once."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import (
    all_gather,
    broadcast_object_list,
    get_dist_info,
    is_main_process,
)
from mmengine.logging import print_log
from mmengine.utils import ProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmkd_plugin.utils.atomic import atomic_write

from .array_images import array_collate

_RANDOM_TRANSFORMS = re.compile(
    'Random|^(Auto|Rand|Trivial|AugMix|Color|Lighting|Albu|Cutout|'
    'GaussianBlur|ElasticTransform|BEiT|SimMIM)'
)


@dataclass(frozen=True)
class Scores:
    """A teacher's answers over a data set of ``N`` images.

    Attributes:
        uncertainty (np.ndarray): :math:`-\\log \\max_k p_k`, float64
            ``(N,)``, nats. Unlike the confidence itself it does not saturate
            at 1.
        entropy (np.ndarray): Entropy of the teacher's distribution, float64
            ``(N,)``, nats.
        predicted (np.ndarray): Most probable class, int64 ``(N,)``.
        num_classes (int): Number of classes.
    """

    uncertainty: np.ndarray
    entropy: np.ndarray
    predicted: np.ndarray
    num_classes: int


def score_logits(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute uncertainty, entropy and prediction of logits.

    Args:
        logits (Tensor): Shape ``(B, C)``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Uncertainty and entropy in nats,
        float64 ``(B,)``, NaN where logits are not finite; class, int64
        ``(B,)``.
    """
    logits = logits.double()
    top, predicted = logits.max(dim=1, keepdim=True)
    # log(1 + rest) with the rest summed on its own keeps its digits when the
    # confidence is 1 to the last of them.
    rest = (logits - top).exp().scatter(1, predicted, 0).sum(dim=1)
    uncertainty = rest.log1p()
    log_p = logits - top - uncertainty[:, None]
    entropy = -(log_p.exp() * log_p).sum(dim=1)
    broken = ~torch.isfinite(logits).all(dim=1)
    return (
        uncertainty.masked_fill(broken, torch.nan),
        entropy.masked_fill(broken, torch.nan),
        predicted[:, 0],
    )


def _members(dataset: Dataset) -> Iterator[Dataset]:
    """Go through the data sets within mmengine's and PyTorch's wrappers."""
    inner = getattr(dataset, 'datasets', None)
    if inner is None:
        inner = [getattr(dataset, 'dataset', None)]
    inner = [part for part in inner if hasattr(part, '__getitem__')]
    if not inner or isinstance(inner[0], str):
        inner = []
        yield dataset
    for member in inner:
        yield from _members(member)


def _transforms(transform: Any) -> Iterator[Any]:
    """Go through the parts of a composed or wrapped transform."""
    # `t` is where mmpretrain keeps a transform of torchvision.
    for part in [
        *(getattr(transform, 'transforms', None) or []),
        *([transform.t] if hasattr(transform, 't') else []),
    ]:
        yield part
        yield from _transforms(part)


def check_deterministic(dataset: Dataset) -> None:
    """Check that reading a data set twice gives the same images.

    Args:
        dataset (Dataset): A data set; those with a ``pipeline`` of
            transforms are looked at, also within a wrapper. Transforms are
            known by their names.

    Raises:
        ValueError: If a transform of the pipeline works at random.
    """
    # Imports all data sets of mmpretrain, which nobody else here needs.
    from mmpretrain.datasets.transforms.auto_augment import BaseAugTransform

    for member in _members(dataset):
        for part in _transforms(getattr(member, 'pipeline', None)):
            name = type(part).__name__
            if _RANDOM_TRANSFORMS.search(name) or isinstance(
                part, BaseAugTransform
            ):
                raise ValueError(
                    f'scores need un-augmented images, but the pipeline of '
                    f'{type(member).__name__} has {name}: move the '
                    f'augmentation to model.data_preprocessor.augments '
                    f'(BatchAugDataPreprocessor)'
                )


def score_dataset(
    logits_fn: Callable[[dict], Tensor],
    dataset: Dataset,
    batch_size: int = 512,
    num_workers: int = 0,
) -> Scores:
    """Run a teacher over a whole data set.

    The work is divided among the ranks; every rank gets all scores. A
    progress bar is shown on rank 0.

    Args:
        logits_fn (Callable): From a batch, as the data loader gives it, to
            logits ``(B, C)``, deterministic.
        dataset (Dataset): The images.
        batch_size (int): Images a forward pass. Defaults to 512.
        num_workers (int): Worker processes of the loader. Defaults to 0.

    Returns:
        Scores: The scores, in the order of the data set.

    Raises:
        ValueError: If the teacher gives NaN or infinite logits, no logits
            ``(B, C)``, or if the data set augments.
    """
    check_deterministic(dataset)
    total = len(dataset)
    if total == 0:
        raise ValueError('the unlabeled set is empty')
    rank, world_size = get_dist_info()
    share = -(-total // world_size)
    mine = range(min(rank * share, total), min((rank + 1) * share, total))
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=mine,
        num_workers=num_workers,
        collate_fn=array_collate,
    )
    # Gathering needs equal shapes: the last share may be shorter.
    local = torch.zeros(share, 3, dtype=torch.float64)
    done, num_classes = 0, 0
    bar = ProgressBar(len(mine)) if rank == 0 else None
    with torch.no_grad():
        for batch in loader:
            logits = logits_fn(batch)
            if logits.ndim != 2:
                raise ValueError(
                    f'the teacher must give logits of shape (B, C), but gave '
                    f'{tuple(logits.shape)}'
                )
            num_classes = logits.shape[1]
            block = torch.stack(score_logits(logits), dim=1)
            local[done : done + len(block)] = block.cpu()
            done += len(block)
            if bar is not None:
                bar.update(len(block))
    if bar is not None:
        print(flush=True)
    table = torch.cat(all_gather(local))[:total].numpy()
    broken = np.flatnonzero(np.isnan(table[:, 0]))
    if len(broken):
        raise ValueError(
            f'the teacher gives NaN or infinite logits for {len(broken)} of '
            f'{total} images, first for image {broken[0]}: check its '
            f'checkpoint and the normalisation'
        )
    # A rank without images has not seen the number of classes.
    num_classes = int(max(all_gather(torch.tensor(num_classes))))
    return Scores(
        uncertainty=table[:, 0].copy(),
        entropy=table[:, 1].copy(),
        predicted=table[:, 2].astype(np.int64),
        num_classes=num_classes,
    )


def weights_fingerprint(model: nn.Module) -> str:
    """Name the weights of a model.

    Args:
        model (nn.Module): The model.

    Returns:
        str: A SHA-256 over names, shapes, dtypes and values, in hex.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        head = f'{name} {tuple(tensor.shape)} {tensor.dtype}'
        digest.update(head.encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stamps(dataset: Dataset) -> Iterator[bytes]:
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        path = info.get('img_path')
        if path is not None:
            stat = os.stat(path)
            yield f'{path} {stat.st_size} {stat.st_mtime_ns}'.encode()
            continue
        for name in sorted(info):
            value = info[name]
            yield f'{name} {getattr(value, "shape", "")} '.encode()
            # Not the repr() of an array, which leaves out its middle.
            yield (
                value.tobytes()
                if isinstance(value, np.ndarray)
                else repr(value).encode()
            )


def dataset_fingerprint(dataset: Dataset) -> str:
    """Name the content of a data set.

    Args:
        dataset (Dataset): One with a ``fingerprint`` method, or one of
            mmengine's, whose files are told apart by path, size and time of
            change.

    Returns:
        str: A SHA-256, in hex.

    Raises:
        TypeError: If the data set is of neither kind.
    """
    if hasattr(dataset, 'fingerprint'):
        # mmengine's slice of a data set has the fingerprint of the whole.
        text = f'{len(dataset)} {dataset.fingerprint()}'
        return hashlib.sha256(text.encode()).hexdigest()
    if not hasattr(dataset, 'get_data_info'):
        raise TypeError(
            f'{type(dataset).__name__} has neither a fingerprint() method nor '
            f"mmengine's get_data_info(): its scores cannot be cached"
        )
    digest = hashlib.sha256()
    for member in _members(dataset):
        pipeline = repr(getattr(member, 'pipeline', ''))
        # Transforms without a repr() of their own show where they lie.
        digest.update(re.sub(' at 0x[0-9a-f]+', '', pipeline).encode())
    for stamp in _stamps(dataset):
        digest.update(stamp)
    return digest.hexdigest()


def save_scores(path: str, scores: Scores, key: dict[str, str]) -> None:
    """Write a score cache, atomically.

    Args:
        path (str): File to write, an uncompressed ``.npz``.
        scores (Scores): The scores.
        key (dict[str, str]): What they depend on, see :func:`load_scores`.
    """
    with atomic_write(path) as file:
        np.savez(
            file,
            uncertainty=scores.uncertainty,
            entropy=scores.entropy,
            predicted=scores.predicted,
            num_classes=scores.num_classes,
            key=json.dumps(key),
        )


def load_scores(path: str, key: dict[str, str]) -> Scores:
    """Read a score cache that was made of the same things.

    Args:
        path (str): File to read.
        key (dict[str, str]): What the scores must depend on: fingerprints
            of ``teacher``, ``dataset`` and ``transform``.

    Returns:
        Scores: The scores.

    Raises:
        ValueError: If the file cannot be read, or if anything in the key has
            changed; the message says what.
    """
    remedy = 'Delete it to score the images anew, or give another cache_file'
    try:
        with np.load(path, allow_pickle=False) as data:
            found = json.loads(str(data['key']))
            scores = Scores(
                uncertainty=data['uncertainty'],
                entropy=data['entropy'],
                predicted=data['predicted'],
                num_classes=int(data['num_classes']),
            )
            changed = [name for name in key if found.get(name) != key[name]]
    # A damaged file, or another one, can raise anything.
    except Exception as error:
        raise ValueError(
            f'the score cache {path} cannot be read: it is damaged, or no '
            f'score cache ({type(error).__name__}). {remedy}'
        ) from error
    if changed:
        raise ValueError(
            f'the score cache {path} was made with another '
            f'{" and another ".join(changed)}. {remedy}'
        )
    return scores


def cached_scores(
    make: Callable[[], Scores], path: Optional[str], key: Callable[[], dict]
) -> Scores:
    """Read the scores from a cache, or make them and write it.

    Args:
        make (Callable): Computes the scores; called on every rank.
        path (str, optional): The cache. None means none.
        key (Callable): Computes what the scores depend on; called on rank 0
            where there is a cache.

    Returns:
        Scores: The scores, on every rank.

    Raises:
        ValueError: If the cache is stale or corrupt, on every rank.
    """
    if path is None:
        return make()
    answer = [None, None]
    if is_main_process():
        try:
            answer[1] = key()
            if os.path.exists(path):
                answer[0] = load_scores(path, answer[1])
                print_log(f'teacher scores read from {path}', 'current')
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        # Whatever it is: an error on rank 0 alone would leave the others
        # waiting for ever.
        except Exception as error:
            answer[0] = error
    broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    if answer[0] is not None:
        return answer[0]
    scores = make()
    if is_main_process():
        save_scores(path, scores, answer[1])
    return scores
