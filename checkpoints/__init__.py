"""Manifest of pretrained weights, and the one code path that fetches, verifies and reads them."""

if __name__ != "blockzoo.checkpoints":
    raise ImportError("import this package as blockzoo.checkpoints (pip install -e .)")

import importlib
from typing import TYPE_CHECKING, Any

from blockzoo.checkpoints.cache import cache_path, cache_root
from blockzoo.checkpoints.download import adopt, fetch, is_cached, is_offline
from blockzoo.checkpoints.errors import CheckpointError, ChecksumError, DownloadError, OfflineError
from blockzoo.checkpoints.hub import fetch_hub
from blockzoo.checkpoints.manifest import Artifact, Source, load_manifest, read_card
from blockzoo.checkpoints.verification import verify_file

if TYPE_CHECKING:
    from blockzoo.checkpoints.io import load_state_dict, read_metadata, save_state_dict

__all__ = [
    "Artifact",
    "CheckpointError",
    "ChecksumError",
    "DownloadError",
    "OfflineError",
    "Source",
    "adopt",
    "cache_path",
    "cache_root",
    "fetch",
    "fetch_hub",
    "is_cached",
    "is_offline",
    "load_manifest",
    "load_state_dict",
    "read_card",
    "read_metadata",
    "save_state_dict",
    "verify_file",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name: str) -> Any:
        if name in ("load_state_dict", "read_metadata", "save_state_dict"):  # these need torch, the others do not
            return getattr(importlib.import_module("blockzoo.checkpoints.io"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
