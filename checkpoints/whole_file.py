"""Writing a file completely or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["replacing"]


def replacing(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    An earlier file stays until the new one is complete. Several processes may write at once; the last one wins.

    Args:
        path: The file.
        write: Writes the file at the path that it is given.
    """
    path = Path(path)
    number, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(number)
    temporary = Path(name)
    try:
        write(temporary)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(path.stat().st_mode if path.exists() else 0o666 & ~mask)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
