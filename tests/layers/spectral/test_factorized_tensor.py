"""Factorised tensors: ranks, reconstruction, start values, compression."""

import pytest
import torch

from blockzoo.layers.spectral.factorized_tensor import FactorizedTensor, complex_matmul, tensor_ranks

SUBSCRIPTS = {
    "tucker": "abcd,ia,jb,kc,ld->ijkl",
    "cp": "r,ir,jr,kr,lr->ijkl",
    "tt": "zia,ajb,bkc,cly->ijkl",
}


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("form", SUBSCRIPTS)
def test_full_tensor_is_the_sum_over_factors(form, is_complex):
    tensor = FactorizedTensor((5, 4, 6, 3), form, 0.5, is_complex, dtype=torch.double)
    parts = [torch.view_as_complex(part.detach()) if is_complex else part.detach() for part in tensor.parts()]
    expected = torch.einsum(SUBSCRIPTS[form], *parts)
    full = tensor.full()
    full = torch.view_as_complex(full.contiguous()) if is_complex else full
    torch.testing.assert_close(full, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *_: tensor.full(), tuple(tensor.parameters()))


def test_complex_product_equals_torchs():
    x, w = torch.randn(3, 2, 4, 5, dtype=torch.double), torch.randn(3, 5, 6, 2, dtype=torch.double)
    expected = torch.view_as_complex(x.movedim(1, -1).contiguous()) @ torch.view_as_complex(w)
    torch.testing.assert_close(complex_matmul(x, w).movedim(1, -1), torch.view_as_real(expected))


@pytest.mark.parametrize(
    ("shape", "form", "rank", "expected"),
    [  # what tensorly gives
        ((64, 64, 64, 33), "tucker", 0.1, (36, 36, 36, 19)),
        ((64, 64, 64, 33), "tucker", 0.05, (30, 30, 30, 16)),
        ((64, 64, 64, 33), "tucker", 0.01, (20, 20, 20, 10)),
        ((32, 32, 16, 9), "tucker", 0.42, (26, 26, 13, 7)),
        ((64, 64, 64, 33), "cp", 0.1, (3845,)),
        ((64, 64, 64, 33), "tt", 0.1, (1, 87, 87, 66, 1)),
        ((4, 5, 6), "tucker", 3, (3, 3, 3)),
        ((4, 5, 6), "tt", [1, 2, 3, 1], (1, 2, 3, 1)),
        ((8, 6), "tt", 0.5, (1, 2, 1)),
    ],
)
def test_ranks_follow_from_a_share_of_the_entries(shape, form, rank, expected):
    assert tensor_ranks(shape, form, rank) == expected


def test_fixed_modes_keep_their_rank_within_the_budget():
    ranks = tensor_ranks((8, 8, 6, 4), "tucker", 0.3, fixed_modes=[0])
    assert ranks[0] == 8 and ranks == (8, 5, 4, 2)


@pytest.mark.parametrize("form", ["dense", *SUBSCRIPTS])
def test_entries_start_with_the_wanted_deviation(form):
    entries = [
        FactorizedTensor((24, 24, 12, 7), form, 0.1, True, std=0.125).full().detach().square().sum(-1) for _ in range(8)
    ]
    found = float(torch.stack(entries).mean().sqrt())
    assert 0.08 < found < 0.2  # neuraloperator's tensor-trains start below 0.001


@pytest.mark.parametrize("form", ["dense", "tucker", "tt"])
def test_compression_of_a_tensor_of_low_rank_is_exact(form):
    small = FactorizedTensor((6, 5, 4), "tucker", [2, 2, 2], std=1.0, dtype=torch.double).full().detach()
    rank = {"dense": 1, "tucker": [2, 2, 2], "tt": [1, 2, 2, 1]}[form]
    compressed = FactorizedTensor.from_dense(small, form, rank)
    torch.testing.assert_close(compressed.full(), small)
    assert form == "dense" or compressed.num_entries < small.numel()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factorization": "svd"}, "factorization='svd' must be one of"),
        ({"factorization": "tucker", "rank": 0.0}, "rank=0.0 must be positive"),
        ({"factorization": "tucker", "rank": [2]}, "must be 3 positive integers"),
        ({"factorization": "tt", "rank": [1, 0, 2, 1]}, "must be 4 positive integers"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        FactorizedTensor((3, 4, 5), **arguments)
    with pytest.raises(ValueError, match="from_dense knows"):
        FactorizedTensor.from_dense(torch.ones(2, 2), "cp")
