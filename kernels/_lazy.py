"""Names that a package offers from its files, each imported when one of its names is first used."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

__all__ = ["offer"]


def offer(
    package: str, files: Mapping[str, tuple[str, ...]]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Make the public names of a package's files importable from the package.

    A file may have the same name as a function in it. The package then keeps the function under that name, although the
    import system would put the file there.

    Args:
        package: The package's `__name__`.
        files: Public names by file; files are relative to the package.

    Returns:
        The package's `__all__`, `__getattr__` and `__dir__`.
    """
    homes = {name: file for file, names in files.items() for name in names}
    module = sys.modules[package]

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if not (isinstance(value, ModuleType) and name in homes):
                super().__setattr__(name, value)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(module, name, value)
        return value

    module.__class__ = Package
    return sorted(homes), get, lambda: sorted({*vars(module), *homes})
