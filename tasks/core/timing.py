"""Timing of functions in turn, on a CPU or a GPU, for the suites of `blockzoo bench`."""

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from blockzoo.kernels._dispatch import kernel_mode, triton
from blockzoo.tasks.core.files import write_figure

__all__ = [
    "Clock",
    "ceilings",
    "checked_device",
    "environment",
    "interleaved",
    "operations",
    "timed_rows",
]


def checked_device(name: str | None) -> str:
    """The requested device, by default the CPU.

    Raises:
        ValueError: There is no such device.
    """
    device = name or "cpu"
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device!r} must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no CUDA device, or torch cannot see it")
    return device


class Clock:
    """Measures the milliseconds of a call on a device, with a cold L2 cache on a GPU.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.flush = torch.empty(256 * 2**20 if device == "cuda" else 0, dtype=torch.int8, device=device)

    def __call__(self, function: Callable[[], Any]) -> float:
        """Time one call."""
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

    def interleaved(
        self, functions: Mapping[str, Callable[[], Any]], runs: int, warm_up: int = 2
    ) -> dict[str, list[float]]:
        """Times of each function, turn by turn, after calls that compile and fill caches."""
        times: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(runs + warm_up):
            for name, function in functions.items():
                elapsed = self(function)
                if turn >= warm_up:
                    times[name].append(elapsed)
        return times


def interleaved(functions: Mapping[str, Callable[[], Any]], runs: int, device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of each function, run turn by turn after one call to warm up."""
    return Clock(device).interleaved(functions, runs, 1)


def operations(functions: Mapping[str, Callable[[], Any]]) -> dict[str, int]:
    """Operations of products, convolutions and attention in each function, two for a multiply-add.

    A compiled or deployed form gets the count of its original, if that is among the functions, because the counter sees
    neither compiled code nor oneDNN's convolutions. A deployed form without its original is counted while gradients are
    recorded, since it then runs PyTorch's convolutions.
    """
    counts: dict[str, int] = {}
    for name, function in functions.items():
        source = (
            name.removesuffix(", compiled") if name.endswith(", compiled") else name.replace("compiled", "as built")
        )
        source = source if source in counts else source.replace("deployed", "as built")
        if source in counts:
            counts[name] = counts[source]
        elif "compiled" not in name:
            recorded = torch.is_grad_enabled() or "deployed" in name
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(recorded):
                function()
            counts[name] = counter.get_total_flops()
    return counts


def timed_rows(
    about: Mapping[str, Any],
    times: Mapping[str, list[float]],
    base: str | None = None,
    counts: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """One row for each variant: median, smallest and largest time, and the ratio to a variant.

    Args:
        about: Entries at the start of every row.
        times: Milliseconds of each variant.
        base: The variant that others are compared with, the first by default.
        counts: Operations of each variant, for a column of GFLOP/s.
    """
    middle = {name: statistics.median(values) for name, values in times.items()}
    reference = middle[next(iter(middle)) if base is None else base]
    rows = []
    for name, values in times.items():
        spread = {"ms": middle[name], "min": min(values), "max": max(values), "speedup": reference / middle[name]}
        rate = {"GFLOP/s": counts[name] / middle[name] / 1e6} if counts and counts.get(name) else {}
        rows.append({**about, "variant": name, **spread, **rate})
    return rows


def ceilings(device: str, clock: Clock) -> dict[str, float]:
    """Bytes and operations per second of this device, from a large copy and a large float32 product."""
    big = device == "cuda"
    source = torch.randn((2**28 if big else 2**22,), device=device)
    target = torch.empty_like(source)
    side = 8192 if big else 512
    a = torch.randn(side, side, device=device)
    times = clock.interleaved({"copy": lambda: target.copy_(source), "product": lambda: a @ a}, 5)
    copied, product = (statistics.median(times[name]) / 1e3 for name in ("copy", "product"))
    return {"bandwidth": 2 * 4 * source.numel() / copied, "rate": 2 * side**3 / product}


def environment(device: str) -> dict[str, Any]:
    """The environment of a measurement: versions, device, driver, threads, choice of kernels."""
    facts = {"torch": torch.__version__, "triton": triton.__version__ if triton else None, "device": device}
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        facts |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "driver": " ".join(driver)}
    return {**facts, "threads": torch.get_num_threads(), "kernels": kernel_mode()}


def picture(rows: Sequence[Mapping[str, Any]], label: Callable[[Any], str], title: str, path: Path) -> None:
    """Draw a bar for each row, in groups of rows with the same label.

    Args:
        rows: With variant, ms, min and max.
        label: The text of a row's group.
        title: Of the picture.
        path: A PNG file.
    """
    from matplotlib.figure import Figure

    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        groups.setdefault(label(row), {})[row["variant"]] = row
    figure = Figure(figsize=(9, 0.6 + 0.75 * len(groups)), layout="tight")
    axis = figure.subplots()
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
    write_figure(path, figure, dpi=130)
