"""What can go wrong with weights."""

__all__ = ["CheckpointError", "ChecksumError", "DownloadError", "OfflineError"]


class CheckpointError(RuntimeError):
    """Weights cannot be had, read or written."""


class ChecksumError(CheckpointError):
    """A file's size or hash is not the manifest's."""


class DownloadError(CheckpointError):
    """A transfer failed."""


class OfflineError(CheckpointError):
    """The file is neither packaged nor cached, and offline mode forbids fetching it."""
