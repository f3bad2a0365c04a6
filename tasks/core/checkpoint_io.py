"""Saving checkpoints so that nothing can damage an earlier one."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

__all__ = ["AtomicCheckpointIO"]

_SUFFIX = ".writing"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes local checkpoints to a temporary file in the same folder, syncs it and renames it over the old one.

    A process that is killed in the middle leaves the earlier checkpoint whole, and a `*.writing` file that the next
    save there removes. Reading accepts nothing but tensors and plain values.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint; paths with a protocol, such as s3://, go Lightning's way."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f"*{_SUFFIX}"):
            stale.unlink(missing_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}{_SUFFIX}")
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
