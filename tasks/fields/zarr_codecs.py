"""Refuses Zarr stores whose codecs could run code, before anything of them is decoded.

A store names the codecs of each array in its metadata, and numcodecs has one that unpickles. Only codecs that turn
bytes into numbers are allowed here.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["check_codecs", "has_summary"]

MAX_METADATA = 1 << 24
"""The most bytes of one file of metadata."""

ALLOWED = frozenset(
    "adler32 astype bitround blosc bytes bz2 crc32 crc32c delta fixedscaleoffset fletcher32 gzip lz4 lzma packbits "
    "pcodec quantize sharding_indexed shuffle transpose vlen-bytes vlen-utf8 zfpy zlib zstd".split()
)


def check_codecs(path: Path) -> None:
    """Look through the metadata of a Zarr store, version 2 or 3.

    Args:
        path: The store's folder.

    Raises:
        ValueError: A codec is not one of `ALLOWED`, metadata are not readable, or a folder is a link, whose metadata
            is not looked at; the message names the file.
    """
    for home, folders, files in os.walk(path):
        for name in folders:
            if (Path(home) / name).is_symlink():
                raise ValueError(f"{Path(home) / name} is a link; a store must hold its arrays itself")
        for name in sorted({".zarray", ".zgroup", ".zmetadata", "zarr.json"} & set(files)):
            _check_file(Path(home) / name)


def _check_file(file: Path) -> None:
    if file.stat().st_size > MAX_METADATA:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes; metadata have at most {MAX_METADATA:,}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}")
        found = list(_codecs(content))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not metadata of Zarr ({type(error).__name__})") from error
    for codec in found:
        if codec.removeprefix("numcodecs.") not in ALLOWED:
            raise ValueError(
                f"{file} names the codec {codec!r}, which could run code or is not known here; store the array "
                "with one of blosc, gzip, lz4, zlib, zstd"
            )


def has_summary(path: Path) -> bool:
    """Whether a store that `check_codecs` has passed holds a summary of its metadata ("consolidated")."""
    root = path / "zarr.json"
    if root.is_file():
        return bool(json.loads(root.read_text(encoding="utf-8")).get("consolidated_metadata"))
    return (path / ".zmetadata").is_file()


def _codecs(value: Any) -> Iterator[str]:
    """Names of the codecs in metadata, at any depth: of chunks, of shards, of arrays in a summary."""
    if isinstance(value, list):
        for item in value:
            yield from _codecs(item)
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "attributes" and isinstance(value.get("zarr_format"), int):
                continue  # the user's; in a summary of arrays by their names it is an array
            if key in ("compressor", "filters", "codecs", "index_codecs", "object_codec"):
                for codec in item if isinstance(item, list) else [item]:
                    if codec is not None:
                        yield str(codec.get("id", codec.get("name"))) if isinstance(codec, dict) else str(codec)
            yield from _codecs(item)
