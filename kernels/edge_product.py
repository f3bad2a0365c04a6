r"""Products of features with a matrix for each edge of a graph, gathered from senders and summed over receivers.

    out[n, k, c] = sum_{e: receiver(e) = n} w[e, c] sum_i M[e, k, i] x[sender(e), i, c]

Either end may be left out: without a gather, x has a row for each edge; without a sum, the result has. The weight may
be left out as well. The form

    t(x, M, w, g) = sum_e sum_{k, i, c} g[receiver(e), k, c] w[e, c] M[e, k, i] x[sender(e), i, c]

is linear in each argument, so that its derivatives by x and g are `edge_product` itself, with M transposed and the ends
exchanged for x; those by M and w are

    edge_product_matrix: dM[e, k, i] = sum_c g[receiver(e), k, c] w[e, c] x[sender(e), i, c]
    edge_product_weight: dw[e, c]    = sum_{k, i} g[receiver(e), k, c] M[e, k, i] x[sender(e), i, c]

and the derivatives of these are again among the three. All orders exist; training on forces takes the second and third.
Sums over edges run in the order of the edges, in one program for each node: results are the same in every run.

    x: (N, I, C) or (E, I, C), M: (E, K, I), w: (E, C) -> (N', K, C) or (E, K, C); float32 or bfloat16, sums in float32

Floor with both ends, for each edge: 4 (K I + C) bytes for M and w, besides x and the result once for each node
(gathered rows come from the L2 cache as far as the graph is local); 2 K I C operations. With K = I = 9 and C = 128 that
is 0.24 operations for a byte of M and w in every row of 20 KB: bound by memory. Matrices are applied by multiply-adds
of float32, not by tensor cores, whose 10-bit mantissa would show in the equivariance.
"""

from typing import NamedTuple

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


def make_segments(index: torch.Tensor, num_nodes: int) -> Segments:
    """Sort the edges (E,) by their nodes, from 0 to num_nodes - 1; no value is read on the host."""
    ordered, order = index.sort(stable=True)
    bounds = torch.arange(num_nodes + 1, device=index.device, dtype=index.dtype)
    return Segments(index, order, torch.searchsorted(ordered, bounds))


def _rows(x: torch.Tensor, index: Optional) -> torch.Tensor:
    return x if index is None else x.index_select(0, index)


def edge_product_ref(
    x: torch.Tensor, matrix: torch.Tensor, weight: Optional, gather: Optional, reduce: Optional, num_nodes: int
) -> torch.Tensor:
    """The definition in plain torch; differentiable. See `edge_product`; both ends are given by their index."""
    out = torch.bmm(matrix, _rows(x, gather))
    if weight is not None:
        out = out * weight.unsqueeze(1)
    if reduce is None:
        return out
    return out.new_zeros(num_nodes, *out.shape[1:]).index_add(0, reduce, out)


@jit
def _edge_product_kernel(
    x_ptr, matrix_ptr, weight_ptr, gather_ptr, order_ptr, offset_ptr, out_ptr,
    C, stride_me, stride_mk, stride_mi,
    ROWS_IN: tl.constexpr, ROWS_OUT: tl.constexpr, WEIGHTED: tl.constexpr, GATHERED: tl.constexpr,
    REDUCED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: one node, or one edge where nothing is summed, and BLOCK_C channels of all its rows."""
    i_n = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_k = tl.arange(0, BLOCK_K)
    m_c, m_k = o_c < C, o_k < ROWS_OUT
    if REDUCED:
        start, end = tl.load(offset_ptr + i_n), tl.load(offset_ptr + i_n + 1)
    else:
        start, end = i_n, i_n + 1

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    for i in range(start, end):
        edge = tl.load(order_ptr + i).to(tl.int64) if REDUCED else tl.cast(i, tl.int64)
        source = tl.load(gather_ptr + edge).to(tl.int64) if GATHERED else edge
        part = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
        for i_row in tl.static_range(ROWS_IN):
            p_m = matrix_ptr + edge * stride_me + o_k * stride_mk + i_row * stride_mi
            b_m = tl.load(p_m, mask=m_k, other=0).to(tl.float32)
            b_x = tl.load(x_ptr + (source * ROWS_IN + i_row) * C + o_c, mask=m_c, other=0).to(tl.float32)
            part += b_m[:, None] * b_x[None, :]
        if WEIGHTED:
            part *= tl.load(weight_ptr + edge * C + o_c, mask=m_c, other=0).to(tl.float32)[None, :]
        acc += part
    p_out = out_ptr + (i_n * ROWS_OUT + o_k)[:, None] * C + o_c[None, :]
    tl.store(p_out, acc.to(out_ptr.dtype.element_ty), mask=m_k[:, None] & m_c[None, :])


@jit
def _edge_product_matrix_kernel(
    g_ptr, weight_ptr, x_ptr, reduce_ptr, gather_ptr, out_ptr,
    C,
    ROWS_IN: tl.constexpr, ROWS_OUT: tl.constexpr, WEIGHTED: tl.constexpr, GATHERED: tl.constexpr,
    REDUCED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: the matrix of one edge."""
    edge = tl.program_id(0).to(tl.int64)
    target = tl.load(reduce_ptr + edge).to(tl.int64) if REDUCED else edge
    source = tl.load(gather_ptr + edge).to(tl.int64) if GATHERED else edge
    o_k, o_i = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_I)
    m_k, m_i = o_k < ROWS_OUT, o_i < ROWS_IN
    acc = tl.zeros((BLOCK_K, BLOCK_I), tl.float32)
    for start in range(0, C, BLOCK_C):
        o_c = start + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        p_g = g_ptr + (target * ROWS_OUT + o_k)[:, None] * C + o_c[None, :]
        p_x = x_ptr + (source * ROWS_IN + o_i)[None, :] * C + o_c[:, None]
        b_g = tl.load(p_g, mask=m_k[:, None] & m_c[None, :], other=0).to(tl.float32)
        b_x = tl.load(p_x, mask=m_c[:, None] & m_i[None, :], other=0).to(tl.float32)
        if WEIGHTED:
            b_g *= tl.load(weight_ptr + edge * C + o_c, mask=m_c, other=0).to(tl.float32)[None, :]
        acc = tl.dot(b_g, b_x, acc, input_precision="ieee")
    p_out = out_ptr + (edge * ROWS_OUT + o_k)[:, None] * ROWS_IN + o_i[None, :]
    tl.store(p_out, acc.to(out_ptr.dtype.element_ty), mask=m_k[:, None] & m_i[None, :])


@jit
def _edge_product_weight_kernel(
    g_ptr, matrix_ptr, x_ptr, reduce_ptr, gather_ptr, out_ptr,
    C, stride_me, stride_mk, stride_mi,
    ROWS_IN: tl.constexpr, ROWS_OUT: tl.constexpr, GATHERED: tl.constexpr, REDUCED: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_C channels of one edge."""
    edge = tl.program_id(0).to(tl.int64)
    target = tl.load(reduce_ptr + edge).to(tl.int64) if REDUCED else edge
    source = tl.load(gather_ptr + edge).to(tl.int64) if GATHERED else edge
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_k = tl.arange(0, BLOCK_K)
    m_c, m_k = o_c < C, o_k < ROWS_OUT
    part = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    for i_row in tl.static_range(ROWS_IN):
        p_m = matrix_ptr + edge * stride_me + o_k * stride_mk + i_row * stride_mi
        b_m = tl.load(p_m, mask=m_k, other=0).to(tl.float32)
        b_x = tl.load(x_ptr + (source * ROWS_IN + i_row) * C + o_c, mask=m_c, other=0).to(tl.float32)
        part += b_m[:, None] * b_x[None, :]
    p_g = g_ptr + (target * ROWS_OUT + o_k)[:, None] * C + o_c[None, :]
    b_g = tl.load(p_g, mask=m_k[:, None] & m_c[None, :], other=0).to(tl.float32)
    b_out = tl.sum(part * b_g, axis=0)
    tl.store(out_ptr + edge * C + o_c, b_out.to(out_ptr.dtype.element_ty), mask=m_c)


def _or(tensor: Optional, other: torch.Tensor) -> torch.Tensor:
    return other if tensor is None else tensor.contiguous()


def _config(kernel: str, x: torch.Tensor, rows_out: int) -> dict[str, int]:
    block_c = min(next_power(x.shape[2]), 64)
    sizes = {"rows_in": x.shape[1], "rows_out": rows_out, "channels": x.shape[2]}
    return launch_config(kernel, x, sizes, {"BLOCK_C": block_c, "num_warps": 4 if rows_out > 16 else 2})


@on_its_device
def _launch(
    x: torch.Tensor, matrix: torch.Tensor, weight: Optional, gather: Optional, order: Optional, offsets: Optional
) -> torch.Tensor:
    x, (edges, rows_out, rows_in) = x.contiguous(), matrix.shape
    rows = edges if offsets is None else offsets.shape[0] - 1
    out = x.new_empty(rows, rows_out, x.shape[2])
    if out.numel() == 0:
        return out
    config = _config("edge_product", x, rows_out)
    _edge_product_kernel[(rows, triton.cdiv(x.shape[2], config["BLOCK_C"]))](
        x_ptr=x, matrix_ptr=matrix, weight_ptr=_or(weight, x),
        gather_ptr=_or(gather, x), order_ptr=_or(order, x), offset_ptr=_or(offsets, x), out_ptr=out, C=x.shape[2],
        stride_me=matrix.stride(0), stride_mk=matrix.stride(1), stride_mi=matrix.stride(2),
        ROWS_IN=rows_in, ROWS_OUT=rows_out, WEIGHTED=weight is not None, GATHERED=gather is not None,
        REDUCED=offsets is not None, BLOCK_K=next_power(rows_out, 1), **config,
    )  # fmt: skip
    return out


@on_its_device
def _launch_matrix(
    g: torch.Tensor, weight: Optional, x: torch.Tensor, gather: Optional, reduce: Optional, edges: int
) -> torch.Tensor:
    g, x = g.contiguous(), x.contiguous()
    out = x.new_empty(edges, g.shape[1], x.shape[1])
    if out.numel() == 0:
        return out
    _edge_product_matrix_kernel[(edges,)](
        g_ptr=g, weight_ptr=_or(weight, x), x_ptr=x,
        reduce_ptr=_or(reduce, x), gather_ptr=_or(gather, x), out_ptr=out,
        C=x.shape[2], ROWS_IN=x.shape[1], ROWS_OUT=g.shape[1], WEIGHTED=weight is not None,
        GATHERED=gather is not None, REDUCED=reduce is not None,
        BLOCK_K=next_power(g.shape[1]), BLOCK_I=next_power(x.shape[1]),
        **_config("edge_product_matrix", x, g.shape[1]),
    )  # fmt: skip
    return out


@on_its_device
def _launch_weight(
    g: torch.Tensor, matrix: torch.Tensor, x: torch.Tensor, gather: Optional, reduce: Optional
) -> torch.Tensor:
    g, x, (edges, rows_out, rows_in) = g.contiguous(), x.contiguous(), matrix.shape
    out = x.new_empty(edges, x.shape[2])
    if out.numel() == 0:
        return out
    config = _config("edge_product_weight", x, rows_out)
    _edge_product_weight_kernel[(edges, triton.cdiv(x.shape[2], config["BLOCK_C"]))](
        g_ptr=g, matrix_ptr=matrix, x_ptr=x, reduce_ptr=_or(reduce, x), gather_ptr=_or(gather, x),
        out_ptr=out, C=x.shape[2],
        stride_me=matrix.stride(0), stride_mk=matrix.stride(1), stride_mi=matrix.stride(2),
        ROWS_IN=rows_in, ROWS_OUT=rows_out, GATHERED=gather is not None, REDUCED=reduce is not None,
        BLOCK_K=next_power(rows_out, 1), **config,
    )  # fmt: skip
    return out


# The operators take both ends as (index, order, offsets), because the derivatives exchange them.
@torch.library.custom_op("blockzoo::edge_product", mutates_args=())
def edge_product_op(
    x: torch.Tensor, matrix: torch.Tensor, weight: Optional,
    gather: Optional, gather_order: Optional, gather_offsets: Optional,
    reduce: Optional, reduce_order: Optional, reduce_offsets: Optional,
) -> torch.Tensor:  # fmt: skip
    """The form's derivative by g."""
    return _launch(x, matrix, weight, gather, reduce_order, reduce_offsets)


@edge_product_op.register_kernel("cpu")
@outside_autocast
def _(x, matrix, weight, gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets):  # type: ignore[no-untyped-def]
    if INTERPRETED:
        return _launch(x, matrix, weight, gather, reduce_order, reduce_offsets)
    return edge_product_ref(x, matrix, weight, gather, reduce, 0 if reduce is None else reduce_offsets.shape[0] - 1)


@edge_product_op.register_fake
def _(x, matrix, weight, gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets):  # type: ignore[no-untyped-def]
    rows = matrix.shape[0] if reduce is None else reduce_offsets.shape[0] - 1
    return x.new_empty(rows, matrix.shape[1], x.shape[2])


@torch.library.custom_op("blockzoo::edge_product_matrix", mutates_args=())
def edge_product_matrix(
    g: torch.Tensor, weight: Optional, x: torch.Tensor,
    gather: Optional, gather_order: Optional, gather_offsets: Optional,
    reduce: Optional, reduce_order: Optional, reduce_offsets: Optional, edges: int,
) -> torch.Tensor:  # fmt: skip
    """The form's derivative by M, (edges, K, I)."""
    return _launch_matrix(g, weight, x, gather, reduce, edges)


@edge_product_matrix.register_kernel("cpu")
@outside_autocast
def _(g, weight, x, gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets, edges):  # type: ignore[no-untyped-def]
    if INTERPRETED:
        return _launch_matrix(g, weight, x, gather, reduce, edges)
    g = _rows(g, reduce)
    return torch.bmm(g if weight is None else g * weight.unsqueeze(1), _rows(x, gather).mT)


@edge_product_matrix.register_fake
def _(g, weight, x, gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets, edges):  # type: ignore[no-untyped-def]
    return x.new_empty(edges, g.shape[1], x.shape[1])


@torch.library.custom_op("blockzoo::edge_product_weight", mutates_args=())
def edge_product_weight(
    g: torch.Tensor, matrix: torch.Tensor, x: torch.Tensor,
    gather: Optional, gather_order: Optional, gather_offsets: Optional,
    reduce: Optional, reduce_order: Optional, reduce_offsets: Optional,
) -> torch.Tensor:  # fmt: skip
    """The form's derivative by w, (E, C)."""
    return _launch_weight(g, matrix, x, gather, reduce)


@edge_product_weight.register_kernel("cpu")
@outside_autocast
def _(g, matrix, x, gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets):  # type: ignore[no-untyped-def]
    if INTERPRETED:
        return _launch_weight(g, matrix, x, gather, reduce)
    return (_rows(g, reduce) * torch.bmm(matrix, _rows(x, gather))).sum(1)


@edge_product_weight.register_fake
def _(g, matrix, x, gather, gather_order, gather_offsets, reduce, reduce_order, reduce_offsets):  # type: ignore[no-untyped-def]
    return x.new_empty(matrix.shape[0], x.shape[2])


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, matrix, weight, *ends = inputs
    ctx.save_for_backward(x, matrix, weight, *ends)


def _backward(ctx, g):  # type: ignore[no-untyped-def]
    x, matrix, weight, *ends = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = edge_product_op(g, matrix.mT, weight, *ends[3:], *ends[:3]) if needs[0] else None
    dm = edge_product_matrix(g, weight, x, *ends, matrix.shape[0]) if needs[1] else None
    dw = edge_product_weight(g, matrix, x, *ends) if weight is not None and needs[2] else None
    return dx, dm, dw, *[None] * 6


def _setup_matrix(ctx, inputs, output):  # type: ignore[no-untyped-def]
    g, weight, x, *ends, _ = inputs
    ctx.save_for_backward(g, weight, x, *ends)


def _backward_matrix(ctx, h):  # type: ignore[no-untyped-def]
    g, weight, x, *ends = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dg = edge_product_op(x, h, weight, *ends) if needs[0] else None
    dw = edge_product_weight(g, h, x, *ends) if weight is not None and needs[1] else None
    dx = edge_product_op(g, h.mT, weight, *ends[3:], *ends[:3]) if needs[2] else None
    return dg, dw, dx, *[None] * 7


def _setup_weight(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward_weight(ctx, v):  # type: ignore[no-untyped-def]
    g, matrix, x, *ends = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dg = edge_product_op(x, matrix, v, *ends) if needs[0] else None
    dm = edge_product_matrix(g, v, x, *ends, matrix.shape[0]) if needs[1] else None
    dx = edge_product_op(g, matrix.mT, v, *ends[3:], *ends[:3]) if needs[2] else None
    return dg, dm, dx, *[None] * 6


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
        (num_nodes, K, C), or (E, K, C) without `reduce`. The kernel keeps the type of x under autocast too.
    """
    same = matrix.dtype == x.dtype and (weight is None or weight.dtype == x.dtype)
    if use_kernel("edge_product", x) and (same or torch.is_autocast_enabled(x.device.type)):
        ends = [*(gather or (None, None, None)), *(reduce or (None, None, None))]
        return edge_product_op(x, matrix.to(x.dtype), None if weight is None else weight.to(x.dtype), *ends)
    nodes = 0 if reduce is None else reduce.offsets.shape[0] - 1
    source, target = (None if ends is None else ends.node for ends in (gather, reduce))
    return edge_product_ref(x, matrix, weight, source, target, nodes)
