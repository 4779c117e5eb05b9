"""Several processes on machines without an accelerator."""

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device


def prepare_distributed(config: Config) -> None:
    """Let a distributed run work where there is no accelerator.

    mmengine's own start of a process group picks a CUDA device, and its DDP
    wrapper names one. Where there is none, the group is started here, with
    gloo, and the wrapper is told that there is no device. With an accelerator
    or without a launcher nothing is done.

    Args:
        config (Config): The config of a run; ``launcher`` is read and
            ``model_wrapper_cfg`` set.

    Raises:
        ValueError: If the launcher is not ``'pytorch'`` on such a machine.
    """
    launcher = config.get('launcher', 'none')
    if launcher == 'none' or get_device() != 'cpu':
        return
    if launcher != 'pytorch':
        raise ValueError(
            f'without an accelerator only launcher="pytorch" works, but got '
            f'{launcher!r}'
        )
    if not dist.is_initialized():
        dist.init_process_group('gloo')
    wrapper = config.get('model_wrapper_cfg') or {}
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    wrapper.setdefault('broadcast_buffers', False)
    wrapper['device_ids'] = None
    config.model_wrapper_cfg = wrapper


def end_distributed() -> None:
    """End the process group, if there is one, when all ranks are done.

    A process that ends while the threads of its group still run can abort,
    which would make a finished run look like a failed one.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
