"""Training recipes; each YAML file here is a packaged config that the command line finds by name."""

if __name__ != "blockzoo.configs":
    raise ImportError("import this package as blockzoo.configs (pip install -e .)")
