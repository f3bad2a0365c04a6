"""The shipped CP factors of the Clebsch-Gordan tensor, T_ijk = sum_r a_ir b_jr c_kr; see
`blockzoo.layers.equivariant.cp_fit`.

| l_max | rank | relative error (Frobenius) |
| --- | --- | --- |
| 1 | 7, published | 1.6 % |
| 1 | 8 | exact |
| 2 | 28, published | 1.2 % |
| 2 | 32 | exact |
| 3 | 63, published | 5.0 % |
| 3 | 96 | exact |

Source: "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations" (2025), section
3.2, for the use and the ranks 7 l_max².
"""

import functools
from pathlib import Path

import torch
from safetensors.torch import load_file

__all__ = ["EXACT_RANKS", "Factors", "cp_factors", "cp_ranks", "published_rank"]

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

EXACT_RANKS = {1: 8, 2: 32, 3: 96}
"""Ranks at which the error vanishes, by l_max."""

_FILE = Path(__file__).with_name("cp_factors.safetensors")


def published_rank(l_max: int) -> int:
    """The rank of the published models."""
    return 7 * l_max**2


@functools.cache
def _shipped() -> dict[str, torch.Tensor]:
    return load_file(_FILE)


def cp_ranks(l_max: int) -> list[int]:
    """Ranks of the shipped factors."""
    prefix = f"l{l_max}_r"
    return sorted(int(name[len(prefix) : -2]) for name in _shipped() if name.startswith(prefix) and name.endswith("_a"))


def cp_factors(l_max: int, rank: int | str = "published") -> Factors:
    """Shipped factors of the Clebsch-Gordan tensor of all paths up to a degree.

    Args:
        l_max: Highest degree of inputs and output, 1 to 3.
        rank: "published", "exact" or one of `cp_ranks(l_max)`.

    Returns:
        a, b and c, each ((l_max + 1)², rank), float64: of the feature, the harmonics and the result.

    Raises:
        ValueError: There are no shipped factors for this degree or rank.
    """
    known = cp_ranks(l_max)
    if not known:
        raise ValueError(f"l_max={l_max} has no shipped CP factors; they reach from 1 to {max(EXACT_RANKS)}")
    number = {"published": published_rank(l_max), "exact": EXACT_RANKS[l_max]}.get(str(rank), rank)
    if number not in known:
        raise ValueError(f"rank={rank!r} must be 'published', 'exact' or one of {known} for l_max={l_max}")
    a, b, c = (_shipped()[f"l{l_max}_r{number}_{name}"].clone() for name in "abc")
    return a, b, c
