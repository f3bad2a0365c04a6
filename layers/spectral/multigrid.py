"""Multi-grid domain decomposition: a field as patches that see their surroundings on coarser grids.

Source: "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs" (2023), section 4.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist

from blockzoo.layers.spectral.fourier import analyse, kept_bands, synthesise

__all__ = ["Boundary", "MultigridPatching"]

Boundary = Literal["circular", "zeros", "reflect", "replicate"]


class MultigridPatching:
    """Cut fields into patches, and put results together again.

    Each axis of n points is cut into 2 ** levels patches of s points. Level 0 of a patch is the patch itself with
    `padding` points on both sides; level l has as many points, 2 ** l apart, around the same centre. Levels are
    channels, the finest first; the last level covers the whole field, even without its padding. Patches go to the batch
    axis, in the order sample, first axis, second axis, ...

    With a `group` of processes, every process calls `patch` with the same fields and gets its share of the patches, and
    `stitch` gives all of them the whole result. Gradients of parameters are scaled so that their mean over the
    processes, which data-parallel wrappers take, is the gradient of the loss, which all processes compute alike.

    Args:
        levels: Number of coarser views; 0 means no patches.
        padding_fraction: Points of padding as a share of the axis, rounded: a number, or one for each axis.
        dims: Number of axes of space; None to take it from each field.
        boundary: What is beyond the border of the field: its other side ("circular"), zeros ("zeros"), its mirror image
            without the border ("reflect"), or its last value ("replicate").
        lowpass: Before points are left out, remove the frequencies that a coarser grid cannot resolve; this is exact
            for periodic fields. Published models do not do that.
        group: A `torch.distributed` process group, or "world" for that of all processes; None for one process.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        levels: int = 1,
        padding_fraction: float | Sequence[float] = 0.0,
        dims: int | None = None,
        boundary: str = "circular",
        lowpass: bool = False,
        group: Any = None,
    ) -> None:
        if levels < 0:
            raise ValueError(f"levels={levels} must not be negative")
        if boundary not in get_args(Boundary):
            raise ValueError(f"boundary={boundary!r} must be one of {', '.join(get_args(Boundary))}")
        shares = [padding_fraction] if isinstance(padding_fraction, int | float) else list(padding_fraction)
        if any(share < 0 for share in shares):
            raise ValueError(f"padding_fraction={padding_fraction} must not be negative")
        if not isinstance(padding_fraction, int | float) and dims not in (None, len(shares)):
            raise ValueError(f"padding_fraction={padding_fraction} must be one number or {dims}")
        self.levels = levels
        self.padding_fraction = padding_fraction
        self.dims = dims
        self.boundary = boundary
        self.lowpass = lowpass
        self.group = group
        self._size: list[int] | None = None  # of the fields patched last

    def padding(self, size: Sequence[int]) -> list[int]:
        """Points of padding on each side of each axis of a field of this size."""
        if isinstance(self.padding_fraction, int | float):
            return [round(self.padding_fraction * n) for n in size]
        return [round(share * n) for share, n in zip(self.padding_fraction, size, strict=True)]

    def patch_size(self, size: Sequence[int]) -> list[int]:
        """Points of a patch along each axis, without padding.

        Raises:
            ValueError: The field cannot be cut evenly, or has another number of axes.
        """
        if self.dims is not None and len(size) != self.dims:
            raise ValueError(f"a field of size {tuple(size)} has {len(size)} axes, the patching {self.dims}")
        parts = 2**self.levels
        if any(n % parts for n in size):
            raise ValueError(f"size {tuple(size)} must be divisible by 2 ** levels = {parts} along each axis")
        return [n // parts for n in size]

    def patch(self, x: torch.Tensor, levels: int | None = None) -> torch.Tensor:
        """Cut fields into patches.

        Args:
            x: (B, C, *size).
            levels: Number of coarser views to return, all by default; the patches stay the same.

        Returns:
            (B * 2 ** (levels * axes), C * (levels + 1), *padded patch); each process of a group gets its share of these
            patches, as equal as possible.
        """
        size = x.shape[2:]
        patch = self.patch_size(size)
        if not torch.compiler.is_compiling():
            self._size = list(size)
        starts = [[i * s for i in range(2**self.levels)] for s in patch]
        patches = self._views(x, starts, patch, self.levels if levels is None else levels)
        return patches if self.group is None else _Scatter.apply(patches, self._process_group())  # type: ignore[no-any-return, no-untyped-call]

    def patch_at(self, x: torch.Tensor, start: Sequence[int], levels: int | None = None) -> torch.Tensor:
        """One patch of every field, beginning at any point: (B, C * (levels + 1), *padded patch)."""
        starts = [[int(i)] for i in start]
        return self._views(x, starts, self.patch_size(x.shape[2:]), self.levels if levels is None else levels)

    def random_patch(self, y: torch.Tensor, generator: torch.Generator | None = None) -> tuple[list[int], torch.Tensor]:
        """Choose a random place for a patch, and return it with the fields there, without padding.

        Args:
            y: (B, C, *size).
            generator: A CPU generator; torch's global one by default.

        Returns:
            The first point along each axis, for `patch_at`, and (B, C, *patch). In a periodic field, a patch may cross
            the border.
        """
        size = y.shape[2:]
        patch = self.patch_size(size)
        last = [n if self.boundary == "circular" else n - s + 1 for n, s in zip(size, patch, strict=True)]
        start = [int(torch.randint(n, (), generator=generator)) for n in last]
        for axis, (i, s, n) in enumerate(zip(start, patch, size, strict=True), start=2):
            y = y.index_select(axis, torch.arange(i, i + s, device=y.device) % n)
        return start, y

    def crop(self, y: torch.Tensor, size: Sequence[int] | None = None) -> torch.Tensor:
        """Cut the padding off patches (P, C, *padded patch).

        Args:
            y: The patches.
            size: Of the whole field; found from the patches by default.
        """
        padding = self.padding(size) if size is not None else self._padding_of(y.shape[2:])
        for axis, p in enumerate(padding, start=2):
            y = y.narrow(axis, p, y.shape[axis] - 2 * p)
        return y

    def _padding_of(self, padded: Sequence[int]) -> list[int]:
        """Padding of patches of this padded size: n of n / parts + 2 * round(fraction * n) = padded."""
        parts, found = 2**self.levels, []
        for axis, total in enumerate(padded):
            share = self.padding_fraction
            share = share if isinstance(share, int | float) else share[axis]
            fits = [s for s in range(1, total + 1) if s + 2 * round(share * s * parts) == total]
            if not fits:
                raise ValueError(f"no patch of {total} points along axis {axis} has padding_fraction={share}")
            found.append((total - fits[0]) // 2)
        return found

    def stitch(self, y: torch.Tensor, size: Sequence[int] | None = None) -> torch.Tensor:
        """Put patches together.

        Args:
            y: (B * 2 ** (levels * axes), C, *patch), padded or not; in a group, the share of this process.
            size: Points of the field along each axis; by default, those of the last patched fields if the patches fit
                them, and otherwise those that give padded patches of this size.

        Returns:
            (B, C, *size).

        Raises:
            ValueError: The number or the size of the patches does not fit.
        """
        parts, axes = 2**self.levels, y.ndim - 2
        if size is None and self._size is not None and len(self._size) == axes:
            own = [n // parts for n in self._size]
            padded = [n + 2 * p for n, p in zip(own, self.padding(self._size), strict=True)]
            size = self._size if list(y.shape[2:]) in (own, padded) else None
        if size is None:
            size = [(n - 2 * p) * parts for n, p in zip(y.shape[2:], self._padding_of(y.shape[2:]), strict=True)]
        patch = self.patch_size(size)
        if list(y.shape[2:]) != patch:
            y = self.crop(y, size)
        if list(y.shape[2:]) != patch:
            raise ValueError(f"patches of {tuple(y.shape[2:])} points do not make a field of {tuple(size)}: {patch}")
        if self.group is not None:
            y = _Gather.apply(y, parts**axes, self._process_group())  # type: ignore[no-untyped-call]
        if y.shape[0] % parts**axes:
            raise ValueError(f"{y.shape[0]} patches must be a multiple of {parts**axes}")
        y = y.unflatten(0, (-1, *[parts] * axes))
        order = [0, axes + 1]
        for axis in range(axes):
            order += [1 + axis, axes + 2 + axis]
        return y.permute(order).reshape(y.shape[0], y.shape[axes + 1], *size)

    def _process_group(self) -> Any:
        return dist.group.WORLD if isinstance(self.group, str) else self.group

    def _views(self, x: torch.Tensor, starts: list[list[int]], patch: list[int], levels: int) -> torch.Tensor:
        size, padding = x.shape[2:], self.padding(x.shape[2:])
        views = []
        for level in range(levels + 1):
            y = _lowpass(x, level) if self.lowpass and level else x
            for axis, n in enumerate(size):
                windows = [_window(start, patch[axis], padding[axis], level) for start in starts[axis]]
                y = self._take(y, 2 + 2 * axis, torch.stack(windows).to(x.device), n)
            views.append(y)  # (B, C, parts, points, parts, points, ..)
        y = torch.cat(views, 1)
        axes = len(size)
        order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
        return y.permute(order).flatten(0, axes)

    def _take(self, x: torch.Tensor, axis: int, windows: torch.Tensor, n: int) -> torch.Tensor:
        """Replace an axis of n points by windows of points, (parts, points)."""
        if self.boundary == "circular":
            index = windows % n
        elif self.boundary == "reflect":  # ... 2 1 | 0 1 2 .. n-1 | n-2 ...
            period = max(2 * (n - 1), 1)
            index = windows % period
            index = torch.minimum(index, period - index)
        else:
            index = windows.clamp(0, n - 1)
        y = x.index_select(axis, index.flatten())
        if self.boundary == "zeros":
            inside = ((windows >= 0) & (windows < n)).flatten().to(x.dtype)
            y = y * inside.reshape(-1, *[1] * (x.ndim - axis - 1))
        return y.unflatten(axis, tuple(windows.shape))


def _window(start: int, points: int, padding: int, level: int) -> torch.Tensor:
    """Points of the view of level `level` around the patch start .. start + points - 1; may be outside the field."""
    step = 2**level
    first = (2 * start + points - points * step) // 2
    return first + step * torch.arange(-padding, points + padding)


def _lowpass(x: torch.Tensor, level: int) -> torch.Tensor:
    """Remove the frequencies of fields (B, C, *size) that a grid of every 2 ** level-th point cannot resolve."""
    size = x.shape[2:]
    fewer = [max(n >> level, 1) for n in size]
    bands = kept_bands(fewer, [n - 1 if n % 2 == 0 else n for n in fewer])
    return synthesise(analyse(x.movedim(1, -1), bands), size, bands).movedim(-1, 1)


def _shares(count: int, processes: int) -> list[int]:
    """How many of `count` patches each process gets."""
    return [count // processes + (rank < count % processes) for rank in range(processes)]


class _Scatter(torch.autograd.Function):
    """Give each process its share of the patches; the backward pass collects the gradients of all shares."""

    @staticmethod
    def forward(ctx: Any, patches: torch.Tensor, group: Any) -> torch.Tensor:  # type: ignore[override]
        ctx.group, ctx.count = group, len(patches)
        shares = _shares(len(patches), dist.get_world_size(group))
        return patches.split(shares)[dist.get_rank(group)].clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        # `_Gather` has multiplied the gradients by the number of processes.
        return _gathered(grad, ctx.count, ctx.group) / dist.get_world_size(ctx.group), None


class _Gather(torch.autograd.Function):
    """Collect the patches of all processes; each gets the gradient of its own, times the number of processes."""

    @staticmethod
    def forward(ctx: Any, patches: torch.Tensor, per_sample: int, group: Any) -> torch.Tensor:  # type: ignore[override]
        total = torch.tensor(len(patches), device=patches.device)
        dist.all_reduce(total, group=group)
        ctx.group, ctx.count = group, int(total)
        if ctx.count % per_sample:
            raise ValueError(f"{ctx.count} patches of all processes must be a multiple of {per_sample}")
        return _gathered(patches, ctx.count, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        processes = dist.get_world_size(ctx.group)
        return grad.split(_shares(ctx.count, processes))[dist.get_rank(ctx.group)] * processes, None, None


def _gathered(patches: torch.Tensor, count: int, group: Any) -> torch.Tensor:
    """The shares of all processes, in order."""
    shares = _shares(count, dist.get_world_size(group))
    most = max(shares)
    padded = patches.new_zeros(most, *patches.shape[1:])
    padded[: len(patches)] = patches
    parts = [torch.empty_like(padded) for _ in shares]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:share] for part, share in zip(parts, shares, strict=True)])
