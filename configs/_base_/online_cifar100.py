# What students that are trained together on CIFAR-100 share beyond data and
# schedule: an optimizer each, and a validation each.
_base_ = ['benchmark_cifar100.py']

optim_wrapper = dict(constructor='PerStudentOptimWrapperConstructor')
val_cfg = dict(type='StudentsValLoop')
test_cfg = dict(type='StudentsTestLoop')
