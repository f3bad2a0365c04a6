"""Every default launch fits the shared memory of every architecture since Ampere, also at large sizes."""

import importlib
from pathlib import Path

import pytest
import torch

import blockzoo.kernels
from blockzoo.kernels._testing import compiled_launches

LIMITS = {80: 163, 86: 99, 89: 99, 90: 227, 120: 99}
"""Shared memory of a block in kB by compute capability, from the CUDA programming guide."""

FOLDER = Path(blockzoo.kernels.__path__[0])
WITH_KERNELS = [path.stem for path in sorted(FOLDER.glob("[!_]*.py")) if "@jit\n" in path.read_text(encoding="utf-8")]

pytest.importorskip("triton", reason="kernels need the package triton")


def fold_conv(module, dtype):
    x, g = torch.zeros(1, 2, 96, 256, dtype=dtype), torch.zeros(1, 2, 96, 256, dtype=dtype)
    weight, periods = torch.zeros(11, 11, 256, 256, dtype=dtype), torch.ones(1, 2, dtype=torch.int64)
    module._launch(x, weight, weight[0, 0, 0], periods, 96, 96)
    module._launch_weight(x, g, periods, 96, 11)


def low_rank_product(module, dtype):
    x, factor = torch.zeros(2, 25, 256, dtype=dtype), torch.zeros(25, 100, dtype=dtype)
    module._launch(x, x, factor, factor, factor)


def residual_norm(module, dtype):
    x, gain, keep = torch.zeros(2, 3, 4096, dtype=dtype), torch.zeros(4096, dtype=dtype), torch.zeros(2)
    _, _, mean, rstd = module._launch(x, x, gain, keep, gain, gain, 1e-5)
    module._launch_backward(x, x, x, x, gain, keep, gain, True, mean, rstd)


def spectral_mix(module, dtype):
    x, weight = torch.zeros(32, 2, 64, 256, dtype=dtype), torch.zeros(4, 256, 256, 2, dtype=dtype)
    a, b = x.permute(2, 1, 0, 3)[:4], weight.permute(0, 3, 1, 2)
    module._launch(a, b, False, False, False)
    module._launch(a, b.mT, False, True, False)
    module._launch(a.mT, a, True, False, True)


def separable_conv(module, dtype):
    x = torch.zeros(1, 336, 42, 42, dtype=dtype).contiguous(memory_format=torch.channels_last)
    dw, pw, bias = (torch.zeros(shape, dtype=dtype) for shape in ((336, 1, 7, 7), (672, 336, 1, 1), (672,)))
    module._launch(x, dw, None, pw, bias, None, 1, 3, 3, 42, 42, "relu", "none", "relu", False)


def edge_product(module, dtype):
    ends = module.make_segments(torch.tensor([0, 1, 1]), 2)
    x, matrix = torch.zeros(2, 25, 256, dtype=dtype), torch.zeros(3, 25, 25, dtype=dtype)
    weight = torch.zeros(3, 256, dtype=dtype)
    both = module.Ends.of(ends, ends)
    module._launch(x, matrix, weight, both)
    module._launch_matrix(x, weight, x, both, 3)
    module._launch_weight(x, matrix, x, both)


CASES = {
    case.__name__: case
    for case in (edge_product, fold_conv, low_rank_product, residual_norm, separable_conv, spectral_mix)
}


def test_every_kernel_has_a_case():
    assert sorted(CASES) == WITH_KERNELS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("capability", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_launches_fit(name, capability, dtype):
    module = importlib.import_module(f"blockzoo.kernels.{name}")
    kernels = [kernel for kernel in vars(module) if kernel.startswith("_") and kernel.endswith("_kernel")]
    found = compiled_launches(module, kernels, lambda: CASES[name](module, dtype), capability)
    assert {kernel for kernel, _ in found} == set(kernels)
    sizes = {kernel: compiled.metadata.shared for kernel, compiled in found}
    assert max(sizes.values()) <= LIMITS[capability] * 1024, sizes
