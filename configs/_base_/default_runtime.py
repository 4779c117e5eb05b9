# What all runs share.
custom_imports = dict(imports=['mmkd_plugin'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook',
        interval=1,
        max_keep_ckpts=2,
        save_best='accuracy/top1',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='ReseedHook'),
    # What is validated on several GPUs is what is saved.
    dict(type='SyncBuffersHook'),
    dict(type='NonFiniteLossHook'),
    dict(type='EvaluateTeacherHook'),
    dict(type='SelectionReportHook'),
    dict(type='DistillReportHook'),
]

# The terms of a loss are averaged in the log as the loss itself is, and so is
# what MosaicKD says about its images.
log_processor = dict(
    mean_pattern=r'.*(loss|time|data_time|grad_norm|distill|mosaic).*'
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)

randomness = dict(seed=0)
log_level = 'INFO'
load_from = None
resume = False
