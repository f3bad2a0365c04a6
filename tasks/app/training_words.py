"""From what a user types behind `blockzoo fit|validate|test|predict` to what Lightning's parser takes.

1. The folder of a finished run becomes its config and its weights.
2. Names of packaged configs become paths.
3. The model's arguments of all configs and options become one dictionary.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from blockzoo.tasks.app.training_errors import UsageError
from blockzoo.tasks.core.configs import config_path
from blockzoo.tasks.core.run_config import check_run_config

__all__ = ["expand"]


SUBCOMMANDS = ("fit", "validate", "test", "predict")


def expand(args: Sequence[str]) -> list[str]:
    """Replace config names by paths, and a run folder behind the subcommand by the options that read it."""
    out, rest = list(args[:1]), list(args[1:])
    if out and out[0] in SUBCOMMANDS and rest and not rest[0].startswith("-"):
        if out[0] == "fit":
            raise UsageError(f"fit does not take {rest[0]!r} by itself; give a config: blockzoo fit --config {rest[0]}")
        folder = Path(rest.pop(0))
        weights = folder / "model.safetensors"
        for path in (folder / "config.yaml", weights):
            if not path.is_file():
                raise FileNotFoundError(f"{folder} is not the folder of a finished fit: it has no {path.name}")
        check_run_config(folder / "config.yaml")
        out += ["--config", str(folder / "config.yaml"), "--trainer.logger=false"]
        out += [f"--model.init_args.checkpoint_path={weights}"]
    for before, word in zip(["", *rest], rest, strict=False):
        if before in ("-c", "--config"):
            word = config_path(word)
        elif word.startswith("--config="):
            word = f"--config={config_path(word.removeprefix('--config='))}"
        out.append(word)
    return _merge_model_kwargs(out)


_OF_MODEL_KWARGS = re.compile(r"--model\.(?:init_args\.)?model_kwargs((?:\.\w+)*)(?:=(.*))?", re.DOTALL)


def _merge_model_kwargs(words: Sequence[str]) -> list[str]:
    """Put the model's arguments of several configs and options together, the later ones over the earlier.

    The parser replaces the whole dictionary instead, and turns a null behind a dot into the text "None". Where a later
    config or an option names another model, the arguments of the earlier one are dropped.
    """
    merged: dict[str, Any] = {}
    kept: list[str] = []
    model_name, count, rest = None, 0, list(words)
    named = re.findall(r"^--model\.(?:init_args\.)?model_name[=\n](.*)$", "\n".join(words), re.MULTILINE)
    while rest:
        word = rest.pop(0)
        found = _OF_MODEL_KWARGS.fullmatch(word)
        if found and (found[2] is not None or rest):
            text = found[2] if found[2] is not None else rest.pop(0)
            value = _plain(text)
            for key in reversed(found[1].split(".")[1:]):
                value = {key: value}
            if not isinstance(value, dict):
                return list(words)  # the parser says what is wrong with it
            merged, count = _merged(merged, value), count + 2
            continue
        kept.append(word)
        file = word.partition("=")[2] if word.startswith("--config=") else None
        if word in ("-c", "--config") and rest:
            file = rest[0]
        section = _section(file) if file else {}
        if section.get("model_name", model_name) != model_name:
            merged = merged if model_name is None else {}
            model_name = section["model_name"]
        of_another = named and model_name not in (None, named[-1])
        if isinstance(section.get("model_kwargs"), dict) and of_another:
            count += 1
        elif isinstance(section.get("model_kwargs"), dict):
            merged, count = _merged(merged, section["model_kwargs"]), count + 1
    if count < 2:
        return list(words)
    return [*kept, f"--model.init_args.model_kwargs={json.dumps(_relative(merged), default=str)}"]


def _relative(value: Any, depth: int = 3) -> Any:
    """Interpolations as the parser wants them in an option, which lies `depth` levels below the config's root."""
    if isinstance(value, dict):
        return {key: _relative(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, depth + 1) for item in value]
    if isinstance(value, str):  # a name with a colon behind it is a resolver's
        return re.sub(r"\$\{(?=[A-Za-z_][\w.]*\})", "${" + "." * depth, value)
    return value


def _section(file: str) -> dict[str, Any]:
    """What a config file gives to the task; nothing if it cannot be read, which the parser reports."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        found = content["model"]["init_args"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def _plain(text: str) -> Any:
    """The value of an option; YAML alone would leave 1e-3 a text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value
