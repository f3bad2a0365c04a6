"""Files of hub repositories, for `hf-hub:` names: fetched by the standard client, then checked.

The client keeps its own cache and resumes there. For a large file, the entity tag on the hub is its SHA-256. It is
compared, so a damaged or truncated file is never read. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT
and BLOCKZOO_OFFLINE apply.
"""

import re
from pathlib import Path

from blockzoo.checkpoints.download import is_offline
from blockzoo.checkpoints.errors import CheckpointError, ChecksumError, DownloadError, OfflineError
from blockzoo.checkpoints.transfer import UNSTATED_LIMIT, bounded_progress
from blockzoo.checkpoints.verification import digest_of, file_text

__all__ = ["WEIGHTS", "fetch_hub"]

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the file of weights in a repository, the first that is there."""
LIMIT_OF_TEXT = 16 << 20
"""Largest file in bytes that is fetched and is not weights, such as `config.json`."""


def fetch_hub(repo: str, names: tuple[str, ...] = WEIGHTS, cache_dir: str | Path | None = None) -> Path:
    """Get a file of a repository.

    Args:
        repo: "organisation/name", optionally with "@revision".
        names: Name of the file, or several names; the first that the repository has is used.
        cache_dir: The client's cache folder instead of its default one.

    Returns:
        Path of the file, checked against the hub's SHA-256 if there is one.

    Raises:
        ChecksumError: The bytes are not those that the hub announced; they are removed.
        OfflineError: The file is not cached, in offline mode.
        DownloadError: No such repository, revision or file, or the transfer failed; the message says which.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo_id, _, revision = repo.partition("@")
    offline = is_offline()
    for name in names:
        limit = LIMIT_OF_TEXT if name.endswith(".json") else UNSTATED_LIMIT
        try:
            path = hf_hub_download(
                repo_id,
                name,
                revision=revision or None,
                cache_dir=cache_dir,
                local_files_only=offline,
                tqdm_class=bounded_progress(limit),
            )
        except LocalEntryNotFoundError as error:
            if offline:
                continue  # another of the names may be cached
            raise DownloadError(f"hf-hub:{repo} ({name}) could not be fetched: {_first(error)}") from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # beside its own errors the client raises those of whichever transport it uses
            raise DownloadError(f"hf-hub:{repo} ({name}) could not be fetched: {_first(error)}") from error
        _check(Path(path), repo, name)
        return Path(path)
    wanted = " or ".join(names)
    if offline:
        raise OfflineError(f"hf-hub:{repo} ({wanted}) is not cached and offline mode is on")
    raise DownloadError(f"hf-hub:{repo} has no file {wanted}")


def _first(error: BaseException) -> str:
    """Describe an error in one line, with its cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _check(path: Path, repo: str, name: str) -> None:
    """Compare a cached file with the hash in its blob's name, and refuse text instead of weights."""
    blob = path.resolve()
    failure: CheckpointError | None = None
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        digest = digest_of(blob)
        if digest != blob.name:
            failure = ChecksumError(f"hf-hub:{repo} ({name}) has sha256 {digest}, the hub says {blob.name}")
    what = None if name.endswith(".json") else file_text(blob)
    if what is not None:
        failure = DownloadError(f"hf-hub:{repo} ({name}) is {what} instead of weights")
    if failure is not None:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise failure
