"""Tensors in factorised form: Tucker, CP and tensor-train, real or complex, one or a stack of them.

Source: "Tensor Decompositions and Applications" (2009), sections 3 and 4, and "Tensor-Train Decomposition" (2011),
equation 1.2; for ranks from a share of the parameters, and for the use in Fourier operators, "Multi-Grid Tensorized
Fourier Neural Operator for High-Resolution PDEs" (2023), section 3.

Complex values are pairs: a parameter ends with an axis of length 2, real and imaginary part. No parameter has a complex
type, so optimisers, gradient scaling, reduction over processes and export treat them like all others.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

__all__ = ["FactorizedTensor", "Factorization", "complex_matmul", "complex_times", "reconstruct", "tensor_ranks"]

Factorization = Literal["dense", "tucker", "cp", "tt"]

Rank = float | int | Sequence[int]


def complex_matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Product of complex matrices whose parts are real, as one real product.

    Args:
        x: (..., 2, M, I); real and imaginary part on the axis before the matrix.
        weight: (..., I, O, 2) with the parts last, as parameters are stored; leading axes broadcast.

    Returns:
        (..., 2, M, O).
    """
    rows, inner, outer = x.shape[-2], x.shape[-1], weight.shape[-2]
    y = torch.matmul(x.reshape(*x.shape[:-3], 2 * rows, inner), weight.reshape(*weight.shape[:-3], inner, 2 * outer))
    of_real, of_imag = y.reshape(*y.shape[:-2], 2, rows, outer, 2).unbind(-4)
    (real, cross), (other, minus) = of_real.unbind(-1), of_imag.unbind(-1)
    return torch.stack([real - minus, cross + other], -3)


def complex_times(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Product, entry by entry, of complex tensors (2, ...) with their parts on the first axis."""
    return torch.stack([a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]])


def contract_first(tensor: torch.Tensor, factor: torch.Tensor, is_complex: bool) -> torch.Tensor:
    """Contract the first axis of a tensor (r, ...) with a factor (I, r), and put the new axis last: (..., I).

    If they are complex, the tensor has its real and imaginary parts on an additional first axis, (2, r, ...), and the
    factor on its last.
    """
    first = int(is_complex)
    rest = tensor.shape[first + 1 :]
    rows = tensor.flatten(first + 1).transpose(-1, -2) if rest else tensor.unsqueeze(first)
    product = complex_matmul if is_complex else torch.matmul
    return product(rows, factor.transpose(0, 1)).reshape(*tensor.shape[:first], *rest, factor.shape[0])


def outer_last(tensor: torch.Tensor, factor: torch.Tensor, is_complex: bool) -> torch.Tensor:
    """Outer product along all axes but the shared last one: (K, R) and (I, R) to (K * I, R); parts as above."""
    if is_complex:
        return complex_times(tensor.unsqueeze(-2), factor.movedim(-1, 0).unsqueeze(-3)).flatten(-3, -2)
    return (tensor.unsqueeze(-2) * factor).flatten(-3, -2)


def chain_last(tensor: torch.Tensor, core: torch.Tensor, is_complex: bool) -> torch.Tensor:
    """Extend a tensor-train by a core: (K, r) and (r, I, r') to (K * I, r'); parts as above."""
    product = complex_matmul if is_complex else torch.matmul
    y = product(tensor, core.flatten(1, 2))
    return y.unflatten(-1, (core.shape[1], core.shape[2])).flatten(-3, -2)


def reconstruct(factorization: str, parts: Sequence[torch.Tensor], is_complex: bool) -> torch.Tensor:
    """Build the tensor from its parts, which are in the order of `FactorizedTensor.parts`.

    Args:
        factorization: "tucker", "cp" or "tt".
        parts: Core or weights, then factors; complex ones with a last axis of length 2.
        is_complex: Whether they are complex.

    Returns:
        (I_0, I_1, ..), or (I_0, I_1, .., 2).
    """

    def parts_first(parameter: torch.Tensor) -> torch.Tensor:
        return parameter.movedim(-1, 0) if is_complex else parameter

    if factorization == "tucker":
        result, factors = parts_first(parts[0]), parts[1:]
        for factor in factors:
            result = contract_first(result, factor, is_complex)
        return result.movedim(0, -1) if is_complex else result
    # Both halves of the axes first, then one matrix product of them.
    factors = parts[1:] if factorization == "cp" else parts
    sizes = [factor.shape[0 if factorization == "cp" else 1] for factor in factors]
    middle = min(range(1, len(sizes)), key=lambda k: math.prod(sizes[:k]) + math.prod(sizes[k:]), default=0)
    if factorization == "cp":
        left, right = parts_first(parts[0]).unsqueeze(-2), parts_first(factors[middle])
        for factor in factors[:middle]:
            left = outer_last(left, factor, is_complex)
        for factor in factors[middle + 1 :]:
            right = outer_last(right, factor, is_complex)
        right = right.transpose(-1, -2)
    elif middle == 0:
        return factors[0][0, :, 0]
    else:
        left = parts_first(factors[0][0])
        for factor in factors[1:middle]:
            left = chain_last(left, factor, is_complex)
        right = parts_first(factors[middle])
        rank, right = right.shape[-3], right.flatten(-3, -2)
        for factor in factors[middle + 1 :]:
            right = chain_last(right, factor, is_complex)
        right = right.squeeze(-1).unflatten(-1, (rank, -1))
    if is_complex:
        return complex_matmul(left, right.movedim(0, -1)).movedim(0, -1).reshape(*sizes, 2)
    return torch.matmul(left, right).reshape(sizes)


def _round(value: float) -> int:
    return max(int(round(value)), 1)  # half to even, as numpy does


def tensor_ranks(
    shape: Sequence[int], factorization: Factorization, rank: Rank, fixed_modes: Sequence[int] = ()
) -> tuple[int, ...]:
    """Ranks of a factorised tensor.

    Args:
        shape: Of the full tensor.
        factorization: "tucker" (one rank for each axis), "cp" (one), or "tt" (one between neighbours, and 1 outside).
        rank: A float is the share of the full tensor's entries that the factors may have together; the ranks follow
            from it, in proportion to the sizes. Integers are the ranks themselves; a single integer is the rank of
            every axis.
        fixed_modes: Axes that keep their full rank (Tucker).

    Raises:
        ValueError: The share is not positive, or there are too few or too many ranks.
    """
    order, entries = len(shape), math.prod(shape)
    if isinstance(rank, Sequence):
        ranks = tuple(int(r) for r in rank)
        wanted = {"tucker": order, "cp": 1, "tt": order + 1}[factorization]
        if len(ranks) != wanted or min(ranks) < 1:
            raise ValueError(f"rank={ranks} must be {wanted} positive integers for factorization={factorization!r}")
        return ranks
    if rank <= 0:
        raise ValueError(f"rank={rank} must be positive")
    if isinstance(rank, int) and not isinstance(rank, bool) and rank > 1:
        if factorization == "cp":
            return (rank,)
        if factorization == "tucker":
            return tuple(size if axis in fixed_modes else min(rank, size) for axis, size in enumerate(shape))
        return (1, *[rank] * (order - 1), 1)
    budget = float(rank) * entries
    if factorization == "cp":
        return (_round(budget / sum(shape)),)
    if factorization == "tucker":
        free = [axis for axis in range(order) if axis not in fixed_modes]
        core = math.prod(shape[axis] for axis in fixed_modes) * math.prod(shape[axis] for axis in free)
        linear = sum(shape[axis] ** 2 for axis in free)
        constant = sum(shape[axis] ** 2 for axis in fixed_modes)

        def excess(scale: float) -> float:
            return core * scale ** len(free) + linear * scale + constant - budget

        low, high = 0.0, max(1.0, float(rank)) if free else 0.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return tuple(size if axis in fixed_modes else _round(low * size) for axis, size in enumerate(shape))
    means = [(a + b) / 2 for a, b in zip(shape[:-1], shape[1:], strict=True)]
    square = sum(means[k - 1] * shape[k] * means[k] for k in range(1, order - 1))
    ends = shape[0] * means[0] + shape[-1] * means[-1]
    scale = (-ends + math.sqrt(ends**2 + 4 * square * budget)) / (2 * square) if square else budget / ends
    return (1, *[_round(scale * mean) for mean in means], 1)


class FactorizedTensor(nn.Module):
    """A trainable tensor, stored as factors.

    | form | parameters | tensor |
    | --- | --- | --- |
    | dense | `tensor` | itself |
    | tucker | `core` (r_0, r_1, ..), `factors` (I_k, r_k) | core times the k-th factor along each axis k |
    | cp | `weights` (R,), `factors` (I_k, R) | sum over r of weights_r times the outer product of the r-th columns |
    | tt | `factors` (r_k, I_k, r_k+1), r_0 = r_n = 1 | product of the matrices that the indices choose |

    Args:
        shape: Of the tensor, (I_0, I_1, ..).
        factorization: "dense", "tucker", "cp" or "tt".
        rank: See `tensor_ranks`.
        is_complex: Whether the entries are complex; then every parameter has a last axis of length 2.
        std: Standard deviation of the entries at the start (of a complex entry: of its absolute value).
        fixed_modes: See `tensor_ranks`.
        device: Device of the parameters.
        dtype: Type of the parameters, a real one.

    Attributes:
        rank: The ranks, see `tensor_ranks`; empty for a dense tensor.

    Raises:
        ValueError: An unknown factorisation, or ranks that do not fit.
    """

    def __init__(
        self,
        shape: Sequence[int],
        factorization: Factorization = "tucker",
        rank: Rank = 0.1,
        is_complex: bool = False,
        std: float = 0.02,
        fixed_modes: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if factorization not in get_args(Factorization):
            raise ValueError(f"factorization={factorization!r} must be one of {', '.join(get_args(Factorization))}")
        self.shape = tuple(shape)
        self.factorization = factorization
        self.is_complex = is_complex
        self.std = std
        order = len(self.shape)
        self.rank = () if factorization == "dense" else tensor_ranks(shape, factorization, rank, fixed_modes)

        def new(*sizes: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*sizes, *[2] * is_complex, device=device, dtype=dtype))

        factors: list[nn.Parameter] = []
        if factorization == "dense":
            self.tensor = new(*self.shape)
        elif factorization == "tucker":
            self.core = new(*self.rank)
            factors = [new(size, r) for size, r in zip(self.shape, self.rank, strict=True)]
        elif factorization == "cp":
            self.weights = new(*self.rank)
            factors = [new(size, *self.rank) for size in self.shape]
        else:
            factors = [new(self.rank[k], size, self.rank[k + 1]) for k, size in enumerate(self.shape)]
        self.factors = nn.ParameterList(factors)
        self.order = order
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw factors so that the entries of the tensor have standard deviation `std`."""
        order = len(self.shape)
        if self.factorization == "dense":
            parts, std = [self.tensor], self.std
        elif self.factorization == "tucker":
            # An entry sums prod(rank) products of order + 1 independent values.
            parts, std = [self.core, *self.factors], (self.std / math.sqrt(math.prod(self.rank))) ** (1 / (order + 1))
        elif self.factorization == "cp":
            self.weights.zero_()
            (self.weights[..., 0] if self.is_complex else self.weights).fill_(1)
            parts, std = [*self.factors], (self.std / math.sqrt(self.rank[0])) ** (1 / order)
        else:
            parts, std = [*self.factors], (self.std / math.sqrt(math.prod(self.rank))) ** (1 / order)
        for part in parts:
            part.normal_(0, std / math.sqrt(2) if self.is_complex else std)

    @property
    def num_entries(self) -> int:
        """Number of stored values; a complex one counts as two."""
        return sum(parameter.numel() for parameter in self.parameters())

    def full(self) -> torch.Tensor:
        """The tensor, of shape `shape`, or (*shape, 2) if it is complex."""
        if self.factorization == "dense":
            return self.tensor
        return reconstruct(self.factorization, self.parts(), self.is_complex)

    def parts(self) -> list[torch.Tensor]:
        """The core or the weights, if the form has them, then the factors."""
        head = {"tucker": ["core"], "cp": ["weights"], "dense": ["tensor"]}.get(self.factorization, [])
        return [getattr(self, name) for name in head] + list(self.factors)

    def forward(self) -> torch.Tensor:
        """See `full`."""
        return self.full()

    def extra_repr(self) -> str:
        """Shape, form and ranks."""
        return f"{self.shape}, {self.factorization}, rank={self.rank}, is_complex={self.is_complex}"

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls, tensor: torch.Tensor, factorization: Factorization = "tucker", rank: Rank = 0.1
    ) -> "FactorizedTensor":
        """Compress a real tensor: by the higher-order SVD (Tucker) or successive SVDs (tensor-train).

        In the Frobenius norm, the error is at most sqrt(number of axes) times that of the best approximation.

        Args:
            tensor: Real, of any shape.
            factorization: "dense", "tucker" or "tt"; there is no such construction for "cp".
            rank: See `tensor_ranks`.

        Raises:
            ValueError: The form is "cp", or the tensor is complex.
        """
        if factorization == "cp" or tensor.is_complex():
            raise ValueError(
                f"factorization={factorization!r} of a {tensor.dtype} tensor: from_dense knows 'dense', 'tucker' and "
                "'tt' of real tensors"
            )
        if factorization == "tt":
            rank = _possible_tt_ranks(tensor.shape, tensor_ranks(tensor.shape, "tt", rank))
        result = cls(tensor.shape, factorization, rank, device=tensor.device, dtype=tensor.dtype)
        if factorization == "dense":
            result.tensor.copy_(tensor)
        elif factorization == "tucker":
            core = tensor
            for axis, r in enumerate(result.rank):
                unfolded = tensor.movedim(axis, 0).flatten(1)
                left = torch.linalg.svd(unfolded, full_matrices=False).U[:, :r]
                result.factors[axis].zero_()
                result.factors[axis][:, : left.shape[1]] = left
                core = torch.tensordot(core, result.factors[axis], dims=([0], [0]))
            result.core.copy_(core)
        else:
            rest, sizes = tensor.reshape(1, -1), tensor.shape
            for axis, size in enumerate(sizes[:-1]):
                r = result.rank[axis + 1]
                u, s, v = torch.linalg.svd(rest.reshape(result.rank[axis] * size, -1), full_matrices=False)
                result.factors[axis].copy_(u[:, :r].reshape(-1, size, r))
                rest = s[:r, None] * v[:r]
            result.factors[-1].copy_(rest.reshape(-1, sizes[-1], 1))
        return result


def _possible_tt_ranks(shape: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
    """Limit ranks to those of the unfolded matrices in the successive SVDs."""
    possible = [1]
    for axis in range(len(shape) - 1):
        rows, columns = possible[-1] * shape[axis], math.prod(shape[axis + 1 :])
        possible.append(min(ranks[axis + 1], rows, columns))
    return (*possible, 1)
