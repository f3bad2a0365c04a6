"""Segmentation of a network's layers into phases: distances between layers, and where to cut.

Source: "Block-Recurrent Dynamics in Vision Transformers" (2025) and the notebook of the authors' code.
`blockzoo.create_model("raptor", boundaries=...)` takes these boundaries: the last layer of each phase but the final
one, counted from 1.
"""

import heapq
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from blockzoo.tasks.core.files import write_figure

__all__ = [
    "LayerDistance",
    "cut_value",
    "layer_distance",
    "plot_segments",
    "recursive_max_cut",
    "segment_layers",
]

_AT_ONCE = 1 << 16
"""Assignments that are valued together."""


class LayerDistance:
    """Accumulates the mean distance between layers over images.

    For each image and layer there are two vectors, the class token and the mean of the patch tokens, registers left
    out; distance is 1 minus their cosine, the mean over images and the two vectors (the authors' choice). Without a
    class token, only the patches count.

    Args:
        num_prefix_tokens: Tokens before the patches.
        class_token: Whether the first of them is a class token.
    """

    def __init__(self, num_prefix_tokens: int, class_token: bool = True) -> None:
        if class_token and num_prefix_tokens < 1:
            raise ValueError(f"num_prefix_tokens={num_prefix_tokens} leaves no place for a class token")
        self.num_prefix_tokens = num_prefix_tokens
        self.class_token = class_token
        self._sum: torch.Tensor | None = None
        self._count = 0

    def update(self, states: torch.Tensor) -> None:
        """Add a batch of states (B, layers, tokens, dim)."""
        vectors = [states[:, :, self.num_prefix_tokens :].mean(2)]
        if self.class_token:
            vectors.append(states[:, :, 0])
        for vector in vectors:
            unit = F.normalize(vector.double(), dim=-1, eps=1e-8)
            total = (1 - (unit @ unit.transpose(1, 2)).clamp(-1, 1)).sum(0)
            self._sum = total if self._sum is None else self._sum + total
            self._count += len(vector)

    def compute(self) -> np.ndarray:
        """The matrix (layers, layers), symmetric with a zero diagonal.

        Raises:
            ValueError: No states have been added.
        """
        if self._sum is None:
            raise ValueError("no states have been added: call update first")
        matrix = (self._sum / self._count).cpu().numpy()
        matrix = (matrix + matrix.T) / 2
        np.fill_diagonal(matrix, 0.0)
        return matrix


def layer_distance(states: Iterable[torch.Tensor], num_prefix_tokens: int, class_token: bool = True) -> np.ndarray:
    """Mean distance between layers over batches of states (B, layers, tokens, dim), see `LayerDistance`."""
    distance = LayerDistance(num_prefix_tokens, class_token)
    for batch in states:
        distance.update(batch)
    return distance.compute()


def _checked(D: Any) -> np.ndarray:
    matrix = np.asarray(D, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"D must be a square matrix of distances, its shape is {matrix.shape}")
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
        raise ValueError("D must be finite and symmetric")
    return matrix


def cut_value(D: np.ndarray, side: np.ndarray) -> float:
    """Sum of the distances between layers on different sides of a cut; `side` is boolean."""
    # summed as in the authors' code, whose order of additions decides between cuts of equal value
    return float(D[np.logical_xor.outer(side, side)].sum() / 2)


def _max_cut(D: np.ndarray) -> tuple[float, np.ndarray]:
    """The best cut over all 2^(n-1) assignments; if several are equal, the first in lexicographic order."""
    n = len(D)
    if n > 25:
        raise ValueError(f"an exhaustive cut of {n} layers takes 2**{n - 1} steps; use method='dp' or 'bisect'")
    shifts = np.arange(n - 2, -1, -1)
    near: list[tuple[float, int]] = []
    best = -np.inf
    slack = 1e-9 * max(float(np.abs(D).sum()), 1e-300)

    def sides(numbers: np.ndarray) -> np.ndarray:
        bits = (numbers[:, None] >> shifts) & 1
        return np.concatenate([np.zeros((len(numbers), 1), dtype=bool), bits.astype(bool)], 1)

    for start in range(0, 1 << (n - 1), _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, 1 << (n - 1)))
        one = sides(numbers).astype(np.float64)
        values = np.einsum("ij,ij->i", one @ D, 1 - one)
        best = max(best, float(values.max()))
        close = values >= best - slack
        near += zip(values[close].tolist(), numbers[close].tolist(), strict=True)
    value, chosen = -np.inf, np.zeros(n, dtype=bool)
    for side in sides(np.array([number for near_value, number in near if near_value >= best - slack])):
        exact = cut_value(D, side)
        if exact > value:
            value, chosen = exact, side
    return value, chosen


def recursive_max_cut(D: Any, eps: float, min_size: int = 2) -> list[np.ndarray]:
    """The authors' segmentation: repeated exhaustive max-cut into two clusters.

    The cluster with the largest gain is cut next, the first of equals; both parts of a cut get its value as their gain.
    The clusters need not be contiguous. `min_size` prevents small parts from being cut, but parts can still be small.

    Args:
        D: Distances between the layers (n, n).
        eps: A cut must be worth more than this. The authors take a fraction of the total weight `D.sum() / 2`: 0.20,
            0.10 and 0.09 for 2, 3 and 4 phases of DINOv2-B.
        min_size: Clusters of fewer than twice as many layers are not cut.

    Returns:
        Indices of each cluster, from 0; a cut leaves the part with the first layer in its place and appends the other.

    Raises:
        ValueError: `D` is not a symmetric matrix, or has more than 25 layers.
    """
    matrix = _checked(D)
    clusters = [np.arange(len(matrix))]
    gains = [np.inf]
    while True:
        target = int(np.argmax(gains))
        if gains[target] <= eps:
            return clusters
        members = clusters[target]
        if len(members) < max(2 * min_size, 2):
            gains[target] = -np.inf
            continue
        value, side = _max_cut(matrix[np.ix_(members, members)])
        if value <= eps:
            gains[target] = -np.inf
            continue
        clusters[target] = members[~side]
        clusters.append(members[side])
        gains[target] = value
        gains.append(value)


def segment_layers(D: Any, k: int, method: Literal["bisect", "dp"] = "dp", min_size: int = 1) -> tuple[int, ...]:
    """Cut layers into k contiguous phases.

    "dp" is exact: it minimises the summed distance within phases, which is to maximise that across, by the recursion
    f(m, j) = min_i f(m - 1, i) + w(i, j) in O(k n²). "bisect" cuts greedily, each time the phase whose best cut has the
    highest value; it is the authors' procedure restricted to contiguous cuts, and gives their 7 | 5, 7 | 3 | 2 and 4 |
    3 | 3 | 2 for DINOv2-B, where the optimum for three phases is 5 | 4 | 3. Among equal ones the smallest boundary is
    taken.

    Args:
        D: Distances between the layers (n, n), without the embedding.
        k: Number of phases.
        method: "dp" or "bisect".
        min_size: Fewest layers in a phase.

    Returns:
        The k - 1 boundaries.

    Raises:
        ValueError: `D` is not a symmetric matrix, the method is unknown, or k phases of `min_size` layers are too many;
            "bisect" may also get stuck with phases too short to be cut.
    """
    matrix = _checked(D)
    n = len(matrix)
    if k < 1 or min_size < 1 or k * min_size > n:
        raise ValueError(f"k={k} phases of min_size={min_size} layers or more do not fit into {n} layers")
    prefix = np.zeros((n + 1, n + 1))
    prefix[1:, 1:] = np.triu(matrix, 1).cumsum(0).cumsum(1)

    def within(i: int, j: int) -> float:
        # pairs below the diagonal count nothing, so rows and columns before i are taken off once
        return float(prefix[j, j] - prefix[i, j])

    if method == "dp":
        return _dynamic(within, n, k, min_size)
    if method == "bisect":
        return _bisect(within, n, k, min_size)
    raise ValueError(f"method={method!r} must be 'bisect' or 'dp'")


def _dynamic(within: Any, n: int, k: int, min_size: int) -> tuple[int, ...]:
    tolerance = 1e-12 * max(1.0, within(0, n))
    # from the right, so that ties are settled at the smallest first boundary, then the second, and so on
    cost = {n: 0.0}
    following: list[dict[int, int]] = []
    for left in range(1, k + 1):
        fresh: dict[int, float] = {}
        pointer: dict[int, int] = {}
        starts = [0] if left == k else range((k - left) * min_size, n - left * min_size + 1)
        for i in starts:
            for j in range(i + min_size, n + 1):
                if j in cost and (i not in fresh or within(i, j) + cost[j] < fresh[i] - tolerance):
                    fresh[i], pointer[i] = within(i, j) + cost[j], j
        cost = fresh
        following.append(pointer)
    bounds, at = [], 0
    for pointer in reversed(following):
        at = pointer[at]
        bounds.append(at)
    return tuple(bounds[:-1])


def _bisect(within: Any, n: int, k: int, min_size: int) -> tuple[int, ...]:
    tolerance = 1e-12 * max(1.0, within(0, n))

    def best_cut(low: int, high: int) -> tuple[float, int] | None:
        found: tuple[float, int] | None = None
        for cut in range(low + min_size, high - min_size + 1):
            value = within(low, high) - within(low, cut) - within(cut, high)
            if found is None or value > found[0] + tolerance:
                found = value, cut
        return found

    bounds: list[int] = []
    queue: list[tuple[float, int, int, int]] = []

    def offer(low: int, high: int) -> None:
        found = best_cut(low, high)
        if found is not None:
            heapq.heappush(queue, (-found[0], found[1], low, high))

    offer(0, n)
    while len(bounds) < k - 1:
        if not queue:
            raise ValueError(f"method='bisect' leaves no phase long enough for min_size={min_size} after {bounds}")
        _, cut, low, high = heapq.heappop(queue)
        bounds.append(cut)
        offer(low, cut)
        offer(cut, high)
    return tuple(sorted(bounds))


def plot_segments(D: Any, boundaries: Iterable[int], path: str | Path, title: str = "") -> None:
    """Draw the matrix of distances with its phases as squares, and save it as PNG."""
    from matplotlib.figure import Figure

    matrix = _checked(D)
    n = len(matrix)
    figure = Figure(figsize=(4.6, 4.0))
    axis = figure.subplots()
    image = axis.imshow(matrix, cmap="viridis", extent=(0.5, n + 0.5, n + 0.5, 0.5))
    for low, high in pairwise([0, *boundaries, n]):
        corner = low + 0.5
        axis.plot(
            [corner, high + 0.5, high + 0.5, corner, corner],
            [corner, corner, high + 0.5, high + 0.5, corner],
            color="#D55E00",
            linewidth=2,
        )
    axis.set(xlabel="layer", ylabel="layer", title=title)
    figure.colorbar(image, label="1 - cosine")
    figure.tight_layout()
    write_figure(path, figure)
