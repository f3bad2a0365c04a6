"""Lightning tasks, data modules, callbacks and the commands built on them."""

if __name__ != "blockzoo.tasks":
    raise ImportError("import this package as blockzoo.tasks (pip install -e .)")
