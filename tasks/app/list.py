"""List models, pretrained tags or packaged training configs.

Examples:
  blockzoo list 'timesnet*'
  blockzoo list --task classification --pretrained
  blockzoo list --configs
"""

import argparse
from pathlib import Path

from blockzoo.tasks.core.configs import list_configs, packaged_config
from blockzoo.tasks.core.output import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("filter", nargs="?", default="", help="wildcard that names must match")
    parser.add_argument("--family", default="", help="only this family")
    parser.add_argument("--task", default="", help="only models for this task")
    parser.add_argument("--modality", default="", help="only models with this kind of input")
    parser.add_argument("--pretrained", action="store_true", help="only models with weights, tags included")
    parser.add_argument("--configs", action="store_true", help="list training configs instead of models")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list.

    Raises:
        ValueError: No model matches; the message lists the known values.
    """
    if args.configs:
        rows: list[tuple[str, ...]] = [(name, _first_comment(packaged_config(name))) for name in list_configs()]
        columns: tuple[str, ...] = ("config", "about")
    else:
        import blockzoo
        from blockzoo._registry import family_of

        names = blockzoo.list_models(args.filter, args.family, args.task, args.modality, args.pretrained)
        if not names:
            raise ValueError(_nothing(args))
        cfgs = {name: blockzoo.get_pretrained_cfg(name) for name in names}
        columns = ("model", "family", "task", "input", "sizes")
        rows = [
            (name, family_of(name), cfg.task, f"{cfg.modality} {cfg.input_axes}", "x".join(map(str, cfg.input_size)))
            for name, cfg in cfgs.items()
        ]
    if args.json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
    return 0


def _nothing(args: argparse.Namespace) -> str:
    """Say why no model was found: the first option whose value no model has, or all options together."""
    import blockzoo

    cfgs = [blockzoo.get_pretrained_cfg(name) for name in blockzoo.list_models()]
    known = {
        "family": set(blockzoo.list_families()),
        "task": {cfg.task for cfg in cfgs},
        "modality": {cfg.modality for cfg in cfgs},
    }
    for option, values in known.items():
        if (given := getattr(args, option)) and given not in values:
            return f"--{option} {given}: there is none; choose from {', '.join(sorted(values))}"
    return f"no model matches {args.filter!r} and the options" if args.filter else "no model has all these options"


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
