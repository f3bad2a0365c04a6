"""The part of an operator's block that maps single points, a few thousand points at a time.

With skip connections S and M of a field x, a linear map, a factor for each channel, or x itself,

    s = h + S(x),  u = gelu(s),  y = W2 gelu(W1 u + b1) + b2 + M(x),  z = gelu(y).

Field by field, this reads and writes memory some ten times over, and on a CPU moving a field costs more than the
arithmetic. `point_block` runs all of it on pieces that stay in the cache, and in training keeps h and x only and
computes the rest again in the backward pass. Where h comes out of a Fourier transform along the last axis and z goes
into one, both as matrix products, they are part of it: a piece is a few rows, and neither h nor its gradient is ever a
whole field.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

__all__ = ["PointBlock", "RowTables", "point_block", "runs_in_pieces"]

PIECE = 2**18
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
        skip, w1, b1, w2, b2, mlp_skip = weights
        s = h + _skipped(self.skip, x, skip) if self.skip else h
        y = F.gelu(s) if self.act_inside else s
        if self.mlp:
            assert w1 is not None and w2 is not None
            y = F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2)
            y = y + _skipped(self.mlp_skip, x, mlp_skip) if self.mlp_skip else y
        return F.gelu(y) if self.act_behind else y


class RowTables(NamedTuple):
    """Transforms along the last axis of space, as matrices.

    Attributes:
        synthesis: (n, K) makes rows of h from their coefficients; None where h is a field.
        analysis: (K', n) gives the coefficients of rows of z; None where they are not asked for.
    """

    synthesis: torch.Tensor | None = None
    analysis: torch.Tensor | None = None

    @property
    def row(self) -> int:
        """Points of a row, n; 1 without transforms, for which points need not stay together."""
        if self.synthesis is not None:
            return len(self.synthesis)
        return 1 if self.analysis is None else self.analysis.shape[1]


def _skipped(kind: str | None, x: torch.Tensor | None, weight: torch.Tensor | None) -> torch.Tensor:
    assert x is not None
    if kind == "identity":
        return x
    assert weight is not None
    return F.linear(x, weight) if kind == "matrix" else x * weight


def runs_in_pieces(fields: Sequence[torch.Tensor], weights: Weights) -> bool:
    """Whether `point_block` may run on fields (*size, C) with these weights.

    They must be real ones of one type on a CPU, the fields large enough, outside graphs, autocast and transforms.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    if torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active():
        return False
    maps = [t for t in weights if t is not None]
    given, dtype = [*fields, *maps], fields[0].dtype
    if dtype not in (torch.float32, torch.float64) or any(t.device.type != "cpu" or t.dtype != dtype for t in given):
        return False
    if not all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in given) or forward_ad._current_level >= 0:
        return False
    widest = max([*(t.shape[-1] for t in fields), *(t.shape[0] for t in maps)])
    return math.prod(fields[0].shape[:-1]) * widest > PIECE


def point_block(
    block: PointBlock,
    h: torch.Tensor,
    x: torch.Tensor | None,
    weights: Weights,
    tables: RowTables | None = None,
    overwrite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `block.plain` computes.

    Args:
        block: The parts.
        h: (*size, C), or with `tables.synthesis` the coefficients of its rows, (*size[:-1], K, C).
        x: (*size, C'), for skip connections.
        weights: skip, w1, b1, w2, b2, mlp_skip; None for those that are not there.
        tables: Transforms in front and behind; none by default.
        overwrite: Without gradients, the result may take the memory of `h`.

    Returns:
        z (*size, C''), and the coefficients of its rows, (*size[:-1], K', C''), or None without `tables.analysis`.
    """
    tables = tables or RowTables()
    *outer, n, chans = h.shape
    if tables.synthesis is None:
        h = h.reshape(-1, chans)
    else:
        h, n = h.reshape(-1, n, chans), tables.row
    x = None if x is None else x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (h, x, *weights)):
        z, a = _InPieces.apply(block, tables, h, x, *weights)  # type: ignore[no-untyped-call]
    else:
        z, a = _forward(block, tables, h, x, weights, overwrite)
    return z.reshape(*outer, n, -1), None if a is None else a.reshape(*outer, *a.shape[1:])


def _products(table: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
    """Out = table @ rows for every row, (K, n) and (R, n, C)."""
    torch.bmm(table.expand(len(rows), -1, -1), rows, out=out)


def _inside(
    block: PointBlock,
    synthesis: torch.Tensor | None,
    h: torch.Tensor,
    x: torch.Tensor | None,
    skip: torch.Tensor | None,
    out: torch.Tensor,
) -> torch.Tensor:
    """S = h + S(x), in `out`, which may be h; h itself if it is a field and there is no S."""
    if synthesis is not None:
        _products(synthesis, h, out.view(len(h), len(synthesis), -1))
        h = out
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
    if block.mlp_skip is None:
        return torch.addmm(b2, q, w2.t(), out=out)
    assert x is not None
    if block.mlp_skip == "identity":
        torch.add(x, b2, out=out)
    else:
        assert skip is not None
        torch.addcmul(b2, x, skip, out=out) if block.mlp_skip == "gate" else torch.addmm(b2, x, skip.t(), out=out)
    return out.addmm_(q, w2.t())


class _Pieces:
    """How fields are cut, and room for what is computed of a piece."""

    def __init__(self, h: torch.Tensor, row: int, weights: Weights) -> None:
        w1, w2 = weights[1], weights[3]
        self.chans = chans = h.shape[-1]
        self.hidden, self.width = (chans, chans) if w1 is None or w2 is None else (w1.shape[0], w2.shape[0])
        self.widest = max(chans, self.hidden, self.width)
        self.row, self.rows = row, max(PIECE // (self.widest * row), 1)
        self.like = h
        self.rooms: dict[int, torch.Tensor] = {}
        self.views: dict[tuple[int, int, int], torch.Tensor] = {}

    def cut(self, *fields: tuple[torch.Tensor | None, bool]) -> Any:
        """Pieces of points, or of rows where a tensor has one entry for each; None where there is no tensor."""
        parts = [None if f is None else f.split(self.rows * (1 if rows else self.row)) for f, rows in fields]
        count = next(len(part) for part in parts if part is not None)
        return zip(*[[None] * count if part is None else part for part in parts], strict=True)

    def room(self, i: int, points: int, chans: int) -> torch.Tensor:
        """Room number i as (points, chans)."""
        key = (i, points, chans)
        if key not in self.views:
            if i not in self.rooms:
                self.rooms[i] = self.like.new_empty(self.rows * self.row * self.widest)
            self.views[key] = self.rooms[i][: points * chans].view(points, chans)
        return self.views[key]


def _forward(
    block: PointBlock,
    tables: RowTables,
    h: torch.Tensor,
    x: torch.Tensor | None,
    weights: Weights,
    overwrite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The block."""
    skip, w1, b1 = weights[:3]
    (synthesis, analysis), row = tables, tables.row
    pieces = _Pieces(h, row, weights)
    chans, hidden, width = pieces.chans, pieces.hidden, pieces.width
    in_rows = synthesis is not None
    points = len(h) * row if in_rows else len(h)
    inplace = overwrite and not in_rows and width == chans
    result = h if inplace else h.new_empty(points, width)
    spectrum = None if analysis is None else h.new_empty(points // row, len(analysis), width)
    for f, b, z, a in pieces.cut((h, in_rows), (x, False), (result, False), (spectrum, True)):
        n = len(z)
        own = f if inplace else pieces.room(0, n, chans)
        u = _inside(block, synthesis, f, b, skip, own)
        if block.act_inside:
            u = _gelu(u, out=own)
        if block.mlp:
            assert w1 is not None and b1 is not None
            q = torch.addmm(b1, u, w1.t(), out=pieces.room(1, n, hidden))
            u = _behind(block, _gelu(q, out=q), b, weights, z)
        if block.act_behind:
            _gelu(u, out=z)
        elif u is not z:
            z.copy_(u)
        if analysis is not None:
            _products(analysis, z.view(-1, row, width), a)
    return result, spectrum


class _InPieces(torch.autograd.Function):
    """`point_block` with gradients."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        block: PointBlock,
        tables: RowTables,
        h: torch.Tensor,
        x: torch.Tensor | None,
        *weights: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        ctx.block, ctx.tables = block, tables
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(h, x, *weights)
        return _forward(block, tables, h, x, weights)

    @staticmethod
    def backward(ctx: Any, of_z: torch.Tensor | None, of_a: torch.Tensor | None) -> Any:  # type: ignore[override]
        needed = ctx.needs_input_grad[2:]
        if of_z is None and of_a is None:
            return None, None, *[None] * len(needed)
        compute = _differentiable_backward if torch.is_grad_enabled() else _backward
        return None, None, *compute(ctx.block, ctx.tables, (of_z, of_a), ctx.saved_tensors, needed)


def _differentiable_backward(
    block: PointBlock, tables: RowTables, grads: Weights, tensors: Weights, needed: Sequence[bool]
) -> Weights:
    """Gradients that have gradients, by torch's own operations; `grads` are those of z and of its coefficients."""
    with torch.enable_grad():
        # Views, so that what the tensors were computed from is not followed here.
        own = [t if t is None or not t.requires_grad else t.view_as(t) for t in tensors]
        h, *others = own
        assert h is not None
        if tables.synthesis is not None:
            h = torch.matmul(tables.synthesis, h).flatten(0, 1)
        z = block.plain(h, *others)
        results = [z]
        if tables.analysis is not None:
            results.append(torch.matmul(tables.analysis, z.unflatten(0, (-1, tables.row))))
        outputs, given = zip(*[(y, g) for y, g in zip(results, grads, strict=False) if g is not None], strict=True)
        wanted = [t for t, need in zip(own, needed, strict=True) if t is not None and need]
        found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return [next(found) if t is not None and need else None for t, need in zip(own, needed, strict=True)]


def _backward(
    block: PointBlock, tables: RowTables, grads: Weights, tensors: Weights, needed: Sequence[bool]
) -> Weights:
    """Gradients, piece by piece, in the same form."""
    h, x, skip, w1, b1, w2, _, mlp_skip = tensors
    assert h is not None
    (of_z, of_a), (synthesis, analysis), row = grads, tables, tables.row
    found = [
        torch.zeros_like(t) if t is not None and need else None for t, need in zip(tensors[2:], needed[2:], strict=True)
    ]
    of_skip, of_w1, of_b1, of_w2, of_b2, of_mlp_skip = found
    of_h = torch.empty_like(h) if needed[0] else None
    of_x = torch.empty_like(x) if x is not None and needed[1] else None
    into_s = of_h is not None or of_x is not None or of_skip is not None
    pieces = _Pieces(h, row, tensors[2:])
    chans, hidden, width = pieces.chans, pieces.hidden, pieces.width
    in_rows = synthesis is not None
    fields = [(h, in_rows), (of_h, in_rows), (of_a, True), (of_z, False), (x, False), (of_x, False)]
    for f, d_h, g_a, g, b, d_x in pieces.cut(*fields):
        n = len(f) * row if in_rows else len(f)
        if g_a is not None:
            assert analysis is not None
            g = _add_products(g, analysis.t(), g_a, pieces.room(0, n, width))
        s = _inside(block, synthesis, f, b, skip, pieces.room(1, n, chans))
        u = _gelu(s, out=pieces.room(2, n, chans)) if block.act_inside else s
        of_y = g
        if block.mlp:
            assert w1 is not None and w2 is not None and b1 is not None
            p = torch.addmm(b1, u, w1.t(), out=pieces.room(3, n, hidden))
            q = _gelu(p, out=pieces.room(4, n, hidden))
            if block.act_behind:
                y = _behind(block, q, b, tensors[2:], pieces.room(5, n, width))
                of_y = g = _gelu_backward(g, y, grad_input=pieces.room(0, n, width))
            _of_linear(g, q, of_w2, of_b2)
            g = torch.mm(g, w2, out=pieces.room(4, n, hidden))
            g = _gelu_backward(g, p, grad_input=pieces.room(4, n, hidden))
            _of_linear(g, u, of_w1, of_b1)
        if not into_s and of_mlp_skip is None:
            continue
        field = None if in_rows else d_h  # the gradient of s is that of h
        room = pieces.room(2, n, chans) if field is None else field
        if block.mlp:
            assert w1 is not None
            g = torch.mm(g, w1, out=room)
        elif block.act_behind:
            g = _gelu_backward(g, u, grad_input=room)
        if block.act_inside:
            g = _gelu_backward(g, s, grad_input=room)
        if field is not None and g is not field:
            field.copy_(g)
        if synthesis is not None and d_h is not None:
            _products(synthesis.t(), g.reshape(-1, row, chans), d_h)
        scratch = pieces.room(5, n, chans)
        written = _of_skip(block.skip, g, b, skip, of_skip, d_x, scratch, False)
        written = _of_skip(block.mlp_skip, of_y, b, mlp_skip, of_mlp_skip, d_x, scratch, written)
        if d_x is not None and not written:
            d_x.zero_()
    return [of_h, of_x, *found]


def _add_products(g: torch.Tensor | None, table: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Out = g + table @ rows."""
    wide = out.view(len(rows), len(table), -1)
    _products(table, rows, wide)
    return out if g is None else out.add_(g)


def _of_linear(g: torch.Tensor, x: torch.Tensor, of_weight: torch.Tensor | None, of_bias: torch.Tensor | None) -> None:
    """Add the gradients of a linear map of x, whose result has the gradient g."""
    if of_weight is not None:
        of_weight.addmm_(g.t(), x)
    if of_bias is not None:
        of_bias.addmv_(g.t(), g.new_ones(len(g)))


def _of_skip(
    kind: str | None,
    g: torch.Tensor,
    x: torch.Tensor | None,
    weight: torch.Tensor | None,
    of_weight: torch.Tensor | None,
    of_x: torch.Tensor | None,
    room: torch.Tensor,
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
