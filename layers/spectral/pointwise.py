"""The pointwise part of an operator's block, computed on a few thousand points at a time to stay in the cache.

With skip connections S and M of a field x, a linear map, a factor for each channel, or x itself,

    s = h + S(x),  u = gelu(s),  y = W2 gelu(W1 u + b1) + b2 + M(x),  z = gelu(y).

Field by field, this reads and writes memory some ten times over, and on a CPU moving a field costs more than the
arithmetic. `point_block` runs all of it on pieces that stay in the cache, and in training keeps h and x only and
computes the rest again in the backward pass. If h comes out of a Fourier transform along the last axis and z goes into
one, both as matrix products, the pieces include these transforms: a piece is a few rows, and neither h nor its gradient
is ever stored as a whole field.

The passes over a piece, and the buffer that holds each result (in brackets, where it is not part of an input or output;
"act" is the hidden layer after its activation, "coefficients" are those of the rows of z):

    forward   1  s = synthesis h + S(x)                                        [s]
              2  u = gelu(s)                                                   [s]
              3  hidden = W1 u + b1,  act = gelu(hidden)                       [hidden]
              4  y = W2 act + b2 + M(x),  z = gelu(y)
              5  coefficients = analysis z

    backward  1  grad_z = grad_z + analysis' grad_coefficients                 [grad_y]
              2  s, u, hidden, act again, and y if z = gelu(y)                 [s] [u] [hidden] [act] [y]
              3  grad_y = gelu'(y) grad_z                                      [grad_y]
              4  grad_W2, grad_b2 from act;  grad_act = W2' grad_y             [act]
              5  grad_hidden = gelu'(hidden) grad_act                          [act]
              6  grad_W1, grad_b1 from u;  grad_u = W1' grad_hidden            grad_h, or [u]
              7  grad_s = gelu'(s) grad_u                                      grad_h, or [u]
              8  grad_h = synthesis' grad_s
              9  grad_x = S' grad_s + M' grad_y, and the weights of S and M

Only the parts that a block has are run. A buffer takes a second result as soon as the first is not needed any more, so
that a piece stays in the cache. The products with a gate's gradient use [y] when y is not needed any more.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

__all__ = ["PointBlock", "RowTables", "point_block", "runs_in_pieces"]

PIECE = 2**18
"""Values of the widest field in a piece, which was fastest on the CPUs tried."""

_gelu, _gelu_backward = torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input

Weights = Sequence[torch.Tensor | None]
"""Tensors in the order of the arguments they belong to; None for missing ones."""


class PointBlock(NamedTuple):
    """Describes which of the parts a block has.

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
    """Transforms along the last axis, as matrices.

    Attributes:
        synthesis: (n, K) makes rows of h from their coefficients; None if h is a field.
        analysis: (K', n) gives the coefficients of rows of z; None if they are not needed.
    """

    synthesis: torch.Tensor | None = None
    analysis: torch.Tensor | None = None

    @property
    def row(self) -> int:
        """Points of a row, n; 1 without transforms, since points then need not stay together."""
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

    All must be real, of one type, and on a CPU, and the fields must be large enough. Graphs, autocast and torch.func
    transforms are not supported.
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
    """Compute the pointwise part of a block: the fast form of `block.plain`.

    Args:
        block: The parts.
        h: (*size, C), or with `tables.synthesis` the coefficients of its rows, (*size[:-1], K, C).
        x: (*size, C'), for skip connections.
        weights: skip, w1, b1, w2, b2, mlp_skip; None for missing ones.
        tables: Transforms before and after; none by default.
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
    """Write `table @ rows` for every row into `out`: (K, n) and (R, n, C) -> (R, K, C)."""
    torch.bmm(table.expand(len(rows), -1, -1), rows, out=out)


def _before_act(
    block: PointBlock,
    synthesis: torch.Tensor | None,
    h: torch.Tensor,
    x: torch.Tensor | None,
    skip: torch.Tensor | None,
    out: torch.Tensor,
) -> torch.Tensor:
    """Compute s = h + S(x) in `out` (points, C), which may be h; without S, a field h is returned as it is.

    With `synthesis` (n, K), h has the coefficients of rows, (R, K, C), and points = R * n.
    """
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


def _after_mlp(
    block: PointBlock, act: torch.Tensor, x: torch.Tensor | None, weights: Weights, out: torch.Tensor
) -> torch.Tensor:
    """Compute y = W2 act + b2 + M(x) in `out` (points, C'')."""
    w2, b2, skip = weights[3:]
    assert w2 is not None and b2 is not None
    if block.mlp_skip is None:
        return torch.addmm(b2, act, w2.t(), out=out)
    assert x is not None
    if block.mlp_skip == "identity":
        torch.add(x, b2, out=out)
    else:
        assert skip is not None
        torch.addcmul(b2, x, skip, out=out) if block.mlp_skip == "gate" else torch.addmm(b2, x, skip.t(), out=out)
    return out.addmm_(act, w2.t())


Buffer = Literal["s", "u", "hidden", "act", "y", "grad_y"]
"""What a buffer holds first, see the sketch at the top of this module."""


class _Pieces:
    """Cuts fields into pieces, and holds the buffers for the results of a piece.

    Args:
        h: Field (points, C), or coefficients of rows (R, K, C).
        row: Points that stay together, see `RowTables.row`.
        weights: See `point_block`.
    """

    def __init__(self, h: torch.Tensor, row: int, weights: Weights) -> None:
        w1, w2 = weights[1], weights[3]
        self.chans = chans = h.shape[-1]
        self.hidden, self.width = (chans, chans) if w1 is None or w2 is None else (w1.shape[0], w2.shape[0])
        self.widest = max(chans, self.hidden, self.width)
        self.row, self.rows = row, max(PIECE // (self.widest * row), 1)
        self.like = h
        self.memory: dict[Buffer, torch.Tensor] = {}
        self.views: dict[tuple[Buffer, int, int], torch.Tensor] = {}

    def cut(self, *fields: tuple[torch.Tensor | None, bool]) -> Any:
        """Cut several tensors into pieces in parallel.

        Args:
            *fields: A tensor, or None, whose pieces are None; and whether it has one entry for each row, not for each
                point.
        """
        parts = [None if f is None else f.split(self.rows * (1 if rows else self.row)) for f, rows in fields]
        count = next(len(part) for part in parts if part is not None)
        return zip(*[[None] * count if part is None else part for part in parts], strict=True)

    def buffer(self, name: Buffer, points: int, chans: int) -> torch.Tensor:
        """The buffer of this name as (points, chans); its memory is the same in every piece."""
        key = (name, points, chans)
        if key not in self.views:  # the last piece may be shorter
            if name not in self.memory:
                self.memory[name] = self.like.new_empty(self.rows * self.row * self.widest)
            self.views[key] = self.memory[name][: points * chans].view(points, chans)
        return self.views[key]


def _forward(
    block: PointBlock,
    tables: RowTables,
    h: torch.Tensor,
    x: torch.Tensor | None,
    weights: Weights,
    overwrite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The forward passes of the sketch, piece by piece: z (points, C''), and its coefficients (R, K', C'') or None."""
    skip, w1, b1 = weights[:3]
    (synthesis, analysis), row = tables, tables.row
    pieces = _Pieces(h, row, weights)
    chans, hidden_chans, width = pieces.chans, pieces.hidden, pieces.width
    in_rows = synthesis is not None
    points = len(h) * row if in_rows else len(h)
    inplace = overwrite and not in_rows and width == chans
    z = h if inplace else h.new_empty(points, width)
    coefficients = None if analysis is None else h.new_empty(points // row, len(analysis), width)
    fields = [(h, in_rows), (x, False), (z, False), (coefficients, True)]
    for h_piece, x_piece, z_piece, coefficients_piece in pieces.cut(*fields):
        n = len(z_piece)
        s_buffer = h_piece if inplace else pieces.buffer("s", n, chans)
        y = _before_act(block, synthesis, h_piece, x_piece, skip, s_buffer)
        if block.act_inside:
            y = _gelu(y, out=s_buffer)
        if block.mlp:
            assert w1 is not None and b1 is not None
            hidden = torch.addmm(b1, y, w1.t(), out=pieces.buffer("hidden", n, hidden_chans))
            y = _after_mlp(block, _gelu(hidden, out=hidden), x_piece, weights, z_piece)
        if block.act_behind:
            _gelu(y, out=z_piece)
        elif y is not z_piece:
            z_piece.copy_(y)
        if analysis is not None:
            _products(analysis, z_piece.view(-1, row, width), coefficients_piece)
    return z, coefficients


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
    def backward(  # type: ignore[override]
        ctx: Any, grad_z: torch.Tensor | None, grad_coefficients: torch.Tensor | None
    ) -> Any:
        needed = ctx.needs_input_grad[2:]
        if grad_z is None and grad_coefficients is None:
            return None, None, *[None] * len(needed)
        compute = _differentiable_backward if torch.is_grad_enabled() else _backward
        return None, None, *compute(ctx.block, ctx.tables, (grad_z, grad_coefficients), ctx.saved_tensors, needed)


def _differentiable_backward(
    block: PointBlock, tables: RowTables, grads: Weights, tensors: Weights, needed: Sequence[bool]
) -> Weights:
    """Differentiable gradients, by torch's own operations; `grads` are those of z and of its coefficients."""
    with torch.enable_grad():
        # Views, so that what the tensors were computed from is not followed here.
        own = [t if t is None or not t.requires_grad else t.view_as(t) for t in tensors]
        h, *others = own
        assert h is not None
        if tables.synthesis is not None:
            h = torch.matmul(tables.synthesis, h).flatten(0, 1)  # (R, K, C) -> (R, n, C) -> (points, C)
        z = block.plain(h, *others)
        results = [z]
        if tables.analysis is not None:  # (points, C'') -> (R, n, C'') -> (R, K', C'')
            results.append(torch.matmul(tables.analysis, z.unflatten(0, (-1, tables.row))))
        outputs, given = zip(*[(y, g) for y, g in zip(results, grads, strict=False) if g is not None], strict=True)
        wanted = [t for t, need in zip(own, needed, strict=True) if t is not None and need]
        found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return [next(found) if t is not None and need else None for t, need in zip(own, needed, strict=True)]


def _backward(
    block: PointBlock, tables: RowTables, grads: Weights, tensors: Weights, needed: Sequence[bool]
) -> Weights:
    """The backward passes of the sketch, piece by piece.

    Args:
        block: The parts.
        tables: Transforms before and after.
        grads: Gradients of z and of its coefficients.
        tensors: h, x and the weights, see `point_block`.
        needed: Which of these tensors need a gradient.

    Returns:
        Their gradients, None for the others.
    """
    h, x, *weights = tensors
    assert h is not None
    skip, w1, b1, w2, _, mlp_skip = weights
    (grad_z, grad_coefficients), (synthesis, analysis), row = grads, tables, tables.row
    # Gradients of weights are sums over pieces; those of fields are written once.
    grad_weights = [
        torch.zeros_like(t) if t is not None and need else None for t, need in zip(weights, needed[2:], strict=True)
    ]
    grad_skip, grad_w1, grad_b1, grad_w2, grad_b2, grad_mlp_skip = grad_weights
    grad_h = torch.empty_like(h) if needed[0] else None
    grad_x = torch.empty_like(x) if x is not None and needed[1] else None
    reaches_s = grad_h is not None or grad_x is not None or grad_skip is not None
    pieces = _Pieces(h, row, weights)
    chans, hidden_chans, width = pieces.chans, pieces.hidden, pieces.width
    in_rows = synthesis is not None
    fields = [(h, in_rows), (grad_h, in_rows), (x, False), (grad_x, False), (grad_z, False), (grad_coefficients, True)]
    for h_piece, grad_h_piece, x_piece, grad_x_piece, grad_z_piece, grad_coefficients_piece in pieces.cut(*fields):
        n = len(h_piece) * row if in_rows else len(h_piece)
        grad_y_buffer = pieces.buffer("grad_y", n, width)

        # 1: grad_z; the incoming gradient itself is never written to
        grad_y = grad_z_piece
        if grad_coefficients_piece is not None:
            assert analysis is not None
            # (n, K') times (R, K', C'') -> (R, n, C''), in the memory of (points, C'')
            _products(analysis.t(), grad_coefficients_piece, grad_y_buffer.view(-1, row, width))
            grad_y = grad_y_buffer if grad_z_piece is None else grad_y_buffer.add_(grad_z_piece)

        # 2: what the forward pass did not keep
        s = _before_act(block, synthesis, h_piece, x_piece, skip, pieces.buffer("s", n, chans))
        u = _gelu(s, out=pieces.buffer("u", n, chans)) if block.act_inside else s

        if block.mlp:
            assert w1 is not None and w2 is not None and b1 is not None
            act_buffer = pieces.buffer("act", n, hidden_chans)
            hidden = torch.addmm(b1, u, w1.t(), out=pieces.buffer("hidden", n, hidden_chans))
            act = _gelu(hidden, out=act_buffer)
            # 3: grad_y
            if block.act_behind:
                y = _after_mlp(block, act, x_piece, weights, pieces.buffer("y", n, width))
                grad_y = _gelu_backward(grad_y, y, grad_input=grad_y_buffer)
            # 4 and 5: through the second map and the activation, over `act`, which is not read after its map
            _add_linear_grads(grad_y, act, grad_w2, grad_b2)
            grad_act = torch.mm(grad_y, w2, out=act_buffer)
            grad_hidden = _gelu_backward(grad_act, hidden, grad_input=act_buffer)
            _add_linear_grads(grad_hidden, u, grad_w1, grad_b1)
        if not reaches_s and grad_mlp_skip is None:
            continue

        # 6 and 7: grad_s is the gradient of h where h is a field, and then stands in its place at once
        own_place = None if in_rows else grad_h_piece
        grad_s_buffer = pieces.buffer("u", n, chans) if own_place is None else own_place
        grad_s = grad_y
        if block.mlp:
            assert w1 is not None
            grad_s = torch.mm(grad_hidden, w1, out=grad_s_buffer)
        elif block.act_behind:  # y = u
            grad_s = _gelu_backward(grad_y, u, grad_input=grad_s_buffer)
        if block.act_inside:
            grad_s = _gelu_backward(grad_s, s, grad_input=grad_s_buffer)

        # 8: grad_h
        if own_place is not None and grad_s is not own_place:
            own_place.copy_(grad_s)
        if synthesis is not None and grad_h_piece is not None:  # (K, n) times (R, n, C) -> (R, K, C)
            _products(synthesis.t(), grad_s.reshape(-1, row, chans), grad_h_piece)

        # 9: skip connections
        scratch = pieces.buffer("y", n, chans)
        _add_skip_weight_grad(block.skip, grad_s, x_piece, grad_skip, scratch)
        _add_skip_weight_grad(block.mlp_skip, grad_y, x_piece, grad_mlp_skip, scratch)
        if grad_x_piece is None:
            continue
        if block.skip is None and block.mlp_skip is None:
            grad_x_piece.zero_()
        _skip_input_grad(block.skip, grad_s, skip, grad_x_piece, add=False)
        _skip_input_grad(block.mlp_skip, grad_y, mlp_skip, grad_x_piece, add=block.skip is not None)
    return [grad_h, grad_x, *grad_weights]


def _add_linear_grads(
    grad: torch.Tensor, x: torch.Tensor, grad_weight: torch.Tensor | None, grad_bias: torch.Tensor | None
) -> None:
    """Add a piece's part to the gradients of a linear map's weight (C', C) and bias (C',).

    Args:
        grad: Gradient of the map's result, (points, C').
        x: Input of the map, (points, C).
        grad_weight: Sum to add to, or None if it is not needed.
        grad_bias: Sum to add to, or None if it is not needed.
    """
    if grad_weight is not None:
        grad_weight.addmm_(grad.t(), x)
    if grad_bias is not None:
        grad_bias.addmv_(grad.t(), grad.new_ones(len(grad)))  # faster than a sum over the first axis


def _add_skip_weight_grad(
    kind: str | None,
    grad: torch.Tensor,
    x: torch.Tensor | None,
    grad_weight: torch.Tensor | None,
    scratch: torch.Tensor,
) -> None:
    """Add a piece's part to the gradient of a skip connection's weight.

    Args:
        kind: "matrix", "gate", "identity" or None.
        grad: Gradient of the connection's result, (points, C).
        x: Input of the connection, (points, C).
        grad_weight: Sum to add to, or None if it is not needed.
        scratch: Room for a product of the size of x.
    """
    if grad_weight is None or kind is None:
        return
    assert x is not None
    if kind == "gate":
        grad_weight += torch.mul(grad, x, out=scratch).sum(0)
    else:
        grad_weight.addmm_(grad.t(), x)


def _skip_input_grad(
    kind: str | None, grad: torch.Tensor, weight: torch.Tensor | None, grad_x: torch.Tensor, add: bool
) -> None:
    """Write the gradient of a skip connection's input.

    Args:
        kind: "matrix", "gate", "identity"; for None nothing is written.
        grad: Gradient of the connection's result, (points, C).
        weight: Of the connection.
        grad_x: Where the gradient goes, (points, C).
        add: Add to the values there, instead of overwriting them.
    """
    if kind is None:
        return
    if kind == "identity":
        grad_x.add_(grad) if add else grad_x.copy_(grad)
        return
    assert weight is not None
    if kind == "gate":
        grad_x.addcmul_(grad, weight) if add else torch.mul(grad, weight, out=grad_x)
    else:
        grad_x.addmm_(grad, weight) if add else torch.mm(grad, weight, out=grad_x)
