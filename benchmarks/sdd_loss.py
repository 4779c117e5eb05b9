"""SDD losses against their plain form, forward and backward.

The plain form follows the definition step by step, with the usual functions:
pool to the 4x4 grid and from that to the coarser ones, concatenate, bring the
regions into the batch, softmax and log-softmax of every region, four masks
for what is right globally and locally. It is batched over the regions, as the
published code is; a loop over the regions would be slower. Both alternate, so
that a slow minute of the machine meets both, and their values are compared
first.

    OMP_NUM_THREADS=1 python benchmarks/sdd_loss.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models import SDDLoss

TAU, BETA, GAMMA = 4.0, 8.0, 1.5
OURS = dict(
    KD=dict(type='KLDivergence', tau=TAU),
    DKD=dict(type='DKDLoss', beta=BETA, tau=TAU),
    NKD=dict(type='NKDLoss', gamma=GAMMA, tau=TAU),
)
# What a vectorised form had reached over the published code, by map size.
GOALS = {('KD', 8): 2.5, ('DKD', 8): 2.2, ('KD', 4): 4.9, ('DKD', 4): 2.9}
# The least of these where no figure is known.
LEAST = 2.2


def plain_regions(maps: Tensor) -> Tensor:
    """Pool and concatenate, ``(B, K, H, W)`` to ``(B, K, 21)``."""
    fine = F.adaptive_avg_pool2d(maps, 4)
    grids = [F.adaptive_avg_pool2d(fine, size) for size in (1, 2)]
    return torch.cat([g.flatten(2) for g in (*grids, fine)], dim=2)


def plain_kd(s: Tensor, t: Tensor, onehot: Tensor) -> Tensor:
    """Compute the KL divergence of every region."""
    loss = F.kl_div(
        F.log_softmax(s / TAU, 1), F.softmax(t / TAU, 1), reduction='none'
    )
    return TAU**2 * loss.sum(1)


def plain_dkd(s: Tensor, t: Tensor, onehot: Tensor) -> Tensor:
    """Compute DKD of every region."""
    p_s, p_t = F.softmax(s / TAU, 1), F.softmax(t / TAU, 1)
    binary = [
        torch.stack([(p * onehot).sum(1), (p * (1 - onehot)).sum(1)], 1)
        for p in (p_s, p_t)
    ]
    tckd = F.kl_div(binary[0].log(), binary[1], reduction='none').sum(1)
    nckd = F.kl_div(
        F.log_softmax(s / TAU - 1000 * onehot, 1),
        F.softmax(t / TAU - 1000 * onehot, 1),
        reduction='none',
    ).sum(1)
    return TAU**2 * (tckd + BETA * nckd)


def plain_nkd(s: Tensor, t: Tensor, onehot: Tensor) -> Tensor:
    """Compute NKD of every region."""
    target = -(F.softmax(t, 1) * onehot).sum(1)
    target = target * (F.log_softmax(s, 1) * onehot).sum(1)
    others = onehot == 0
    rest_s = s[others].view(len(s), -1)
    rest_t = t[others].view(len(t), -1)
    rest = F.softmax(rest_t / TAU, 1) * F.log_softmax(rest_s / TAU, 1)
    return target - GAMMA * TAU**2 * rest.sum(1)


PLAIN = dict(KD=plain_kd, DKD=plain_dkd, NKD=plain_nkd)


def plain_sdd(
    base: Callable, maps_s: Tensor, maps_t: Tensor, labels: Tensor
) -> Tensor:
    """Compute the loss as it is defined."""
    classes = maps_s.shape[1]
    regions_s, regions_t = plain_regions(maps_s), plain_regions(maps_t)
    count = regions_s.shape[2]
    s = regions_s.permute(2, 0, 1).reshape(-1, classes)
    t = regions_t.permute(2, 0, 1).reshape(-1, classes)
    repeated = labels.repeat(count)
    losses = base(s, t, F.one_hot(repeated, classes).to(s.dtype))
    local = t.argmax(1) == repeated
    whole = (t[: len(labels)].argmax(1) == labels).repeat(count)
    consistent = (whole & local) | (~whole & ~local)
    complementary = (whole & ~local) | (~whole & local)
    total = (losses * consistent).sum() + 2 * (losses * complementary).sum()
    return total / len(s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--classes', type=int, default=100)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--steps', type=int, default=40, help='in a round')
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f'batch {args.batch}, {args.classes} classes, scales (1, 2, 4), 1 '
        f'thread, torch {torch.__version__}, forward + backward, median of '
        f'{args.rounds} x {args.steps}'
    )
    print('loss      map   plain ms   ours ms   ratio   goal')
    shape = (args.batch, args.classes)
    for size in (8, 4):
        student = torch.randn(*shape, size, size, requires_grad=True)
        teacher = 2 * torch.randn(*shape, size, size)
        labels = torch.randint(args.classes, (args.batch,))
        for name, options in OURS.items():
            inputs = student, teacher, labels
            plain = partial(plain_sdd, PLAIN[name], *inputs)
            ours = partial(SDDLoss(base_loss=options), *inputs)
            torch.testing.assert_close(ours(), plain(), rtol=1e-5, atol=0)
            times = {plain: [], ours: []}
            for _ in range(args.rounds):
                for function, medians in times.items():
                    medians.append(_median(function, student, args.steps))
            slow, fast = (1e3 * statistics.median(v) for v in times.values())
            goal = GOALS.get((name, size), LEAST)
            print(
                f'SDD-{name:<4}  {size}x{size}   {slow:8.2f}  {fast:8.2f}  '
                f'{slow / fast:6.2f}   {goal:.1f}'
            )


def _median(function: Callable, student: Tensor, steps: int) -> float:
    seconds = []
    for _ in range(steps):
        student.grad = None
        start = time.perf_counter()
        function().backward()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == '__main__':
    main()
