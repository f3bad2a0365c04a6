"""The packaged training configs, by name."""

import difflib
from importlib.resources import files
from pathlib import Path

__all__ = ["config_path", "list_configs", "packaged_config"]


def list_configs() -> list[str]:
    """Names of the packaged configs, as `--config` takes them."""
    root = _folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def packaged_config(name: str) -> Path:
    """The file of a packaged config, by a name of `list_configs`."""
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    return Path(str(files("blockzoo.configs")))


def config_path(name: str) -> str:
    """The file of a config: a path that exists, or else the packaged config of that name, with or without `.yaml`.

    Raises:
        FileNotFoundError: It is neither; the message suggests near names.
    """
    if Path(name).is_file():
        return name
    known = list_configs()
    if name.removesuffix(".yaml") in known:
        return str(packaged_config(name.removesuffix(".yaml")))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise FileNotFoundError(
        f"--config {name}: no such file, and no packaged config{hint} (see blockzoo list --configs)"
    )
