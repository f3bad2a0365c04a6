r"""Products of complex matrices, one for each Fourier mode, stored as pairs of real numbers.

    out[m, r, t] = sum_s a'[m, r, s] b'[m, s, t],    a' = a or its conjugate, b' = b or its conjugate

With samples as rows r and the weights as b, that mixes the channels of Fourier coefficients: out[b, m, o] = sum_i
x[b, m, i] w[m, i, o]. The derivatives of Re sum conj(g) out are products of the same kind,

    da = g conj(b')^T, or conj(g) b'^T if a is conjugated,    db = conj(a')^T g, or a'^T conj(g) if b is,

so that one operator gives derivatives of every order.

    a: (M, 2, R, S), b: (M, 2, S, T) -> (M, 2, R, T), real and imaginary part on axis 1, any strides: coefficients
    (B, 2, M, C) and weights (M, I, O, 2) are read and written as they are stored

float32, bfloat16 or float16, sums in float32; products of float32 are three TF32 products unless
`torch.set_float32_matmul_precision` allows one. Sums run in order in one program: the same bits in every run.

Floor, float32, for B samples: 8 M (B I + I O + B O) bytes, 8 M B I O operations. For B = 32 and I = O = 64 that is 16
operations for a byte, bound by memory on a GPU. Torch moves three times as much at that size: a copy with modes first,
a real product with all four combinations of parts (16 M B O bytes, written, and read to add them), a copy back.

The transforms around it are matrix products of torch, and not part of the kernel. For 128 x 128 points, 32 x 17 modes,
64 channels and 32 samples the layer moves 465 MB with this kernel, 536 MB without. Taking the transform along the
second axis into it would save writing and reading the coefficients, 36 MB of 465; but a program would need all channels
and rows of its samples for a column, which leaves 17 programs for each block of samples. Between the transforms along
the two axes, there and back, 143 MB are moved, which only a kernel for whole planes could save; it would be bound by
operations (7.4 GFLOP, 0.11 ms at 67 TFLOP/s) where the layer is bound by bytes now (0.14 ms at 3.35 TB/s). These are
counts, not measurements; neither pays enough.
"""

import torch

from blockzoo.kernels._dispatch import (
    INTERPRETED,
    autocast_dtype,
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

__all__ = ["mode_product", "mode_product_ref", "spectral_mix", "spectral_mix_ref"]


def mode_product_ref(a: torch.Tensor, b: torch.Tensor, conj_a: bool, conj_b: bool) -> torch.Tensor:
    """The definition in plain torch; differentiable. See `mode_product` for the arguments."""
    modes, _, rows, inner = a.shape
    pairs = b.permute(0, 2, 3, 1)  # as weights are stored
    y = a.reshape(modes, 2 * rows, inner) @ pairs.reshape(modes, inner, 2 * b.shape[3])  # one real product for all four
    of_real, of_imag = y.reshape(modes, 2, rows, b.shape[3], 2).unbind(1)
    (rr, ri), (ir, ii) = of_real.unbind(-1), of_imag.unbind(-1)
    real = rr + ii if conj_a != conj_b else rr - ii
    return torch.stack([real, (-ri if conj_b else ri) + (-ir if conj_a else ir)], 1)


def spectral_mix_ref(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The definition of `spectral_mix` in plain torch; differentiable."""
    a, b = x.permute(2, 1, 0, 3), weight.permute(0, 3, 1, 2)
    return mode_product_ref(a, b, False, False).permute(2, 1, 0, 3)


@jit
def _negative(x):
    return (-x.to(tl.float32)).to(x.dtype)  # the interpreter cannot negate bfloat16


@jit
def _mode_product_kernel(
    a_ptr, b_ptr, out_ptr,
    R, S, T,
    stride_am, stride_ap, stride_ar, stride_as, stride_bm, stride_bp, stride_bs, stride_bt,
    stride_om, stride_op, stride_or, stride_ot,
    CONJ_A: tl.constexpr, CONJ_B: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R x BLOCK_T entries of the product of one mode."""
    num_r, num_t = tl.cdiv(R, BLOCK_R), tl.cdiv(T, BLOCK_T)
    i_m = (tl.program_id(0) // (num_r * num_t)).to(tl.int64)
    i_tile = tl.program_id(0) % (num_r * num_t)
    o_r = ((i_tile // num_t) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    o_t = ((i_tile % num_t) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    m_r, m_t = o_r < R, o_t < T
    p_a = a_ptr + i_m * stride_am + o_r[:, None] * stride_ar
    p_b = b_ptr + i_m * stride_bm + o_t[None, :] * stride_bt

    real = tl.zeros((BLOCK_R, BLOCK_T), tl.float32)
    imag = tl.zeros((BLOCK_R, BLOCK_T), tl.float32)
    for start in range(0, S, BLOCK_S):
        o_s = (start + tl.arange(0, BLOCK_S)).to(tl.int64)
        m_a, m_b = m_r[:, None] & (o_s < S)[None, :], (o_s < S)[:, None] & m_t[None, :]
        p_as, p_bs = p_a + o_s[None, :] * stride_as, p_b + o_s[:, None] * stride_bs
        a_real = tl.load(p_as, mask=m_a, other=0)
        a_imag = tl.load(p_as + stride_ap, mask=m_a, other=0)
        b_real = tl.load(p_bs, mask=m_b, other=0)
        b_imag = tl.load(p_bs + stride_bp, mask=m_b, other=0)
        a_minus = _negative(a_imag)
        if CONJ_A:
            a_imag, a_minus = a_minus, a_imag
        if CONJ_B:
            b_imag = _negative(b_imag)
        real = dot(a_real, b_real, real, PRECISION)
        real = dot(a_minus, b_imag, real, PRECISION)
        imag = dot(a_real, b_imag, imag, PRECISION)
        imag = dot(a_imag, b_real, imag, PRECISION)
    p_out = out_ptr + i_m * stride_om + o_r[:, None] * stride_or + o_t[None, :] * stride_ot
    m_out = m_r[:, None] & m_t[None, :]
    tl.store(p_out, real.to(out_ptr.dtype.element_ty), mask=m_out)
    tl.store(p_out + stride_op, imag.to(out_ptr.dtype.element_ty), mask=m_out)


def _result(a: torch.Tensor, b: torch.Tensor, as_weights: bool) -> torch.Tensor:
    """Memory for the result, in the order of coefficients, (R, 2, M, T), or of weights, (M, R, T, 2)."""
    modes, rows, columns = a.shape[0], a.shape[2], b.shape[3]
    if as_weights:
        strides = (2 * rows * columns, 1, 2 * columns, 2)
    else:
        strides = (columns, modes * columns, 2 * modes * columns, 1)
    return a.new_empty_strided((modes, 2, rows, columns), strides)  # no view, so that it can be changed in place


@on_its_device
def _launch(a: torch.Tensor, b: torch.Tensor, conj_a: bool, conj_b: bool, as_weights: bool) -> torch.Tensor:
    out = _result(a, b, as_weights)
    if out.numel() == 0:
        return out
    modes, _, rows, inner = a.shape
    columns = b.shape[3]
    default = {
        "BLOCK_R": min(next_power(rows), 32), "BLOCK_S": min(next_power(inner), 32),
        "BLOCK_T": min(next_power(columns), 64), "num_warps": 4, "num_stages": 3,
    }  # fmt: skip
    sizes = {"modes": modes, "rows": rows, "inner": inner, "columns": columns}
    config = launch_config("spectral_mix", a, sizes, default)
    tiles = triton.cdiv(rows, config["BLOCK_R"]) * triton.cdiv(columns, config["BLOCK_T"])
    strides = {
        f"stride_{name}{axis}": stride
        for name, axes, tensor in (("a", "mprs", a), ("b", "mpst", b), ("o", "mprt", out))
        for axis, stride in zip(axes, tensor.stride(), strict=True)
    }
    _mode_product_kernel[(modes * tiles,)](
        a_ptr=a, b_ptr=b, out_ptr=out, R=rows, S=inner, T=columns, **strides,
        CONJ_A=conj_a, CONJ_B=conj_b, PRECISION=dot_precision(a), **config,
    )  # fmt: skip
    return out


@torch.library.custom_op("blockzoo::mode_product", mutates_args=())
def mode_product(a: torch.Tensor, b: torch.Tensor, conj_a: bool, conj_b: bool, as_weights: bool) -> torch.Tensor:
    """Multiply complex matrices, mode by mode.

    Args:
        a: (M, 2, R, S), any strides.
        b: (M, 2, S, T), of the type of a.
        conj_a: Use the conjugate of a.
        conj_b: Use the conjugate of b.
        as_weights: Store the result in the order of weights, (M, R, T, 2), not of coefficients, (R, 2, M, T).

    Returns:
        (M, 2, R, T).
    """
    return _launch(a, b, conj_a, conj_b, as_weights)


@mode_product.register_kernel("cpu")
@outside_autocast
def _(a: torch.Tensor, b: torch.Tensor, conj_a: bool, conj_b: bool, as_weights: bool) -> torch.Tensor:
    if INTERPRETED:
        return _launch(a, b, conj_a, conj_b, as_weights)
    return _result(a, b, as_weights).copy_(mode_product_ref(a, b, conj_a, conj_b))


@mode_product.register_fake
def _(a: torch.Tensor, b: torch.Tensor, conj_a: bool, conj_b: bool, as_weights: bool) -> torch.Tensor:
    return _result(a, b, as_weights)


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    a, b, ctx.conj_a, ctx.conj_b, _ = inputs
    ctx.save_for_backward(a, b)


def _stored_as_weights(tensor: torch.Tensor) -> bool:
    return tensor.stride(1) == 1


def _backward(ctx, g):  # type: ignore[no-untyped-def]
    a, b = ctx.saved_tensors
    conj_a, conj_b, da, db = ctx.conj_a, ctx.conj_b, None, None
    if ctx.needs_input_grad[0]:
        da = mode_product(g, b.mT, conj_a, conj_a == conj_b, _stored_as_weights(a))
    if ctx.needs_input_grad[1]:
        db = mode_product(a.mT, g, conj_a == conj_b, conj_b, _stored_as_weights(b))
    return da, db, None, None, None


mode_product.register_autograd(_backward, setup_context=_setup)


def spectral_mix(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mix the channels of Fourier coefficients, with a matrix for each mode.

    Args:
        x: Coefficients, (B, 2, M, I).
        weight: (M, I, O, 2), of the type of x.

    Returns:
        (B, 2, M, O), of the type of x, or of products under autocast.

    Raises:
        ValueError: Shapes do not fit.
    """
    if x.ndim != 4 or x.shape[1] != 2 or weight.shape != (x.shape[2], x.shape[3], *weight.shape[2:3], 2):
        raise ValueError(
            f"weight of shape {tuple(weight.shape)} must be (M, I, O, 2) for x (B, 2, M, I) of {tuple(x.shape)}"
        )
    same = weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type)
    if not use_kernel("spectral_mix", x) or not same:
        return spectral_mix_ref(x, weight)
    dtype = autocast_dtype(x)
    x, weight = x.to(dtype), weight.to(dtype)
    return mode_product(x.permute(2, 1, 0, 3), weight.permute(0, 3, 1, 2), False, False, False).permute(2, 1, 0, 3)
