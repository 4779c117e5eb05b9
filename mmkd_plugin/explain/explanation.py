"""What is known about networks after their knowledge points are counted."""

import csv
import io
import math
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from .knowledge_points import KnowledgePoints, LearningSpeed, Stability

#: Version of the layout of ``explanation.json``.
EXPLANATION_VERSION = 1


@dataclass(frozen=True)
class NetworkResult:
    """Knowledge points of one network at M checkpoints, on N images.

    Attributes:
        epochs (list[int]): Of the checkpoints, increasing. A teacher has one
            checkpoint, of epoch 0.
        distances (list[float], optional): Weight distance of each
            checkpoint, in units of the norm of the initial weights; None for
            a teacher.
        entropy (Tensor): In nats, float32, shape ``(M, N, h, w)``.
        reached (Tensor): Whether the mean entropy of an image met the
            target, bool, shape ``(M, N)``.
        points (KnowledgePoints): The points, ``(M, N)``.
        speed (LearningSpeed, optional): None for a teacher.
        stability (Stability, optional): None for a teacher.
        without_energy (list[int]): How many of all images that were looked
            at had no energy, for each checkpoint.
        accuracy (float, optional): Top-1 in percent of the last validation,
            where the run has a report.
        checkpoints (list[str]): The files.
        granularity (str, optional): Of the weight distance, ``'step'`` or
            ``'epoch'``.
        parameters (list[str]): Names of what it measures.
        feature_length (int, optional): Numbers in the layer's output.
        probes (int, optional): Directions that the energies are from; None
            where they are not used.
    """

    epochs: list[int]
    distances: Optional[list[float]]
    entropy: Tensor
    reached: Tensor
    points: KnowledgePoints
    speed: Optional[LearningSpeed]
    stability: Optional[Stability]
    without_energy: list[int]
    accuracy: Optional[float]
    checkpoints: list[str] = field(default_factory=list)
    granularity: Optional[str] = None
    parameters: list[str] = field(default_factory=list)
    feature_length: Optional[int] = None
    probes: Optional[int] = None


@dataclass(frozen=True)
class Explanation:
    """Teacher, student and baseline on the same images.

    Attributes:
        networks (dict[str, NetworkResult]): Some of ``'teacher'``,
            ``'student'``, ``'baseline'``, in this order.
        images (np.ndarray): The images that are counted, RGB, uint8, shape
            ``(N, H, W, 3)``.
        masks (np.ndarray): Their foreground, bool, shape ``(N, H, W)``.
        foreground (Tensor): The cells of the foreground, bool, shape
            ``(N, h, w)``.
        names (list[str]): Of the images.
        labels (list[int or None]): Classes of the images, where known.
        protocol (dict): All that the counts depend on, plain values.
        image_set (str): What was looked at.
        num_images (int): How many images were looked at.
        dropped (dict[str, list[str]]): Images that are left out of
            everything, by reason.
        released_filter (dict): What the filter of the released code says:
            ``applied`` (bool), ``from_epoch``, ``limit``, ``passed`` (how
            many images, for each network, None where no checkpoint is late
            enough) and ``kept`` (likewise, in all networks).
        notes (list[str]): What is odd about this comparison.
        comparable_distances (bool): Whether the weight distances of student
            and baseline are of the same kind.
        image_seed (int, optional): By which the images were drawn, where
            they were.
    """

    networks: dict[str, NetworkResult]
    images: np.ndarray
    masks: np.ndarray
    foreground: Tensor
    names: list[str]
    labels: list[Optional[int]]
    protocol: dict
    image_set: str
    num_images: int
    dropped: dict[str, list[str]]
    released_filter: dict
    notes: list[str]
    comparable_distances: bool = True
    image_seed: Optional[int] = None

    def as_dict(self) -> dict:
        """Collect all figures.

        Returns:
            dict: Numbers, strings, lists and dicts; None where a figure is
            not known. Per checkpoint means over images, then the values of
            each image.
        """
        return dict(
            version=EXPLANATION_VERSION,
            image_set=self.image_set,
            protocol=self.protocol,
            num_images=self.num_images,
            image_seed=self.image_seed,
            num_counted=len(self.names),
            dropped=self.dropped,
            released_filter=self.released_filter,
            notes=self.notes,
            comparable_distances=self.comparable_distances,
            networks={
                name: _network_dict(network)
                for name, network in self.networks.items()
            },
            images=[
                dict(name=name, label=label, foreground_cells=cells)
                for name, label, cells in zip(
                    self.names,
                    self.labels,
                    self.foreground.sum((1, 2)).tolist(),
                    strict=True,
                )
            ],
        )

    def as_csv(self) -> str:
        """Write a line for each image.

        Returns:
            str: Columns ``image``, ``label``, ``foreground_cells``, and for
            each network the counts at its last checkpoint, the epoch and
            the weight distance of most points, rho, and whether the entropy
            met its target.
        """
        columns = dict(
            image=self.names,
            label=['' if x is None else x for x in self.labels],
            foreground_cells=self.foreground.sum((1, 2)).tolist(),
        )
        for name, network in self.networks.items():
            points = network.points
            found = dict(
                n_fg=points.n_fg[-1],
                n_bg=points.n_bg[-1],
                **{'lambda': points.lambda_[-1]},
            )
            if network.speed is not None:
                epochs = torch.tensor(network.epochs)
                found['best_epoch'] = epochs[network.speed.m_hat]
                found['distance'] = network.speed.distances
            if network.stability is not None:
                found['rho'] = network.stability.rho
            found['reached'] = network.reached[-1].int()
            for column, values in found.items():
                columns[f'{name}_{column}'] = values.tolist()
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return buffer.getvalue()


def _number(value: Tensor) -> Optional[float]:
    value = value.item()
    return value if math.isfinite(value) else None


def _numbers(values: Tensor) -> list[Optional[float]]:
    return [_number(value) for value in values]


def _network_dict(network: NetworkResult) -> dict:
    points, speed = network.points, network.speed
    result = dict(
        accuracy=network.accuracy,
        checkpoints=network.checkpoints,
        granularity=network.granularity,
        parameters=network.parameters,
        feature_length=network.feature_length,
        probes=network.probes,
        epochs=network.epochs,
        distances=network.distances,
        n_fg=_numbers(points.mean_n_fg),
        n_bg=_numbers(points.mean_n_bg),
        **{'lambda': _numbers(points.mean_lambda)},
        reference_entropy=_numbers(points.reference.mean(-1)),
        without_energy=network.without_energy,
        target_not_reached=(~network.reached).sum(1).tolist(),
        per_image=dict(
            n_fg=points.n_fg.tolist(),
            n_bg=points.n_bg.tolist(),
        ),
    )
    if speed is not None:
        result.update(
            d_mean=_number(speed.d_mean),
            d_std=_number(speed.d_std),
            d_var=_number(speed.d_var),
        )
        result['per_image'].update(
            best_epoch=[network.epochs[m] for m in speed.m_hat.tolist()],
            distance=speed.distances.tolist(),
        )
    if network.stability is not None:
        stability = network.stability
        result.update(
            rho=_number(stability.mean_rho),
            without_points=int(stability.without_points.sum()),
        )
        result['per_image']['rho'] = stability.rho.tolist()
    return result
