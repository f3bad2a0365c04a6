"""The one way from a manifest entry to a verified file: packaged, cached or downloaded.

Environment:

    BLOCKZOO_CACHE            cache folder; default $XDG_CACHE_HOME/blockzoo or ~/.cache/blockzoo
    BLOCKZOO_OFFLINE, HF_HUB_OFFLINE    1: never touch the network
    BLOCKZOO_MIRRORS          addresses separated by ";", tried first, as <mirror>/<first 16 digits of sha256>/<file>
    BLOCKZOO_TIMEOUT          seconds without a byte before a transfer counts as stalled; default 30
    HTTP_PROXY, HTTPS_PROXY, NO_PROXY, HF_ENDPOINT, HF_TOKEN    as usual

A file gets its name only after its size and SHA-256 are checked. Until then it is `<file>.part`, which a later call, in
this process or another, resumes. A lock lets one process fetch while others wait for the same file.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from blockzoo.checkpoints.errors import CheckpointError, ChecksumError, DownloadError, OfflineError
from blockzoo.checkpoints.manifest import Artifact, Source

if TYPE_CHECKING:
    import httpx

__all__ = ["cache_path", "cache_root", "fetch", "is_cached", "is_offline", "verify_file"]

RETRIES = 5
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_MAX_WAIT = 60.0


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """The cache folder: the argument, or the environment's, or the default."""
    if cache_dir is not None:
        return Path(cache_dir)
    if os.environ.get("BLOCKZOO_CACHE"):
        return Path(os.environ["BLOCKZOO_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blockzoo"


def cache_path(artifact: Artifact, cache_dir: str | Path | None = None) -> Path:
    """Where an artifact's file lies in the cache, there or not."""
    return cache_root(cache_dir) / "checkpoints" / artifact.sha256[:16] / artifact.file


def is_offline() -> bool:
    """Whether the environment forbids network access."""
    values = (os.environ.get(name, "") for name in ("BLOCKZOO_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() in ("1", "true", "yes", "on") for value in values)


def is_cached(artifact: Artifact, cache_dir: str | Path | None = None) -> bool:
    """Whether `fetch` would return without a transfer; hashes a file that has changed since it was checked."""
    return _packaged(artifact) is not None or _intact(artifact, cache_path(artifact, cache_dir))


def fetch(artifact: Artifact, cache_dir: str | Path | None = None) -> Path:
    """Get an artifact's file, verified.

    Args:
        artifact: Entry of the manifest.
        cache_dir: Cache folder instead of the default one.

    Returns:
        Path of a file whose size and hash are the manifest's: inside the package, or in the cache.

    Raises:
        ChecksumError: The only bytes to be had are wrong ones; nothing of them stays in the cache.
        OfflineError: The file would have to be downloaded, in offline mode.
        DownloadError: No source delivered; the message lists what each said.
    """
    packaged = _packaged(artifact)
    if packaged is not None:
        verify_file(packaged, artifact)
        return packaged
    path = cache_path(artifact, cache_dir)
    if _intact(artifact, path):
        return path
    sources = [source for source in (*_mirrors(artifact), *artifact.sources) if source.package is None]
    if is_offline():
        places = "; ".join(map(str, sources)) or "nowhere else"
        raise OfflineError(f"{artifact.name} is not cached and offline mode is on; put it at {path} (from {places})")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not _intact(artifact, path):  # another process may have fetched it meanwhile
            _from_any(artifact, sources, path)
    return path


def verify_file(path: Path, artifact: Artifact) -> None:
    """Check a file against the manifest.

    Raises:
        ChecksumError: Size or hash differ; the message names both.
    """
    size = path.stat().st_size
    if size != artifact.size:
        raise ChecksumError(f"{path} has {size} bytes, expected {artifact.size}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != artifact.sha256:
        raise ChecksumError(f"{path} has sha256 {digest.hexdigest()}, expected {artifact.sha256}")


def _packaged(artifact: Artifact) -> Path | None:
    for source in artifact.sources:
        if source.package is not None:
            path = Path(str(files("blockzoo.checkpoints") / source.package))
            if path.is_file():
                return path
    return None


def _mirrors(artifact: Artifact) -> list[Source]:
    bases = [base.strip().rstrip("/") for base in os.environ.get("BLOCKZOO_MIRRORS", "").split(";")]
    return [Source(url=f"{base}/{artifact.sha256[:16]}/{artifact.file}") for base in bases if base]


def _stamp(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _identity(artifact: Artifact, path: Path) -> list[str | int]:
    stat = path.stat()
    return [artifact.sha256, stat.st_size, stat.st_mtime_ns]


def _intact(artifact: Artifact, path: Path) -> bool:
    """Whether the cached file is good; a stamp spares hashing one that has not changed since. A bad one is removed."""
    if not path.is_file():
        return False
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads(_stamp(path).read_text()) == _identity(artifact, path):
            return True
    try:
        verify_file(path, artifact)
    except ChecksumError:
        path.unlink()
        _stamp(path).unlink(missing_ok=True)
        return False
    _stamp(path).write_text(json.dumps(_identity(artifact, path)))
    return True


def _from_any(artifact: Artifact, sources: list[Source], path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    failures: list[tuple[Source, CheckpointError]] = []
    for source in sources:
        try:
            if source.hub_repo:
                _from_hub(source, part)
            else:
                _from_url(str(source.url), artifact, part)
            verify_file(part, artifact)
        except ChecksumError as error:
            part.unlink(missing_ok=True)
            failures.append((source, error))
        except DownloadError as error:
            failures.append((source, error))
        else:
            os.replace(part, path)
            _stamp(path).write_text(json.dumps(_identity(artifact, path)))
            return
    said = "\n".join(f"  {source}: {error}" for source, error in failures) or "  the manifest names no source"
    wrong = [error for _, error in failures if isinstance(error, ChecksumError)]
    kind = ChecksumError if wrong else DownloadError
    raise kind(f"{artifact.name} could not be fetched:\n{said}") from (failures[-1][1] if failures else None)


def _from_hub(source: Source, part: Path) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    folder = part.with_name(f"{part.name}.hub")
    try:
        found = hf_hub_download(
            str(source.hub_repo), str(source.hub_file), revision=source.hub_revision, local_dir=folder
        )
        os.replace(found, part)
    except (EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise DownloadError(f"{type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_url(url: str, artifact: Artifact, part: Path) -> None:
    if urlsplit(url).scheme == "file":
        try:
            shutil.copyfile(url2pathname(urlsplit(url).path), part)
        except OSError as error:
            raise DownloadError(str(error)) from error
        return
    import httpx

    timeout = httpx.Timeout(float(os.environ.get("BLOCKZOO_TIMEOUT", "30")))
    failure = ""
    with httpx.Client(follow_redirects=True, timeout=timeout) as client:
        for attempt in range(RETRIES):
            wait = min(0.25 * 2**attempt, 8.0)
            try:
                with _ranged_get(client, url, part) as response:
                    if response.status_code == 416:  # what is on disk does not fit the file there: start over
                        part.unlink(missing_ok=True)
                        failure = "the server refused to resume"
                        continue
                    if response.status_code in _RETRIED:
                        failure = f"HTTP {response.status_code}"
                        wait = _retry_after(response.headers.get("retry-after"), wait)
                    else:
                        _receive(response, artifact, part)
                        return
            except (httpx.TransportError, _Truncated) as error:
                failure = f"{type(error).__name__}: {error}"
            if attempt + 1 < RETRIES:
                sleep(wait)
    raise DownloadError(f"gave up after {RETRIES} tries: {failure}")


class _Truncated(Exception):
    """Fewer bytes arrived than the file has."""


def _retry_after(header: str | None, default: float) -> float:
    return min(float(header), _MAX_WAIT) if header and header.replace(".", "", 1).isdigit() else default


@contextlib.contextmanager
def _ranged_get(client: "httpx.Client", url: str, part: Path) -> Iterator["httpx.Response"]:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", url, headers=headers) as response:
        yield response


def _receive(response: "httpx.Response", artifact: Artifact, part: Path) -> None:
    """Append a response's body to the partial file, or start it anew when the server sends the whole."""
    if response.status_code not in (200, 206):
        raise DownloadError(f"HTTP {response.status_code}")
    if response.headers.get("content-type", "").startswith("text/html"):
        raise DownloadError("the server sent a web page instead of the file")
    have = part.stat().st_size if part.exists() else 0
    resumed = response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {have}-")
    if response.status_code == 206 and not resumed:
        part.unlink(missing_ok=True)
        raise _Truncated("the server sent another range than asked for")
    received = have if resumed else 0
    with part.open("ab" if resumed else "wb") as file, _progress(artifact, received) as advance:
        for chunk in response.iter_raw():
            file.write(chunk)
            received += len(chunk)
            advance(len(chunk))
            if received > artifact.size:
                break
    if received > artifact.size:
        raise ChecksumError(f"{response.url} is larger than the expected {artifact.size} bytes")
    if received < artifact.size:
        raise _Truncated(f"{received} of {artifact.size} bytes arrived")


@contextlib.contextmanager
def _progress(artifact: Artifact, done: int) -> Iterator[Callable[[int], Any]]:
    """A progress bar on a terminal."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(total=artifact.size, initial=done, desc=artifact.file, unit="B", unit_scale=True, disable=quiet) as bar:
        yield bar.update
