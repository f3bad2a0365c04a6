"""Coupling tensors: how two features of degrees l1 and l2 make one of degree l3.

Two families, both in e3nn's order and signs (0.5 and later): Clebsch-Gordan (every path |l1 - l2| <= l3 <= l1 + l2) and
Gaunt (the product of two functions on the sphere, which has the paths of even l1 + l2 + l3 alone).

Source: "Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt Tensor Products" (2024), section 3;
"The Price of Freedom: Exploring Expressivity and Runtime Tradeoffs in Equivariant Tensor Products" (2025).
"""

import functools
import math
from typing import Literal, get_args

import torch

from blockzoo.layers.equivariant.spherical_harmonics import degree_slices, spherical_harmonics

__all__ = ["Parity", "clebsch_gordan_tensor", "gaunt_tensor", "paths", "sphere_grid"]

Parity = Literal["so3", "o3"]

MAX_DEGREE = 16
"""Highest degree of a coupling: at three of these, the Gaunt tensor takes 200 MB."""

MAX_WIGNER = 11
"""Highest degree of e3nn's Wigner symbols, of which Clebsch-Gordan tensors are made."""


def paths(l_max_in1: int, l_max_in2: int, l_max_out: int, parity: Parity = "so3") -> list[tuple[int, int, int]]:
    """All (l1, l2, l3) with |l1 - l2| <= l3 <= l1 + l2 within the limits, in lexicographic order.

    Args:
        l_max_in1: Highest l1.
        l_max_in2: Highest l2.
        l_max_out: Highest l3.
        parity: "o3" leaves out odd l1 + l2 + l3: for features of parity (-1)^l these would make pseudo-tensors.

    Raises:
        ValueError: A degree is negative or above `MAX_DEGREE`, or the parity unknown.
    """
    for name, value in (("l_max_in1", l_max_in1), ("l_max_in2", l_max_in2), ("l_max_out", l_max_out)):
        if not 0 <= value <= MAX_DEGREE:
            raise ValueError(f"{name}={value} must be from 0 to {MAX_DEGREE}")
    if parity not in get_args(Parity):
        raise ValueError(f"parity={parity!r} must be one of {', '.join(get_args(Parity))}")
    return [
        (l1, l2, l3)
        for l1 in range(l_max_in1 + 1)
        for l2 in range(l_max_in2 + 1)
        for l3 in range(abs(l1 - l2), min(l_max_out, l1 + l2) + 1)
        if parity == "so3" or (l1 + l2 + l3) % 2 == 0
    ]


@functools.cache
def _clebsch_gordan(l_max_in1: int, l_max_in2: int, l_max_out: int, component: bool, parity: Parity) -> torch.Tensor:
    from e3nn.o3 import wigner_3j  # takes seconds to import

    rows1, rows2, rows3 = degree_slices(l_max_in1), degree_slices(l_max_in2), degree_slices(l_max_out)
    with torch.device("cpu"):
        sizes = [(degree + 1) ** 2 for degree in (l_max_in1, l_max_in2, l_max_out)]
        tensor = torch.zeros(sizes, dtype=torch.float64)
        for l1, l2, l3 in paths(l_max_in1, l_max_in2, l_max_out, parity):
            scale = math.sqrt(2 * l3 + 1) if component else 1.0
            tensor[rows1[l1], rows2[l2], rows3[l3]] = scale * wigner_3j(l1, l2, l3, dtype=torch.float64)
    return tensor


def clebsch_gordan_tensor(
    l_max_in1: int,
    l_max_in2: int,
    l_max_out: int,
    normalization: Literal["norm", "component"] = "norm",
    parity: Parity = "so3",
) -> torch.Tensor:
    """Clebsch-Gordan tensor of all paths in one array.

    Args:
        l_max_in1: Highest degree of the first input.
        l_max_in2: Highest degree of the second.
        l_max_out: Highest degree of the output.
        normalization: "norm": every path is e3nn's `wigner_3j`, of Frobenius norm 1; "component": times sqrt(2 l3 + 1).
        parity: See `paths`.

    Returns:
        ((l_max_in1 + 1)², (l_max_in2 + 1)², (l_max_out + 1)²), float64, on the CPU.

    Raises:
        ValueError: An option is unknown, or a degree negative or above `MAX_WIGNER`.
    """
    if normalization not in ("norm", "component"):
        raise ValueError(f"normalization={normalization!r} must be 'norm' or 'component'")
    for name, value in (("l_max_in1", l_max_in1), ("l_max_in2", l_max_in2), ("l_max_out", l_max_out)):
        if value > MAX_WIGNER:
            raise ValueError(f"{name}={value} must be from 0 to {MAX_WIGNER}")
    paths(l_max_in1, l_max_in2, l_max_out, parity)
    return _clebsch_gordan(l_max_in1, l_max_in2, l_max_out, normalization == "component", parity).clone()


def sphere_grid(degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Product grid that integrates every polynomial up to a degree exactly over the sphere.

    Gauss-Legendre nodes along the polar axis y, equal steps around it.

    Args:
        degree: Highest degree of the integrand.

    Returns:
        Points (R, 3) on the sphere and weights (R,) that sum to 4 pi, float64; R = ceil((degree + 1) / 2) (degree + 1).
    """
    with torch.device("cpu"):
        return _sphere_grid(degree)


def _sphere_grid(degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    count, around = (degree + 2) // 2, degree + 1
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k.square() - 1).sqrt()  # Golub-Welsch: eigenvalues of the Jacobi matrix
    polar, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    polar_weight = 2 * vectors[0].square()
    azimuth = torch.arange(around, dtype=torch.float64) * (2 * math.pi / around)
    sine = (1 - polar.square()).sqrt().unsqueeze(1)
    points = [sine * azimuth.sin(), polar.unsqueeze(1).expand(count, around), sine * azimuth.cos()]
    weights = (2 * math.pi / around) * polar_weight.repeat_interleave(around)
    return torch.stack(points, -1).reshape(-1, 3), weights


def gaunt_tensor(l_max_in1: int, l_max_in2: int, l_max_out: int) -> torch.Tensor:
    """Integrals over the sphere of the products of three integral-normalised harmonics.

    Args:
        l_max_in1: Highest degree of the first.
        l_max_in2: Highest degree of the second.
        l_max_out: Highest degree of the third.

    Returns:
        ((l_max_in1 + 1)², (l_max_in2 + 1)², (l_max_out + 1)²), float64, on the CPU.

    Raises:
        ValueError: A degree is negative or above `MAX_DEGREE`.
    """
    kept = paths(l_max_in1, l_max_in2, l_max_out, "o3")
    points, weights = sphere_grid(l_max_in1 + l_max_in2 + l_max_out)
    a, b, c = (
        spherical_harmonics(points, degree, "integral", normalize=False) for degree in (l_max_in1, l_max_in2, l_max_out)
    )
    tensor = torch.einsum("r,ri,rj,rk->ijk", weights, a, b, c)
    rows1, rows2, rows3 = degree_slices(l_max_in1), degree_slices(l_max_in2), degree_slices(l_max_out)
    mask = torch.zeros_like(tensor)
    for l1, l2, l3 in kept:
        mask[rows1[l1], rows2[l2], rows3[l3]] = 1
    return tensor * mask  # what rounding leaves of the others
