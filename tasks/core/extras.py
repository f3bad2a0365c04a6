"""The error for optional packages that are not installed."""

__all__ = ["MissingPackageError"]


class MissingPackageError(ImportError, ValueError):
    """A request needs a package that is not installed; the message says how to install it.

    It is a `ValueError` too, so that commands print only the message, as for any other request that they refuse.
    """
