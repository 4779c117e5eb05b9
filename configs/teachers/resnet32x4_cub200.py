# The teacher: ResNet-32x4 on CUB-200, 66.17 % in SDD, which does not say how
# it was trained: the students' schedule is our inference.
_base_ = ['../_base_/benchmark_cub200.py']

model = dict(**_base_.networks.r32x4, data_preprocessor=_base_.preprocessor)
