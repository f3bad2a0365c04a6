"""Time kernels against their references, and choose their launch configurations.

`blockzoo bench kernels --device cuda` measures every kernel at the sizes of `CASES`, forward and in training (forward
and backward): ours, the eager reference, the compiled one, and peers that are installed. A variant is timed only after
its result agreed with the float64 reference. Runs alternate between the variants. On a GPU, the L2 cache is cold and
device events give the time. On a CPU, the host's clock does; there, ours uses torch's operators and small inputs stay
in the cache, so compare with the floor only on a GPU.

The floor of a case is its least possible time, the larger of two: its operations at the rate of a large matrix product,
and the bytes that it must move at the bandwidth of a large copy. Both rates are measured in the same process.

Peers: e3nn's tensor product and cuEquivariance's channel-wise one, with gather and sum around them, for the edge
product; neuraloperator's contraction for spectral mixing; flash-linear-attention. They get inputs in their own layout;
the conversion is not timed. For cuEquivariance's product, the sum over paths is not timed either.

`--table [FILE]` prints the table of a run, `kernels/measured.json` by default, in Markdown.

`--out DIR` writes kernels.json and kernels.png there. `--tune` first tries configurations of each kernel and writes
tuned.json; copied to blockzoo/kernels/tuned.json, it makes the kernels that won the default on that device. A kernel
wins if it is 1.2 times as fast as the compiled reference at some size, and never slower.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from blockzoo.kernels import _dispatch
from blockzoo.kernels._dispatch import config_trial, kernels_as, triton
from blockzoo.tasks.core import rooms
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.kernel_case import Case, Cases, Peer
from blockzoo.tasks.core.output import add_out, print_json, print_table
from blockzoo.tasks.core.timing import Clock, ceilings, environment, picture

__all__ = ["add_arguments", "kernel_cases", "markdown_table", "run"]

_TOLERANCE = 2e-3
"""Relative error up to which a variant counts as right; float32 is far below, one TF32 product near 3e-4."""
WIN = 1.2


def _first(result: Any) -> torch.Tensor:
    return result[-1] if isinstance(result, tuple) else result


def _leaves(inputs: list[Any], trained: int | None = None) -> list[Any]:
    """Copies of the inputs; the first few record gradients."""
    numbers = [isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex()) for x in inputs]
    count = len(inputs) if trained is None else trained
    return [x.clone().requires_grad_() if numbers[i] and i < count else x for i, x in enumerate(inputs)]


def _training(function: Callable[..., Any], inputs: list[Any]) -> Callable[[], Any]:
    """A forward and backward call, or only forward if no input records gradients."""
    leaves = [x for x in inputs if x.requires_grad]

    def step() -> Any:
        if not leaves:
            with torch.no_grad():
                return function(*inputs)
        out = _first(function(*inputs))
        out = torch.view_as_real(out) if out.is_complex() else out
        return torch.autograd.grad(out.square().sum(), leaves)

    return step


def _error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours.double() - reference).norm() / reference.norm())


def measure(
    case: Case, clock: Clock, limits: Mapping[str, float], runs: int, compiled: bool
) -> Iterator[dict[str, Any]]:
    """Rows of one case, after checking each variant against the float64 reference."""
    variants = {"eager": Peer(case.reference)}
    if compiled:
        variants["compiled"] = Peer(torch.compile(case.reference))
    variants = {**variants, "ours": Peer(case.ours), **case.peers}
    inputs = {name: case.inputs if peer.inputs is None else peer.inputs for name, peer in variants.items()}
    mode = "triton" if clock.device == "cuda" else "auto"
    wide = [x.double() if x.is_floating_point() else x for x in case.inputs]
    with torch.no_grad(), kernels_as("torch"):
        truth = _first(case.reference(*wide))
    floors = {"operations": 1e3 * case.flops / limits["rate"], "bytes": 1e3 * case.moved / limits["bandwidth"]}
    with kernels_as(mode):
        errors = {}
        for name, peer in variants.items():
            with torch.no_grad():
                result = _first(peer.function(*inputs[name]))
                errors[name] = _error(result if peer.to_ours is None else peer.to_ours(result), truth)
            if not errors[name] < _TOLERANCE:
                raise RuntimeError(f"{case.kernel} ({case.size}): {name} is wrong, relative error {errors[name]:.1e}")
        with torch.no_grad():
            forward = {name: (lambda f=p.function, x=inputs[name]: f(*x)) for name, p in variants.items()}
            phases = {"forward": clock.interleaved(forward, runs)}
        if case.trained != 0:
            steps = {name: _training(p.function, _leaves(inputs[name], case.trained)) for name, p in variants.items()}
            phases["training"] = clock.interleaved(steps, runs)
    for phase, times in phases.items():
        base = statistics.median(times["compiled" if compiled else "eager"])
        for name, values in times.items():
            middle = statistics.median(values)
            row = {"kernel": case.kernel, "size": case.size, "phase": phase, "variant": name, "ms": middle,
                   "min": min(values), "max": max(values), "speedup": base / middle, "error": errors[name]}  # fmt: skip
            if phase == "forward":
                floor = max(floors.values())
                row |= {"floor_ms": floor, "floor_by": max(floors, key=floors.__getitem__), "of_floor": floor / middle,
                        "GB/s": case.moved / middle / 1e6, "GFLOP/s": case.flops / middle / 1e6}  # fmt: skip
            yield row


def tune(cases: list[Case], clock: Clock) -> dict[str, Any]:
    """The fastest configuration of every launch at every case: {launch: {"configs": [{"sizes", "config"}]}}."""
    table: dict[str, Any] = {}
    for case in cases:
        step = _training(case.ours, _leaves(case.inputs, case.trained))
        for launch, options in case.launches.items():
            found: list[tuple[float, dict[str, Any]]] = []
            for values in itertools.product(*options.values()):
                with kernels_as("triton"), config_trial(launch, dict(zip(options, values, strict=True))) as trial:
                    try:
                        elapsed = statistics.median(clock.interleaved({"step": step}, 10)["step"])
                    except triton.runtime.errors.OutOfResources:
                        continue  # blocks that this device has no room for
                found.append((elapsed, trial))
            if found:
                best = min(found, key=lambda entry: entry[0])[1]
                table.setdefault(launch, {}).setdefault("configs", []).append(best)
    return table


def winners(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Find the kernels that are `WIN` times as fast as the compiled reference at some size, and never slower."""
    ours: dict[str, list[float]] = {}
    for row in rows:
        if row["variant"] == "ours":
            ours.setdefault(row["kernel"], []).append(row["speedup"])
    return {kernel: max(ratios) >= WIN and min(ratios) >= 1 for kernel, ratios in ours.items()}


def markdown_table(result: Mapping[str, Any]) -> str:
    """The table of a run in Markdown, and its device; the columns are empty without a run.

    Args:
        result: What `--out` writes as kernels.json, or nothing.
    """
    head = ["kernel", "size", "phase", "eager", "compiled", "others", "ours", "ours to compiled", "of the floor"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    if not result:
        lines += [f"| {kernel} |{' |' * (len(head) - 1)}" for kernel in kernel_cases()]
        return "\n".join([*lines, "", "No run on a GPU is committed: the columns are empty."])
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault((row["kernel"], row["size"], row["phase"]), {})[row["variant"]] = row
    for labels, group in groups.items():
        times = {name: f"{row['ms']:.3g}" for name, row in group.items()}
        others = ", ".join(f"{name} {ms}" for name, ms in times.items() if name not in ("eager", "compiled", "ours"))
        ours = group["ours"]
        ratio = f"{ours['speedup']:.2f}" if "compiled" in group else ""
        floor = f"{100 * ours['of_floor']:.0f} %" if "of_floor" in ours else ""
        cells = [*labels, times.get("eager", ""), times.get("compiled", ""), others, times["ours"], ratio, floor]
        lines.append(f"| {' | '.join(cells)} |")
    facts = ", ".join(f"{key} {value}" for key, value in result["environment"].items() if value is not None)
    limits = f"{result['ceilings']['bandwidth'] / 1e9:.0f} GB/s, {result['ceilings']['rate'] / 1e12:.2g} TFLOP/s"
    return "\n".join([*lines, "", f"Medians in ms, float32. Measured on: {facts}; a copy {limits} a product."])


def kernel_cases() -> dict[str, Cases]:
    """The cases of every kernel, which the rooms declare."""
    return {kernel: rooms.load(place)[kernel] for kernel, place in sorted(rooms.declared("kernels").items())}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--kernel", help="only this kernel")
    add_out(parser, "folder for the results and a picture", folder=True)
    parser.add_argument(
        "--table",
        nargs="?",
        const="",
        metavar="FILE",
        help="print a table of a run's kernels.json, or of the committed one, in Markdown; nothing is measured",
    )
    parser.add_argument("--tune", action="store_true", help="first search for the best launch configurations")


def _read_result(name: str) -> dict[str, Any]:
    """Read the file of a run, by default the committed one."""
    path: Any = Path(name) if name else files("blockzoo.kernels").joinpath("measured.json")
    if not path.is_file():
        raise ValueError(f"--table {name!r} is no file; give the kernels.json that --out wrote")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--table {name!r} is not JSON ({error}); give the kernels.json that --out wrote") from error
    if not isinstance(result, dict) or (result and not {"environment", "ceilings", "rows"} <= set(result)):
        raise ValueError(f"--table {name!r} holds no run; give the kernels.json that --out wrote")
    return result


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the requested files.

    Raises:
        ValueError: A kernel is unknown, tuning is asked for without a GPU, or the file of a table is not valid.
    """
    if args.table is not None:
        print(markdown_table(_read_result(args.table)))
        return 0
    device = args.device
    if args.tune and (device != "cuda" or args.out is None):
        raise ValueError("--tune needs --device cuda and --out")
    known = kernel_cases()
    if args.kernel is not None and args.kernel not in known:
        raise ValueError(f"--kernel {args.kernel!r} must be one of {', '.join(known)}")
    torch.manual_seed(0)
    clock = Clock(device)
    chosen = known if args.kernel is None else {args.kernel: known[args.kernel]}
    cases = [
        entry.make(*sizes, device=device)
        for entry in chosen.values()
        for sizes in (entry.large if device == "cuda" else [entry.small])
    ]
    facts = environment(device)
    table = tune(cases, clock) if args.tune else {}
    if table:
        _dispatch.set_tuned({facts["device"]: table})
    limits = ceilings(device, clock)
    rows = [row for case in cases for row in measure(case, clock, limits, args.runs, args.compile or device == "cuda")]
    result = {"environment": facts, "ceilings": limits, "rows": rows}
    if args.out is not None:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "kernels.json", json.dumps(result, indent=1))
        title = ", ".join(str(value) for value in facts.values())
        picture(rows, lambda row: f"{row['kernel']}: {row['size']}\n{row['phase']}", title, folder / "kernels.png")
        if table:
            for kernel, won in winners(rows).items():
                table.setdefault(kernel, {})["use"] = won
            write_text(folder / "tuned.json", json.dumps({facts["device"]: table}, indent=1))
    if args.json:
        print_json(result)
        return 0
    columns = ["kernel", "size", "phase", "variant", "ms", "min", "max", "speedup", "of_floor", "GB/s", "GFLOP/s"]
    cells = [[f"{row[c]:.3g}" if isinstance(row.get(c), float) else row.get(c) for c in columns] for row in rows]
    print_table(
        columns, cells, title=f"{facts}, {limits['bandwidth'] / 1e9:.0f} GB/s, {limits['rate'] / 1e9:.0f} GFLOP/s"
    )
    if device == "cpu":
        print("On a CPU 'ours' is the public function with torch operators; kernels run with --device cuda.")
    return 0
