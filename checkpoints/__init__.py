"""Manifest of pretrained weights, and the one code path that fetches, verifies and reads them."""

if __name__ != "blockzoo.checkpoints":
    raise ImportError("import this package as blockzoo.checkpoints (pip install -e .)")
