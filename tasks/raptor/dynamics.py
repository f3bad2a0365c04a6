"""A vision transformer as a dynamical system over depth: how directions of tokens move and where they end.

Source: "Block-Recurrent Dynamics in Vision Transformers" (2025), whose authors publish no code for it: quantities and
names are theirs; the exact normalisations are ours and are given in the docstrings. States are (B, L + 1, tokens, dim),
the first of them the embedded tokens; u_l is a token's state after l layers divided by its norm. Norms grow with depth;
only directions converge.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

__all__ = [
    "angular_basins",
    "angular_speed",
    "coherence",
    "dmd",
    "direction_convergence",
    "group_slices",
    "half_rise",
    "layer_r2",
    "perturb",
    "perturbed_run",
    "phase_speeds",
    "self_correction",
    "token_norms",
    "update_coherence",
    "update_ranks",
]


def group_slices(num_prefix_tokens: int, class_token: bool = True) -> dict[str, slice]:
    """Where the groups of tokens lie: "cls", "reg" (all other tokens before the patches) and "patch", as they exist."""
    first = int(class_token)
    groups = {"cls": slice(0, first), "reg": slice(first, num_prefix_tokens), "patch": slice(num_prefix_tokens, None)}
    return {name: part for name, part in groups.items() if part.stop is None or part.stop > part.start}


def _unit(states: torch.Tensor) -> torch.Tensor:
    if states.ndim != 4:
        raise ValueError(f"states must be (B, layers, tokens, dim), their shape is {tuple(states.shape)}")
    return F.normalize(states.double(), dim=-1, eps=1e-300)


def _angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angles between unit vectors; by chords, since the arc cosine of nearly 1 is inexact."""
    return 2 * torch.asin(((a - b).norm(dim=-1) / 2).clamp(max=1))


def direction_convergence(states: torch.Tensor) -> torch.Tensor:
    """gamma_l = <u_l, u_L>, the mean over images and tokens: (L + 1,), 1 at the end."""
    u = _unit(states)
    return (u * u[:, -1:]).sum(-1).mean((0, 2))


def half_rise(gamma: torch.Tensor) -> float:
    """Where gamma has risen half way from its first to its last value, interpolated between layers."""
    middle = float(gamma[0] + gamma[-1]) / 2
    for layer in range(1, len(gamma)):
        if float(gamma[layer]) >= middle:
            rise = float(gamma[layer] - gamma[layer - 1])
            return layer - 1 + ((middle - float(gamma[layer - 1])) / rise if rise > 0 else 1.0)
    return float(len(gamma) - 1)


def angular_speed(states: torch.Tensor) -> torch.Tensor:
    """s_l = arccos <u_{l+1}, u_l> in radians, the mean over images and tokens: (L,)."""
    u = _unit(states)
    return _angle(u[:, 1:], u[:, :-1]).mean((0, 2))


def phase_speeds(speed: torch.Tensor, boundaries: tuple[int, ...]) -> dict[str, float]:
    """Mean speed of steps inside phases, and of the first steps of all phases but the first ("boundary").

    Args:
        speed: (L,), see `angular_speed`.
        boundaries: The last layer of each phase but the final one, counted from 1.
    """
    at = torch.zeros(len(speed), dtype=torch.bool)
    at[list(boundaries)] = True
    return {"inside": float(speed[~at].mean()), "boundary": float(speed[at].mean()) if boundaries else float("nan")}


def token_norms(states: torch.Tensor) -> torch.Tensor:
    """Mean norm of the states: (L + 1,)."""
    return states.double().norm(dim=-1).mean((0, 2))


def coherence(states: torch.Tensor) -> torch.Tensor:
    """kappa_l, the norm of an image's mean direction, averaged over images: (L + 1,).

    It is also the mean cosine between the directions and their mean's direction.
    """
    return _unit(states).mean(2).norm(dim=-1).mean(0)


def update_coherence(states: torch.Tensor) -> torch.Tensor:
    """Coherence of the directions of the angular updates u_{l+1} - u_l: (L,)."""
    return coherence(_unit(states).diff(dim=1))


def update_ranks(states: torch.Tensor) -> dict[str, torch.Tensor]:
    """Ranks of the updates u_{l+1} - u_l over images and tokens, not centred, with singular values sigma: each (L,).

    - "stable_rank": sum sigma² / max sigma².
    - "effective_rank": exp of the entropy of sigma / sum sigma ("The effective rank", Roy and Vetterli, 2007).
    - "participation_ratio": (sum sigma²)² / sum sigma⁴.
    """
    updates = _unit(states).diff(dim=1).transpose(0, 1).flatten(1, 2)
    sigma = torch.linalg.svdvals(updates)
    square = sigma.square()
    share = sigma / sigma.sum(1, keepdim=True)
    return {
        "stable_rank": square.sum(1) / square[:, 0],
        "effective_rank": torch.special.entr(share).sum(1).exp(),
        "participation_ratio": square.sum(1).square() / square.square().sum(1),
    }


def dmd(states: torch.Tensor, rank: int, first: int = 0, last: int | None = None) -> dict[str, Any]:
    """Dynamic mode decomposition of directions: the best linear map from u_l to u_{l+1} in a subspace.

    With X the directions after layers `first` to `last` - 1 and Y those one layer later, as columns, and X = U S V' cut
    to `rank`: A = U' Y V / S ("Dynamic mode decomposition of numerical and experimental data", Schmid, 2010).

    Args:
        states: (B, L + 1, tokens, dim).
        rank: Dimension of the subspace; the rank of X where that is less.
        first: Number of layers before the phase.
        last: Last layer of the phase, counted from 1; all by default.

    Returns:
        `eigenvalues` of A, complex, by falling magnitude; `residual` ||Y - U A U' X|| / ||Y||; and `identity`, the
        residual of the identity map, for comparison.

    Raises:
        ValueError: The phase or the rank is out of range.
    """
    u = _unit(states)
    last = u.shape[1] - 1 if last is None else last
    if not 0 <= first < last < u.shape[1]:
        raise ValueError(f"first={first} and last={last} must increase within 0 to {u.shape[1] - 1}")
    x = u[:, first:last].flatten(0, 2).T
    y = u[:, first + 1 : last + 1].flatten(0, 2).T
    left, sigma, right = torch.linalg.svd(x, full_matrices=False)
    numerical = int((sigma > sigma[0] * max(x.shape) * torch.finfo(x.dtype).eps).sum())
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    rank = min(rank, numerical)
    left, sigma, right = left[:, :rank], sigma[:rank], right[:rank]
    reduced = left.T @ y @ right.T / sigma
    eigenvalues = torch.linalg.eigvals(reduced)
    eigenvalues = eigenvalues[eigenvalues.abs().argsort(descending=True, stable=True)]
    residual = (y - left @ (reduced @ (left.T @ x))).norm() / y.norm()
    return {"eigenvalues": eigenvalues, "residual": float(residual), "identity": float((y - x).norm() / y.norm())}


def angular_basins(states: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Measure from which layer on directions gather by class: each result is (L + 1,).

    - "accuracy": share of directions u_l whose nearest class mean of u_L, by cosine, is their own class's.
    - "ratio": mean angle to the own class's mean direction at layer l over the mean angle between those of two classes;
      small when classes have basins of their own. Not a number if all directions agree, as those of class tokens do
      before the first layer.

    Args:
        states: (B, L + 1, 1, dim), usually of the class token; more tokens are averaged as directions.
        labels: (B,), any integers, of two classes or more.
    """
    u = F.normalize(_unit(states).mean(2), dim=-1, eps=1e-300)
    classes, index = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels must have two classes or more, they have {classes.tolist()}")
    members = F.one_hot(index).double()
    means = F.normalize(torch.einsum("bc,bld->lcd", members, u), dim=-1, eps=1e-300)
    accuracy = (torch.einsum("bld,cd->lbc", u, means[-1]).argmax(-1) == index).double().mean(1)
    within = _angle(u.transpose(0, 1), means[:, index]).mean(1)
    pairs = torch.combinations(torch.arange(len(classes)))
    between = _angle(means[:, pairs[:, 0]], means[:, pairs[:, 1]]).mean(1)
    return {"accuracy": accuracy, "ratio": within / between}


def perturb(x: torch.Tensor, strength: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Add to each token (..., dim) a Gaussian direction of `strength` times its norm."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x + strength * x.norm(dim=-1, keepdim=True) * F.normalize(noise, dim=-1)


def self_correction(clean: torch.Tensor, perturbed: torch.Tensor, layer: int) -> dict[str, torch.Tensor]:
    """Measure how the angle between two runs changes after a perturbation.

    Args:
        clean: (B, L + 1, tokens, dim).
        perturbed: States of the perturbed run, of the same shape; they differ from layer `layer` on.
        layer: The layer of the perturbation.

    Returns:
        Means over images and tokens: "angle" (L + 1,); "ratio" (L + 1 - layer,), a token's angle over its value at
        `layer`, below 1 for self-correction; "contraction" (L - layer,), the same from step to step.

    Raises:
        ValueError: The runs do not differ at `layer`.
    """
    angle = _angle(_unit(perturbed), _unit(clean))
    if not bool((angle[:, layer] > 0).all()):
        raise ValueError(f"layer={layer}: the runs do not differ there")
    ratio = angle[:, layer:] / angle[:, layer : layer + 1]
    contraction = angle[:, layer + 1 :] / angle[:, layer:-1]
    return {"angle": angle.mean((0, 2)), "ratio": ratio.mean((0, 2)), "contraction": contraction.mean((0, 2))}


def perturbed_run(
    step: Callable[[torch.Tensor, int], torch.Tensor], states: torch.Tensor, layer: int, strength: float, seed: int = 0
) -> torch.Tensor:
    """Run the layers after `layer` again, from a perturbed state.

    Args:
        step: From a state and the depth of the next layer, counted from 1, to the next state.
        states: The clean run (B, L + 1, tokens, dim).
        layer: Layers before the perturbation.
        strength: See `perturb`.
        seed: Seed of the noise.
    """
    x = perturb(states[:, layer], strength, torch.Generator().manual_seed(seed))
    run = [*states[:, :layer].unbind(1), x]
    for depth in range(layer + 1, states.shape[1]):
        x = step(x, depth)
        run.append(x)
    return torch.stack(run, 1)


def layer_r2(target: torch.Tensor, prediction: torch.Tensor, weighted: bool = False) -> torch.Tensor:
    """R² of states (B, L + 1, tokens, dim), layer by layer, over images and tokens: averaged over channels.

    Args:
        target: The teacher's states.
        prediction: The student's.
        weighted: Weight channels by the target's variance: 1 - summed squared error / summed squared deviation.
    """
    target, prediction = target.double(), prediction.double()
    error = (prediction - target).square().sum((0, 2))
    deviation = (target - target.mean((0, 2), keepdim=True)).square().sum((0, 2))
    return 1 - error.sum(-1) / deviation.sum(-1) if weighted else (1 - error / deviation).mean(-1)
