"""The `blockzoo` command: finds the sub-command, loads only what that one needs, and reports mistakes in one line."""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from blockzoo.tasks.core.names import is_run_folder
from blockzoo.tasks.core.output import check_outputs, one_line
from blockzoo.tasks.core.rooms import GROUPS, Command, commands

__all__ = ["main", "parser_of", "usage"]

TRAINING = {
    "fit": "train from a config",
    "validate": "validation metrics of a config or of a finished run's folder",
    "test": "test metrics of a config or of a finished run's folder",
}
"""Sub-commands of Lightning's command line; `predict` is one too when it gets a config, or only a run's folder."""


def usage() -> str:
    """The text of `blockzoo --help`."""
    lines = ["usage: blockzoo COMMAND [OPTIONS]", "", "A model zoo for vision and science."]
    for group in GROUPS:
        entries = dict(TRAINING) if group == "training" else {}
        entries |= {name: command.text for name, command in sorted(commands().items()) if command.group == group}
        lines += ["", f"{group}:", *(f"  {name:<25}{text}" for name, text in entries.items())]
    lines += [
        "",
        "MODEL is name, name.tag, local-dir:FOLDER, hf-hub:OWNER/NAME, timm:NAME, or the",
    ]
    lines += ["folder of a finished run. `blockzoo COMMAND --help` says more. Examples:"]
    lines += ["  blockzoo demo", "  blockzoo fit --config timesnet/japanese_vowels"]
    lines += ["  blockzoo info timesnet_classifier.japanese_vowels"]
    return "\n".join(lines)


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of a sub-command, with only its own options."""
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"blockzoo {command.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _is_training(words: Sequence[str]) -> bool:
    """Whether Lightning's command line handles a call; also `predict` with a config, or with only a run's folder."""
    if words[0] in TRAINING:
        return True
    rest = words[1:]
    if words[0] != "predict":
        return False
    if any(word in ("-c", "--config") or word.startswith("--config=") for word in rest):
        return True
    return bool(rest) and is_run_folder(rest[0]) and (len(rest) == 1 or rest[1].startswith("--trainer."))


def _find(words: Sequence[str]) -> tuple[Command, list[str]] | None:
    """Find the sub-command that the words name, of two words or of one, and the words after it."""
    known = commands()
    for count in (2, 1):
        name = " ".join(words[:count])
        if len(words) >= count and name in known:
            return known[name], list(words[count:])
    return None


def _unknown(words: Sequence[str]) -> str:
    known = commands()
    inner = sorted(name.partition(" ")[2] for name in known if name.startswith(f"{words[0]} "))
    if inner:
        return f"blockzoo {words[0]} needs one of: {', '.join(inner)}. See blockzoo --help"
    close = difflib.get_close_matches(words[0], [*known, *TRAINING], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"blockzoo: unknown command {words[0]!r}{hint} See blockzoo --help"


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; see `blockzoo.__main__.main`."""
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"blockzoo {version('blockzoo')}")
        return 0
    if _is_training(words):
        return int(importlib.import_module("blockzoo.tasks.app.training").main(words))
    found = _find(words)
    if found is None:
        print(_unknown(words), file=sys.stderr)
        return 2
    return _run(*found)


def _training(words: Sequence[str], execute: bool = True) -> Any:
    """The training command line, for tools of the rooms that train or test; see `blockzoo.tasks.app.training.run`."""
    return importlib.import_module("blockzoo.tasks.app.training").run(words, execute)


def _run(command: Command, rest: list[str]) -> int:
    module = importlib.import_module(command.module)
    parser = parser_of(command)
    try:
        words = getattr(module, "expand", list)(rest)
        if getattr(module, "FURTHER", False):
            options, more = parser.parse_known_args(words)
            options.more = more
        else:
            options = parser.parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    options.training = _training
    try:
        check_outputs(options)
        return int(module.run(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("BLOCKZOO_DEBUG"):
            raise
        print(f"blockzoo {command.name}: {one_line(error)}", file=sys.stderr)
        return 2
