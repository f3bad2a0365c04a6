"""Turns a manifest entry into a verified file: packaged, cached or downloaded.

Environment:

    BLOCKZOO_CACHE            cache folder; default $XDG_CACHE_HOME/blockzoo or ~/.cache/blockzoo
    BLOCKZOO_OFFLINE, HF_HUB_OFFLINE    1: never touch the network
    BLOCKZOO_MIRRORS          addresses separated by ";", tried first, as <mirror>/<first 16 digits of sha256>/<file>;
                              a copy of a cache's `checkpoints` folder is such a mirror, also as file:///that/folder
    BLOCKZOO_TIMEOUT          seconds without a byte before a transfer counts as stalled; default 30
    HTTP_PROXY, HTTPS_PROXY, NO_PROXY, HF_ENDPOINT, HF_TOKEN    as usual

Some official weights have no published hash. That of the first download is written to `published.lock.json` in the
cache folder, and every later download must match it; eight digits at the end of a file's name, as PyTorch's hub has
them, are checked against the hash the first time too. `blockzoo convert` adopts a file that was fetched by hand: it
puts the converted file beside it, and the record names both.

`fetch` looks in this order, and stops at the first file that is intact:

1. what `blockzoo convert` adopted (`_adopted`),
2. the package (`_packaged`),
3. the cache (`blockzoo.checkpoints.cache` says where, `verification` whether it is good),
4. mirrors, then the manifest's sources (`_from_any`, whose bytes `blockzoo.checkpoints.transfer` moves).

A file gets its name only after its size and SHA-256 are checked. Until then it is `<file>.part`, which a later call, in
this process or another, resumes. A lock lets one process fetch while others wait for the same file.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

from blockzoo.checkpoints.cache import cache_path, cache_root, record, recorded_entry, with_recorded_hash
from blockzoo.checkpoints.errors import CheckpointError, ChecksumError, DownloadError, OfflineError
from blockzoo.checkpoints.manifest import Artifact, Source
from blockzoo.checkpoints.transfer import transfer
from blockzoo.checkpoints.verification import (
    digest_of,
    file_text,
    is_intact,
    refuse_text,
    set_stamp,
    stamp_of,
    stated_digest,
    verify_file,
)

__all__ = ["adopt", "fetch", "is_cached", "is_offline"]

_Failures = list[tuple[Source, CheckpointError]]


def fetch(artifact: Artifact, cache_dir: str | Path | None = None) -> Path:
    """Get an artifact's file, verified.

    Args:
        artifact: Entry of the manifest.
        cache_dir: Cache folder instead of the default one.

    Returns:
        Path of a file whose size and hash are the manifest's: inside the package, or in the cache.

    Raises:
        ChecksumError: Every available file has wrong bytes; none of them stays in the cache.
        OfflineError: The file would have to be downloaded, in offline mode.
        DownloadError: No source delivered; the message lists what each said, and for official weights how to fetch
            them by hand.
    """
    adopted = _adopted(artifact, cache_dir)
    if adopted is not None:
        return adopted
    artifact = with_recorded_hash(artifact, cache_dir)
    packaged, failures = _packaged(artifact)
    if packaged is not None:
        return packaged
    path = cache_path(artifact, cache_dir)
    if is_intact(artifact, path):
        return path
    if artifact.sha256 is None and path.is_file():  # put there by the user, as the offline message asks
        with FileLock(f"{path}.lock"):
            return _place_first(artifact, path, cache_dir)
    sources = [source for source in (*_mirrors(artifact), *artifact.sources) if source.package is None]
    if not sources:
        raise _failure(artifact, failures)
    if is_offline():
        state = "damaged in the cache" if path.exists() else "not cached"
        places = "; ".join(map(str, sources))
        raise OfflineError(
            f"{artifact.name} is {state} and offline mode is on; put it at {path} (from {places}){_by_hand(artifact)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        artifact = with_recorded_hash(artifact, cache_dir)
        path = cache_path(artifact, cache_dir)
        if not is_intact(artifact, path):  # another process may have fetched it meanwhile
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            _from_any(artifact, sources, path, failures)
        return path if artifact.sha256 else _place_first(artifact, path, cache_dir)


def is_cached(artifact: Artifact, cache_dir: str | Path | None = None) -> bool:
    """Whether `fetch` would return without a transfer; hashes a file that has changed since it was checked."""
    if _adopted(artifact, cache_dir) is not None:
        return True
    artifact = with_recorded_hash(artifact, cache_dir)
    if artifact.sha256 is None:
        return False
    return _packaged(artifact)[0] is not None or is_intact(artifact, cache_path(artifact, cache_dir))


def is_offline() -> bool:
    """Whether the environment forbids network access."""
    values = (os.environ.get(name, "") for name in ("BLOCKZOO_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() in ("1", "true", "yes", "on") for value in values)


def _packaged(artifact: Artifact) -> tuple[Path | None, _Failures]:
    """The artifact's intact file inside this package, or what is wrong with each candidate."""
    failures: _Failures = []
    for source in artifact.sources:
        if source.package is None:
            continue
        path = Path(str(files("blockzoo.checkpoints") / source.package))
        try:
            verify_file(path, artifact)
        except ChecksumError as error:
            failures.append((source, error))
        except FileNotFoundError:
            failures.append((source, DownloadError("not in this installation")))
        else:
            return path, []
    return None, failures


def _mirrors(artifact: Artifact) -> list[Source]:
    bases = [base.strip().rstrip("/") for base in os.environ.get("BLOCKZOO_MIRRORS", "").split(";")]
    if artifact.sha256 is None:
        return []
    return [Source(url=f"{base}/{artifact.sha256[:16]}/{artifact.file}") for base in bases if base]


def _from_any(artifact: Artifact, sources: list[Source], path: Path, failures: _Failures) -> None:
    """Put the artifact at `path` from the first source that has it."""
    part = path.with_name(f"{path.name}.part")
    for source in sources:
        try:
            _from_one(artifact, source, part)
        except (ChecksumError, DownloadError) as error:
            failures.append((source, error))
        else:
            os.replace(part, path)
            set_stamp(artifact, path)
            return
    raise _failure(artifact, failures)


def _from_one(artifact: Artifact, source: Source, part: Path) -> None:
    """Fill the partial file from one source and check it. A wrong one is removed."""
    leftover = part.exists()
    try:
        transfer(source, artifact, part)
        what = file_text(part)
        if what is not None:
            part.unlink()
            if not leftover:
                raise DownloadError(f"the server sent {what} instead of the file")
            return _from_one(artifact, source, part)
        verify_file(part, artifact)
    except ChecksumError:
        part.unlink(missing_ok=True)
        if not leftover:
            raise
    else:
        return
    _from_one(artifact, source, part)  # the wrong bytes may be those left by an earlier transfer: once more without


def _failure(artifact: Artifact, failures: _Failures) -> CheckpointError:
    """The error that tells what each source said; of the checksum kind, and caused by that one, if any of them is."""
    said = "\n".join(f"  {source}: {error}" for source, error in failures)
    errors = [error for _, error in failures] or [DownloadError("the manifest names no source")]
    cause = next((error for error in errors if isinstance(error, ChecksumError)), errors[-1])
    failure = type(cause)(f"{artifact.name} could not be fetched:\n{said or cause}{_by_hand(artifact)}")
    failure.__cause__ = cause
    return failure


def _by_hand(artifact: Artifact) -> str:
    """How to get official weights by hand if the sources fail, for the end of an error message."""
    if artifact.origin != "official":
        return ""
    pages = [str(source.url) for source in artifact.sources if source.url]
    pages += [f"https://huggingface.co/{source.hub_repo}" for source in artifact.sources if source.hub_repo]
    return (
        f"\nTo fetch it by hand: open {pages[0] if pages else 'its source'} in a browser, save {artifact.file}, run\n"
        f"  blockzoo convert {artifact.file} --as {artifact.name}"
    )


def _place_first(artifact: Artifact, path: Path, cache_dir: str | Path | None) -> Path:
    """Record the hash of a first download, and give the file its place."""
    try:
        refuse_text(path)
        digest = stated_digest(artifact, path)
        _read_whole(path)
    except CheckpointError:
        path.unlink()
        raise
    record(artifact, {"sha256": digest, "size": path.stat().st_size}, cache_dir)
    final = cache_path(artifact, cache_dir)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, final)
    stamp_of(path).unlink(missing_ok=True)
    return final


def _read_whole(path: Path) -> None:
    """Read the whole file as weights, so that nothing else is ever recorded as the published one."""
    from blockzoo.checkpoints.io import load_state_dict  # which needs torch

    load_state_dict(path)


def adopt(
    artifact: Artifact, original: Path, write: Callable[[Path], None], cache_dir: str | Path | None = None
) -> Path:
    """Convert a file that a user fetched by hand, and put the result into the cache, where `fetch` finds it.

    Args:
        artifact: Official weights of the manifest.
        original: The file as published. Its hash is recorded, or must be the one that was recorded or is published.
        write: Writes the weights as safetensors to the path that it is given.
        cache_dir: Cache folder instead of the default one.

    Returns:
        Path of the adopted file.

    Raises:
        ChecksumError: The original is not the file that was published, or that an earlier download recorded.
        CheckpointError: It is text, for example a web page.
    """
    refuse_text(original)
    locked = with_recorded_hash(artifact, cache_dir)
    verify_file(original, locked)
    digest = stated_digest(artifact, original)
    folder = cache_root(cache_dir) / "checkpoints" / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{artifact.name}.safetensors"
    with FileLock(f"{path}.lock"):
        part = path.with_name(f"{path.name}.part")
        try:
            write(part)
            made = {"file": path.name, "sha256": digest_of(part), "size": part.stat().st_size}
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        record(artifact, {"sha256": digest, "size": original.stat().st_size, "adopted": made}, cache_dir)
        stamp_of(path).unlink(missing_ok=True)
    return path


def _adopted(artifact: Artifact, cache_dir: str | Path | None) -> Path | None:
    """The intact file that `adopt` put into the cache, if there is one."""
    entry = recorded_entry(artifact, cache_dir)
    made = entry.get("adopted")
    if made is None:
        return None
    path = cache_root(cache_dir) / "checkpoints" / entry["sha256"][:16] / made["file"]
    return path if is_intact(replace(artifact, sha256=made["sha256"], size=made["size"]), path) else None
