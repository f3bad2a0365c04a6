"""Time a model: as built, merged for deployment, compiled, and against the plain formulation where there is one.

`blockzoo bench timesnet` measures whole models at the ETTh1, Weather and JapaneseVowels configurations against the
plain formulation (`blockzoo.tasks.series.plain`), in one process, turn by turn, on the same weights and
inputs, after checking that the outputs agree. Inputs are sums of daily and other cycles plus noise.

`blockzoo bench nextvit|nasnet|emov2` measures image models at batch 1 and 8, as built and deployed, against timm's own
model where timm has one; `blockzoo bench p3d` P3D against the plain formulation in 3-D convolutions
(`blockzoo.tasks.video.bench`), at batch 1 and 4; `blockzoo bench conv_norm` the memory and time of training in
the modes train, eval and tune.

`blockzoo bench fno` measures Fourier layers and models against the plain formulation and neuraloperator, and
`blockzoo bench multigrid` the memory of one large field, see `blockzoo.tasks.fields.bench`.

`blockzoo bench equivariant` measures equivariant products and TDN, see `blockzoo.tasks.molecules.bench`.

`blockzoo bench raptor` measures Raptors against their teachers.
`blockzoo bench kernels [--device cuda]` measures kernels, see `blockzoo.tasks.app.bench_kernels`.

`blockzoo bench models [--device cuda]` runs the tables of all model families on a device, see
`blockzoo.tasks.app.bench_models`; `--device` works for each of them alone too.

Examples:
  blockzoo bench timesnet
  blockzoo bench kernels --device cuda --tune --out runs/kernels
  blockzoo bench models --device cuda --out runs/models
  blockzoo bench timesnet_forecast --batch-size 8 --arg d_model=64 --compile
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import blockzoo
from blockzoo.tasks.app import bench_kernels
from blockzoo.tasks.core.output import add_model_args, parse_model_args, print_json, print_table
from blockzoo.tasks.core.timing import checked_device, interleaved, operations, timed_rows
from blockzoo.tasks.fields import bench as bench_fno
from blockzoo.tasks.images import bench as bench_images
from blockzoo.tasks.molecules import bench as bench_equivariant
from blockzoo.tasks.raptor import bench as bench_raptor
from blockzoo.tasks.series.plain import PlainPeriodBlock

TIMESNET = {
    "ETTh1": ("timesnet_forecast", 32, {}),
    "Weather": ("timesnet_forecast", 32, {"in_chans": 21, "d_model": 32, "d_ff": 32, "time_freq": "t"}),
    "JapaneseVowels": ("timesnet_classifier", 16, {}),
}


TABLES = {"equivariant": bench_equivariant.TABLES, "fno": bench_fno.TABLES}
"""Suites that make several tables."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="model, or 'timesnet' for the comparison with the plain formulation")
    parser.add_argument("--batch-size", type=int, help="samples in a batch")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each variant (default: 15)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--compile", action="store_true", help="also time the model under torch.compile")
    parser.add_argument("--device", help="cpu or cuda (default: cpu)")
    parser.add_argument("--kernel", help="of kernels, this one only")
    choices = "; ".join(f"{suite}: {', '.join(tables)}" for suite, tables in TABLES.items())
    parser.add_argument("--only", nargs="+", metavar="TABLE", help=f"tables to make ({choices}; default: all)")
    parser.add_argument("--family", help="of models, this family only")
    parser.add_argument("--out", metavar="DIR", help="write results and a picture of kernels or models there")
    parser.add_argument("--table", nargs="?", const="", metavar="FILE", help="'kernels': print a table of a run's "
                        "kernels.json, or of the committed one, in Markdown; nothing is measured")  # fmt: skip
    parser.add_argument("--tune", action="store_true", help="find launch configurations of kernels first")
    parser.add_argument("--json", action="store_true", help="print JSON")
    bench_equivariant.add_arguments(parser)
    add_model_args(parser)


def _inputs(model: Any, batch: int) -> dict[str, torch.Tensor]:
    """Example inputs whose series hold several cycles of different strength."""
    inputs = model.example_inputs(batch, torch.Generator().manual_seed(0))
    if model.modality == "series":
        steps = torch.arange(model.seq_len, dtype=torch.float32)
        for strength, cycle in ((1.6, 24.0), (1.3, 12.0), (1.1, 8.0), (0.9, 48.0)):
            inputs["x"] = inputs["x"] + strength * torch.sin(2 * math.pi * steps / cycle)[:, None]
    return inputs


def _plain(name: str, model: Any, kwargs: dict[str, Any], device: str = "cpu") -> Any:
    """A copy of a TimesNet with plain blocks on the same weights."""
    plain = blockzoo.create_model(name, **kwargs).to(device)
    plain.load_state_dict(model.state_dict())
    plain.blocks = torch.nn.ModuleList(PlainPeriodBlock(block) for block in plain.blocks)
    return plain


def _training(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        model(**inputs).square().mean().backward()

    return step


def measure(
    name: str, batch: int, kwargs: dict[str, Any], runs: int, compare: bool, compiled: bool, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Rows of a model's variants, in both phases."""
    torch.manual_seed(0)
    model = blockzoo.create_model(name, **kwargs).to(device).eval()
    inputs = {key: value.to(device) for key, value in _inputs(model, batch).items()}
    deployed = blockzoo.create_model(name, **kwargs).to(device)
    deployed.load_state_dict(model.state_dict())
    variants = {"as built": model, "deployed": deployed.deploy()}
    if compare:
        variants = {"plain": _plain(name, model, kwargs, device).eval(), **variants}
    if compiled:
        variants["compiled"] = torch.compile(model)
    with torch.no_grad():
        outputs = {key: variant(**inputs) for key, variant in variants.items()}
        for key, output in outputs.items():
            torch.testing.assert_close(output, outputs["as built"], rtol=1e-3, atol=1e-4, msg=f"{key} differs")
        calls: dict[str, Any] = {key: partial(variant, **inputs) for key, variant in variants.items()}
        about = {"batch": batch, "phase": "forward"}
        rows = timed_rows(about, interleaved(calls, runs, device), counts=operations(calls))
    trained = {key: _training(v.train(), inputs) for key, v in variants.items() if key in ("plain", "as built")}
    times = interleaved(trained, runs, device)
    return rows + timed_rows({**about, "phase": "training"}, times, counts=operations(trained))


def run(args: argparse.Namespace) -> int:
    """Measure and print; on a GPU without TF32, so that variants compute the same."""
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = checked_device(args.device)
    tables = TABLES.get(args.name, ())
    for table in args.only or ():
        if table not in tables:
            raise ValueError(
                f"--only {table!r}: {args.name!r} has " + (", ".join(tables) or "no tables to choose from")
            )
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return _run_suite(args)


def _run_suite(args: argparse.Namespace) -> int:
    if args.name == "kernels":
        return bench_kernels.run(args)
    if args.name == "models":
        from blockzoo.tasks.app import bench_models

        return bench_models.run(args)
    if args.name == "equivariant":
        return bench_equivariant.run(args)
    if args.name in bench_images.SUITES:
        return bench_images.run(args)
    if args.name in bench_fno.SUITES:
        return bench_fno.run(args)
    if args.name == "raptor":
        return bench_raptor.run(args)
    extra = parse_model_args(args.arg)
    compare = args.name == "timesnet"
    cases = TIMESNET if compare else {args.name: (args.name, args.batch_size or 8, {})}
    rows = []
    for case, (name, batch, kwargs) in cases.items():
        found = measure(
            name, args.batch_size or batch, {**kwargs, **extra}, args.runs, compare, args.compile, args.device
        )
        rows += [{"case": case, **row} for row in found]
    if args.json:
        print_json({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})
        return 0
    columns = list(rows[0])
    cells = [[f"{row[c]:.2f}" if isinstance(row.get(c), float) else row.get(c) for c in columns] for row in rows]
    print_table(columns, cells, title=f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    return 0
