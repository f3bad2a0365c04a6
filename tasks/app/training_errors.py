"""One-line messages about mistakes in commands and configs, instead of the parser's own messages."""

import difflib
import inspect
import pydoc
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.task import Task

__all__ = ["UsageError", "explain"]

# Lines that only say where the parser was, or which alternative of a union it tried next.
_FRAME = re.compile(
    r'Parser key "|Does not validate|Subtypes:|Errors:|Given value|Expected a <class \'NoneType\'>|Problem with given|'
    r"Not a valid subclass"
)


class UsageError(ValueError):
    """A mistake in a command or a config."""


def explain(error: BaseException, args: Sequence[str] = (), options: Iterable[str] = ()) -> str:
    """Say in one line what is wrong and where, with near names.

    Args:
        error: What parsing or building raised.
        args: The command line, config names already replaced by paths.
        options: Names of the subcommand's options, for suggestions.
    """
    text = str(error)
    first = _missing_module(error) or _unknown_key(text, args, options) or _unreadable(text, args) or _cause(text)
    return " ".join(first.split())


def _missing_module(error: BaseException) -> str | None:
    """Find the first import that failed, since the parser reports only its consequences."""
    found: str | None = None
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, ModuleNotFoundError):
            found = str(link)
        link = link.__cause__ or link.__context__
    if found is None and (named := re.search(r"No module named '[\w.]+'", str(error))):
        found = named[0]
    return f"a Python package that the config needs is missing: {found}" if found else None


def _unknown_key(text: str, args: Sequence[str], options: Iterable[str]) -> str | None:
    key = re.search(r"does not accept (?:nested )?(?:option|key) '([\w.]+)'|Key '([\w.]+)' is not expected", text)
    if key:
        name, known, owner = key[1] or key[2], list(options), ""
    elif key := re.search(r"(?:unrecognized|Unrecognized) arguments: --([\w.]+)", text):
        name, known, owner = key[1], list(options), ""
    elif key := re.search(r"Problem with given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", text):
        name, known, owner = key[2], _arguments(key[1]), f" of {key[1].rpartition('.')[2]}"
    elif key := re.search(r"Expected a dot import path string: (\w+)", text):
        return f"unknown class {key[1]!r}{_place(key[1], args)}{_near(key[1], _classes())}"
    else:
        return None
    return f"unknown key {name!r}{owner}{_place(name, args)}{_near(name, known)}"


def _unreadable(text: str, args: Sequence[str]) -> str | None:
    """The config file that is not YAML; the parser does not name it."""
    if "Problems parsing config" not in text:
        return None
    for path in _files(args):
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as problem:
            mark = getattr(problem, "problem_mark", None)
            return f"{path}{f', line {mark.line + 1}' if mark else ''}: not valid YAML"
    return None


def _cause(text: str) -> str:
    """The innermost keys, and the first informative line of the message."""
    keys: list[str] = []
    for line in text.splitlines():
        stripped = line.strip().removeprefix("- ")
        if key := re.search(r'Parser key "([\w.+]+)"', stripped):
            keys.append(key[1])
        kinds = re.findall(r"Expected a (?:<class '([\w.]+)'>|typing\.(Literal\[[^]]*\]))", text)
        names = dict.fromkeys(word or choice for word, choice in kinds if word != "NoneType")
        if stripped.startswith("Expected a ") and len(names) > 1:  # the alternatives of a union
            got = re.search(r"Got value: .*", stripped)
            stripped = f"expected {' or '.join(names)}" + (f". {got[0]}" if got else "")
        if stripped and not _FRAME.match(stripped):
            return f"{'.'.join(keys)}: {stripped}" if keys else stripped
    return text.strip()


def _arguments(class_path: str) -> list[str]:
    """The arguments that a class takes, including those for its base classes."""
    found = pydoc.locate(class_path)
    bases = inspect.getmro(found) if isinstance(found, type) else ()
    return [name for base in bases if "__init__" in vars(base) for name in inspect.signature(base).parameters]


def _classes() -> list[str]:
    names: list[str] = []
    todo: list[type] = [Task, ZooData, Callback, Logger]
    while todo:
        subclasses: list[type] = todo.pop().__subclasses__()
        names += [found.__name__ for found in subclasses]
        todo += subclasses
    return names


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(set(known)), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _files(args: Sequence[str]) -> list[Path]:
    """The config files of a command line, the last one first, because it overrides the others."""
    pairs = zip(["", *args], args, strict=False)
    paths = [word.partition("=")[2] or word for before, word in pairs if _is_config(before, word)]
    return [Path(path) for path in reversed(paths) if Path(path).is_file()]


def _is_config(before: str, word: str) -> bool:
    return before in ("-c", "--config") or word.startswith("--config=")


def _place(name: str, args: Sequence[str]) -> str:
    """Where a name appears: an option, or a line of a config file."""
    last = name.rpartition(".")[2]
    for word in args:
        if word.startswith("--") and last in re.split(r"[.=]", word):
            return f" in {word.partition('=')[0]}"
    for path in _files(args):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.match(rf"[\s-]*{last}\s*:|.*:\s*[\w.]*\b{last}\s*$", line):
                return f" in {path}, line {number}"
    return ""
