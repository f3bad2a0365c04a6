"""Check of a run folder's config: since it may come from anyone, it may name only classes known to be harmless.

The check sees the config after its interpolations are resolved, because `${a}.${b}` can form any name.
"""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blockzoo.tasks.core import rooms

__all__ = ["MAX_DEPTH", "check_run_config"]

MAX_DEPTH = 24
MAX_BYTES = 1 << 20
MAX_VALUES = 20_000
"""Bounds of a run folder's config; the largest that a fit has written is far below them."""

_CALLBACKS = (
    "BatchSizeFinder DeviceStatsMonitor EarlyStopping EMAWeightAveraging GradientAccumulationScheduler "
    "LearningRateFinder LearningRateMonitor ModelCheckpoint ModelSummary OnExceptionCheckpoint RichModelSummary "
    "RichProgressBar StochasticWeightAveraging Timer TQDMProgressBar WeightAveraging"
).split()
_LOGGERS = ("CSVLogger", "TensorBoardLogger")
_PROFILERS = ("AdvancedProfiler", "SimpleProfiler")
_OPTIMIZERS = "Adadelta Adagrad Adam Adamax AdamW ASGD NAdam RAdam RMSprop SGD".split()
_ALLOWED = {
    name: f"{package}.{name}"
    for package, names in (
        ("lightning.pytorch.callbacks", _CALLBACKS),
        ("lightning.pytorch.loggers", _LOGGERS),
        ("lightning.pytorch.profilers", _PROFILERS),
        ("torch.optim", _OPTIMIZERS),
    )
    for name in names
}
"""Classes of Lightning and torch that a run folder may name: none takes a function or reads a file that it is given."""

_NAMING = (
    "callbacks",
    "class_path",
    "logger",
    "lr_scheduler",
    "optimizer",
    "plugins",
    "profiler",
    "scheduler",
    "strategy",
)
_PLAIN = ("", "auto", "ddp", "false", "none", "null", "simple", "advanced", "true")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_DATA_NAMES = ("train", "val", "test")
"""Keys under which data modules take the names of tables, such as `train.csv` beside a module `train`."""

_MODEL_NAMES = ("model_name", "teacher", "architecture")
_WRITTEN = ("default_root_dir", "dirpath", "save_dir", "log_dir")
_PARTS_OF_WRITTEN = ("filename", "name", "prefix", "sub_dir", "version", "filename_suffix")
_NEVER = ("ckpt_path", "config", "__path__", "__default_config__")


def check_run_config(path: Path) -> None:
    """Refuse the config of a run folder that names anything but classes of the zoo and of a short list.

    The list holds optimisers of torch, and callbacks, loggers and profilers of Lightning. A config that the user passes
    with `--config` is treated as code, and not checked.

    Raises:
        ValueError: The config cannot be read, is nested too deeply, or names something else; the message says what,
            where, and what to do if you trust the folder.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a config: it holds no keys")
    known = set(rooms.components().values())
    classes = {place.replace(":", ".") for place in known}
    allowed = classes | {name.rpartition(".")[2] for name in classes} | set(_ALLOWED) | _aliases()
    _check(content, (), allowed, path, 0)
    _check(_resolved(content, path), (), allowed, path, 0)


def _read(path: Path) -> Any:
    """Read a YAML file; its size is limited before anything is built.

    Aliases can expand a few lines to billions of values; each use of an alias counts.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; the config of a run has at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8")
        if _count(yaml.compose(text, yaml.SafeLoader), {}) > MAX_VALUES:
            raise ValueError(f"{path} holds more than {MAX_VALUES:,} values; the config of a run has fewer")
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as YAML: {type(error).__name__}") from error
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        raise error if str(path) in str(error) else ValueError(f"{path} is not readable as YAML: {error}") from error


def _count(node: Any, known: dict[int, int]) -> int:
    """Number of values that a YAML node expands to; one that contains itself counts as too many."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # for whoever meets the node again inside itself
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_count(part, known) for part in inner)
    return known[id(node)]


def _resolved(content: dict[str, Any], path: Path) -> Any:
    """The config with its interpolations replaced by their values; no resolver is called."""
    try:
        return OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} has an interpolation that cannot be resolved: {reason}") from error


def _aliases() -> set[str]:
    """Every dotted path of the allowed classes: where they are exported, and where they are defined."""
    found = set()
    for name, place in _ALLOWED.items():
        kind = getattr(importlib.import_module(place.rpartition(".")[0]), name, None)
        found |= {place} if kind is None else {place, f"{kind.__module__}.{kind.__qualname__}"}
    return found


def _check(value: Any, keys: tuple[str, ...], allowed: set[str], path: Path, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path}, {'.'.join(keys[:6])}: nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if "${" in str(key):
                raise ValueError(f"{path}, {'.'.join((*keys, str(key)))}: a name of a key may not be an interpolation")
            if str(key).rstrip("+") in _NEVER and item is not None:
                raise ValueError(
                    f"{path}, {'.'.join((*keys, str(key)))}: a run folder may not name another file to read"
                )
            _check(item, (*keys, str(key)), allowed, path, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, (*keys, str(index)), allowed, path, depth + 1)
    elif isinstance(value, str):
        _check_text(value, keys, allowed, path, depth)


def _check_text(value: str, keys: tuple[str, ...], allowed: set[str], path: Path, depth: int) -> None:
    last = next((key for key in reversed(keys) if not key.isdigit()), "").rstrip("+")
    at = f"{path}, {'.'.join(keys)}"
    trust = f"if you trust this folder, give its config by name: --config {path}"
    if "${" in value and not re.fullmatch(r"[^$]*(\$\{[\w.]+\}[^$]*)+", value):
        raise ValueError(f"{at}: {value!r} calls a resolver, which a run folder may not do; {trust}")
    if re.search(r"[{\[:\n]", value):  # the parser reads such a text as YAML where it expects a class
        try:
            inner = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            inner = None
        _check(inner if isinstance(inner, dict | list) else None, keys, allowed, path, depth + 1)
    names_a_class = (last in _NAMING and value.lower() not in _PLAIN and "${" not in value) or len(keys) == 1
    if (names_a_class or _is_code(value, last)) and value not in allowed:
        raise ValueError(
            f"{at}: {value!r} is not among the classes that a run folder may name (those of the zoo, and optimisers, "
            f"callbacks and loggers of torch and Lightning that run no code of others); {trust}"
        )
    if last in _WRITTEN and "${" not in value and not _is_near(value, path.absolute().parent):
        raise ValueError(f"{at}: {value!r} lies outside of the folder and of what is around it; {trust}")
    if last in _PARTS_OF_WRITTEN and (Path(value).is_absolute() or ".." in Path(value).parts or "://" in value):
        raise ValueError(f"{at}: {value!r} leads out of the folder that is written; {trust}")
    if _holds_classes(Path(value)) or _holds_classes(path.parent / value):
        raise ValueError(f"{at}: {value!r} is another config, which a run folder may not name; {trust}")


def _is_code(value: str, key: str) -> bool:
    """Whether a string is a dotted path into an importable module."""
    if (
        not _DOTTED.fullmatch(value)
        or key in (*_MODEL_NAMES, *_DATA_NAMES)
        or key.endswith(("path", "paths", "file", "files", "root"))
    ):
        return False
    first = value.partition(".")[0]
    return first in sys.modules or importlib.util.find_spec(first) is not None


def _is_near(written: str, folder: Path) -> bool:
    """Whether a path is inside the working directory or the run's folder, or is one of the run's three parent folders.

    Links are followed. A run has three parent folders: its version, its name, and that of all runs.
    """
    if ".." in Path(written).parts or written.startswith("~") or ":" in written:
        return False
    place, folder = Path(written).resolve(), folder.resolve()
    return place.is_relative_to(folder) or place.is_relative_to(Path.cwd()) or place in folder.parents[:3]


def _holds_classes(file: Path) -> bool:
    """Whether a string is the name of a config file that the parser would read."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return b"class_path" in stream.read(4 << 20)
    except (OSError, ValueError):  # no name of a file: too long, or with a null character
        return False
