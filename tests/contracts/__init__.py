"""What every loss and every connector is put through, and by what.

``test_contract.py`` runs each case here through the contract. A registered
loss or connector without an entry fails there, so a new one is added here:
options, inputs, and a reference in plain loops, written from the formula and
not from the code. Each file is a family, whose entries are its ``LOSSES`` and
``CONNECTORS``; a new file is found by itself.
"""

import importlib
import pkgutil

from contracts.base import ConnectorContract, LossContract


def merged(attribute: str, files: list) -> dict:
    """Merge the entries of several modules.

    Raises:
        ValueError: Two modules have an entry of one name.
    """
    entries, homes = {}, {}
    for file in files:
        for name, contract in getattr(file, attribute, {}).items():
            if name in entries:
                raise ValueError(
                    f'{name} has an entry in {homes[name]} and in '
                    f'{file.__name__}'
                )
            entries[name], homes[name] = contract, file.__name__
    return entries


_files = [
    importlib.import_module(info.name)
    for info in pkgutil.iter_modules(__path__, __name__ + '.')
]
LOSSES: dict[str, LossContract] = merged('LOSSES', _files)
CONNECTORS: dict[str, ConnectorContract] = merged('CONNECTORS', _files)
