"""CRD against its plain form, forward and backward, on a CIFAR-size set.

The plain form reads the rows of all negatives out of the memories, multiplies
them with the embeddings (``bmm``), takes the exponential, divides by Z and
takes the logarithms, as the formula says; autograd goes back through it. Its
negatives are drawn with ``torch.randint`` from all samples. Ours is a whole
step of the registered loss: hash negatives of other classes, both sides, the
update of the memories. Both have the same embeddings and the same update.
They alternate, so that a slow minute of the machine meets both; on the same
negatives, their values and gradients are compared first.

    OMP_NUM_THREADS=1 python benchmarks/crd_loss.py
    OMP_NUM_THREADS=1 python benchmarks/crd_loss.py --rule

With ``--rule`` it shows, for several sizes of the memory, what the loss costs
with products of all rows, and with the rows of the negatives alone: the loss
takes the former up to a fixed number of rows a negative.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mmkd_plugin.models.losses import CRDLoss, crd_loss

SAMPLES, CLASSES = 50_000, 100
WIDTH_S, WIDTH_T = 64, 256


def plain_side(
    anchors: Tensor, memory: Tensor, index: Tensor, z: Tensor, tau: float
) -> Tensor:
    """Compute one side as it is defined."""
    count, contrasts = index.shape
    rows = memory.index_select(0, index.view(-1)).view(count, contrasts, -1)
    p = torch.exp(torch.bmm(rows, anchors.unsqueeze(2)).squeeze(2) / tau) / z
    noise = (contrasts - 1) / len(memory)
    positive = torch.log(p[:, 0] / (p[:, 0] + noise))
    negative = torch.log(noise / (p[:, 1:] + noise))
    return -(positive.sum() + negative.sum()) / count


def plain_step(loss: CRDLoss, s: Tensor, t: Tensor, index: Tensor) -> Tensor:
    """Compute the loss and update the memories."""
    embedded = [
        torch.nn.functional.normalize(layer(rows))
        for layer, rows in ((loss.embed_S, s), (loss.embed_T, t))
    ]
    memories = loss.memory_S, loss.memory_T
    z = loss.log_z.exp()
    value = plain_side(
        embedded[0], memories[1].rows, index, z[0], loss.tau
    ) + plain_side(embedded[1], memories[0].rows, index, z[1], loss.tau)
    for memory, units in zip(memories, embedded, strict=True):
        memory.write(index[:, 0], units.detach())
    return value


def build(args: argparse.Namespace) -> tuple:
    """Make the loss, in its second step, and a batch."""
    loss = CRDLoss(
        student_channels=WIDTH_S,
        teacher_channels=WIDTH_T,
        num_samples=args.samples,
        num_negatives=args.negatives,
    )
    loss.set_dataset_labels(torch.arange(args.samples) % CLASSES)
    s = torch.randn(args.batch, WIDTH_S, requires_grad=True)
    t = 2 * torch.randn(args.batch, WIDTH_T)
    sample_idx = torch.randperm(args.samples)[: args.batch]
    loss(s, t, sample_idx)
    return loss, s, t, sample_idx


def draw(args: argparse.Namespace, sample_idx: Tensor) -> Tensor:
    """Draw negatives the usual way."""
    index = torch.randint(args.samples, (args.batch, 1 + args.negatives))
    index[:, 0] = sample_idx
    return index


def compare(args: argparse.Namespace) -> None:
    """Check that both forms have one value and one gradient."""
    loss, s, t, sample_idx = build(args)
    index = draw(args, sample_idx)
    found = []
    for form in ('plain', 'ours'):
        units = torch.nn.functional.normalize(loss.embed_S(s))
        others = torch.nn.functional.normalize(loss.embed_T(t))
        memories = loss.memory_S.rows, loss.memory_T.rows
        if form == 'ours':
            value = crd_loss(
                units, others, *memories, index, loss.log_z, loss.tau
            )
        else:
            z = loss.log_z.exp()
            value = plain_side(units, memories[1], index, z[0], loss.tau)
            value = value + plain_side(
                others, memories[0], index, z[1], loss.tau
            )
        weights = loss.embed_S.weight, loss.embed_T.weight
        found.append((value, torch.autograd.grad(value, [s, *weights])))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def measure(step: Callable, student: Tensor) -> float:
    """Time a step, forward and backward."""
    student.grad = None
    start = time.perf_counter()
    step().backward()
    return time.perf_counter() - start


def medians(steps: dict[str, Callable], student: Tensor, count: int) -> list:
    """Time alternately."""
    seconds = {name: [] for name in steps}
    for _ in range(count):
        for name, step in steps.items():
            seconds[name].append(measure(step, student))
    return [1e3 * statistics.median(values) for values in seconds.values()]


def show_rule(args: argparse.Namespace) -> None:
    """Measure both ways to the products."""
    print('samples  negatives  samples/negative   all rows ms   gather ms')
    # Its name in the package is that of the function.
    module = sys.modules[crd_loss.__module__]
    for args.samples in (50_000, 200_000):
        for share in (3, 6, 9, 12, 18, 24, 48):
            args.negatives = args.samples // share
            loss, s, t, sample_idx = build(args)

            def step(most, loss=loss, s=s, t=t, sample_idx=sample_idx):
                module._ALL_ROWS = most
                return loss(s, t, sample_idx)

            every, few = medians(
                dict(every=lambda: step(1e9), few=lambda: step(0)),
                s,
                args.steps,
            )
            print(
                f'{args.samples:7d}  {args.negatives:9d}  {share:16d}   '
                f'{every:11.1f}   {few:9.1f}'
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--samples', type=int, default=SAMPLES)
    parser.add_argument('--negatives', type=int, default=16384)
    parser.add_argument('--steps', type=int, default=7)
    parser.add_argument('--rule', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f'batch {args.batch}, embeddings of 128, 1 thread, torch '
        f'{torch.__version__}, forward + backward, median of {args.steps}'
    )
    if args.rule:
        show_rule(args)
        return
    compare(args)
    loss, s, t, sample_idx = build(args)
    slow, fast = medians(
        dict(
            plain=lambda: plain_step(loss, s, t, draw(args, sample_idx)),
            ours=lambda: loss(s, t, sample_idx),
        ),
        s,
        args.steps,
    )
    print('samples  negatives   plain ms   ours ms   ratio')
    print(
        f'{args.samples:7d}  {args.negatives:9d}   {slow:8.1f}  {fast:8.1f}  '
        f'{slow / fast:6.1f}'
    )


if __name__ == '__main__':
    main()
