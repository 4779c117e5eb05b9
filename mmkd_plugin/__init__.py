"""Knowledge distillation for the OpenMMLab stack.

``custom_imports = dict(imports=['mmkd_plugin'])`` in an mmengine config makes
every component available under its bare name: all of them are registered in
mmengine's root registries, which every default scope falls back to.
"""

from .utils.host import check_host, import_silently
from .version import __version__

check_host()
import_silently('mmpretrain.datasets')

from . import datasets, engine, models  # noqa: E402

__all__ = ['__version__', 'datasets', 'engine', 'models']
