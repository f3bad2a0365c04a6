"""The `blockzoo` command, which `blockzoo.tasks.app.main` carries out."""

import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The words after `blockzoo`; by default, those of the process.

    Returns:
        Exit status: 0 for success, 1 when a check failed, 2 for a mistake in the call or its input.
    """
    return int(importlib.import_module("blockzoo.tasks.app.main").main(args))


if __name__ == "__main__":
    sys.exit(main())
