"""Names of models, in the same notation for every command.

A name is `name`, `name.tag`, `local-dir:FOLDER`, `hf-hub:OWNER/NAME`, `timm:NAME`, or the folder of a finished run.
"""

from pathlib import Path
from typing import Any

__all__ = ["build", "has_weights", "is_run_folder", "resolve", "with_weights"]

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes of names that stand for weights."""


def is_run_folder(name: str) -> bool:
    """Whether a word is the path of a folder, such as that of a finished run, and not the name of a model."""
    return Path(name).is_dir()


def resolve(name: str) -> str:
    """Convert a name to one that `blockzoo.create_model` takes; a run's folder becomes `local-dir:FOLDER`.

    Raises:
        ValueError: The folder has no `config.json`, or the name looks like a path that does not exist.
    """
    if is_run_folder(name):
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f"{name} is not the folder of a finished run: it has no config.json")
        return f"local-dir:{name}"
    if ":" not in name and "/" in name:
        raise ValueError(
            f"{name}: no such folder; a model is name, name.tag, local-dir:FOLDER, hf-hub:OWNER/NAME, timm:NAME"
        )
    return name


def has_weights(name: str) -> bool:
    """Whether a resolved name asks for weights: it has a tag, or is a folder or a repository."""
    return name.startswith(SOURCES) or "." in name.rpartition(":")[2]


def with_weights(name: str) -> str:
    """Convert a name as `resolve` does, for commands that need trained weights.

    Raises:
        ValueError: There is no such model, or the name does not say which weights.
    """
    import blockzoo

    resolved = resolve(name)
    if not has_weights(resolved):
        if not resolved.startswith("timm:"):
            blockzoo.model_entrypoint(resolved)
        raise ValueError(
            f"{name} has no weights; name a tag (blockzoo list --pretrained), a run's folder or a repository"
        )
    return resolved


def build(name: str, pretrained: bool | None = None, **kwargs: Any) -> Any:
    """Build the model of a name that a user typed, with its weights if it names some, in evaluation mode.

    Args:
        name: See this module.
        pretrained: Whether to load weights; by default, if the name asks for them.
        **kwargs: Passed on to `blockzoo.create_model`.

    Raises:
        ValueError: There is no such model.
    """
    import blockzoo

    resolved = resolve(name)
    wanted = has_weights(resolved) if pretrained is None else pretrained
    return blockzoo.create_model(resolved, pretrained=wanted, **kwargs).eval()
