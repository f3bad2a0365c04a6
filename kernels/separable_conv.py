r"""Depthwise and pointwise convolution with activations, skip and residual in one pass, for inference.

    a = act_in(x),    m[c, p] = act_mid(dw_bias[c] + sum_{u, v} a[c, s i - top + u, s j - left + v] dw[c, u, v])
    y[f, p] = act_out(bias[f] + sum_c pw[f, c] (m[c, p] + a[c, p])) + residual[f, p]

for each image and pixel p = (i, j), with zeros outside of x. The skip "+ a[c, p]" inside the sum, all activations,
biases and the residual are optional. With a ReLU first, and a ReLU or nothing last, this is NASNet's separable
convolution after `deploy()`. With SiLU in the middle, the skip and the residual, it is what follows an expansion in
EMOv2.

    x: (B, C, H, W), dw: (C, 1, K, K), pw: (F, C, 1, 1), residual: (B, F, H', W') -> (B, F, H', W')

float32, bfloat16 or float16, any strides; sums are float32, the result is in channels-last memory. Activations map 0 to
0, so padding may come before or after the first.

Floor: x, the weights, the residual and y once: C H W + F H' W' values an image, against 3 C + F of separate operations
without activations (x, m twice, y) and 2 C more for each activation that is not part of a convolution; 2 (K^2 + F) C
operations a pixel. The first K^2 C of them are multiply-adds of float32 outside of tensor cores, done again for each
block of output channels: with K = 5 and F = 128 a fifth of all, but at the rate of a GPU's ordinary units. Channels of
m exist a block at a time, in registers, and go straight into the product; it is three TF32 products for float32 unless
`torch.set_float32_matmul_precision` allows one.

The kernel has no gradient: while one is recorded, `separable_conv` computes the reference.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F

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

__all__ = ["Activation", "separable_conv", "separable_conv_op", "separable_conv_ref"]

Activation = Literal["none", "relu", "silu"]
Optional = torch.Tensor | None


def _act(x: torch.Tensor, name: str) -> torch.Tensor:
    return F.relu(x) if name == "relu" else F.silu(x) if name == "silu" else x


def separable_conv_ref(
    x: torch.Tensor, dw: torch.Tensor, dw_bias: Optional, pw: torch.Tensor, bias: Optional, residual: Optional,
    stride: int, top: int, left: int, height: int, width: int, act_in: str, act_mid: str, act_out: str, skip: bool,
) -> torch.Tensor:  # fmt: skip
    """The definition in plain torch; differentiable. See `separable_conv`.

    The rows and columns of zeros before x, and the size of the result, are numbers.
    """
    a = _act(x, act_in)
    size, (rows, columns) = dw.shape[-1], x.shape[2:]
    if (rows + 2 * top - size) // stride + 1 == height and (columns + 2 * left - size) // stride + 1 == width:
        m = F.conv2d(a, dw, dw_bias, stride, (top, left), groups=dw.shape[0])
    else:  # more zeros after than before
        below, right = ((n - 1) * stride + size for n in (height, width))
        padded = F.pad(a, (left, right - columns - left, top, below - rows - top))
        m = F.conv2d(padded, dw, dw_bias, stride, groups=dw.shape[0])
    m = _act(m, act_mid)
    y = _act(F.conv2d(m + a if skip else m, pw, bias), act_out)
    return y if residual is None else y + residual


@jit
def _activate(x, ACT: tl.constexpr):
    if ACT == "relu":
        x = tl.where(x < 0, 0.0, x)  # NaN stays
    if ACT == "silu":
        x = x * tl.sigmoid(x)
    return x


@jit
def _separable_conv_kernel(
    x_ptr, dw_ptr, dw_bias_ptr, pw_ptr, bias_ptr, residual_ptr, out_ptr,
    pixels, C, F, H, W, height, width, stride, top, left,
    stride_xb, stride_xc, stride_xh, stride_xw, stride_rb, stride_rf, stride_rh, stride_rw,
    K: tl.constexpr, ACT_IN: tl.constexpr, ACT_MID: tl.constexpr, ACT_OUT: tl.constexpr, SKIP: tl.constexpr,
    HAS_DW_BIAS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_P pixels of the result, in the order of (image, row, column), and BLOCK_F of its channels."""
    num_f = tl.cdiv(F, BLOCK_F)  # blocks of the same pixels are neighbours, which find x in the L2 cache
    i_f, i_p = tl.program_id(0) % num_f, (tl.program_id(0) // num_f).to(tl.int64)
    o_p = i_p * BLOCK_P + tl.arange(0, BLOCK_P)
    o_f = i_f * BLOCK_F + tl.arange(0, BLOCK_F)
    m_p, m_f = o_p < pixels, o_f < F
    area = height * width
    i_b, place = o_p // area, (o_p % area).to(tl.int32)
    i, j = place // width, place % width
    p_x = x_ptr + i_b * stride_xb

    acc = tl.zeros((BLOCK_P, BLOCK_F), tl.float32)
    for start in range(0, C, BLOCK_C):
        o_c = start + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        p_c = o_c.to(tl.int64)[None, :] * stride_xc
        b_m = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        for u in range(K):
            row = i * stride - top + u
            m_row = m_p & (row >= 0) & (row < H)
            for v in tl.static_range(K):
                column = j * stride - left + v
                inside = m_row & (column >= 0) & (column < W)
                offset = row.to(tl.int64) * stride_xh + column.to(tl.int64) * stride_xw
                b_x = tl.load((p_x + offset)[:, None] + p_c, mask=inside[:, None] & m_c[None, :], other=0)
                b_w = tl.load(dw_ptr + (o_c * K + u) * K + v, mask=m_c, other=0).to(tl.float32)
                b_m += _activate(b_x.to(tl.float32), ACT_IN) * b_w[None, :]
        if HAS_DW_BIAS:
            b_m += tl.load(dw_bias_ptr + o_c, mask=m_c, other=0).to(tl.float32)[None, :]
        b_m = _activate(b_m, ACT_MID)
        if SKIP:
            offset = i.to(tl.int64) * stride_xh + j.to(tl.int64) * stride_xw
            b_x = tl.load((p_x + offset)[:, None] + p_c, mask=m_p[:, None] & m_c[None, :], other=0)
            b_m += _activate(b_x.to(tl.float32), ACT_IN)
        b_pw = tl.load(pw_ptr + o_f.to(tl.int64)[None, :] * C + o_c[:, None], mask=m_c[:, None] & m_f[None, :], other=0)
        acc = dot(b_m.to(b_pw.dtype), b_pw, acc, PRECISION)

    if HAS_BIAS:
        acc += tl.load(bias_ptr + o_f, mask=m_f, other=0).to(tl.float32)[None, :]
    acc = _activate(acc, ACT_OUT)
    m_out = m_p[:, None] & m_f[None, :]
    if HAS_RESIDUAL:
        offset = i_b * stride_rb + i.to(tl.int64) * stride_rh + j.to(tl.int64) * stride_rw
        p_r = residual_ptr + offset[:, None] + o_f.to(tl.int64)[None, :] * stride_rf
        acc += tl.load(p_r, mask=m_out, other=0).to(tl.float32)
    tl.store(out_ptr + o_p[:, None] * F + o_f[None, :], acc.to(out_ptr.dtype.element_ty), mask=m_out)


def _result(x: torch.Tensor, pw: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Memory for the result, channels last."""
    chans = pw.shape[0]
    return x.new_empty_strided((x.shape[0], chans, height, width), (height * width * chans, 1, width * chans, chans))


@on_its_device
def _launch(
    x: torch.Tensor, dw: torch.Tensor, dw_bias: Optional, pw: torch.Tensor, bias: Optional, residual: Optional,
    stride: int, top: int, left: int, height: int, width: int, act_in: str, act_mid: str, act_out: str, skip: bool,
) -> torch.Tensor:  # fmt: skip
    out = _result(x, pw, height, width)
    if out.numel() == 0:
        return out
    (batch, chans, rows, columns), out_chans, size = x.shape, pw.shape[0], dw.shape[-1]
    pixels = batch * height * width
    default = {
        "BLOCK_P": 64, "BLOCK_C": 32, "BLOCK_F": min(next_power(out_chans), 128), "num_warps": 4, "num_stages": 2,
    }  # fmt: skip
    sizes = {"pixels": pixels, "in_chans": chans, "out_chans": out_chans, "kernel": size, "stride": stride}
    config = launch_config("separable_conv", x, sizes, default)
    grid = (triton.cdiv(pixels, config["BLOCK_P"]) * triton.cdiv(out_chans, config["BLOCK_F"]),)
    x_strides = dict(zip(("stride_xb", "stride_xc", "stride_xh", "stride_xw"), x.stride(), strict=True))
    like = x if residual is None else residual
    r_strides = dict(zip(("stride_rb", "stride_rf", "stride_rh", "stride_rw"), like.stride(), strict=True))
    _separable_conv_kernel[grid](
        x_ptr=x, dw_ptr=dw.contiguous(), dw_bias_ptr=x if dw_bias is None else dw_bias.contiguous(),
        pw_ptr=pw.contiguous(), bias_ptr=x if bias is None else bias.contiguous(), residual_ptr=like, out_ptr=out,
        pixels=pixels, C=chans, F=out_chans, H=rows, W=columns, height=height, width=width,
        stride=stride, top=top, left=left, **x_strides, **r_strides,
        K=size, ACT_IN=act_in, ACT_MID=act_mid, ACT_OUT=act_out, SKIP=skip, HAS_DW_BIAS=dw_bias is not None,
        HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, PRECISION=dot_precision(x), **config,
    )  # fmt: skip
    return out


@torch.library.custom_op("blockzoo::separable_conv", mutates_args=())
def separable_conv_op(
    x: torch.Tensor, dw: torch.Tensor, dw_bias: Optional, pw: torch.Tensor, bias: Optional, residual: Optional,
    stride: int, top: int, left: int, height: int, width: int, act_in: str, act_mid: str, act_out: str, skip: bool,
) -> torch.Tensor:  # fmt: skip
    """See `separable_conv_ref`; all tensors are of the type of x. Has no gradient."""
    return _launch(x, dw, dw_bias, pw, bias, residual, stride, top, left, height, width, act_in, act_mid, act_out, skip)


@separable_conv_op.register_kernel("cpu")
@outside_autocast
def _(x, dw, dw_bias, pw, bias, residual, stride, top, left, height, width, act_in, act_mid, act_out, skip):  # type: ignore[no-untyped-def]
    rest = (stride, top, left, height, width, act_in, act_mid, act_out, skip)
    if INTERPRETED:
        return _launch(x, dw, dw_bias, pw, bias, residual, *rest)
    return _result(x, pw, height, width).copy_(separable_conv_ref(x, dw, dw_bias, pw, bias, residual, *rest))


@separable_conv_op.register_fake
def _(x, dw, dw_bias, pw, bias, residual, stride, top, left, height, width, act_in, act_mid, act_out, skip):  # type: ignore[no-untyped-def]
    return _result(x, pw, height, width)


def _place(size: int, window: int, stride: int, padding: int | str) -> tuple[int, int]:
    """Number of zeros before an axis, and the length of the result."""
    if padding == "same":
        length = -(-size // stride)
        return max((length - 1) * stride + window - size, 0) // 2, length
    assert isinstance(padding, int)
    return padding, (size + 2 * padding - window) // stride + 1


def separable_conv(
    x: torch.Tensor,
    dw: torch.Tensor,
    pw: torch.Tensor,
    dw_bias: Optional = None,
    bias: Optional = None,
    residual: Optional = None,
    stride: int = 1,
    padding: int | Literal["same"] = "same",
    act_in: Activation = "none",
    act_mid: Activation = "none",
    act_out: Activation = "none",
    skip: bool = False,
) -> torch.Tensor:
    """Depthwise, then pointwise convolution.

    The kernel is for inference: while a gradient is recorded for any of the tensors, or if their types differ, the
    result is that of the reference, and differentiable.

    Args:
        x: (B, C, H, W).
        dw: Windows, (C, 1, K, K).
        pw: (F, C, 1, 1).
        dw_bias: Of the depthwise convolution, (C,).
        bias: Of the pointwise one, (F,).
        residual: What is added to the result, (B, F, H', W').
        stride: Of the depthwise convolution.
        padding: Zeros on every side, or "same" for ceil(size / stride) pixels as in TensorFlow, where the larger part
            of an odd number of zeros is at the end.
        act_in: Activation before the first convolution: "none", "relu" or "silu".
        act_mid: Activation between the two convolutions.
        act_out: Activation after both, before the residual is added.
        skip: Add the input of the depthwise convolution to that of the pointwise one.

    Returns:
        (B, F, H', W'), of the type of x, or of convolutions under autocast; in channels-last memory from the kernel.

    Raises:
        ValueError: An activation or padding is unknown, or shapes do not fit.
    """
    for name, act in (("act_in", act_in), ("act_mid", act_mid), ("act_out", act_out)):
        if act not in get_args(Activation):
            raise ValueError(f"{name}={act!r} must be one of {', '.join(get_args(Activation))}")
    if padding != "same" and (isinstance(padding, str) or padding < 0):
        raise ValueError(f"padding={padding!r} must be 'same' or a number of zeros")
    if x.ndim != 4 or dw.shape != (x.shape[1], 1, dw.shape[-1], dw.shape[-1]):
        raise ValueError(f"dw of shape {tuple(dw.shape)} must be (C, 1, K, K) for x of shape {tuple(x.shape)}")
    if pw.shape != (pw.shape[0], x.shape[1], 1, 1):
        raise ValueError(f"pw of shape {tuple(pw.shape)} must be (F, {x.shape[1]}, 1, 1)")
    window = dw.shape[-1]
    (top, height), (left, width) = (_place(size, window, stride, padding) for size in x.shape[2:])
    if height < 1 or width < 1:
        raise ValueError(f"x of {x.shape[2]} x {x.shape[3]} pixels is too small for a window of {window}")
    if skip and (height, width) != tuple(x.shape[2:]):
        raise ValueError(f"skip=True needs a result of the size of x, not stride={stride}, padding={padding!r}")
    shape = (x.shape[0], pw.shape[0], height, width)
    if residual is not None and residual.shape != shape:
        raise ValueError(f"residual of shape {tuple(residual.shape)} must be {shape}")
    tensors = [tensor for tensor in (x, dw, pw, dw_bias, bias, residual) if tensor is not None]
    rest = (stride, top, left, height, width, act_in, act_mid, act_out, skip)
    dtype = autocast_dtype(x)
    records = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    same = torch.is_autocast_enabled(x.device.type) or all(tensor.dtype == dtype for tensor in tensors)
    if use_kernel("separable_conv", x) and not records and same and (residual is None or residual.dtype == dtype):
        dw_bias, bias = (None if part is None else part.to(dtype) for part in (dw_bias, bias))
        return separable_conv_op(x.to(dtype), dw.to(dtype), dw_bias, pw.to(dtype), bias, residual, *rest)
    return separable_conv_ref(x, dw, dw_bias, pw, bias, residual, *rest)
