"""Refuses Zarr stores whose codecs could run code, before anything of them is decoded.

A store names the codecs of each array in its metadata, and numcodecs has one that unpickles. Only codecs that turn
bytes into numbers are allowed here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["check_codecs"]

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
        ValueError: A codec is not one of `ALLOWED`, or metadata are not readable; the message names the file.
    """
    for name in (".zarray", ".zmetadata", "zarr.json"):
        for file in sorted(path.rglob(name)):
            if file.stat().st_size > MAX_METADATA:
                raise ValueError(f"{file} has {file.stat().st_size:,} bytes; metadata have at most {MAX_METADATA:,}")
            try:
                found = list(_codecs(json.loads(file.read_text(encoding="utf-8"))))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file} is not metadata of Zarr ({type(error).__name__})") from error
            for codec in found:
                if codec.removeprefix("numcodecs.") not in ALLOWED:
                    raise ValueError(
                        f"{file} names the codec {codec!r}, which could run code or is not known here; store the array "
                        "with one of blosc, gzip, lz4, zlib, zstd"
                    )


def _codecs(value: Any) -> Iterator[str]:
    """Names of the codecs in metadata, at any depth: of chunks, of shards, of arrays in a summary."""
    if isinstance(value, list):
        for item in value:
            yield from _codecs(item)
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "attributes":
                continue
            if key in ("compressor", "filters", "codecs", "index_codecs", "object_codec"):
                for codec in item if isinstance(item, list) else [item]:
                    if codec is not None:
                        yield str(codec.get("id", codec.get("name"))) if isinstance(codec, dict) else str(codec)
            yield from _codecs(item)
