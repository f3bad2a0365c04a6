r"""Bilinear product given by three factors, channel by channel.

    out[n, k, c] = sum_r C[k, r] (sum_i A[i, r] x1[n, i, c]) (sum_j B[j, r] x2[n, j, c])

With CP factors of the Clebsch-Gordan tensor this is TDN's product, with values of spherical harmonics on a grid the
Gaunt product. The form sum(out g) is linear in x1, x2 and g, and treats all three in the same way:

    dx1 = low_rank_product(g, x2; C, B, A),    dx2 = low_rank_product(x1, g; A, C, B)

so that one operator gives derivatives of every order. The factors are constants.

    x1: (N, I, C), x2: (N, J, C), A: (I, R), B: (J, R), C: (K, R) -> (N, K, C); float32, bfloat16 or float16

Floor: 2 R (I + J + K) operations and 4 (I + J + K) bytes (float32) for each row and channel: R / 2 operations for a
byte. The R values of a channel stay in registers. Products are those of the tensor cores, three TF32 products for
float32 unless `torch.set_float32_matmul_precision` allows one; sums are float32.
"""

import torch

from blockzoo.kernels._dispatch import (
    INTERPRETED,
    dot,
    dot_precision,
    jit,
    launch_config,
    next_power,
    on_its_device,
    outside_autocast,
    tl,
    triton,
    use_kernel,
)

__all__ = ["low_rank_product", "low_rank_product_op", "low_rank_product_ref"]


def low_rank_product_ref(
    x1: torch.Tensor, x2: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """The definition in plain torch; differentiable. See `low_rank_product` for the arguments."""
    return c @ ((a.mT @ x1) * (b.mT @ x2))


@jit
def _low_rank_product_kernel(
    x1_ptr, x2_ptr, a_ptr, b_ptr, c_ptr, out_ptr,
    C,
    ROWS_1: tl.constexpr, ROWS_2: tl.constexpr, ROWS_OUT: tl.constexpr, RANK: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_1: tl.constexpr, BLOCK_2: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_C channels of one row."""
    i_n = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_1, o_2, o_k = tl.arange(0, BLOCK_1), tl.arange(0, BLOCK_2), tl.arange(0, BLOCK_K)
    m_c, m_1, m_2, m_k = o_c < C, o_1 < ROWS_1, o_2 < ROWS_2, o_k < ROWS_OUT
    p_1 = x1_ptr + (i_n * ROWS_1 + o_1)[:, None] * C + o_c[None, :]
    p_2 = x2_ptr + (i_n * ROWS_2 + o_2)[:, None] * C + o_c[None, :]
    b_1 = tl.load(p_1, mask=m_1[:, None] & m_c[None, :], other=0)
    b_2 = tl.load(p_2, mask=m_2[:, None] & m_c[None, :], other=0)

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    zero = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in tl.static_range(0, RANK, BLOCK_R):
        o_r = start + tl.arange(0, BLOCK_R)
        m_r = o_r < RANK
        b_a = tl.load(a_ptr + o_1[None, :] * RANK + o_r[:, None], mask=m_1[None, :] & m_r[:, None], other=0)
        b_b = tl.load(b_ptr + o_2[None, :] * RANK + o_r[:, None], mask=m_2[None, :] & m_r[:, None], other=0)
        b_c = tl.load(c_ptr + o_k[:, None] * RANK + o_r[None, :], mask=m_k[:, None] & m_r[None, :], other=0)
        b_r = dot(b_a, b_1, zero, PRECISION) * dot(b_b, b_2, zero, PRECISION)
        acc = dot(b_c, b_r.to(b_c.dtype), acc, PRECISION)
    p_out = out_ptr + (i_n * ROWS_OUT + o_k)[:, None] * C + o_c[None, :]
    tl.store(p_out, acc.to(out_ptr.dtype.element_ty), mask=m_k[:, None] & m_c[None, :])


@on_its_device
def _launch(x1: torch.Tensor, x2: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    x1, x2, a, b, c = (tensor.contiguous() for tensor in (x1, x2, a, b, c))
    (rows, rows_1, chans), rows_2, (rows_out, rank) = x1.shape, x2.shape[1], c.shape
    out = x1.new_empty(rows, rows_out, chans)
    if out.numel() == 0:
        return out
    sizes = {"rows_1": rows_1, "rows_2": rows_2, "rows_out": rows_out, "rank": rank, "channels": chans}
    default = {"BLOCK_R": min(next_power(rank), 32), "BLOCK_C": min(next_power(chans), 64), "num_warps": 4}
    config = launch_config("low_rank_product", x1, sizes, default)
    _low_rank_product_kernel[(rows, triton.cdiv(chans, config["BLOCK_C"]))](
        x1_ptr=x1, x2_ptr=x2, a_ptr=a, b_ptr=b, c_ptr=c, out_ptr=out, C=chans,
        ROWS_1=rows_1, ROWS_2=rows_2, ROWS_OUT=rows_out, RANK=rank, PRECISION=dot_precision(x1),
        BLOCK_1=next_power(rows_1), BLOCK_2=next_power(rows_2), BLOCK_K=next_power(rows_out), **config,
    )  # fmt: skip
    return out


@torch.library.custom_op("blockzoo::low_rank_product", mutates_args=())
def low_rank_product_op(
    x1: torch.Tensor, x2: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """See `low_rank_product`; both inputs have as many rows and channels."""
    return _launch(x1, x2, a, b, c)


@low_rank_product_op.register_kernel("cpu")
@outside_autocast
def _(x1: torch.Tensor, x2: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return (_launch if INTERPRETED else low_rank_product_ref)(x1, x2, a, b, c)


@low_rank_product_op.register_fake
def _(x1: torch.Tensor, x2: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return x1.new_empty(x1.shape[0], c.shape[0], x1.shape[2])


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, g):  # type: ignore[no-untyped-def]
    x1, x2, a, b, c = ctx.saved_tensors
    d1 = low_rank_product_op(g, x2, c, b, a) if ctx.needs_input_grad[0] else None
    d2 = low_rank_product_op(x1, g, a, c, b) if ctx.needs_input_grad[1] else None
    return d1, d2, None, None, None


low_rank_product_op.register_autograd(_backward, setup_context=_setup)


def low_rank_product(
    x1: torch.Tensor, x2: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Apply a bilinear map, given by factors, to two features.

    Args:
        x1: (..., I, C).
        x2: (..., J, C), of the type of x1.
        a: (I, R), of the first input.
        b: (J, R), of the second.
        c: (K, R), of the result.

    Returns:
        (..., K, C). The kernel keeps the type of x1, also under autocast.
    """
    if use_kernel("low_rank_product", x1) and _fits(x1, x2) and not any(f.requires_grad for f in (a, b, c)):
        factors = (factor.to(x1.dtype) for factor in (a, b, c))
        rows = x1.shape[:-2].numel()  # reshape(-1, ...) could not tell them where there are no channels
        flat = x1.reshape(rows, *x1.shape[-2:]), x2.reshape(rows, *x2.shape[-2:])
        return low_rank_product_op(*flat, *factors).reshape(*x1.shape[:-2], c.shape[0], x1.shape[-1])
    return low_rank_product_ref(x1, x2, a.to(x1.dtype), b.to(x2.dtype), c.to(torch.promote_types(x1.dtype, x2.dtype)))


def _fits(x1: torch.Tensor, x2: torch.Tensor) -> bool:
    """Whether nothing is broadcast or converted."""
    return x1.shape[:-2] == x2.shape[:-2] and x1.shape[-1] == x2.shape[-1] and x1.dtype == x2.dtype
