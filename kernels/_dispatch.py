"""The rule that chooses the implementation of an operation, and the measured launch configurations.

The environment variable BLOCKZOO_KERNELS, read when blockzoo is imported, decides:

| value | on a CUDA device | on a CPU |
| --- | --- | --- |
| auto (default) | Triton where `tuned.json` records that the kernel won on that device, else torch | torch |
| triton | every Triton kernel, measured or not | the same operators, whose CPU form is the reference |
| torch | the reference | torch |

With every value, exported, traced and scripted graphs hold plain torch operators, and so do computations in float64
and those inside a transform, `torch.vmap` or `torch.func.grad`, which is what compiled models with gradient forces use.
Graphs of `torch.compile` and CUDA graphs hold the operators.
With TRITON_INTERPRET=1 operators run their kernels on CPU tensors, in Triton's interpreter.

This is the only file that imports Triton; kernels take `triton`, `tl` and `jit` from here.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

try:
    import triton
    import triton.language as tl
    from triton import jit
except ImportError:  # kernels are then defined, and never launched
    triton = None
    tl = SimpleNamespace(constexpr=int)

    def jit(fn: Any) -> Any:
        """Stand-in for `triton.jit` without Triton: returns the kernel unchanged."""
        return fn


__all__ = [
    "HAS_TRITON", "INTERPRETED", "MODES", "autocast_dtype", "config_trial", "describe", "dot", "dot_precision", "jit",
    "kernel_mode", "kernels_as", "launch_config", "next_power", "on_its_device", "outside_autocast", "set_tuned", "tl",
    "triton", "use_kernel",
]  # fmt: skip

HAS_TRITON = triton is not None
Launched = TypeVar("Launched")
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
MODES = ("auto", "triton", "torch")
_TYPES = (torch.float32, torch.bfloat16, torch.float16)

_mode = os.environ.get("BLOCKZOO_KERNELS", "auto")
_trials: dict[str, dict[str, Any]] = {}
_tuned: dict[str, Any] = json.loads(files("blockzoo.kernels").joinpath("tuned.json").read_text(encoding="utf-8"))


def kernel_mode() -> str:
    """The mode that is in force.

    Raises:
        ValueError: BLOCKZOO_KERNELS has another value.
        ImportError: It asks for Triton, which is not installed.
    """
    if _mode not in MODES:
        raise ValueError(f"BLOCKZOO_KERNELS={_mode!r} must be one of {', '.join(MODES)}")
    if _mode == "triton" and not HAS_TRITON:
        raise ImportError("BLOCKZOO_KERNELS='triton' needs the package triton, which is not installed")
    return _mode


@contextmanager
def kernels_as(mode: str) -> Iterator[None]:
    """Set the mode inside a `with` block; not for use in several threads at once."""
    global _mode
    before, _mode = _mode, mode
    try:
        kernel_mode()
        yield
    finally:
        _mode = before


def set_tuned(table: Mapping[str, Any]) -> None:
    """Replace the shipped table of configurations in this process."""
    global _tuned
    _tuned = dict(table)


@contextmanager
def config_trial(kernel: str, config: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Launch a kernel with a given configuration inside a `with` block; yields a record of the requested "sizes"."""
    trial = _trials[kernel] = {"config": dict(config), "sizes": {}}
    try:
        yield trial
    finally:
        del _trials[kernel]


@torch.compiler.assume_constant_result
def _wins(kernel: str, device: int) -> bool:
    return bool(_tuned.get(torch.cuda.get_device_name(device), {}).get(kernel, {}).get("use", False))


@torch.compiler.assume_constant_result
def _inside_transform() -> bool:
    """Whether a torch.func transform is active; while Dynamo traces, it checks this itself and guards the result."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def use_kernel(kernel: str, x: torch.Tensor) -> bool:
    """Whether an operation on x uses its operator with a kernel; layers check this at each call.

    Args:
        kernel: Name of the kernel's file.
        x: Its main input, for device and type.
    """
    mode = kernel_mode()
    if isinstance(x, torch.fx.Proxy):
        return False
    if mode == "torch" or x.dtype not in _TYPES or torch.jit.is_tracing() or torch.compiler.is_exporting():
        return False
    if _inside_transform():
        return False  # torch.func.grad takes no operators with an autograd formula of their own
    if mode == "triton":
        return x.device.type in ("cpu", "cuda")
    return HAS_TRITON and x.device.type == "cuda" and _wins(kernel, x.device.index or 0)


def launch_config(kernel: str, x: torch.Tensor, sizes: Mapping[str, int], default: Mapping[str, int]) -> dict[str, int]:
    """Block sizes and warps of a launch: those measured for the most similar sizes on this device, or the default.

    Args:
        kernel: Name of the kernel.
        x: A tensor on the device.
        sizes: Sizes that the choice depends on.
        default: Configuration if nothing was measured, by names of the kernel's parameters.
    """
    if kernel in _trials:
        _trials[kernel]["sizes"] = dict(sizes)
        return {**default, **_trials[kernel]["config"]}
    if x.device.type != "cuda":
        return dict(default)
    found = _tuned.get(torch.cuda.get_device_name(x.device), {}).get(kernel, {}).get("configs", [])
    if not found:
        return dict(default)

    def distance(entry: Mapping[str, Any]) -> float:
        return sum(abs(math.log((sizes[name] + 1) / (entry["sizes"].get(name, 0) + 1))) for name in sizes)

    return {**default, **min(found, key=distance)["config"]}


def on_its_device(launcher: Callable[..., Launched]) -> Callable[..., Launched]:
    """Make a launcher run on the device of its first argument, which need not be the current one."""

    @functools.wraps(launcher)
    def launch(x: torch.Tensor, *args: Any, **kwargs: Any) -> Launched:
        with torch.cuda.device_of(x):
            return launcher(x, *args, **kwargs)

    return launch


def outside_autocast(kernel: Callable[..., Launched]) -> Callable[..., Launched]:
    """Make the CPU form of an operator keep the type of its inputs under autocast, as a launch does."""

    @functools.wraps(kernel)
    def call(*args: Any) -> Launched:
        with torch.autocast("cpu", enabled=False):
            return kernel(*args)

    return call


def dot_precision(x: torch.Tensor) -> str:
    """Choose how kernels multiply float32 matrices.

    They use three TF32 products, about as exact as float32, or one, if `torch.set_float32_matmul_precision` allows it.
    The interpreter does not support bfloat16 products.
    """
    if INTERPRETED and x.dtype == torch.bfloat16:
        return "upcast"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """Add the product of two blocks to acc, see `dot_precision`."""
    if PRECISION == "upcast":
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


def autocast_dtype(x: torch.Tensor) -> torch.dtype:
    """The type that a convolution or matrix product of x has under the autocast in force, if any."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def next_power(n: int, least: int = 16) -> int:
    """The smallest power of two that is at least n, and at least `least`."""
    return max(least, 1 << max(n - 1, 0).bit_length())


def describe() -> dict[str, Any]:
    """Facts about kernels for `blockzoo info`: mode, Triton's version, devices, and what was measured on them."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "mode": kernel_mode(),
        "triton": triton.__version__ if HAS_TRITON else None,
        "devices": devices,
        "in use": {name: sorted(k for k, v in _tuned.get(name, {}).items() if v.get("use")) for name in devices},
    }
