"""Whether a file is what it should be: its size and hash, and that it is no web page in the place of weights.

Hashing gigabytes takes seconds, so a file that was found good gets a stamp beside it, `<file>.verified`, with the hash,
size and time of change for which that holds. A file that has changed since is hashed again.
"""

import contextlib
import hashlib
import json
import re
from pathlib import Path

from blockzoo.checkpoints.errors import ChecksumError, DownloadError
from blockzoo.checkpoints.manifest import Artifact
from blockzoo.checkpoints.whole_file import replacing

__all__ = [
    "digest_of",
    "file_text",
    "is_intact",
    "is_web_page",
    "refuse_text",
    "set_stamp",
    "stamp_of",
    "stated_digest",
    "verify_file",
]


def verify_file(path: Path, artifact: Artifact) -> None:
    """Check a file against the manifest.

    Raises:
        ChecksumError: Size or hash differ; the message names both.
    """
    size = path.stat().st_size
    if artifact.sha256 is None:
        return
    if size != artifact.size:
        raise ChecksumError(f"{path} has {size} bytes, expected {artifact.size}")
    digest = digest_of(path)
    if digest != artifact.sha256:
        raise ChecksumError(f"{path} has sha256 {digest}, expected {artifact.sha256}")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def stated_digest(artifact: Artifact, path: Path) -> str:
    """The hash of a file, which must begin as the artifact's file name says, if that ends in eight digits."""
    digest, stated = digest_of(path), re.search(r"-([0-9a-f]{8})\.\w+$", artifact.file)
    if stated and not digest.startswith(stated[1]):
        raise ChecksumError(f"{artifact.name}: the file has sha256 {digest}, its name says {stated[1]}..")
    return digest


def is_intact(artifact: Artifact, path: Path) -> bool:
    """Whether the cached file is good; a stamp spares hashing one that has not changed since."""
    if artifact.sha256 is None:
        return False
    try:
        identity = _identity(artifact, path)
        with contextlib.suppress(OSError):
            if stamp_of(path).read_text(encoding="utf-8") == identity:
                return True
        verify_file(path, artifact)
    except (FileNotFoundError, ChecksumError):
        return False
    with contextlib.suppress(OSError):  # a shared cache may be read-only: then the file is hashed each time
        set_stamp(artifact, path)
    return True


def stamp_of(path: Path) -> Path:
    """Where the stamp of a file lies, there or not."""
    return path.with_name(f"{path.name}.verified")


def set_stamp(artifact: Artifact, path: Path) -> None:
    """Note that a file has just been verified."""
    identity = _identity(artifact, path)
    replacing(stamp_of(path), lambda temporary: temporary.write_text(identity, encoding="utf-8"))


def _identity(artifact: Artifact, path: Path) -> str:
    stat = path.stat()
    return json.dumps([artifact.sha256, stat.st_size, stat.st_mtime_ns])


def file_text(path: Path) -> str | None:
    """What a file is that holds text where weights should be; None for anything that may be weights."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[8:9] == b"{" and head[4:8] == bytes(4):  # a safetensors file: the length of its header comes first
        return None
    if is_web_page(head):
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    printable = head and all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    with contextlib.suppress(UnicodeDecodeError):
        return f"text ({head[:60].decode(errors='strict')!r}..)" if printable and head.decode() else None
    return None


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins like this is a web page."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?xml", b"<!--"))


def refuse_text(path: Path) -> None:
    """Refuse a file that holds text where weights should be.

    Raises:
        DownloadError: It does; the message says what it is.
    """
    what = file_text(path)
    if what is not None:
        raise DownloadError(f"{path.name} is {what} instead of the file")
