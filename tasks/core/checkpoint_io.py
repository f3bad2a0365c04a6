"""Saving of checkpoints without risk to earlier ones."""

import os
import socket
import uuid
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

__all__ = ["AtomicCheckpointIO"]

_SUFFIX = ".writing"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes local checkpoints to a temporary file in the same folder, syncs it and renames it over the old one.

    If a process is killed during a save, the earlier checkpoint stays complete. The save leaves a `*.writing` file,
    which the next save in that folder removes. The name of such a file says which machine and process writes it, so
    that the files of running processes and of other machines are not removed. Reading accepts only tensors and plain
    values.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint; Lightning writes those whose path has a protocol, such as s3://."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for found in target.parent.glob(f"*{_SUFFIX}"):
            if _is_stale(found):
                found.unlink(missing_ok=True)
        temporary = target.with_name(f"{target.name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{_SUFFIX}")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, never running code from it."""
        return super().load_checkpoint(path, map_location, weights_only=True)


def _host() -> str:
    """The machine's name, in a form for file names."""
    return "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())


def _is_stale(file: Path) -> bool:
    """Whether a temporary file comes from a process on this machine that has ended."""
    parts = file.name.removesuffix(_SUFFIX).split(".")[-3:]
    if len(parts) != 3 or parts[0] != _host() or not parts[1].isdigit() or int(parts[1]) == os.getpid():
        return False
    try:
        os.kill(int(parts[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
