"""Which distributions provide mmengine, mmcv and mmpretrain."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import warnings

ENGINES = ('mmengine', 'mmcv', 'mmpretrain')
INSTALL_HINT = (
    'Install exactly one family of the OpenMMLab packages: '
    "`pip install 'mmkd_plugin[onedl]'` (recommended) or "
    "`pip install 'mmkd_plugin[openmmlab]'`."
)


def _is_distributed_as(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_host() -> None:
    """Check that one family of OpenMMLab distributions is installed.

    ``onedl-mmengine`` and ``mmengine`` provide the same import name. Where
    both are installed, one has overwritten files of the other, and
    uninstalling either breaks both.

    Raises:
        ImportError: If mmengine, mmcv or mmpretrain cannot be imported.
            The message names the two extras that provide them.
    """
    missing = [m for m in ENGINES if importlib.util.find_spec(m) is None]
    if missing:
        raise ImportError(
            f'mmkd_plugin needs {", ".join(missing)}. {INSTALL_HINT}'
        )
    for name in ENGINES:
        upstream = ['mmcv', 'mmcv-lite'] if name == 'mmcv' else [name]
        both = [d for d in upstream if _is_distributed_as(d)]
        if both and _is_distributed_as(f'onedl-{name}'):
            warnings.warn(
                f'Both onedl-{name} and {both[0]} are installed. They '
                f'overwrite each other: uninstall both, then install one '
                f'again. {INSTALL_HINT}',
                stacklevel=3,
            )


def import_silently(name: str) -> None:
    """Import a module that has something to say on the standard output.

    Args:
        name (str): Its name. ``mmpretrain.datasets`` prints a remark for
            debugging, which would get into what a program prints.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(name)
