r"""Products of features with a matrix for each edge of a graph, gathered from senders and summed over receivers.

    out[n, k, c] = sum_{e: receiver(e) = n} w[e, c] sum_i M[e, k, i] x[sender(e), i, c]

Either end may be left out: without a gather, x has a row for each edge; without a sum, the result has. The weight may
be left out too. The form

    t(x, M, w, g) = sum_e sum_{k, i, c} g[receiver(e), k, c] w[e, c] M[e, k, i] x[sender(e), i, c]

is linear in each argument, so that its derivatives by x and g are `edge_product` itself, with M transposed and the ends
exchanged for x; those by M and w are

    edge_product_matrix: dM[e, k, i] = sum_c g[receiver(e), k, c] w[e, c] x[sender(e), i, c]
    edge_product_weight: dw[e, c]    = sum_{k, i} g[receiver(e), k, c] M[e, k, i] x[sender(e), i, c]

and the derivatives of these are again among the three. All orders exist; training on forces takes the second and third.
Sums over edges run in the order of the edges, in one program for each node: results are the same in every run.

    x: (N, I, C) or (E, I, C), M: (E, K, I), w: (E, C) -> (N', K, C) or (E, K, C); float32 or bfloat16, sums in float32

Floor with both ends, for each edge: 4 (K I + C) bytes for M and w, besides x and the result once for each node
(if the graph is local, gathered rows come from the L2 cache); 2 K I C operations. With K = I = 9 and C = 128 that
is 0.24 operations for a byte of M and w in every row of 20 KB: bound by memory. Matrices are applied by multiply-adds
of float32, not by tensor cores, whose 10-bit mantissa would show in the equivariance.
"""

from typing import Any, NamedTuple

import torch

from blockzoo.kernels._dispatch import (
    INTERPRETED,
    jit,
    launch_config,
    next_power,
    on_its_device,
    outside_autocast,
    tl,
    triton,
    use_kernel,
)

__all__ = ["Segments", "edge_product", "edge_product_ref", "make_segments"]

Optional = torch.Tensor | None


class Segments(NamedTuple):
    """Which node each edge has at one of its ends, and the edges of each node.

    Attributes:
        node: Node of each edge, (E,), int64.
        order: Edges sorted by node, edges of one node by number, (E,), int64.
        offsets: Where the edges of each node start in `order`, and E at the end, (N + 1,), int64.
    """

    node: torch.Tensor
    order: torch.Tensor
    offsets: torch.Tensor


class Ends(NamedTuple):
    """Both ends of the edges, as separate tensors, since operators take no tuples.

    Attributes:
        gather: Node whose features an edge reads, (E,); None if x has a row for each edge; then the next two are None
            too.
        gather_order: Edges sorted by that node, (E,), see `Segments.order`.
        gather_offsets: Where a node's edges begin in that order, (N + 1,).
        reduce: Node that an edge is summed at, (E,); None if nothing is summed; then the next two are None too.
        reduce_order: Edges sorted by that node, (E,).
        reduce_offsets: Where a node's edges begin in that order, (N' + 1,).
    """

    gather: Optional = None
    gather_order: Optional = None
    gather_offsets: Optional = None
    reduce: Optional = None
    reduce_order: Optional = None
    reduce_offsets: Optional = None

    @classmethod
    def of(cls, gather: Segments | None, reduce: Segments | None) -> "Ends":
        """Make it from the two ends; None for an end that is left out."""
        return cls(*(gather or (None, None, None)), *(reduce or (None, None, None)))

    def exchanged(self) -> "Ends":
        """The ends for the derivative with respect to x: it reads where the product sums, and sums where it reads."""
        return Ends(*self[3:], *self[:3])

    @property
    def num_nodes(self) -> int:
        """Number of nodes that results are summed at; 0 without a sum."""
        return 0 if self.reduce_offsets is None else self.reduce_offsets.shape[0] - 1

    def rows(self, edges: int) -> int:
        """Rows of the result for this many edges."""
        return edges if self.reduce is None else self.num_nodes


def make_segments(index: torch.Tensor, num_nodes: int) -> Segments:
    """Sort the edges (E,) by their nodes, from 0 to num_nodes - 1; no value is read on the host."""
    ordered, order = index.sort(stable=True)
    bounds = torch.arange(num_nodes + 1, device=index.device, dtype=index.dtype)
    return Segments(index, order, torch.searchsorted(ordered, bounds))


def _rows(x: torch.Tensor, index: Optional) -> torch.Tensor:
    return x if index is None else x.index_select(0, index)


def edge_product_ref(
    x: torch.Tensor,
    matrix: torch.Tensor,
    weight: Optional = None,
    gather: Optional = None,
    reduce: Optional = None,
    num_nodes: int = 0,
) -> torch.Tensor:
    """The definition in plain torch; differentiable. See `edge_product`.

    Args:
        x: Features, (N, I, C) with `gather`, (E, I, C) without.
        matrix: (E, K, I).
        weight: (E, C), or None.
        gather: Node that each edge reads, (E,), or None.
        reduce: Node that each edge is summed at, (E,), or None.
        num_nodes: Number of nodes to sum at; needed with `reduce`.

    Returns:
        (num_nodes, K, C), or (E, K, C) without `reduce`.
    """
    out = torch.bmm(matrix, _rows(x, gather))
    if weight is not None:
        out = out * weight.unsqueeze(1)
    if reduce is None:
        return out
    return out.new_zeros(num_nodes, *out.shape[1:]).index_add(0, reduce, out)


@jit
def _edge_product_kernel(
    x_ptr,  # Features, (N, ROWS_IN, C) if GATHERED, else (E, ROWS_IN, C); contiguous
    matrix_ptr,  # Matrices, (E, ROWS_OUT, ROWS_IN), any strides, since gradients take them transposed
    weight_ptr,  # Factors, (E, C), contiguous; not read unless WEIGHTED
    gather_ptr,  # Node whose features an edge reads, (E,), int32 or int64; not read unless GATHERED
    order_ptr,  # Edges sorted by the node they are summed at, (E,), int64; not read unless REDUCED
    offset_ptr,  # Where a node's edges begin in that order, (N' + 1,), int64; not read unless REDUCED
    out_ptr,  # Result, (N', ROWS_OUT, C) if REDUCED, else (E, ROWS_OUT, C); contiguous
    C, stride_me, stride_mk, stride_mi,
    ROWS_IN: tl.constexpr, ROWS_OUT: tl.constexpr, WEIGHTED: tl.constexpr, GATHERED: tl.constexpr,
    REDUCED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: one node, or one edge where nothing is summed, and BLOCK_C channels of all its rows."""
    # int64: a row's place times ROWS_OUT * C passes 2^31 from 2 M edges on (9 rows, 128 channels)
    i_n = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_k = tl.arange(0, BLOCK_K)
    m_c, m_k = o_c < C, o_k < ROWS_OUT
    if REDUCED:
        start, end = tl.load(offset_ptr + i_n), tl.load(offset_ptr + i_n + 1)
    else:
        start, end = i_n, i_n + 1

    # float32 whatever the inputs: a sum of many edges in bfloat16 would lose the small ones
    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    for i in range(start, end):
        # the loop's variable is int32, and so may the indices be; addresses need int64
        edge = tl.load(order_ptr + i).to(tl.int64) if REDUCED else tl.cast(i, tl.int64)
        source = tl.load(gather_ptr + edge).to(tl.int64) if GATHERED else edge
        part = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
        for i_row in tl.static_range(ROWS_IN):
            p_m = matrix_ptr + edge * stride_me + o_k * stride_mk + i_row * stride_mi
            # column i_row of the matrix (BLOCK_K,), and row i_row of the features (BLOCK_C,); products in float32, as
            # tensor cores would round their inputs to 10 bits, which shows in the equivariance
            b_m = tl.load(p_m, mask=m_k, other=0).to(tl.float32)
            b_x = tl.load(x_ptr + (source * ROWS_IN + i_row) * C + o_c, mask=m_c, other=0).to(tl.float32)
            part += b_m[:, None] * b_x[None, :]  # (BLOCK_K, BLOCK_C)
        if WEIGHTED:
            part *= tl.load(weight_ptr + edge * C + o_c, mask=m_c, other=0).to(tl.float32)[None, :]
        acc += part
    p_out = out_ptr + (i_n * ROWS_OUT + o_k)[:, None] * C + o_c[None, :]  # (BLOCK_K, BLOCK_C)
    tl.store(p_out, acc.to(out_ptr.dtype.element_ty), mask=m_k[:, None] & m_c[None, :])  # rounded once, at the end


@jit
def _edge_product_matrix_kernel(
    g_ptr,  # Gradient of the result, (N', ROWS_OUT, C) if REDUCED, else (E, ROWS_OUT, C); contiguous
    weight_ptr,  # Factors, (E, C), contiguous; not read unless WEIGHTED
    x_ptr,  # Features, (N, ROWS_IN, C) if GATHERED, else (E, ROWS_IN, C); contiguous
    reduce_ptr,  # Node that an edge is summed at, (E,), int32 or int64; not read unless REDUCED
    gather_ptr,  # Node whose features an edge reads, (E,), int32 or int64; not read unless GATHERED
    out_ptr,  # Result, (E, ROWS_OUT, ROWS_IN); contiguous
    C,
    ROWS_IN: tl.constexpr, ROWS_OUT: tl.constexpr, WEIGHTED: tl.constexpr, GATHERED: tl.constexpr,
    REDUCED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: the matrix of one edge."""
    # int64, as are all places of rows: times rows and channels they pass 2^31
    edge = tl.program_id(0).to(tl.int64)
    target = tl.load(reduce_ptr + edge).to(tl.int64) if REDUCED else edge
    source = tl.load(gather_ptr + edge).to(tl.int64) if GATHERED else edge
    o_k, o_i = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_I)
    m_k, m_i = o_k < ROWS_OUT, o_i < ROWS_IN
    acc = tl.zeros((BLOCK_K, BLOCK_I), tl.float32)  # float32: a sum over all channels
    for start in range(0, C, BLOCK_C):
        o_c = start + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        p_g = g_ptr + (target * ROWS_OUT + o_k)[:, None] * C + o_c[None, :]  # (BLOCK_K, BLOCK_C)
        p_x = x_ptr + (source * ROWS_IN + o_i)[None, :] * C + o_c[:, None]  # (BLOCK_C, BLOCK_I), transposed
        b_g = tl.load(p_g, mask=m_k[:, None] & m_c[None, :], other=0).to(tl.float32)
        b_x = tl.load(p_x, mask=m_c[:, None] & m_i[None, :], other=0).to(tl.float32)
        if WEIGHTED:
            b_g *= tl.load(weight_ptr + edge * C + o_c, mask=m_c, other=0).to(tl.float32)[None, :]
        acc = tl.dot(b_g, b_x, acc, input_precision="ieee")  # no TF32, for the sake of the equivariance
    p_out = out_ptr + (edge * ROWS_OUT + o_k)[:, None] * ROWS_IN + o_i[None, :]  # (BLOCK_K, BLOCK_I)
    tl.store(p_out, acc.to(out_ptr.dtype.element_ty), mask=m_k[:, None] & m_i[None, :])


@jit
def _edge_product_weight_kernel(
    g_ptr,  # Gradient of the result, (N', ROWS_OUT, C) if REDUCED, else (E, ROWS_OUT, C); contiguous
    matrix_ptr,  # Matrices, (E, ROWS_OUT, ROWS_IN), any strides
    x_ptr,  # Features, (N, ROWS_IN, C) if GATHERED, else (E, ROWS_IN, C); contiguous
    reduce_ptr,  # Node that an edge is summed at, (E,), int32 or int64; not read unless REDUCED
    gather_ptr,  # Node whose features an edge reads, (E,), int32 or int64; not read unless GATHERED
    out_ptr,  # Result, (E, C); contiguous
    C, stride_me, stride_mk, stride_mi,
    ROWS_IN: tl.constexpr, ROWS_OUT: tl.constexpr, GATHERED: tl.constexpr, REDUCED: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_C channels of one edge."""
    # int64, as are all places of rows: times rows and channels they pass 2^31
    edge = tl.program_id(0).to(tl.int64)
    target = tl.load(reduce_ptr + edge).to(tl.int64) if REDUCED else edge
    source = tl.load(gather_ptr + edge).to(tl.int64) if GATHERED else edge
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_k = tl.arange(0, BLOCK_K)
    m_c, m_k = o_c < C, o_k < ROWS_OUT
    part = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)  # M x of the edge, in float32 as in the forward kernel
    for i_row in tl.static_range(ROWS_IN):
        p_m = matrix_ptr + edge * stride_me + o_k * stride_mk + i_row * stride_mi
        b_m = tl.load(p_m, mask=m_k, other=0).to(tl.float32)
        b_x = tl.load(x_ptr + (source * ROWS_IN + i_row) * C + o_c, mask=m_c, other=0).to(tl.float32)
        part += b_m[:, None] * b_x[None, :]
    p_g = g_ptr + (target * ROWS_OUT + o_k)[:, None] * C + o_c[None, :]
    b_g = tl.load(p_g, mask=m_k[:, None] & m_c[None, :], other=0).to(tl.float32)
    b_out = tl.sum(part * b_g, axis=0)  # over rows: (BLOCK_C,)
    tl.store(out_ptr + edge * C + o_c, b_out.to(out_ptr.dtype.element_ty), mask=m_c)


def _or(tensor: Optional, other: torch.Tensor) -> torch.Tensor:
    return other if tensor is None else tensor.contiguous()


def _config(kernel: str, x: torch.Tensor, rows_out: int) -> dict[str, int]:
    block_c = min(next_power(x.shape[2]), 64)
    sizes = {"rows_in": x.shape[1], "rows_out": rows_out, "channels": x.shape[2]}
    return launch_config(kernel, x, sizes, {"BLOCK_C": block_c, "num_warps": 4 if rows_out > 16 else 2})


@on_its_device
def _launch(x: torch.Tensor, matrix: torch.Tensor, weight: Optional, ends: Ends) -> torch.Tensor:
    x, (edges, rows_out, rows_in) = x.contiguous(), matrix.shape
    rows = ends.rows(edges)
    out = x.new_empty(rows, rows_out, x.shape[2])
    if out.numel() == 0:
        return out
    config = _config("edge_product", x, rows_out)
    _edge_product_kernel[(rows, triton.cdiv(x.shape[2], config["BLOCK_C"]))](
        x_ptr=x, matrix_ptr=matrix, weight_ptr=_or(weight, x),
        gather_ptr=_or(ends.gather, x), order_ptr=_or(ends.reduce_order, x), offset_ptr=_or(ends.reduce_offsets, x),
        out_ptr=out, C=x.shape[2],
        stride_me=matrix.stride(0), stride_mk=matrix.stride(1), stride_mi=matrix.stride(2),
        ROWS_IN=rows_in, ROWS_OUT=rows_out, WEIGHTED=weight is not None, GATHERED=ends.gather is not None,
        REDUCED=ends.reduce is not None, BLOCK_K=next_power(rows_out, 1), **config,
    )  # fmt: skip
    return out


@on_its_device
def _launch_matrix(g: torch.Tensor, weight: Optional, x: torch.Tensor, ends: Ends, edges: int) -> torch.Tensor:
    g, x = g.contiguous(), x.contiguous()
    out = x.new_empty(edges, g.shape[1], x.shape[1])
    if out.numel() == 0:
        return out
    _edge_product_matrix_kernel[(edges,)](
        g_ptr=g, weight_ptr=_or(weight, x), x_ptr=x,
        reduce_ptr=_or(ends.reduce, x), gather_ptr=_or(ends.gather, x), out_ptr=out,
        C=x.shape[2], ROWS_IN=x.shape[1], ROWS_OUT=g.shape[1], WEIGHTED=weight is not None,
        GATHERED=ends.gather is not None, REDUCED=ends.reduce is not None,
        BLOCK_K=next_power(g.shape[1]), BLOCK_I=next_power(x.shape[1]),
        **_config("edge_product_matrix", x, g.shape[1]),
    )  # fmt: skip
    return out


@on_its_device
def _launch_weight(g: torch.Tensor, matrix: torch.Tensor, x: torch.Tensor, ends: Ends) -> torch.Tensor:
    g, x, (edges, rows_out, rows_in) = g.contiguous(), x.contiguous(), matrix.shape
    out = x.new_empty(edges, x.shape[2])
    if out.numel() == 0:
        return out
    config = _config("edge_product_weight", x, rows_out)
    _edge_product_weight_kernel[(edges, triton.cdiv(x.shape[2], config["BLOCK_C"]))](
        g_ptr=g, matrix_ptr=matrix, x_ptr=x, reduce_ptr=_or(ends.reduce, x), gather_ptr=_or(ends.gather, x),
        out_ptr=out, C=x.shape[2],
        stride_me=matrix.stride(0), stride_mk=matrix.stride(1), stride_mi=matrix.stride(2),
        ROWS_IN=rows_in, ROWS_OUT=rows_out, GATHERED=ends.gather is not None, REDUCED=ends.reduce is not None,
        BLOCK_K=next_power(rows_out, 1), **config,
    )  # fmt: skip
    return out


# The operators' schemas know tensors only, so that their last six are the fields of `Ends`; they are called with
# `*ends`, and pack them again at once. All six are there, because the derivatives exchange the ends.
@torch.library.custom_op("blockzoo::edge_product", mutates_args=())
def edge_product_op(
    x: torch.Tensor, matrix: torch.Tensor, weight: Optional,
    gather: Optional, gather_order: Optional, gather_offsets: Optional,
    reduce: Optional, reduce_order: Optional, reduce_offsets: Optional,
) -> torch.Tensor:  # fmt: skip
    """Derivative of the form with respect to g."""
    ends = Ends(gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets)
    return _launch(x, matrix, weight, ends)


@edge_product_op.register_kernel("cpu")
@outside_autocast
def _(x: torch.Tensor, matrix: torch.Tensor, weight: Optional, *ends: Optional) -> torch.Tensor:
    both = Ends(*ends)
    if INTERPRETED:
        return _launch(x, matrix, weight, both)
    return edge_product_ref(x, matrix, weight, gather=both.gather, reduce=both.reduce, num_nodes=both.num_nodes)


@edge_product_op.register_fake
def _(x: torch.Tensor, matrix: torch.Tensor, weight: Optional, *ends: Optional) -> torch.Tensor:
    return x.new_empty(Ends(*ends).rows(matrix.shape[0]), matrix.shape[1], x.shape[2])


@torch.library.custom_op("blockzoo::edge_product_matrix", mutates_args=())
def edge_product_matrix(
    g: torch.Tensor, weight: Optional, x: torch.Tensor,
    gather: Optional, gather_order: Optional, gather_offsets: Optional,
    reduce: Optional, reduce_order: Optional, reduce_offsets: Optional, edges: int,
) -> torch.Tensor:  # fmt: skip
    """Derivative of the form with respect to M, (edges, K, I)."""
    ends = Ends(gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets)
    return _launch_matrix(g, weight, x, ends, edges)


@edge_product_matrix.register_kernel("cpu")
@outside_autocast
def _(g: torch.Tensor, weight: Optional, x: torch.Tensor, *ends_and_edges: Any) -> torch.Tensor:
    ends, edges = Ends(*ends_and_edges[:-1]), ends_and_edges[-1]
    if INTERPRETED:
        return _launch_matrix(g, weight, x, ends, edges)
    g = _rows(g, ends.reduce)
    return torch.bmm(g if weight is None else g * weight.unsqueeze(1), _rows(x, ends.gather).mT)


@edge_product_matrix.register_fake
def _(g: torch.Tensor, weight: Optional, x: torch.Tensor, *ends_and_edges: Any) -> torch.Tensor:
    return x.new_empty(ends_and_edges[-1], g.shape[1], x.shape[1])


@torch.library.custom_op("blockzoo::edge_product_weight", mutates_args=())
def edge_product_weight(
    g: torch.Tensor, matrix: torch.Tensor, x: torch.Tensor,
    gather: Optional, gather_order: Optional, gather_offsets: Optional,
    reduce: Optional, reduce_order: Optional, reduce_offsets: Optional,
) -> torch.Tensor:  # fmt: skip
    """Derivative of the form with respect to w, (E, C)."""
    ends = Ends(gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets)
    return _launch_weight(g, matrix, x, ends)


@edge_product_weight.register_kernel("cpu")
@outside_autocast
def _(g: torch.Tensor, matrix: torch.Tensor, x: torch.Tensor, *ends: Optional) -> torch.Tensor:
    both = Ends(*ends)
    if INTERPRETED:
        return _launch_weight(g, matrix, x, both)
    return (_rows(g, both.reduce) * torch.bmm(matrix, _rows(x, both.gather))).sum(1)


@edge_product_weight.register_fake
def _(g: torch.Tensor, matrix: torch.Tensor, x: torch.Tensor, *ends: Optional) -> torch.Tensor:
    return x.new_empty(matrix.shape[0], x.shape[2])


Grads = tuple[Optional, ...]
"""One for each argument of an operator; integers and ends have none."""


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, matrix, weight, *ends = inputs
    ctx.save_for_backward(x, matrix, weight, *ends)


def _backward(ctx: Any, grad_out: torch.Tensor) -> Grads:
    x, matrix, weight, *saved = ctx.saved_tensors
    ends, needs = Ends(*saved), ctx.needs_input_grad
    grad_x = edge_product_op(grad_out, matrix.mT, weight, *ends.exchanged()) if needs[0] else None
    grad_matrix = edge_product_matrix(grad_out, weight, x, *ends, matrix.shape[0]) if needs[1] else None
    weighted = weight is not None and needs[2]
    grad_weight = edge_product_weight(grad_out, matrix, x, *ends) if weighted else None
    return grad_x, grad_matrix, grad_weight, *[None] * len(ends)


def _setup_matrix(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    g, weight, x, *ends, _ = inputs
    ctx.save_for_backward(g, weight, x, *ends)


def _backward_matrix(ctx: Any, grad_out: torch.Tensor) -> Grads:
    """`grad_out` (E, K, I) takes the place of the matrix."""
    g, weight, x, *saved = ctx.saved_tensors
    ends, needs = Ends(*saved), ctx.needs_input_grad
    grad_g = edge_product_op(x, grad_out, weight, *ends) if needs[0] else None
    weighted = weight is not None and needs[1]
    grad_weight = edge_product_weight(g, grad_out, x, *ends) if weighted else None
    grad_x = edge_product_op(g, grad_out.mT, weight, *ends.exchanged()) if needs[2] else None
    return grad_g, grad_weight, grad_x, *[None] * len(ends), None


def _setup_weight(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_weight(ctx: Any, grad_out: torch.Tensor) -> Grads:
    """`grad_out` (E, C) takes the place of the weight."""
    g, matrix, x, *saved = ctx.saved_tensors
    ends, needs = Ends(*saved), ctx.needs_input_grad
    grad_g = edge_product_op(x, matrix, grad_out, *ends) if needs[0] else None
    grad_matrix = edge_product_matrix(g, grad_out, x, *ends, matrix.shape[0]) if needs[1] else None
    grad_x = edge_product_op(g, matrix.mT, grad_out, *ends.exchanged()) if needs[2] else None
    return grad_g, grad_matrix, grad_x, *[None] * len(ends)


edge_product_op.register_autograd(_backward, setup_context=_setup)
edge_product_matrix.register_autograd(_backward_matrix, setup_context=_setup_matrix)
edge_product_weight.register_autograd(_backward_weight, setup_context=_setup_weight)


def edge_product(
    x: torch.Tensor,
    matrix: torch.Tensor,
    weight: Optional = None,
    gather: Segments | None = None,
    reduce: Segments | None = None,
) -> torch.Tensor:
    """Apply a matrix for each edge, and sum over the edges of each node.

    Args:
        x: Features of nodes (N, I, C) with `gather`, of edges (E, I, C) without.
        matrix: (E, K, I), of the type of x.
        weight: One factor for each edge and channel, (E, C), of the type of x.
        gather: The ends of edges at which x is read.
        reduce: The ends at which the result is summed; None leaves it on the edges.

    Returns:
        (num_nodes, K, C), or (E, K, C) without `reduce`. The kernel keeps the type of x, also under autocast.
    """
    ends = Ends.of(gather, reduce)
    same = matrix.dtype == x.dtype and (weight is None or weight.dtype == x.dtype)
    if use_kernel("edge_product", x) and (same or torch.is_autocast_enabled(x.device.type)):
        return edge_product_op(x, matrix.to(x.dtype), None if weight is None else weight.to(x.dtype), *ends)
    return edge_product_ref(x, matrix, weight, gather=ends.gather, reduce=ends.reduce, num_nodes=ends.num_nodes)
