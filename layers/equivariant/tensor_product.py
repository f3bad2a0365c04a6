"""Products of two equivariant features: exact Clebsch-Gordan, and low-rank ones (CP factors, Gaunt on a grid).

Features are (..., (l_max + 1)², channels), in e3nn's order, with any number of leading axes. There are three ways to
connect channels, named as in e3nn:

| mode | channels | weight, with or without the leading axes | result |
| --- | --- | --- | --- |
| "uuu" | C, C | (C,) | each channel of one with the same channel of the other |
| "uvu" | U, V | (U, V) | channels U; those of the second are summed |
| "uvw" | U, V | (U, V, W) | channels W, fully connected |

Sources: "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations" (2025), section 3;
"Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt Tensor Products" (2024); "The Price of
Freedom: Exploring Expressivity and Runtime Tradeoffs in Equivariant Tensor Products" (2025). For the product with one
vector of harmonics per edge there is `blockzoo.layers.equivariant.edge_product`, which is exact and faster than either.
"""

from typing import Any, Literal, get_args

import torch

from blockzoo.kernels._dispatch import use_kernel
from blockzoo.kernels.low_rank_product import low_rank_product
from blockzoo.layers.equivariant.constants import ExactConstants
from blockzoo.layers.equivariant.coupling import Parity, clebsch_gordan_tensor, paths, sphere_grid
from blockzoo.layers.equivariant.cp_factors import cp_factors
from blockzoo.layers.equivariant.irreps import component_degrees
from blockzoo.layers.equivariant.spherical_harmonics import degree_slices, spherical_harmonics

__all__ = ["CPTensorProduct", "ClebschGordanProduct", "GauntTensorProduct", "LowRankProduct", "Mode"]

Mode = Literal["uuu", "uvu", "uvw"]


def _check_mode(mode: str) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r} must be one of {', '.join(get_args(Mode))}")


def _check_inputs(x1: torch.Tensor, x2: torch.Tensor, sizes: tuple[int, int], mode: str) -> None:
    for name, x, size in (("x1", x1, sizes[0]), ("x2", x2, sizes[1])):
        if x.ndim < 2 or x.shape[-2] != size:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected (..., {size}, channels)")
    if mode == "uuu" and x1.shape[-1] != x2.shape[-1] and 1 not in (x1.shape[-1], x2.shape[-1]):
        raise ValueError(f"mode='uuu' needs equal channels or one, not {x1.shape[-1]} and {x2.shape[-1]}")


def _connect(f: torch.Tensor, g: torch.Tensor, mode: str, weight: torch.Tensor | None) -> torch.Tensor:
    """Multiply f (..., R, U) and g (..., R, V) in every row R, connecting channels by a mode: (..., R, channels)."""
    if mode == "uuu":
        product = f * g
        return product if weight is None else product * weight.unsqueeze(-2)
    if mode == "uvu":
        if weight is None:
            return f * g.sum(-1, keepdim=True)
        return f * (g @ weight.mT)
    if weight is None:
        raise ValueError("mode='uvw' needs a weight")
    if g.shape[-1] == 1:
        return (f * g) @ weight.squeeze(-2)
    pairs = (f.unsqueeze(-1) * g.unsqueeze(-2)).flatten(-2)
    return pairs @ weight.flatten(-3, -2)


class ClebschGordanProduct(ExactConstants):
    """Exact product over all Clebsch-Gordan paths: the reference for the others.

    Args:
        l_max_in1: Highest degree of the first input.
        l_max_in2: Highest degree of the second.
        l_max_out: Highest degree of the result; l_max_in1 + l_max_in2 by default.
        mode: How channels connect, see above.
        path_weights: Whether weights have one more axis for the paths, before those of the channels: (..., P, C),
            (..., P, U, V) or (..., P, U, V, W), in the order of `blockzoo.layers.equivariant.coupling.paths`.
        normalization: "norm" or "component", see `blockzoo.layers.equivariant.coupling.clebsch_gordan_tensor`.
        parity: "o3" leaves out the paths of odd l1 + l2 + l3.
        device: Device of the constants.
        dtype: Type of the constants.

    Raises:
        ValueError: An option is unknown or a degree negative.
    """

    tensor: torch.Tensor

    def __init__(
        self,
        l_max_in1: int,
        l_max_in2: int,
        l_max_out: int | None = None,
        mode: Mode = "uuu",
        path_weights: bool = False,
        normalization: Literal["norm", "component"] = "norm",
        parity: Parity = "so3",
        **dd: Any,
    ) -> None:
        super().__init__()
        _check_mode(mode)
        l_max_out = l_max_in1 + l_max_in2 if l_max_out is None else l_max_out
        self.mode, self.path_weights = mode, path_weights
        self.paths = paths(l_max_in1, l_max_in2, l_max_out, parity)
        self._rows = [degree_slices(l_max) for l_max in (l_max_in1, l_max_in2, l_max_out)]
        tensor = clebsch_gordan_tensor(l_max_in1, l_max_in2, l_max_out, normalization, parity)
        self.register_constant("tensor", tensor, **dd)

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Couple two features.

        Args:
            x1: (..., (l_max_in1 + 1)², U).
            x2: (..., (l_max_in2 + 1)², V).
            weight: See the table of modes; ones by default, except for "uvw".

        Returns:
            (..., (l_max_out + 1)², channels).

        Raises:
            ValueError: A shape does not fit, or a weight is missing.
        """
        d1, d2, d3 = self.tensor.shape
        _check_inputs(x1, x2, (d1, d2), self.mode)
        if not self.path_weights:
            pairs = _connect(x1.repeat_interleave(d2, -2), x2.repeat(*[1] * (x2.ndim - 2), d1, 1), self.mode, weight)
            return self.tensor.flatten(0, 1).T.to(pairs.dtype) @ pairs
        if weight is None:
            raise ValueError("path_weights=True needs a weight")
        axis = {"uuu": -2, "uvu": -3, "uvw": -4}[self.mode]
        if weight.shape[axis] != len(self.paths):
            raise ValueError(f"weight has shape {tuple(weight.shape)}, expected {len(self.paths)} paths on axis {axis}")
        out: list[torch.Tensor | None] = [None] * len(self._rows[2])
        for (l1, l2, l3), of_path in zip(self.paths, weight.unbind(axis), strict=True):
            rows1, rows2, rows3 = self._rows[0][l1], self._rows[1][l2], self._rows[2][l3]
            block = self.tensor[rows1, rows2, rows3].flatten(0, 1).T
            a = x1[..., rows1, :].repeat_interleave(2 * l2 + 1, -2)
            b = x2[..., rows2, :].repeat(*[1] * (x2.ndim - 2), 2 * l1 + 1, 1)
            part = block.to(x1.dtype) @ _connect(a, b, self.mode, of_path)
            before = out[l3]
            out[l3] = part if before is None else before + part
        found = [part for part in out if part is not None]
        some = found[0]
        filled = [
            some.new_zeros((*some.shape[:-2], 2 * degree + 1, some.shape[-1])) if part is None else part
            for degree, part in enumerate(out)
        ]
        return torch.cat(filled, -2)


class LowRankProduct(ExactConstants):
    """Bilinear map given by three factors: c @ ((a^T x1) * (b^T x2)), two small GEMMs around a pointwise product.

    CP factors of the Clebsch-Gordan tensor make it TDN's product; values of spherical harmonics on a grid, with
    quadrature weights in c, make it the Gaunt product.

    Args:
        a: (d1, R), of the first input.
        b: (d2, R), of the second.
        c: (d3, R), of the result.
        mode: How channels connect, see above.
        device: Device of the constants.
        dtype: Type of the constants.

    Raises:
        ValueError: The mode is unknown, or the factors' ranks differ.
    """

    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor

    def __init__(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, mode: Mode = "uuu", **dd: Any) -> None:
        super().__init__()
        _check_mode(mode)
        if not a.shape[1] == b.shape[1] == c.shape[1]:
            raise ValueError(f"the factors have ranks {a.shape[1]}, {b.shape[1]} and {c.shape[1]}, which must be equal")
        self.mode = mode
        for name, factor in (("a", a), ("b", b), ("c", c)):
            self.register_constant(name, factor, **dd)

    @property
    def rank(self) -> int:
        """Number of terms."""
        return self.a.shape[1]

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Couple two features; see `ClebschGordanProduct.forward`."""
        _check_inputs(x1, x2, (self.a.shape[0], self.b.shape[0]), self.mode)
        if self.mode == "uuu" and weight is None and use_kernel("low_rank_product", x1):
            return low_rank_product(x1, x2, self.a, self.b, self.c)
        f, g = self.a.T.to(x1.dtype) @ x1, self.b.T.to(x2.dtype) @ x2
        product = _connect(f, g, self.mode, weight)
        return self.c.to(product.dtype) @ product

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.a.shape[0]} x {self.b.shape[0]} -> {self.c.shape[0]}, rank={self.rank}, mode={self.mode}"


class CPTensorProduct(LowRankProduct):
    """Product with CP factors in place of the Clebsch-Gordan tensor.

    Args:
        l_max: Highest degree of inputs and result, 1 to 3.
        rank: "published", "exact" or a number, see `blockzoo.layers.equivariant.cp_factors`.
        mode: How channels connect, see above.
        device: Device of the constants.
        dtype: Type of the constants.
    """

    def __init__(self, l_max: int, rank: int | str = "published", mode: Mode = "uuu", **dd: Any) -> None:
        super().__init__(*cp_factors(l_max, rank), mode, **dd)


class GauntTensorProduct(LowRankProduct):
    """Pointwise product of functions on the sphere, as coefficients of integral-normalised harmonics.

    Computed on the smallest Gauss-Legendre x uniform grid that is exact for the degrees, (L1 + L2 + L3 + 1) x
    ceil((L1 + L2 + L3 + 1) / 2) points. The product is commutative: no antisymmetric path, such as the cross product
    of two vectors, can come out of it, whatever the weights.

    Args:
        l_max_in1: Highest degree of the first input.
        l_max_in2: Highest degree of the second; that of the first by default.
        l_max_out: Highest degree of the result; l_max_in1 + l_max_in2, which loses nothing, by default.
        mode: How channels connect, see above.
        device: Device of the constants.
        dtype: Type of the constants.

    Raises:
        ValueError: The mode is unknown or a degree negative.
    """

    degrees1: torch.Tensor
    degrees2: torch.Tensor
    degrees3: torch.Tensor

    def __init__(
        self,
        l_max_in1: int,
        l_max_in2: int | None = None,
        l_max_out: int | None = None,
        mode: Mode = "uuu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        l_max_in2 = l_max_in1 if l_max_in2 is None else l_max_in2
        l_max_out = l_max_in1 + l_max_in2 if l_max_out is None else l_max_out
        limits = (l_max_in1, l_max_in2, l_max_out)
        paths(*limits)
        points, weights = sphere_grid(sum(limits))
        a, b, c = (spherical_harmonics(points, l_max, "integral", normalize=False).T for l_max in limits)
        super().__init__(a, b, c * weights, mode, device=device, dtype=dtype)
        for name, l_max in zip(("degrees1", "degrees2", "degrees3"), limits, strict=True):
            self.register_buffer(name, torch.tensor(component_degrees(l_max), device=device), persistent=False)

    def forward(
        self,
        x1: torch.Tensor,
        x2: torch.Tensor,
        weight: torch.Tensor | None = None,
        weight1: torch.Tensor | None = None,
        weight2: torch.Tensor | None = None,
        weight3: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Couple two features; see `ClebschGordanProduct.forward`.

        Args:
            x1: (..., (l_max_in1 + 1)², U).
            x2: (..., (l_max_in2 + 1)², V).
            weight: See the table of modes; ones by default, except for "uvw".
            weight1: Factors of the first input's degrees, (l_max_in1 + 1, U).
            weight2: Factors of the second's, (l_max_in2 + 1, V).
            weight3: Factors of the result's, (l_max_out + 1, channels).

        Returns:
            (..., (l_max_out + 1)², channels).
        """
        if weight1 is not None:
            x1 = x1 * weight1[self.degrees1]
        if weight2 is not None:
            x2 = x2 * weight2[self.degrees2]
        out = super().forward(x1, x2, weight)
        return out if weight3 is None else out * weight3[self.degrees3]
