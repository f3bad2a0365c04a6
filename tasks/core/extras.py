"""Optional packages: importing one when it is needed, and the error when it is not installed."""

import importlib
from typing import Any

__all__ = ["MissingPackageError", "needs"]


class MissingPackageError(ImportError, ValueError):
    """A request needs a package that is not installed; the message says how to install it.

    It is a `ValueError` too, so that commands print only the message, as for any other request that they refuse.
    """


def needs(package: str, extra: str, what: str) -> Any:
    """Import an optional package.

    Args:
        package: The module's name, for example "h5py" or "ase.io".
        extra: The extra of blockzoo that installs it.
        what: What needs it, the subject of the message: a file, a format, a command.

    Returns:
        The module of that name.

    Raises:
        MissingPackageError: The package is not installed.
        ImportError: It is installed, but something that it imports itself is missing.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        raise MissingPackageError(
            f"{what} needs {package.partition('.')[0]}: pip install 'blockzoo[{extra}]'"
        ) from error
