"""Helpers for tests of kernels: poisoned memory, and compiling the launches of an operator without a GPU.

Correctness is tested in Triton's interpreter, which runs the body of a kernel on CPU tensors. The interpreter does not
notice products whose shapes no tensor core has, or blocks that do not fit shared memory. The compiler does:
`compiled_launches` records the launches that an operator makes for CPU tensors and compiles each to machine code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from blockzoo.kernels._dispatch import triton

__all__ = ["assert_near", "compiled_launches", "poisoned_empty"]

_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Rounding of the inputs and of the result, in units of the largest value, and a few sums in float32."""

_POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64",
             torch.int32: "*i32", torch.bool: "*i1"}  # fmt: skip
_OPTIONS = ("num_warps", "num_stages", "num_ctas")


@contextmanager
def poisoned_empty() -> Iterator[None]:
    """Fill new memory from `torch.empty` and its relatives with NaN, so that elements that were never written show."""
    deterministic: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        deterministic.fill_uninitialized_memory = before[1]


def assert_near(ours: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype) -> None:
    """Check a kernel's result, of type dtype, against that of the float64 reference; NaN never passes."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    assert ours.dtype == dtype, ours.dtype
    if ours.numel():
        wide = reference.detach().double()
        error = float((ours.detach().double() - wide).abs().max())
        assert error <= _TOLERANCE[dtype] * max(1.0, float(wide.abs().max())), error


class _Recorder:
    """Takes the place of a kernel and records the arguments of its launches."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda **arguments: self.launches.append((self.kernel, arguments))


def compiled_launches(
    module: ModuleType, kernels: list[str], call: Callable[[], Any], capability: int = 90
) -> list[tuple[str, Any]]:
    """Compile the launches that a call makes, for a device that need not be present.

    Args:
        module: Where the kernels are.
        kernels: Names of its kernels.
        call: Runs launchers of the module on CPU tensors; nothing is computed.
        capability: Compute capability of the device, times 10.

    Returns:
        Name of the kernel and its compiled form, for each launch.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    launches: list[tuple[Any, dict[str, Any]]] = []
    originals = {name: getattr(module, name) for name in kernels}
    try:
        for name, kernel in originals.items():
            setattr(module, name, _Recorder(kernel, launches))
        call()
    finally:
        for name, kernel in originals.items():
            setattr(module, name, kernel)
    compiled = []
    for kernel, arguments in launches:
        signature, constants, attributes = {}, {}, {}
        for place, parameter in enumerate(kernel.params):
            value = arguments[parameter.name]
            if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
                signature[parameter.name] = "constexpr"
                constants[parameter.name] = value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = _POINTERS[value.dtype]
                attributes[(place,)] = [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        source = ASTSource(kernel, signature, constants, attributes)
        options = {name: arguments[name] for name in _OPTIONS if name in arguments}
        target = GPUTarget("cuda", capability, 32)
        compiled.append((kernel.__name__, triton.compile(source, target=target, options=options)))
    return compiled
