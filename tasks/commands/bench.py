"""Time a model: as built, merged for deployment, compiled, and against the plain formulation where there is one.

`blockzoo bench timesnet` measures whole models at the ETTh1, Weather and JapaneseVowels configurations against the
plain formulation (`blockzoo.tasks.commands.bench_reference`), in one process, turn by turn, on the same weights and
inputs, after checking that the outputs agree. Inputs are sums of daily and other cycles plus noise.

`blockzoo bench nextvit|nasnet|emov2` measures image models at batch 1 and 8, as built and deployed, against timm's own
model where timm has one; `blockzoo bench p3d` P3D against the plain formulation in 3-D convolutions
(`blockzoo.tasks.commands.bench_p3d`), at batch 1 and 4; `blockzoo bench conv_norm` the memory and time of training in
the modes train, eval and tune.

`blockzoo bench fno` measures Fourier layers and models against the plain formulation and neuraloperator, and
`blockzoo bench multigrid` the memory of one large field, see `blockzoo.tasks.commands.bench_fno`.

`blockzoo bench equivariant` measures equivariant products and TDN, see `blockzoo.tasks.commands.bench_equivariant`.

`blockzoo bench raptor` measures Raptors against their teachers.
`blockzoo bench kernels [--device cuda]` measures kernels, see `blockzoo.tasks.commands.bench_kernels`.

Examples:
  blockzoo bench timesnet
  blockzoo bench kernels --device cuda --tune --out runs/kernels
  blockzoo bench timesnet_forecast --batch-size 8 --arg d_model=64 --compile
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import blockzoo
from blockzoo.tasks.commands import bench_equivariant, bench_fno, bench_images, bench_kernels, bench_raptor
from blockzoo.tasks.commands.bench_reference import PlainPeriodBlock
from blockzoo.tasks.commands.output import add_model_args, parse_model_args, print_json, print_table

TIMESNET = {
    "ETTh1": ("timesnet_forecast", 32, {}),
    "Weather": ("timesnet_forecast", 32, {"in_chans": 21, "d_model": 32, "d_ff": 32, "time_freq": "t"}),
    "JapaneseVowels": ("timesnet_classifier", 16, {}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="model, or 'timesnet' for the comparison with the plain formulation")
    parser.add_argument("--batch-size", type=int, help="samples in a batch")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each variant (default: 15)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--compile", action="store_true", help="also time the model under torch.compile")
    parser.add_argument("--device", help="cpu or cuda, for kernels (default: cpu)")
    parser.add_argument("--kernel", help="of kernels, this one only")
    parser.add_argument("--out", metavar="DIR", help="write results and a picture of kernels there")
    parser.add_argument("--tune", action="store_true", help="find launch configurations of kernels first")
    parser.add_argument("--json", action="store_true", help="print JSON")
    bench_equivariant.add_arguments(parser)
    add_model_args(parser)


def interleaved(functions: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Milliseconds of each function, run turn by turn after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(runs):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def _inputs(model: Any, batch: int) -> dict[str, torch.Tensor]:
    """Example inputs whose series hold several cycles of different strength."""
    inputs = model.example_inputs(batch, torch.Generator().manual_seed(0))
    if model.modality == "series":
        steps = torch.arange(model.seq_len, dtype=torch.float32)
        for strength, cycle in ((1.6, 24.0), (1.3, 12.0), (1.1, 8.0), (0.9, 48.0)):
            inputs["x"] = inputs["x"] + strength * torch.sin(2 * math.pi * steps / cycle)[:, None]
    return inputs


def _plain(name: str, model: Any, kwargs: dict[str, Any]) -> Any:
    """A copy of a TimesNet with plain blocks on the same weights."""
    plain = blockzoo.create_model(name, **kwargs)
    plain.load_state_dict(model.state_dict())
    plain.blocks = torch.nn.ModuleList(PlainPeriodBlock(block) for block in plain.blocks)
    return plain


def _training(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        model(**inputs).square().mean().backward()

    return step


def measure(name: str, batch: int, kwargs: dict[str, Any], runs: int, compare: bool, compiled: bool) -> dict[str, Any]:
    """Times of a model's variants: {"forward": {variant: [ms]}, "training": {variant: [ms]}}."""
    torch.manual_seed(0)
    model = blockzoo.create_model(name, **kwargs).eval()
    inputs = _inputs(model, batch)
    deployed = blockzoo.create_model(name, **kwargs)
    deployed.load_state_dict(model.state_dict())
    variants = {"as built": model, "deployed": deployed.deploy()}
    if compare:
        variants = {"plain": _plain(name, model, kwargs).eval(), **variants}
    if compiled:
        variants["compiled"] = torch.compile(model)
    with torch.no_grad():
        outputs = {key: variant(**inputs) for key, variant in variants.items()}
        for key, output in outputs.items():
            torch.testing.assert_close(output, outputs["as built"], rtol=1e-3, atol=1e-4, msg=f"{key} differs")
        forward = interleaved({key: partial(variant, **inputs) for key, variant in variants.items()}, runs)
    trained = {key: _training(v.train(), inputs) for key, v in variants.items() if key in ("plain", "as built")}
    return {"forward": forward, "training": interleaved(trained, runs)}


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.name == "kernels":
        return bench_kernels.run(args)
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
        size = args.batch_size or batch
        times = measure(name, size, {**kwargs, **extra}, args.runs, compare, args.compile)
        for phase, variants in times.items():
            base = statistics.median(next(iter(variants.values())))
            for variant, values in variants.items():
                middle = statistics.median(values)
                spread = {"min": min(values), "max": max(values)}
                row = {"case": case, "batch": size, "phase": phase, "variant": variant, "ms": middle, **spread}
                rows.append({**row, "speedup": base / middle})
    if args.json:
        print_json({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})
        return 0
    columns = list(rows[0])
    cells = [[f"{value:.2f}" if isinstance(value, float) else value for value in row.values()] for row in rows]
    print_table(columns, cells, title=f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    return 0
