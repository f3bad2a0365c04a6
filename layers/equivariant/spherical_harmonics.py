"""Real spherical harmonics by recursion, in e3nn's order: l = 0, 1, ..; m = -l .. l; polar axis y.

The three components of l = 1 are (x, y, z). Values are polynomials of the vector's components, so all derivatives exist
at every direction; there are no angles. Conventions agree with `e3nn.o3.spherical_harmonics`, which does the same job
by generated code; this one is also traced by `torch.compile` and `torch.export` at any l_max.

Source of the recursion over degrees: "Handbook of Mathematical Functions" (Abramowitz and Stegun, 1964), 8.5.3.
"""

import math
from typing import Literal, get_args

import torch

__all__ = ["Normalization", "degree_slices", "spherical_harmonics"]

Normalization = Literal["component", "integral", "norm"]


def degree_slices(l_max: int) -> list[slice]:
    """Where each degree 0 .. l_max lies among the (l_max + 1)² components."""
    return [slice(degree**2, (degree + 1) ** 2) for degree in range(l_max + 1)]


def _scale(degree: int, order: int, normalization: str) -> float:
    """Factor of (powers of x, z) times (derivative polynomial in y) for one component."""
    ratio = math.factorial(degree - order) / math.factorial(degree + order)
    value = math.sqrt((2 * degree + 1) * ratio * (2 if order else 1))
    if normalization == "integral":
        return value / math.sqrt(4 * math.pi)
    return value / math.sqrt(2 * degree + 1) if normalization == "norm" else value


def spherical_harmonics(
    vectors: torch.Tensor, l_max: int, normalization: Normalization = "component", normalize: bool = True
) -> torch.Tensor:
    """Real spherical harmonics of degrees 0 to l_max.

    Args:
        vectors: (..., 3), components (x, y, z).
        l_max: Highest degree.
        normalization: "component": the squares of a degree sum to 2l + 1 on the unit sphere; "norm": to 1; "integral":
            each component's square integrates to 1 over the sphere.
        normalize: Use only the direction of the vectors. Without it, degree l grows as the l-th power of the length.

    Returns:
        (..., (l_max + 1)²). With `normalize`, a zero vector, which has no direction, gives finite but meaningless
        values.

    Raises:
        ValueError: `l_max` is negative, the normalisation unknown, or the last axis not of size 3.
    """
    if l_max < 0:
        raise ValueError(f"l_max={l_max} must not be negative")
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization={normalization!r} must be one of {', '.join(get_args(Normalization))}")
    if vectors.shape[-1] != 3:
        raise ValueError(f"vectors has shape {tuple(vectors.shape)}, expected (..., 3)")
    if normalize:
        square = vectors.square().sum(-1, keepdim=True)
        vectors = vectors * torch.where(square > 0, square, 1).rsqrt()
    x, y, z = vectors.unbind(-1)
    one = torch.ones_like(x)
    radius2 = None if normalize else vectors.square().sum(-1)  # 1 for directions
    out: list[list[torch.Tensor]] = [[one] * (2 * degree + 1) for degree in range(l_max + 1)]
    sine, cosine = torch.zeros_like(x), one  # of order * azimuth, times the sine of the polar angle to that power
    for order in range(l_max + 1):
        if order:
            sine, cosine = z * sine + x * cosine, z * cosine - x * sine
        before, current = one, one * _double_factorial(2 * order - 1)
        for degree in range(order, l_max + 1):
            if degree > order:
                following = (2 * degree - 1) * y * current
                if degree > order + 1:
                    last = (degree + order - 1) * before
                    following = following - (last if radius2 is None else last * radius2)
                before, current = current, following / (degree - order)
            value = _scale(degree, order, normalization) * current
            out[degree][degree + order] = value * cosine if order else value
            if order:
                out[degree][degree - order] = value * sine
    return torch.stack([component for degree in out for component in degree], -1)


def _double_factorial(n: int) -> int:
    return math.prod(range(n, 0, -2))
