"""Kernels on a GPU equal their float64 references: the checks of the interpreter, with CUDA tensors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = [
    path for path in sorted((Path(__file__).parent / "interpreter").glob("check_*.py")) if "tuning" not in path.name
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_kernels_on_the_device(path):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(path)]
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env |= {"BLOCKZOO_CHECK_DEVICE": "cuda", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # poisoning memory needs the latter
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=path.parents[3])
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
