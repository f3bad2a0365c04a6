"""Fit of CP factors to a tensor, and the program that makes the shipped ones.

T_ijk = sum_r a_ir b_jr c_kr is fitted in float64 by proximal alternating least squares from seeded starts, and the best
of them by Levenberg-Marquardt. Everything is deterministic on one machine:

    python -m blockzoo.layers.equivariant.cp_fit --out factors.safetensors

Source: "Tensor Decompositions and Applications" (2009), section 3.4, for alternating least squares.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from blockzoo.layers.equivariant.coupling import clebsch_gordan_tensor
from blockzoo.layers.equivariant.cp_factors import EXACT_RANKS, Factors, published_rank
from blockzoo.layers.spectral.factorized_tensor import reconstruct

__all__ = ["fit_cp", "relative_error"]

_EFFORT = {8: (1, 500), 28: (40, 6000)}
"""Seeded starts and sweeps by rank, 4 and 6000 elsewhere: some ranks are easy, some have many poor minima."""


def relative_error(tensor: torch.Tensor, factors: Factors) -> float:
    """Relative error of the factors: Frobenius norm of the residual, divided by that of the tensor."""
    full = reconstruct("cp", (torch.ones_like(factors[0][0]), *factors), False)
    return float((full - tensor).norm() / tensor.norm())


def _gram(factors: list[torch.Tensor], mode: int) -> torch.Tensor:
    others = [factor.T @ factor for k, factor in enumerate(factors) if k != mode]
    return others[0] * others[1]


def _right_side(tensor: torch.Tensor, factors: list[torch.Tensor], mode: int) -> torch.Tensor:
    """The unfolded tensor times the Khatri-Rao product of the other factors."""
    first, second = (factor for k, factor in enumerate(factors) if k != mode)
    return torch.einsum("ijk,jr,kr->ir", tensor.movedim(mode, 0), first, second)


def _alternating(tensor: torch.Tensor, rank: int, seed: int, sweeps: int) -> list[torch.Tensor]:
    """Proximal alternating least squares: each step stays near the last factor, less and less so."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(size, rank, generator=generator, dtype=torch.float64) / size**0.5 for size in tensor.shape]
    eye = torch.eye(rank, dtype=torch.float64)
    for sweep in range(sweeps):
        weight = max(0.03 * 0.9985**sweep, 1e-9)
        for mode in range(3):
            right = _right_side(tensor, factors, mode) + weight * factors[mode]
            factors[mode] = torch.linalg.solve(_gram(factors, mode) + weight * eye, right, left=False)
        norms = [factor.norm(dim=0) for factor in factors]
        mean = (norms[0] * norms[1] * norms[2]).pow(1 / 3)
        factors = [factor * (mean / norm) for factor, norm in zip(factors, norms, strict=True)]
    return factors


def _normal_matrix(factors: list[torch.Tensor]) -> torch.Tensor:
    """J^T J of the residual by all factors, each flattened row by row."""
    rank = factors[0].shape[1]
    rows: list[list[torch.Tensor]] = [[torch.empty(0)] * 3 for _ in range(3)]
    for m in range(3):
        size = factors[m].shape[0]
        rows[m][m] = torch.kron(torch.eye(size, dtype=torch.float64), _gram(factors, m))
        for n in range(m + 1, 3):
            (rest,) = (factors[k].T @ factors[k] for k in range(3) if k not in (m, n))
            block = torch.einsum("rs,is,jr->irjs", rest, factors[m], factors[n])
            rows[m][n] = block.reshape(size * rank, -1)
            rows[n][m] = rows[m][n].T
    return torch.cat([torch.cat(row, 1) for row in rows], 0)


def _levenberg_marquardt(
    tensor: torch.Tensor, factors: list[torch.Tensor], steps: int, ridge: float
) -> list[torch.Tensor]:
    """Second-order refinement; `ridge` times the squares of the factors keeps them from diverging."""
    sizes = [factor.numel() for factor in factors]

    def objective(parts: list[torch.Tensor]) -> float:
        full = reconstruct("cp", (torch.ones_like(parts[0][0]), *parts), False)
        return float((full - tensor).square().sum()) + ridge * float(sum(part.square().sum() for part in parts))

    damping, current = 1e-3, objective(factors)
    for _ in range(steps):
        slopes = [
            factors[m] @ _gram(factors, m) - _right_side(tensor, factors, m) + ridge * factors[m] for m in range(3)
        ]
        slope = torch.cat([part.flatten() for part in slopes])
        normal = _normal_matrix(factors)
        improved = False
        while damping < 1e6:
            shifted = normal + (ridge + damping) * torch.eye(len(slope), dtype=torch.float64)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if not failed:
                step = torch.cholesky_solve(slope.unsqueeze(1), factor).squeeze(1).split(sizes)
                trial = [old - part.view_as(old) for old, part in zip(factors, step, strict=True)]
                value = objective(trial)
                if value < current:
                    improved, gain = True, current - value
                    factors, current, damping = trial, value, max(damping / 4, 1e-14)
                    break
            damping *= 4
        if not improved or gain < 1e-15 * current or current < 1e-29 * float(tensor.square().sum()):
            break
    return factors


def _ordered(factors: list[torch.Tensor]) -> Factors:
    """Columns of equal norm in all three, the largest first, the first two with positive largest entries."""
    norms = [factor.norm(dim=0) for factor in factors]
    product = norms[0] * norms[1] * norms[2]
    signs = []
    for factor in factors[:2]:
        signs.append(factor.gather(0, factor.abs().argmax(0, keepdim=True)).sign())
    signs.append(signs[0] * signs[1])
    scaled = [
        factor * sign * (product.pow(1 / 3) / norm) for factor, sign, norm in zip(factors, signs, norms, strict=True)
    ]
    order = product.argsort(descending=True, stable=True)
    a, b, c = (factor[:, order].contiguous() for factor in scaled)
    return a, b, c


def fit_cp(
    tensor: torch.Tensor, rank: int, starts: int = 4, sweeps: int = 6000, steps: int = 300, ridge: float = 0.0
) -> Factors:
    """Fit CP factors of a tensor with three axes.

    Args:
        tensor: (I, J, K), converted to float64.
        rank: Number of terms.
        starts: Seeded starts, of which the best is refined.
        sweeps: Alternating sweeps of each start.
        steps: Largest number of refinement steps.
        ridge: Penalty on the squares of the factors during refinement.

    Returns:
        (I, rank), (J, rank) and (K, rank), float64.

    Raises:
        ValueError: The tensor has not three axes, or a number is not positive.
    """
    if tensor.ndim != 3 or min(rank, starts, sweeps) < 1:
        raise ValueError(f"tensor {tuple(tensor.shape)} must have 3 axes, and rank={rank}, starts, sweeps be positive")
    tensor = tensor.to("cpu", torch.float64)
    found = [_alternating(tensor, rank, seed, sweeps) for seed in range(starts)]
    errors = [relative_error(tensor, (a, b, c)) for a, b, c in found]
    best = found[errors.index(min(errors))]
    return _ordered(_levenberg_marquardt(tensor, best, steps, ridge))


def main() -> None:
    """Fit and write the shipped factors, and print their errors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--l-max", type=int, nargs="+", default=sorted(EXACT_RANKS))
    parser.add_argument("--rank", type=int, help="by default, the published and the exact one")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, and with it the last digits, do not depend on the machine's cores
    result: dict[str, torch.Tensor] = {}
    for l_max in args.l_max:
        tensor = clebsch_gordan_tensor(l_max, l_max, l_max)
        for rank in [args.rank] if args.rank else [published_rank(l_max), EXACT_RANKS[l_max]]:
            factors = fit_cp(tensor, rank, *_EFFORT.get(rank, (4, 6000)))
            largest = max(float(factor.abs().max()) for factor in factors)
            print(
                f"l_max {l_max}, rank {rank}: error {relative_error(tensor, factors):.3e}, largest {largest:.2f}",
                flush=True,
            )
            result |= {f"l{l_max}_r{rank}_{name}": factor for name, factor in zip("abc", factors, strict=True)}
    temporary = args.out.with_suffix(".part")
    save_file(result, temporary)
    temporary.replace(args.out)


if __name__ == "__main__":
    main()
