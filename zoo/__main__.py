"""The `blockzoo` command: picks a sub-command and loads only what that one needs."""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {
    "list": "names of models, pretrained tags and training configs",
    "info": "what a model takes, gives and costs, and its pretrained weights",
    "demo": "evaluate every shipped checkpoint on its real data and write a page about it",
    "predict": "classify or forecast your own file with pretrained weights",
    "bench": "time a model as built, merged for deployment, and against the plain formulation",
    "export": "write a model as safetensors, torch.export, AOTInductor or ONNX, also in int8, and check the result",
    "download": "fetch and verify pretrained weights",
    "convert": "adopt a file of weights that was fetched by hand",
}
TRAINING = {
    "fit": "train from a config",
    "validate": "validation metrics of a config or of a finished run's folder",
    "test": "test metrics of a config or of a finished run's folder",
    "predict --config": "predictions of a config or of a finished run's folder",
}


def usage() -> str:
    """The text of `blockzoo --help`."""
    lines = ["usage: blockzoo COMMAND [OPTIONS]", "", "A model zoo for vision and science.", "", "commands:"]
    lines += [f"  {name:<18}{text}" for name, text in COMMANDS.items()]
    lines += ["", "training (Lightning command line):"]
    lines += [f"  {name:<18}{text}" for name, text in TRAINING.items()]
    lines += ["", "blockzoo COMMAND --help says more. Examples:", "  blockzoo demo"]
    lines += ["  blockzoo fit --config timesnet/japanese_vowels", "  blockzoo info timesnet_classifier.japanese_vowels"]
    return "\n".join(lines)


def _is_training(name: str, rest: Sequence[str]) -> bool:
    """Whether a call is Lightning's; `predict` is when it gets a config or a run's folder instead of a model's name."""
    if name in ("fit", "validate", "test"):
        return True
    configured = any(word in ("-c", "--config") or word.startswith("--config=") for word in rest)
    return name == "predict" and (configured or bool(rest and os.path.isdir(rest[0])))


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0 for success, 1 when a check failed, 2 for a mistake in the call or its input.
    """
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"blockzoo {version('blockzoo')}")
        return 0
    name, rest = given[0], given[1:]
    if _is_training(name, rest):
        return int(importlib.import_module("blockzoo.tasks.app.training").main(given))
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, "fit", "validate", "test"], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"blockzoo: unknown command {name!r}{hint} See blockzoo --help", file=sys.stderr)
        return 2
    return _run(name, rest)


def _run(name: str, rest: Sequence[str]) -> int:
    command = importlib.import_module(f"blockzoo.tasks.app.{name}")
    parser = argparse.ArgumentParser(
        prog=f"blockzoo {name}", description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_arguments(parser)
    try:
        options = parser.parse_args(rest)
    except SystemExit as stop:
        return int(stop.code or 0)
    from blockzoo.checkpoints import CheckpointError

    try:
        return int(command.run(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, CheckpointError) as error:
        if os.environ.get("BLOCKZOO_DEBUG"):
            raise
        print(f"blockzoo {name}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
