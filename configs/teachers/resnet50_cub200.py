# The teacher: ResNet-50 on CUB-200, 60.01 % in SDD, which does not say how it
# was trained: the students' schedule is our inference.
_base_ = ['../_base_/benchmark_cub200.py']

model = dict(**_base_.networks.r50, data_preprocessor=_base_.preprocessor)
