"""The packaged training configs, by name."""

import difflib
from importlib.resources import files
from pathlib import Path

__all__ = ["config_path", "list_configs"]


def list_configs() -> list[str]:
    """Names of the packaged configs, as `--config` takes them."""
    root = Path(str(files("blockzoo.configs")))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def config_path(name: str) -> str:
    """The file of a config: a path that exists, or else the packaged config of that name, with or without `.yaml`.

    Raises:
        FileNotFoundError: It is neither; the message suggests near names.
    """
    if Path(name).is_file():
        return name
    known = list_configs()
    if name.removesuffix(".yaml") in known:
        return str(Path(str(files("blockzoo.configs"))) / f"{name.removesuffix('.yaml')}.yaml")
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise FileNotFoundError(
        f"--config {name}: no such file, and no packaged config{hint} (see blockzoo list --configs)"
    )
