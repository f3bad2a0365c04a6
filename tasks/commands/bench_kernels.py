"""Time kernels against their references, and choose their launch configurations.

`blockzoo bench kernels --device cuda` measures every kernel at the sizes of `CASES`, forward and in training (forward
and backward): ours, the eager reference, the compiled one, and peers that are installed. A variant is timed only after
its result agreed with the float64 reference. Runs alternate between the variants, with a cold L2 cache; times are
those of device events on a GPU, and of the host's clock on a CPU, where ours is torch's operators and small inputs stay
in the cache, so that the floor says little.

The floor of a case is the larger of two times: operations over the rate of a large matrix product, and the bytes that
must move at least over the bandwidth of a large copy, both measured in the same process.

`--out DIR` writes kernels.json and kernels.png there. `--tune` first tries configurations of each kernel and writes
tuned.json; copied to blockzoo/kernels/tuned.json, it makes kernels that won the default on that device: those that
beat the compiled reference by 1.2 at some size, and nowhere lose to it.
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from blockzoo.kernels import _dispatch
from blockzoo.kernels._dispatch import config_trial, kernels_as, triton
from blockzoo.kernels.edge_product import edge_product, edge_product_ref, make_segments
from blockzoo.kernels.low_rank_product import low_rank_product, low_rank_product_ref
from blockzoo.kernels.period_conv import (
    period_candidates,
    period_conv,
    period_conv_folded,
    period_conv_gathered,
)
from blockzoo.kernels.residual_norm import residual_norm, residual_norm_ref
from blockzoo.layers.gated_linear_attention import gated_linear_attention, gated_linear_attention_recurrent
from blockzoo.tasks.commands.output import print_json, print_table

__all__ = ["CASES", "Case", "run"]

_TOLERANCE = 2e-3
"""Relative error up to which a variant counts as right; float32 is far below, one TF32 product near 3e-4."""
WIN = 1.2


@dataclass
class Case:
    """One operation at one size.

    Attributes:
        kernel: File of the kernel, or of the layer.
        launches: Names of its launch configurations; none for what has no kernel of ours.
        size: For people.
        inputs: Arguments of all variants.
        ours: The public function.
        reference: Plain torch.
        flops: Operations of the forward pass.
        moved: Bytes that it must move.
        peers: Other implementations of the same function.
    """

    kernel: str
    launches: Mapping[str, Mapping[str, list[int]]]
    size: str
    inputs: list[Any]
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    flops: float
    moved: float
    peers: dict[str, Callable[..., Any]] = field(default_factory=dict)


def _draw(*shape: int, device: str) -> torch.Tensor:
    return torch.randn(*shape, device=device)


def _period_conv(batch: int, steps: int, chans: int, hidden: int, device: str, top_k: int = 5, size: int = 11) -> Case:
    candidates = torch.tensor(period_candidates(steps))
    strongest = [min(len(candidates) - 1, place) for place in (len(candidates) - 4, 3, 7, 10, 14)][:top_k]
    periods = candidates[strongest]
    weights = _draw(batch, top_k, device=device).softmax(1)
    w1 = _draw(hidden, chans, size, size, device=device) / size
    w2 = _draw(chans, hidden, size, size, device=device) / size
    # Taps that meet the image: rows and columns cut off what lies outside.
    slots = [-(-steps // p) * p for p in periods.tolist()]
    taps = [min(size, 2 * -(-steps // p) - 1) * min(size, 2 * p - 1) for p in periods.tolist()]
    flops = sum(2 * 2 * batch * s * t * chans * hidden for s, t in zip(slots, taps, strict=True))
    moved = 4 * (2 * batch * steps * chans + 2 * batch * sum(slots) * hidden + w1.numel() + w2.numel())
    blocks = {"BLOCK_S": [32, 64, 128], "num_warps": [4, 8], "num_stages": [2, 3, 4]}
    x = _draw(batch, steps, chans, device=device)
    inputs = [x, periods.to(device), weights, w1, _draw(hidden, device=device), w2, _draw(chans, device=device)]
    launches = {"fold_conv": blocks, "fold_conv_weight": {**blocks, "SPLIT": [4, 8, 16]}}
    text = f"batch {batch}, {steps} steps, {chans}-{hidden} channels, {top_k} periods"
    peers = {"folded": period_conv_folded}
    return Case("fold_conv", launches, text, inputs, period_conv, period_conv_gathered, flops, moved, peers)


def _edge_product(nodes: int, degree: int, rows: int, chans: int, device: str) -> Case:
    edges = nodes * degree
    receiver = torch.arange(nodes, device=device).repeat_interleave(degree)
    sender = (receiver + torch.randint(1, 4 * degree, (edges,), device=device)) % nodes  # neighbours are near
    gather, reduce = make_segments(sender, nodes), make_segments(receiver, nodes)
    x, weight = _draw(nodes, rows, chans, device=device), _draw(edges, chans, device=device)
    matrix = _draw(edges, rows, rows, device=device) / rows**0.5

    def ours(x: torch.Tensor, matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return edge_product(x, matrix, weight, gather, reduce)

    def reference(x: torch.Tensor, matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return edge_product_ref(x, matrix, weight, sender, receiver, nodes)

    moved = 4 * (2 * nodes * rows * chans + edges * (rows * rows + chans)) + 24 * edges
    blocks = {"BLOCK_C": [32, 64, 128], "num_warps": [1, 2, 4]}
    launches = {"edge_product": blocks, "edge_product_matrix": blocks, "edge_product_weight": blocks}
    text = f"{nodes} nodes, {edges} edges, {rows} x {rows}, {chans} channels"
    flops = 2.0 * edges * chans * rows * (rows + 1)
    return Case("edge_product", launches, text, [x, matrix, weight], ours, reference, flops, moved)


def _low_rank(count: int, rows: int, rank: int, chans: int, device: str) -> Case:
    x1, x2 = (_draw(count, rows, chans, device=device) for _ in range(2))
    factors = [_draw(rows, rank, device=device) / rank**0.5 for _ in range(3)]
    flops, moved = 2.0 * 3 * count * rows * rank * chans, 4.0 * 3 * count * rows * chans
    blocks = {"BLOCK_R": [16, 32, 64], "BLOCK_C": [32, 64, 128], "num_warps": [2, 4, 8]}
    text = f"{count} rows of {rows} x {chans}, rank {rank}"
    launches = {"low_rank_product": blocks}
    inputs = [x1, x2, *factors]
    return Case("low_rank_product", launches, text, inputs, low_rank_product, low_rank_product_ref, flops, moved)


def _residual_norm(batch: int, tokens: int, dim: int, device: str) -> Case:
    x, y = (_draw(batch, tokens, dim, device=device) for _ in range(2))
    scale, weight, bias = (_draw(dim, device=device) for _ in range(3))

    def reference(*inputs: Any) -> Any:
        return residual_norm_ref(inputs[0], inputs[1], inputs[2], None, inputs[3], inputs[4], 1e-5)

    def ours(*inputs: Any) -> Any:
        return residual_norm(inputs[0], inputs[1], inputs[2], None, inputs[3], inputs[4])

    launches = {"residual_norm": {"num_warps": [1, 2, 4, 8]}, "residual_norm_backward": {"num_warps": [1, 2, 4, 8]}}
    elements = batch * tokens * dim
    text, inputs = f"batch {batch}, {tokens} tokens of {dim}", [x, y, scale, weight, bias]
    return Case("residual_norm", launches, text, inputs, ours, reference, 10.0 * elements, 4.0 * 4 * elements)


def _linear_attention(batch: int, heads: int, tokens: int, keys: int, device: str) -> Case:
    q, k = (_draw(batch, heads, tokens, keys, device=device) for _ in range(2))
    v, g = _draw(batch, heads, tokens, 2 * keys, device=device), _draw(batch, heads, tokens, keys, device=device)
    inputs = [q, k, v, torch.nn.functional.logsigmoid(g) / 16]

    def ours(*inputs: Any) -> torch.Tensor:
        return gated_linear_attention(*inputs)[0]

    def recurrent(*inputs: torch.Tensor) -> torch.Tensor:
        return gated_linear_attention_recurrent(*inputs)[0]

    # The chunked form is the reference, since compiling the recurrence would unroll it token by token.
    peers: dict[str, Callable[..., Any]] = {"recurrent": recurrent}
    if device == "cuda" and importlib.util.find_spec("fla") is not None:
        from fla.ops.gla import chunk_gla

        def fla(*inputs: torch.Tensor) -> torch.Tensor:
            return chunk_gla(*(part.transpose(1, 2).contiguous() for part in inputs))[0].transpose(1, 2)

        peers["flash-linear-attention"] = fla
    count = batch * heads * tokens * keys
    text = f"batch {batch}, {heads} heads, {tokens} tokens, {keys} keys"
    flops, moved = 2.0 * 2 * count * 2 * keys, 4.0 * 7 * count
    return Case("gated_linear_attention", {}, text, inputs, ours, ours, flops, moved, peers)


CASES: dict[str, tuple[Callable[..., Case], list[tuple[int, ...]], tuple[int, ...]]] = {
    "fold_conv": (_period_conv, [(32, 192, 16, 32), (32, 192, 32, 32), (32, 192, 64, 64)], (2, 48, 8, 8)),
    "edge_product": (_edge_product, [(4000, 25, 4, 128), (4000, 25, 9, 128), (4000, 25, 25, 64)], (50, 8, 9, 32)),
    "low_rank_product": (_low_rank, [(10000, 9, 28, 128), (10000, 16, 63, 128)], (100, 9, 28, 32)),
    "residual_norm": (_residual_norm, [(64, 261, 768), (8, 261, 768), (32, 192, 64)], (2, 65, 96)),
    "gated_linear_attention": (_linear_attention, [(32, 12, 256, 32), (8, 12, 1024, 32)], (1, 2, 65, 8)),
}
"""For each kernel: how a case is made, sizes for a GPU, and one for a CPU."""


class _Clock:
    """Milliseconds of a call on a device, with a cold L2 cache on a GPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.flush = torch.empty(256 * 2**20 if device == "cuda" else 0, dtype=torch.int8, device=device)

    def __call__(self, function: Callable[[], Any]) -> float:
        if self.device != "cuda":
            start = time.perf_counter()
            function()
            return 1e3 * (time.perf_counter() - start)
        self.flush.zero_()
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start_event.record()
        function()
        end_event.record()
        torch.cuda.synchronize()
        return float(start_event.elapsed_time(end_event))

    def interleaved(self, functions: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
        """Times of each function, turn by turn."""
        times: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(runs + 2):
            for name, function in functions.items():
                elapsed = self(function)
                if turn >= 2:  # the first calls compile and fill caches
                    times[name].append(elapsed)
        return times


def ceilings(device: str, clock: _Clock) -> dict[str, float]:
    """Bytes and operations for a second, by a large copy and a large product of float32."""
    big = device == "cuda"
    source = torch.randn((2**28 if big else 2**22,), device=device)
    target = torch.empty_like(source)
    side = 8192 if big else 512
    a = torch.randn(side, side, device=device)
    times = clock.interleaved({"copy": lambda: target.copy_(source), "product": lambda: a @ a}, 5)
    copied, product = (statistics.median(times[name]) / 1e3 for name in ("copy", "product"))
    return {"bandwidth": 2 * 4 * source.numel() / copied, "rate": 2 * side**3 / product}


def _first(result: Any) -> torch.Tensor:
    return result[-1] if isinstance(result, tuple) else result


def _leaves(case: Case) -> list[torch.Tensor]:
    trained = 2 if case.kernel == "low_rank_product" else len(case.inputs)  # its factors are constants
    return [
        x.clone().requires_grad_() if x.is_floating_point() and i < trained else x for i, x in enumerate(case.inputs)
    ]


def _training(function: Callable[..., Any], inputs: list[Any]) -> Callable[[], tuple[torch.Tensor, ...]]:
    leaves = [x for x in inputs if x.is_floating_point() and x.requires_grad]

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(_first(function(*inputs)).square().sum(), leaves)

    return step


def _error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours.double() - reference).norm() / reference.norm())


def measure(
    case: Case, clock: _Clock, limits: Mapping[str, float], runs: int, compiled: bool
) -> Iterator[dict[str, Any]]:
    """Rows of one case, after checking each variant against the float64 reference."""
    variants = {"eager": case.reference}
    if compiled:
        variants["compiled"] = torch.compile(case.reference)
    variants = {**variants, "ours": case.ours, **case.peers}
    mode = "triton" if clock.device == "cuda" else "auto"
    wide = [x.double() if x.is_floating_point() else x for x in case.inputs]
    with torch.no_grad(), kernels_as("torch"):
        truth = _first(case.reference(*wide))
    leaves = _leaves(case)
    floors = {"operations": 1e3 * case.flops / limits["rate"], "bytes": 1e3 * case.moved / limits["bandwidth"]}
    with kernels_as(mode):
        errors = {}
        for name, function in variants.items():
            with torch.no_grad():
                errors[name] = _error(_first(function(*case.inputs)), truth)
            if not errors[name] < _TOLERANCE:
                raise RuntimeError(f"{case.kernel} ({case.size}): {name} is wrong, relative error {errors[name]:.1e}")
        with torch.no_grad():
            forward = {name: (lambda f=f: f(*case.inputs)) for name, f in variants.items()}
            phases = {"forward": clock.interleaved(forward, runs)}
        steps = {name: _training(function, leaves) for name, function in variants.items()}
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


def tune(cases: list[Case], clock: _Clock) -> dict[str, Any]:
    """The fastest configuration of every launch at every case: {launch: {"configs": [{"sizes", "config"}]}}."""
    table: dict[str, Any] = {}
    for case in cases:
        step = _training(case.ours, _leaves(case))
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
    """Which kernels beat the compiled reference by `WIN` at some size and phase, and nowhere lose to it."""
    ours: dict[str, list[float]] = {}
    for row in rows:
        if row["variant"] == "ours":
            ours.setdefault(row["kernel"], []).append(row["speedup"])
    return {kernel: max(ratios) >= WIN and min(ratios) >= 1 for kernel, ratios in ours.items()}


def _environment(device: str) -> dict[str, Any]:
    facts = {"torch": torch.__version__, "triton": triton.__version__ if triton else None, "device": device}
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        facts |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "driver": " ".join(driver)}
    return {**facts, "threads": torch.get_num_threads()}


def _write(path: Path, text: str) -> None:
    """Write a file at once, so that it is never there in part."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def _picture(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['kernel']}: {row['size']}\n{row['phase']}", {})[row["variant"]] = row
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.75 * len(groups)))
    names = list(dict.fromkeys(row["variant"] for row in rows))
    for i, name in enumerate(names):
        places = [(place, group[name]) for place, group in enumerate(groups.values()) if name in group]
        middle = [row["ms"] for _, row in places]
        spread = [[row["ms"] - row["min"] for _, row in places], [row["max"] - row["ms"] for _, row in places]]
        axis.barh(
            [place + 0.8 * i / len(names) for place, _ in places], middle, 0.75 / len(names), xerr=spread, label=name
        )
    axis.set_yticks([place + 0.3 for place in range(len(groups))], list(groups), fontsize=7)
    axis.set_xscale("log")
    axis.set_xlabel("ms, median with smallest and largest")
    axis.invert_yaxis()
    axis.legend()
    axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for.

    Raises:
        ValueError: The device is not there, a kernel is unknown, or tuning is asked for without a GPU.
    """
    device = args.device or "cpu"
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device!r} must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no CUDA device, or torch cannot see it")
    if args.tune and (device != "cuda" or args.out is None):
        raise ValueError("--tune needs --device cuda and --out")
    if args.kernel is not None and args.kernel not in CASES:
        raise ValueError(f"--kernel {args.kernel!r} must be one of {', '.join(CASES)}")
    torch.manual_seed(0)
    clock = _Clock(device)
    chosen = CASES if args.kernel is None else {args.kernel: CASES[args.kernel]}
    cases = [
        make(*sizes, device=device)
        for make, large, small in chosen.values()
        for sizes in (large if device == "cuda" else [small])
    ]
    environment = _environment(device)
    table = tune(cases, clock) if args.tune else {}
    if table:
        _dispatch.set_tuned({environment["device"]: table})
    limits = ceilings(device, clock)
    rows = [row for case in cases for row in measure(case, clock, limits, args.runs, args.compile or device == "cuda")]
    result = {"environment": environment, "ceilings": limits, "rows": rows}
    if args.out is not None:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "kernels.json", json.dumps(result, indent=1))
        _picture(rows, ", ".join(str(value) for value in environment.values()), folder / "kernels.png")
        if table:
            for kernel, won in winners(rows).items():
                table.setdefault(kernel, {})["use"] = won
            _write(folder / "tuned.json", json.dumps({environment["device"]: table}, indent=1))
    if args.json:
        print_json(result)
        return 0
    columns = ["kernel", "size", "phase", "variant", "ms", "min", "max", "speedup", "of_floor", "GB/s", "GFLOP/s"]
    cells = [[f"{row[c]:.3g}" if isinstance(row.get(c), float) else row.get(c) for c in columns] for row in rows]
    print_table(
        columns, cells, title=f"{environment}, {limits['bandwidth'] / 1e9:.0f} GB/s, {limits['rate'] / 1e9:.0f} GFLOP/s"
    )
    if device == "cpu":
        print("On a CPU 'ours' is the public function with torch operators; kernels run with --device cuda.")
    return 0
