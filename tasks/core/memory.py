"""Measurement of the peak memory of a function, beyond what the process had before."""

import gc
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["peak_bytes", "peak_bytes_apart"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory, now or at most (`VmHWM`)."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return 1024 * int(lines[field].split()[0])


def peak_bytes(function: Callable[[], Any]) -> int:
    """Largest growth of this process's memory in bytes while `function` runs.

    Memory that an earlier call left to the allocator is used again and does not count. So measure in a fresh process,
    see `peak_bytes_apart`.

    Raises:
        OSError: The system does not report it (it is not Linux).
    """
    gc.collect()
    before = _resident()
    try:
        _CLEAR.write_text("5")  # the peak starts again from here
    except OSError:
        return _sampled(function, before)
    function()
    return max(_resident("VmHWM") - before, 0)


def _sampled(function: Callable[[], Any], before: int) -> int:
    """Measure the growth every millisecond, if the system's own peak cannot be reset."""
    most, done = before, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, _resident())
            time.sleep(1e-3)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return most - before


def _child(prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...], threads: int, pipe: Any) -> None:
    import torch

    torch.set_num_threads(threads)
    pipe.send(peak_bytes(prepare(*args)))


def peak_bytes_apart(prepare: Callable[..., Callable[[], Any]], *args: Any) -> int:
    """Measure `peak_bytes` of the function that `prepare(*args)` returns, in a fresh process.

    Args:
        prepare: A function of a module; what it builds does not count.
        *args: Its arguments; they must be picklable.

    Raises:
        RuntimeError: The process failed; its own message is on the standard error stream.
    """
    import torch

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(prepare, args, torch.get_num_threads(), theirs))
    process.start()
    theirs.close()
    try:
        return int(ours.recv())
    except EOFError:
        process.join()
        raise RuntimeError(f"measuring {prepare.__name__}{args} failed with status {process.exitcode}") from None
    finally:
        process.join()
        ours.close()
