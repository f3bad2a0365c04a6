"""Printing for people and for programs."""

import argparse
import ast
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from blockzoo.tasks.core.files import check_output

__all__ = [
    "add_batch_size",
    "add_cache_dir",
    "add_model_args",
    "add_out",
    "check_outputs",
    "one_line",
    "parse_model_args",
    "print_json",
    "print_table",
]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Print a table: drawn on a terminal, tab-separated in a pipe."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [list(columns), *texts]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in texts:
        table.add_row(*row)
    Console().print(table)


def one_line(error: BaseException) -> str:
    """The line that a command prints for an error, instead of a traceback.

    Errors about a call or a file are printed as they are. Others get the name of their class, and a hint how to see the
    traceback.
    """
    from blockzoo.checkpoints import CheckpointError

    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if text and isinstance(error, ValueError | TypeError | OSError | ImportError | CheckpointError):
        return text
    said = " ".join(text.split())[:300]
    return f"{type(error).__name__}{f': {said}' if said else ''} (BLOCKZOO_DEBUG=1 shows the traceback)"


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, default=str))


class _Output(argparse.Action):
    """Stores the path of an output, and notes it for `check_outputs`."""

    folder = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.outputs = [*getattr(namespace, "outputs", []), (values, self.folder)]


class _OutputFolder(_Output):
    folder = True


def add_out(
    parser: argparse._ActionsContainer,
    text: str,
    *,
    folder: bool = False,
    required: bool = False,
    default: str | None = None,
) -> None:
    """Add `--out`, which every command that writes takes; `check_outputs` holds it to one rule.

    Args:
        parser: Parser of a command.
        text: What is written, for `--help`.
        folder: A folder is written, which is made with its parents; for a file, its folder must be there.
        required: Whether it must be given.
        default: What is written without it.
    """
    kind = _OutputFolder if folder else _Output
    metavar = "DIR" if folder else "FILE"
    parser.add_argument("--out", action=kind, metavar=metavar, required=required, default=default, help=text)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written, before a command runs.

    Raises:
        ValueError: See `blockzoo.tasks.core.files.check_output`; the message begins with `--out`.
    """
    for path, folder in getattr(args, "outputs", ()):
        try:
            check_output(path, folder=folder)
        except ValueError as error:
            raise ValueError(f"--out {error}") from error


def add_cache_dir(parser: argparse._ActionsContainer) -> None:
    """Add `--cache-dir`, the folder of all that blockzoo downloads or computes once."""
    parser.add_argument("--cache-dir", metavar="DIR", help="cache folder instead of the default one (BLOCKZOO_CACHE)")


def add_batch_size(parser: argparse._ActionsContainer) -> None:
    """Add `--batch-size`, for commands that run a model."""
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples in a batch (default: the command's own)")


def add_model_args(parser: argparse.ArgumentParser) -> None:
    """Add `--arg NAME=VALUE`, arguments of the model's constructor."""
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the model, e.g. --arg d_model=64",
    )


def parse_model_args(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn NAME=VALUE texts into arguments; a value that is not a Python literal stays a string.

    Raises:
        ValueError: A text has no "=".
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise ValueError(f"--arg {pair!r} must be NAME=VALUE")
        try:
            parsed[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[name] = text
        except (MemoryError, RecursionError) as error:  # Python's parser at its limits
            raise ValueError(f"--arg {name}=... is nested too deeply") from error
    return parsed
