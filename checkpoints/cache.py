"""Where downloads lie, and the record of hashes that nobody has published.

<cache folder>/checkpoints/<first 16 digits of sha256>/<file>     a file whose hash is known
<cache folder>/checkpoints/published-<name>/<file>                one whose hash is not known yet
<cache folder>/published.lock.json                                by name, what the first download of one was
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from blockzoo.checkpoints.errors import CheckpointError
from blockzoo.checkpoints.manifest import Artifact
from blockzoo.checkpoints.whole_file import replacing

__all__ = ["cache_path", "cache_root", "record", "recorded_entry", "with_recorded_hash"]

LOCK_FILE = "published.lock.json"


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """The cache folder: the argument, or the environment's, or the default."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("BLOCKZOO_CACHE"):
        return Path(os.environ["BLOCKZOO_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blockzoo"


def cache_path(artifact: Artifact, cache_dir: str | Path | None = None) -> Path:
    """Where an artifact's file lies in the cache, there or not."""
    artifact = with_recorded_hash(artifact, cache_dir)
    folder = artifact.sha256[:16] if artifact.sha256 else f"published-{artifact.name}"
    return cache_root(cache_dir) / "checkpoints" / folder / artifact.file


def with_recorded_hash(artifact: Artifact, cache_dir: str | Path | None) -> Artifact:
    """The artifact with the hash that its first download had, where the manifest has none."""
    if artifact.sha256 is not None:
        return artifact
    entry = recorded_entry(artifact, cache_dir)
    return replace(artifact, sha256=entry["sha256"], size=entry["size"]) if entry else artifact


def recorded_entry(artifact: Artifact, cache_dir: str | Path | None) -> dict[str, Any]:
    """What the lock file says about an artifact; empty when it says nothing."""
    file = cache_root(cache_dir) / LOCK_FILE
    if artifact.origin != "official" or not file.is_file():
        return {}
    try:
        entry = json.loads(file.read_text(encoding="utf-8")).get(artifact.name, {})
        made = entry.get("adopted") or {"file": "", "sha256": "", "size": 0}
        for part, keys in ((entry, ("sha256", "size")), (made, ("file", "sha256", "size"))):
            for key in keys if part else ():
                part[key]
        return dict(entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); delete it to record hashes anew") from error


def record(artifact: Artifact, entry: dict[str, Any], cache_dir: str | Path | None) -> None:
    """Write an artifact's entry into the lock file: "sha256", "size", and "adopted" for what was made of the file."""
    root = cache_root(cache_dir)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(root / f"{LOCK_FILE}.lock")):
        file = root / LOCK_FILE
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        known[artifact.name] = entry
        text = json.dumps(known, indent=2) + "\n"
        replacing(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
