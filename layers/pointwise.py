"""The part of an operator's block that maps single points, a few thousand points at a time.

With skip connections S and M of a field x, a linear map, a factor for each channel, or x itself,

    s = h + S(x),  u = gelu(s),  y = W2 gelu(W1 u + b1) + b2 + M(x),  z = gelu(y).

Field by field, this reads and writes memory some ten times over, and on a CPU new memory costs more than the
arithmetic. `point_block` runs all of it on pieces that stay in the cache, and in training keeps s and x only and
computes the rest again in the backward pass.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

__all__ = ["PointBlock", "point_block", "runs_in_pieces"]

PIECE = 2**16
"""Values of the widest field in a piece, which was fastest on the CPUs tried."""

_gelu, _gelu_backward = torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input

Weights = Sequence[torch.Tensor | None]


class PointBlock(NamedTuple):
    """Which of the parts there are.

    Attributes:
        skip: S: "matrix", "gate", "identity" or None.
        mlp: Whether there is an MLP; without it, y = u.
        mlp_skip: M, for an MLP.
        act_inside: Whether u = gelu(s), else u = s.
        act_behind: Whether z = gelu(y), else z = y.
    """

    skip: str | None = None
    mlp: bool = True
    mlp_skip: str | None = None
    act_inside: bool = False
    act_behind: bool = False

    def plain(self, h: torch.Tensor, x: torch.Tensor | None, *weights: torch.Tensor | None) -> torch.Tensor:
        """The definition, for fields (..., C); see `point_block` for the weights."""
        s = h + _skipped(self.skip, x, weights[0]) if self.skip else h
        return self.behind_skip(s, x, *weights[1:])

    def behind_skip(
        self,
        s: torch.Tensor,
        x: torch.Tensor | None,
        w1: torch.Tensor | None,
        b1: torch.Tensor | None,
        w2: torch.Tensor | None,
        b2: torch.Tensor | None,
        mlp_skip: torch.Tensor | None,
    ) -> torch.Tensor:
        """Z from s."""
        y = F.gelu(s) if self.act_inside else s
        if self.mlp:
            assert w1 is not None and w2 is not None
            y = F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2)
            y = y + _skipped(self.mlp_skip, x, mlp_skip) if self.mlp_skip else y
        return F.gelu(y) if self.act_behind else y


def _skipped(kind: str | None, x: torch.Tensor | None, weight: torch.Tensor | None) -> torch.Tensor:
    assert x is not None
    if kind == "identity":
        return x
    assert weight is not None
    return F.linear(x, weight) if kind == "matrix" else x * weight


def runs_in_pieces(*tensors: torch.Tensor | None) -> bool:
    """Whether `point_block` may run on these fields and weights.

    They must be real ones of one type on a CPU, the fields large enough, outside graphs, autocast and transforms.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    if torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active():
        return False
    given = [t for t in tensors if t is not None]
    dtype = given[0].dtype
    if dtype not in (torch.float32, torch.float64) or any(t.device.type != "cpu" or t.dtype != dtype for t in given):
        return False
    plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in given)
    return plain and forward_ad._current_level < 0 and max(t.numel() for t in given) > PIECE


def point_block(
    block: PointBlock, h: torch.Tensor, x: torch.Tensor | None, weights: Weights, overwrite: bool = False
) -> torch.Tensor:
    """What `block.plain` computes.

    Args:
        block: The parts.
        h: (*size, C).
        x: (*size, C'), for skip connections.
        weights: skip, w1, b1, w2, b2, mlp_skip; None for those that are not there.
        overwrite: Without gradients, the result may take the memory of `h`.

    Returns:
        (*size, C'').
    """
    size = h.shape[:-1]
    h, x = h.reshape(-1, h.shape[-1]), None if x is None else x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (h, x, *weights)):
        z: torch.Tensor = _InPieces.apply(block, h, x, *weights)[0]  # type: ignore[no-untyped-call]
    else:
        z = _forward(block, h, x, weights, overwrite)
    return z.unflatten(0, size)


def _inside(
    block: PointBlock, h: torch.Tensor, x: torch.Tensor | None, skip: torch.Tensor | None, out: torch.Tensor
) -> torch.Tensor:
    """S = h + S(x), in `out`, which may be h; h itself without S."""
    if block.skip is None:
        return h
    assert x is not None
    if block.skip == "identity":
        return torch.add(h, x, out=out)
    assert skip is not None
    if block.skip == "gate":
        return torch.addcmul(h, x, skip, out=out)
    return h.addmm_(x, skip.t()) if out is h else torch.addmm(h, x, skip.t(), out=out)


def _behind(
    block: PointBlock, q: torch.Tensor, x: torch.Tensor | None, weights: Weights, out: torch.Tensor
) -> torch.Tensor:
    """Y = W2 q + b2 + M(x), in `out`."""
    w2, b2, skip = weights[3:]
    assert w2 is not None and b2 is not None
    y = torch.addmm(b2, q, w2.t(), out=out)
    if block.mlp_skip is None:
        return y
    assert x is not None
    if block.mlp_skip == "identity":
        return y.add_(x)
    assert skip is not None
    return y.addcmul_(x, skip) if block.mlp_skip == "gate" else y.addmm_(x, skip.t())


def _pieces(points: int, *fields: torch.Tensor | None) -> Iterable[Sequence[Any]]:
    """Pieces of the fields; None where there is no field."""
    count = next(-(-len(f) // points) for f in fields if f is not None)
    return zip(*[[None] * count if f is None else f.split(points) for f in fields], strict=True)


def _sizes(chans: int, weights: Weights) -> tuple[int, int, int]:
    """Points of a piece, and channels inside and behind the MLP."""
    w1, w2 = weights[1], weights[3]
    hidden, width = (chans, chans) if w1 is None or w2 is None else (w1.shape[0], w2.shape[0])
    return max(PIECE // max(chans, hidden, width), 1), hidden, width


def _forward(
    block: PointBlock,
    h: torch.Tensor,
    x: torch.Tensor | None,
    weights: Weights,
    overwrite: bool,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """The block; `keep` is where s stays."""
    skip, w1, b1 = weights[:3]
    chans = h.shape[-1]
    points, hidden, width = _sizes(chans, weights)
    result = h if overwrite and width == chans else h.new_empty(len(h), width)
    room, ahead = h.new_empty(points, hidden), h.new_empty(points, chans)
    for a, b, z, kept in _pieces(points, h, x, result, keep):
        n = len(a)
        own = a if result is h else ahead[:n]
        u = _inside(block, a, b, skip, own if kept is None else kept)
        if block.act_inside:
            u = _gelu(u, out=own)
        if block.mlp:
            assert w1 is not None and b1 is not None
            q = torch.addmm(b1, u, w1.t(), out=room[:n])
            u = _behind(block, _gelu(q, out=q), b, weights, z)
        if block.act_behind:
            _gelu(u, out=z)
        elif u is not z:
            z.copy_(u)
    return result


class _InPieces(torch.autograd.Function):
    """`point_block` with gradients. The second result is s, which is kept for them, None where s is h."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, block: PointBlock, h: torch.Tensor, x: torch.Tensor | None, *weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        s = None if block.skip is None else torch.empty_like(h)
        z = _forward(block, h, x, weights, False, s)
        ctx.block = block
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(h if s is None else s, x, *weights)
        return z, s

    @staticmethod
    def backward(ctx: Any, of_z: torch.Tensor | None, of_s: torch.Tensor | None) -> Any:  # type: ignore[override]
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or of_z is None or of_s is not None:
            return None, *_differentiable_backward(ctx.block, of_z, of_s, tensors, needed)
        return None, *_backward(ctx.block, of_z, tensors, needed)


def _differentiable_backward(
    block: PointBlock, of_z: torch.Tensor | None, of_s: torch.Tensor | None, tensors: Weights, needed: Sequence[bool]
) -> Weights:
    """Gradients that have gradients, by torch's own operations."""
    found: list[torch.Tensor | None] = [None] * len(tensors)

    def add(of: torch.Tensor, result: torch.Tensor, indices: Sequence[int], own: Weights) -> None:
        wanted = [i for i in indices if own[i] is not None]
        for i, value in zip(
            wanted, torch.autograd.grad(result, [own[i] for i in wanted], of, create_graph=True), strict=True
        ):
            previous = found[i]
            found[i] = value if previous is None else previous + value

    with torch.enable_grad():
        # Views, so that what the tensors were computed from is not followed here.
        own = [
            None if t is None else (t.view_as(t) if t.requires_grad else t.detach().requires_grad_()) for t in tensors
        ]
        s, x, skip, *mlp = own
        assert s is not None
        if of_z is not None:
            with_x = [1, 7] if block.mlp_skip else []
            add(of_z, block.behind_skip(s, x, *mlp), [0, *with_x[:1], *range(3, 7), *with_x[1:]], own)
        if of_s is not None:
            found[0] = of_s if found[0] is None else found[0] + of_s
        if block.skip and found[0] is not None:
            add(found[0], _skipped(block.skip, x, skip), [1, 2], own)
    return [value if need else None for value, need in zip(found, needed, strict=True)]


def _backward(block: PointBlock, grad: torch.Tensor, tensors: Weights, needed: Sequence[bool]) -> Weights:
    """Gradients, piece by piece."""
    s, x, skip, w1, b1, w2, _, mlp_skip = tensors
    assert s is not None
    found = [
        torch.zeros_like(t) if t is not None and need else None for t, need in zip(tensors[2:], needed[2:], strict=True)
    ]
    of_skip, of_w1, of_b1, of_w2, of_b2, of_mlp_skip = found
    of_h = torch.empty_like(s) if needed[0] else None
    of_x = torch.empty_like(x) if x is not None and needed[1] else None
    into_s = of_h is not None or of_x is not None or of_skip is not None
    chans = s.shape[-1]
    points, hidden, width = _sizes(chans, tensors[2:])
    rooms = [s.new_empty(points, c) for c in (chans, hidden, hidden, max(width, chans))]
    for g, a, b, d_h, d_x in _pieces(points, grad, s, x, of_h, of_x):
        o, p, q, r = rooms if len(a) == points else [room[: len(a)] for room in rooms]
        y = r[:, :width] if width < chans else r
        u = _gelu(a, out=o) if block.act_inside else a
        if block.mlp:
            assert w1 is not None and w2 is not None and b1 is not None
            torch.addmm(b1, u, w1.t(), out=p)
            _gelu(p, out=q)
            if block.act_behind:
                g = _gelu_backward(g, _behind(block, q, b, tensors[2:], y), grad_input=y)
            _of_linear(g, q, of_w2, of_b2)
            written = _of_skip(block.mlp_skip, g, b, mlp_skip, of_mlp_skip, d_x, d_h, False)
            g = _gelu_backward(torch.mm(g, w2, out=q), p, grad_input=p)
            _of_linear(g, u, of_w1, of_b1)
            if not into_s:
                continue
            g = torch.mm(g, w1, out=r[:, :chans] if width > chans else r)
        else:
            written = False
            if block.act_behind:
                g = _gelu_backward(g, u, grad_input=r)
        if block.act_inside:
            g = _gelu_backward(g, a, grad_input=r if d_h is None else d_h)
        elif d_h is not None:
            g = d_h.copy_(g)
        if not _of_skip(block.skip, g, b, skip, of_skip, d_x, o, written) and d_x is not None:
            d_x.zero_()
    return [of_h, of_x, *found]


def _of_linear(g: torch.Tensor, x: torch.Tensor, of_weight: torch.Tensor | None, of_bias: torch.Tensor | None) -> None:
    """Add the gradients of a linear map of x, whose result has the gradient g."""
    if of_weight is not None:
        of_weight.addmm_(g.t(), x)
    if of_bias is not None:
        of_bias += g.sum(0)


def _of_skip(
    kind: str | None,
    g: torch.Tensor,
    x: torch.Tensor | None,
    weight: torch.Tensor | None,
    of_weight: torch.Tensor | None,
    of_x: torch.Tensor | None,
    room: torch.Tensor | None,
    written: bool,
) -> bool:
    """Add the gradients of a skip connection of x, whose result has the gradient g.

    Args:
        kind: "matrix", "gate", "identity" or None.
        g: (points, C).
        x: (points, C).
        weight: Of the connection.
        of_weight: Where its gradient is summed up.
        of_x: Where that of x is summed up.
        room: For a product of the size of x.
        written: Whether `of_x` holds a gradient already.

    Returns:
        Whether it does now.
    """
    if kind is None:
        return written
    assert x is not None
    if kind == "gate" and of_weight is not None:
        of_weight += torch.mul(g, x, out=room).sum(0)
    if kind == "matrix" and of_weight is not None:
        of_weight.addmm_(g.t(), x)
    if of_x is None:
        return False
    if kind == "identity":
        of_x.add_(g) if written else of_x.copy_(g)
        return True
    assert weight is not None
    if kind == "gate":
        of_x.addcmul_(g, weight) if written else torch.mul(g, weight, out=of_x)
    else:
        of_x.addmm_(g, weight) if written else torch.mm(g, weight, out=of_x)
    return True
