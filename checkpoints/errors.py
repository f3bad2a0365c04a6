"""Errors about weights."""

__all__ = ["CheckpointError", "ChecksumError", "DownloadError", "OfflineError"]


class CheckpointError(RuntimeError):
    """Weights cannot be obtained, read or written."""


class ChecksumError(CheckpointError):
    """A file's size or hash differs from the manifest."""


class DownloadError(CheckpointError):
    """A transfer failed."""


class OfflineError(CheckpointError):
    """The file is neither packaged nor cached, and offline mode forbids fetching it."""
