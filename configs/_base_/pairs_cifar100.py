# What the pairs on CIFAR-100 share beyond data and schedule.
_base_ = ['benchmark_cifar100.py']

# The trainer of SDD's repository clips in every method, KD included; that of
# mdistiller, where most of the published KD and DKD rows come from, does not:
# --cfg-options optim_wrapper.clip_grad=None
optim_wrapper = dict(clip_grad=dict(max_norm=40))
