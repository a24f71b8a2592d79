"""What is compared: one file a method, importing only `fsar_bench`. Every module of this folder registers itself here."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
