"""Numerical kernels: a plain torch reference for each operation, and faster forms where they pay."""

if __name__ != "blockzoo.kernels":
    raise ImportError("import this package as blockzoo.kernels (pip install -e .)")
