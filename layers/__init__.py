"""Layers shared by the model families."""

if __name__ != "blockzoo.layers":
    raise ImportError("import this package as blockzoo.layers (pip install -e .)")
