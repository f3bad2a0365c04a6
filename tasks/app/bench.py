"""Time models and kernels against the originals: as built, merged for deployment, and compiled.

All variants have the same weights and inputs and run turn by turn in one process, after their outputs are compared. A
suite compares a family with its original. Any other name is a model, whose variants are compared with each other.

Examples:
  blockzoo bench timesnet
  blockzoo bench kernels --device cuda --tune --out runs/kernels
  blockzoo bench models --device cuda --out runs/models
  blockzoo bench timesnet_forecast --batch-size 8 --arg d_model=64 --compile
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import blockzoo
from blockzoo.tasks.app import bench_kernels, bench_models
from blockzoo.tasks.core import names, rooms
from blockzoo.tasks.core.output import add_batch_size, add_model_args, parse_model_args, print_json, print_table
from blockzoo.tasks.core.suites import Rows, Suite, deployed_copy
from blockzoo.tasks.core.timing import checked_device, interleaved, operations, timed_rows

__all__ = ["add_arguments", "measure", "run"]


def suites() -> dict[str, Suite]:
    """The suites that the rooms declare, by name."""
    return {name: rooms.load(place)[name] for name, place in sorted(rooms.declared("suites").items())}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a sub-command for each suite, with its own options only."""
    kinds = parser.add_subparsers(dest="suite", metavar="SUITE or MODEL", required=True)
    for name, suite in suites().items():
        own = kinds.add_parser(name, help=suite.text, description=suite.text)
        _add_shared(own, suite.options)
        if suite.tables:
            own.add_argument("--only", nargs="+", choices=suite.tables, metavar="TABLE",
                             help=f"tables to make: {', '.join(suite.tables)} (default: all)")  # fmt: skip
        if suite.add_arguments is not None:
            suite.add_arguments(own)
        own.set_defaults(rows=suite.rows)
    shown = argparse.RawDescriptionHelpFormatter
    for name, module in (("kernels", bench_kernels), ("models", bench_models)):
        doc = module.__doc__ or ""
        own = kinds.add_parser(name, help=doc.partition("\n")[0], description=doc, formatter_class=shown)
        _add_shared(own, ("device", "compile") if name == "kernels" else ("batch_size", "compile", "device"))
        module.add_arguments(own)
        own.set_defaults(command=module.run)
    model = kinds.add_parser("model", help="any model by its name; you can leave out the word `model`")
    model.add_argument("name", help="name, name.tag, local-dir:FOLDER, hf-hub:OWNER/NAME, or a run's folder")
    _add_shared(model, ("batch_size", "compile", "device", "model_args"))
    model.set_defaults(rows=_model_rows)


def expand(words: list[str]) -> list[str]:
    """Put the word `model` before a name that is not a suite."""
    known = {*rooms.declared("suites"), "kernels", "models", "model"}
    if words and not words[0].startswith("-") and words[0] not in known:
        return ["model", *words]
    return words


def _add_shared(parser: argparse.ArgumentParser, options: tuple[str, ...]) -> None:
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each variant (default: 15)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    if "batch_size" in options:
        add_batch_size(parser)
    if "compile" in options:
        parser.add_argument("--compile", action="store_true", help="also time the model under torch.compile")
    if "device" in options:
        parser.add_argument("--device", help="cpu or cuda (default: cpu)")
    if "model_args" in options:
        add_model_args(parser)


def _training(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        outputs = model(**inputs)
        parts = outputs.values() if isinstance(outputs, dict) else [outputs]
        sum(part.square().mean() for part in parts if part.requires_grad).backward()

    return step


def measure(name: str, batch: int, kwargs: dict[str, Any], runs: int, compiled: bool, device: str = "cpu") -> Rows:
    """Rows of a model as built, deployed and compiled, forward and training, on its example inputs."""
    torch.manual_seed(0)
    model = blockzoo.create_model(name, **kwargs).to(device).eval()
    inputs = model.example_inputs(batch, torch.Generator().manual_seed(0))
    inputs = {key: value.to(device) for key, value in inputs.items()}
    variants = {"as built": model, "deployed": deployed_copy(model, name, **kwargs).to(device).eval()}
    if compiled:
        variants["compiled"] = torch.compile(model)
    with torch.no_grad():
        expected = model(**inputs)
        for key, variant in variants.items():
            torch.testing.assert_close(variant(**inputs), expected, rtol=1e-3, atol=1e-4, msg=f"{key} differs")
        calls: dict[str, Any] = {key: partial(variant, **inputs) for key, variant in variants.items()}
        about = {"batch": batch, "phase": "forward"}
        rows = timed_rows(about, interleaved(calls, runs, device), counts=operations(calls))
    trained = {"as built": _training(model.train(), inputs)}
    times = interleaved(trained, runs, device)
    return rows + timed_rows({**about, "phase": "training"}, times, counts=operations(trained))


def _model_rows(args: argparse.Namespace) -> Rows:
    extra = parse_model_args(args.arg)
    return measure(names.resolve(args.name), args.batch_size or 8, extra, args.runs, args.compile, args.device)


def run(args: argparse.Namespace) -> int:
    """Measure and print; on a GPU without TF32, so that all variants compute the same.

    Raises:
        ValueError: An option has an impossible value.
    """
    for option in ("threads", "runs", "batch_size"):
        value = getattr(args, option, None)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} {value} must be at least 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = checked_device(getattr(args, "device", None))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        if hasattr(args, "command"):
            return int(args.command(args))
        rows = list(args.rows(args))
    if args.json:
        print_json({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})
        return 0
    title = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    for columns in dict.fromkeys((row.get("what"), *row) for row in rows):
        chosen = [row for row in rows if (row.get("what"), *row) == columns]
        cells = [[f"{value:.2f}" if isinstance(value, float) else value for value in row.values()] for row in chosen]
        print_table(list(chosen[0]), cells, title=", ".join(filter(None, (columns[0], title))))
    return 0
