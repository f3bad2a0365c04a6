"""CP factors: the shipped ones, and the command that made them."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from blockzoo.layers.equivariant.coupling import clebsch_gordan_tensor
from blockzoo.layers.equivariant.cp_factors import EXACT_RANKS, cp_factors, cp_ranks, published_rank
from blockzoo.layers.equivariant.cp_fit import fit_cp, relative_error

PUBLISHED_ERRORS = {1: 0.016, 2: 0.012, 3: 0.05}
"""What the table in the module says."""


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_shipped_factors_reach_the_errors_they_claim(golden, l_max):
    tensor = clebsch_gordan_tensor(l_max, l_max, l_max)
    published = cp_factors(l_max)
    assert published[0].shape == ((l_max + 1) ** 2, 7 * l_max**2)
    assert relative_error(tensor, published) < PUBLISHED_ERRORS[l_max]
    assert relative_error(tensor, cp_factors(l_max, "exact")) < 1e-12
    assert cp_ranks(l_max) == [published_rank(l_max), EXACT_RANKS[l_max]]
    theirs = golden("tdn_cp_factors")
    for rank, limit in ((published_rank(l_max), 1.12), (EXACT_RANKS[l_max], 1.0)):
        other = tuple(theirs.array(f"l{l_max}_r{rank}_{name}") for name in "abc")
        assert relative_error(tensor, cp_factors(l_max, rank)) <= limit * relative_error(tensor, other)


def test_exact_factors_couple_equivariantly(golden):
    a, b, c = cp_factors(2, "exact")
    x, y = torch.randn(9, dtype=torch.double), torch.randn(9, dtype=torch.double)
    for wigner in golden("gaunt_l2").array("extra_wigner_d")[:, :9, :9]:
        turned = c @ ((a.T @ wigner @ x) * (b.T @ wigner @ y))
        torch.testing.assert_close(turned, wigner @ (c @ ((a.T @ x) * (b.T @ y))), rtol=1e-9, atol=1e-9)


def test_the_command_makes_the_shipped_factors_again(tmp_path):
    path = tmp_path / "factors.safetensors"
    command = [
        sys.executable,
        "-m",
        "blockzoo.layers.equivariant.cp_fit",
        "--out",
        str(path),
        "--l-max",
        "1",
        "--rank",
        "8",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "l_max 1, rank 8: error" in result.stdout
    made = load_file(path)
    for name, factor in zip("abc", cp_factors(1, "exact"), strict=True):
        torch.testing.assert_close(made[f"l1_r8_{name}"], factor, rtol=1e-6, atol=1e-6)


def test_fit_of_a_tensor_of_known_rank():
    factors = [torch.randn(4, 3, dtype=torch.double) for _ in range(3)]
    tensor = torch.einsum("ir,jr,kr->ijk", *factors)
    fitted = fit_cp(tensor, 3, starts=2, sweeps=300)
    assert relative_error(tensor, fitted) < 1e-10
    again = fit_cp(tensor, 3, starts=2, sweeps=300)
    assert all(torch.equal(x, y) for x, y in zip(fitted, again, strict=True))


def test_errors():
    with pytest.raises(ValueError, match="l_max=4 has no shipped CP factors"):
        cp_factors(4)
    with pytest.raises(ValueError, match=r"rank=9 must be .* one of \[7, 8\]"):
        cp_factors(1, 9)
    with pytest.raises(ValueError, match="rank=0"):
        fit_cp(torch.zeros(2, 2, 2), 0)
