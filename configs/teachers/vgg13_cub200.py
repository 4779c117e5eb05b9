# The teacher: VGG-13 on CUB-200, 70.19 % in SDD, which does not say how it was
# trained: the students' schedule is our inference.
_base_ = ['../_base_/benchmark_cub200.py']

model = dict(**_base_.networks.vgg13, data_preprocessor=_base_.preprocessor)
