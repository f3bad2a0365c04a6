"""Packages that blockzoo does without until somebody asks for what needs them."""

__all__ = ["MissingPackageError"]


class MissingPackageError(ImportError, ValueError):
    """A package that is not installed is needed for what was asked; the message says how to install it.

    It is a `ValueError` too, so that commands print the message alone, as for any other request that they refuse.
    """
