"""Printing for people and for programs."""

import argparse
import ast
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["add_model_args", "one_line", "parse_model_args", "print_json", "print_table"]


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
