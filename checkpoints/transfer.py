"""Transfer of a file from one source into a partial file, with retries and resuming."""

import contextlib
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from blockzoo.checkpoints.errors import ChecksumError, DownloadError
from blockzoo.checkpoints.manifest import Artifact, Source
from blockzoo.checkpoints.verification import is_web_page

if TYPE_CHECKING:
    import httpx
    from tqdm import tqdm

__all__ = ["bounded_progress", "transfer"]

TRIES = 5
UNSTATED_LIMIT = 8 << 30
"""Largest file in bytes that is taken from a server when nobody has published its size."""
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_MAX_WAIT = 60.0
_RANGE = r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)"


def transfer(source: Source, artifact: Artifact, part: Path) -> None:
    """Fill a partial file from one source; the caller checks its hash.

    Args:
        source: Where to get the bytes, not a packaged one.
        artifact: The artifact that the bytes belong to.
        part: The partial file. If the source can resume, its content is taken as the beginning of the artifact.

    Raises:
        ChecksumError: The source has a file of another size.
        DownloadError: The source did not deliver. What arrived stays in `part` for another try.
    """
    if source.hub_repo is not None:
        return _from_hub(source, artifact, part)
    url = str(source.url)
    scheme = url.partition(":")[0].lower()
    if scheme == "file":
        return _from_file(url, part)
    if scheme in ("http", "https"):
        return _from_web(url, artifact, part)
    raise DownloadError("not an http, https or file address")


def _from_file(url: str, part: Path) -> None:
    try:
        shutil.copyfile(url2pathname(urlsplit(url).path), part)
    except (OSError, ValueError) as error:
        raise DownloadError(f"{type(error).__name__}: {error}") from error


def _from_hub(source: Source, artifact: Artifact, part: Path) -> None:
    from huggingface_hub import hf_hub_download

    folder = part.with_name(f"{part.name}.hub")
    try:
        found = hf_hub_download(
            str(source.hub_repo),
            str(source.hub_file),
            revision=source.hub_revision,
            local_dir=folder,
            tqdm_class=bounded_progress(artifact.size or UNSTATED_LIMIT),
        )
        os.replace(found, part)
    except DownloadError:
        raise
    except Exception as error:  # beside its own errors the hub raises those of whichever transport it uses
        raise DownloadError(f"{type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bounded_progress(limit: int) -> type["tqdm[Any]"]:
    """A progress bar for the hub's client that stops a transfer at a limit of bytes.

    The client trusts the file length that the server states. Only its progress bar learns how many bytes have arrived.

    Args:
        limit: Largest number of bytes.
    """
    from huggingface_hub.utils import tqdm as hub_tqdm

    class Bounded(hub_tqdm):
        arrived = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.arrived += int(n or 0)
            if self.arrived > limit:
                raise DownloadError(f"the file there is larger than the {limit:,} bytes that are taken")
            return bool(super().update(n))

    return Bounded


class _Passing(Exception):
    """An error that may be temporary; `wait` is the pause in seconds that the server asks for."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


def _from_web(url: str, artifact: Artifact, part: Path) -> None:
    """Get a file over http, resuming until it is complete or `TRIES` tries in a row bring nothing new."""
    import httpx

    if artifact.sha256 is None:
        # Nothing says which version of the file the bytes of an earlier call are from.
        part.unlink(missing_ok=True)
    tries, longest, version = 0, _size(part), _Version()
    with httpx.Client(follow_redirects=True, timeout=_timeout()) as client:
        while True:
            try:
                return _get(client, url, artifact, part, version)
            except (httpx.InvalidURL, httpx.TooManyRedirects, httpx.UnsupportedProtocol) as error:
                raise DownloadError(f"{type(error).__name__}: {error}") from error
            except (httpx.TransportError, _Passing) as error:
                failure = error
            tries = 1 if _size(part) > longest else tries + 1
            longest = max(longest, _size(part))
            if tries == TRIES:
                kind = "" if isinstance(failure, _Passing) else f"{type(failure).__name__}: "
                raise DownloadError(f"gave up after {TRIES} tries: {kind}{failure}") from failure
            sleep(max(min(0.25 * 2**tries, 8.0), getattr(failure, "wait", 0.0)))


class _Version:
    """The version of a file that a server sends: its strong entity tag, or its date, and its length."""

    def __init__(self) -> None:
        self.tag = self.date = self.total = ""

    @property
    def condition(self) -> str:
        """The value of `If-Range`; empty if the server sends nothing that identifies a version."""
        return self.tag or self.date

    def start(self, response: "httpx.Response", total: str) -> None:
        """Note the version of a whole file."""
        tag = response.headers.get("etag", "")
        self.tag = "" if tag.startswith("W/") else tag
        self.date, self.total = response.headers.get("last-modified", ""), total

    def differs(self, response: "httpx.Response", total: str) -> bool:
        """Whether a part of a file is from another version than its beginning."""
        tag, date = response.headers.get("etag", ""), response.headers.get("last-modified", "")
        changed = [self.tag and tag and tag != self.tag, self.date and date and date != self.date]
        return bool(any(changed) or (self.total.isdigit() and total.isdigit() and total != self.total))


def _timeout() -> float:
    value = os.environ.get("BLOCKZOO_TIMEOUT") or "30"
    with contextlib.suppress(ValueError):
        if float(value) > 0:
            return float(value)
    raise ValueError(f"BLOCKZOO_TIMEOUT is {value!r}, expected a positive number of seconds")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _get(client: "httpx.Client", url: str, artifact: Artifact, part: Path, version: _Version) -> None:
    """Request the missing part of the file, or all of it if only that ensures a single version."""
    if artifact.sha256 is None and not version.condition:
        part.unlink(missing_ok=True)
    have = _size(part)
    if have and have == artifact.size:
        return
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    if have and version.condition:
        headers["If-Range"] = version.condition
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status == 416:  # what is on disk does not fit the file there
            part.unlink(missing_ok=True)
            raise _Passing("the server refused to resume")
        if status in _RETRIED:
            raise _Passing(f"HTTP {status}", _retry_after(response.headers.get("retry-after", "")))
        if status not in (200, 206):
            raise DownloadError(f"HTTP {status}")
        if url.lower().startswith("https:") and response.url.scheme != "https":
            raise DownloadError(f"the server passes on to {response.url}, which is not encrypted")
        _receive(response, artifact, part, have, version)


def _retry_after(header: str) -> float:
    """Seconds from a Retry-After header, which is a number or a date; 0 without one."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if re.fullmatch(r"\d+(\.\d+)?", header):
            return min(float(header), _MAX_WAIT)
        return min(max((parsedate_to_datetime(header) - datetime.now(timezone.utc)).total_seconds(), 0.0), _MAX_WAIT)
    return 0.0


def _receive(response: "httpx.Response", artifact: Artifact, part: Path, have: int, version: _Version) -> None:
    """Append a response's body to the partial file, or start the file again if the server sends all of it."""
    if response.headers.get("content-type", "").startswith("text/html"):
        raise DownloadError("the server sent a web page instead of the file")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise DownloadError(f"the server sent the file in the encoding {encoding!r}, which was not asked for")
    start, total = 0, response.headers.get("content-length", "")
    if response.status_code == 206:
        match = re.fullmatch(_RANGE, response.headers.get("content-range", ""))
        if match is None or int(match[1]) != have:
            part.unlink(missing_ok=True)
            raise _Passing("the server sent another range than asked for")
        start, total = have, match[2]
        if version.differs(response, total):
            part.unlink(missing_ok=True)
            version.start(response, "")
            raise _Passing("the file there changed during the transfer")
    else:
        version.start(response, total)
    expected = artifact.size if artifact.size is not None else int(total) if total.isdigit() else None
    if total.isdigit() and int(total) != expected:
        raise ChecksumError(f"the file there has {total} bytes, expected {expected}")
    if expected is None:
        raise DownloadError("neither the manifest nor the server says how large the file is")
    if artifact.size is None and expected > UNSTATED_LIMIT:
        raise DownloadError(
            f"the file there has {expected:,} bytes; without a published size {UNSTATED_LIMIT:,} are taken"
        )
    chunks = response.iter_raw()
    first = next(chunks, b"")
    if start == 0 and is_web_page(first[:512]):
        raise DownloadError("the server sent a web page instead of the file")
    received = start
    with part.open("ab" if start else "wb") as file, _progress(artifact, start) as advance:
        for chunk in itertools.chain([first], chunks):
            received += len(chunk)
            if received > expected:
                raise ChecksumError(f"the file there is larger than the expected {expected} bytes")
            file.write(chunk)
            advance(len(chunk))
    if received < expected:
        raise _Passing(f"{received} of {expected} bytes arrived")


@contextlib.contextmanager
def _progress(artifact: Artifact, done: int) -> Iterator[Callable[[int], Any]]:
    """A progress bar on a terminal."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(total=artifact.size, initial=done, desc=artifact.file, unit="B", unit_scale=True, disable=quiet) as bar:
        yield bar.update
