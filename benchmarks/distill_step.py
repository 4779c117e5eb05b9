"""A distillation step against its floor: the same networks without us.

The floor is teacher forward, student forward and backward and the optimizer
step, written out in plain PyTorch on the same batch; ours is what mmengine's
loop calls for each batch, preprocessing, recorders, connectors and all losses
of the config included. Both alternate, so that a slow minute of the machine
meets both.

    python benchmarks/distill_step.py --rounds 5
    python benchmarks/distill_step.py --batch 64 \\
        --config configs/sdd_kd_r32x4_r8x4_cifar100.py
"""

import argparse
import copy
import os
import statistics
import time

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

CONFIG = os.path.join(
    os.path.dirname(__file__), '..', 'configs', 'eeikd_r34_r18_cifar100.py'
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    init_default_scope('mmpretrain')
    config = Config.fromfile(args.config)
    teacher = MODELS.build(copy.deepcopy(config.model.teacher))
    config.model.pop('teacher_ckpt')
    config.model.teacher = teacher
    algorithm = MODELS.build(config.model).to(args.device)
    wrapper = build_optim_wrapper(algorithm, config.optim_wrapper)
    algorithm.train()
    # Without a runner, schedules of loss weights ask for it.
    algorithm.distiller.set_progress(epoch=0, iteration=0)
    batch = dict(
        inputs=torch.randint(
            0, 256, (args.batch, 32, 32, 3), dtype=torch.uint8
        ).permute(0, 3, 1, 2),
        sample_idx=torch.arange(args.batch),
        gt_label=torch.arange(args.batch) % 100,
    )

    student = copy.deepcopy(algorithm.student)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    images = algorithm.data_preprocessor(batch, False)['inputs']

    def floor() -> None:
        with torch.no_grad():
            target = teacher(images).softmax(1)
        loss = torch.nn.functional.cross_entropy(student(images), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def ours() -> None:
        algorithm.train_step(batch, wrapper)

    def wait() -> float:
        if args.device != 'cpu':
            torch.cuda.synchronize()
        return time.perf_counter()

    times = {floor: [], ours: []}
    for step in (floor, ours):
        step()
    for _ in range(args.rounds):
        for step, seconds in times.items():
            start = wait()
            step()
            seconds.append(wait() - start)
    low, own = (statistics.median(s) for s in times.values())
    print(
        f'batch {args.batch}, {torch.get_num_threads()} threads, '
        f'{args.device}, torch {torch.__version__}, median of {args.rounds}, '
        f'{os.path.basename(args.config)}'
    )
    print(f'floor  {low:.3f} s')
    print(f'ours   {own:.3f} s')
    print(f'ratio  {own / low:.3f}  (goal: <= 1.05)')


if __name__ == '__main__':
    main()
