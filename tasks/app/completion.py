"""Print a completion script for your shell.

Examples:
  blockzoo completion bash > ~/.local/share/bash-completion/completions/blockzoo
  blockzoo completion zsh > "${fpath[1]}/_blockzoo"
"""

import argparse

from blockzoo.tasks.app.main import TRAINING, parser_of
from blockzoo.tasks.core.rooms import Command, commands

__all__ = ["add_arguments", "run", "whole_parser"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell to write for")


def whole_parser() -> argparse.ArgumentParser:
    """Make one parser with every sub-command, and with models and packaged configs as choices."""
    import blockzoo
    from blockzoo.tasks.core.configs import list_configs

    whole = argparse.ArgumentParser(prog="blockzoo", description="A model zoo for vision and science.")
    kinds = whole.add_subparsers(metavar="COMMAND")
    for name, text in TRAINING.items():
        kinds.add_parser(name, help=text).add_argument("--config", choices=list_configs(), help="a packaged config")
    inner: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for name, command in sorted(commands().items()):
        first, _, second = name.partition(" ")
        if second and first not in inner:
            inner[first] = kinds.add_parser(first, help=command.group).add_subparsers(metavar="TOOL")
        parent = inner[first] if second else kinds
        parent.add_parser(second or first, help=command.text, parents=[_own(command)], add_help=False)
    names = [*blockzoo.list_models(), *blockzoo.list_pretrained()]
    for action in (action for parser in _parsers(whole) for action in parser._actions):
        if action.dest in ("name", "model") and not action.option_strings and action.choices is None:
            action.choices = names
    return whole


def _own(command: Command) -> argparse.ArgumentParser:
    return parser_of(command)


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [inner for child in action.choices.values() for inner in _parsers(child)]
    return found


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    print(shtab.complete(whole_parser(), args.shell))
    return 0
