"""Kernels, run by Triton's interpreter on a CPU, equal their float64 references."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="kernels need the package triton")
CHECKS = sorted((Path(__file__).parent / "interpreter").glob("check_*.py"))


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_kernels_in_the_interpreter(path):
    # The interpreter is chosen when a kernel is defined, so that it needs a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(path)]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=path.parents[3])
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
