r"""Convolution of a series folded by a period, computed on the series itself.

A series of T steps with period p is an image of R = ceil(T / p) rows and p columns; slot s = row * p + column holds
step s. With a kernel of K x K taps, K = 2 h + 1, and `same` zero padding

    y[b, j, s, f] = bias[f] + sum_{|u| <= h, |v| <= h} sum_c x[b, j, s + u p + v, c] w[u + h, v + h, c, f]

over taps that stay inside the image, where p = periods[b, j]; slots of x past its end count as zero; slots of y outside
the image hold the bias alone. Nothing is folded, padded or copied, and p is read on the device.

    x: (B, k, S, C), w: (K, K, C, F), bias: (F,), periods: (B, k) int64 -> y: (B, k, S', F)

x may be expanded over k. The form sum(y g) is linear in x, w and g, so its derivatives have the same form:

    dx = fold_conv(g, w with taps turned around and channels swapped), of S slots
    dw[u, v, c, f] = sum_{b, j, s} x[b, j, s + u p + v, c] g[b, j, s, f]                     (fold_conv_weight)

and those of the second are the first. Derivatives of every order exist.

Floor: 2 K^2 C F operations for each slot of y, fewer where taps leave the image, against (C + F) values moved: far
above the balance of a GPU from C = F = 16 on, so that the rate of the tensor cores is the limit. Products of float32
are three TF32 products unless `torch.set_float32_matmul_precision` allows one; sums are float32.
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
)

__all__ = ["fold_conv", "fold_conv_ref", "fold_conv_weight", "fold_conv_weight_ref"]


def _tap_sources(periods: torch.Tensor, steps: int, length: int, size: int, half: int):  # type: ignore[no-untyped-def]
    """For each tap (u, v): the slot that each of `length` slots reads, (B, k, length), and whether it is there."""
    p = periods.unsqueeze(-1)
    rows = (steps + p - 1) // p
    slot = torch.arange(length, device=periods.device)
    row, column = slot // p, slot % p
    for u in range(-half, half + 1):
        for v in range(-half, half + 1):
            near = slot + u * p + v
            inside = (row < rows) & (row + u >= 0) & (row + u < rows) & (column + v >= 0) & (column + v < p)
            inside = inside & (near < size)
            yield u + half, v + half, torch.where(inside, near, 0), inside


def _take(x: torch.Tensor, near: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    taken = x.gather(2, near.unsqueeze(-1).expand(*near.shape, x.shape[3]))
    return torch.where(inside.unsqueeze(-1), taken, 0)


def fold_conv_ref(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, periods: torch.Tensor, steps: int, length: int
) -> torch.Tensor:
    """The definition in plain torch, tap by tap; differentiable. See `fold_conv` for the arguments."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = x.new_zeros(x.shape[0], x.shape[1], length, w.shape[3], dtype=wide)
    for row, column, near, inside in _tap_sources(periods, steps, length, x.shape[2], w.shape[0] // 2):
        out = out + _take(x, near, inside).to(wide) @ w[row, column].to(wide)
    return (out if bias is None else out + bias.to(wide)).to(x.dtype)


def fold_conv_weight_ref(
    x: torch.Tensor, g: torch.Tensor, periods: torch.Tensor, steps: int, size: int
) -> torch.Tensor:
    """The gradient of the weights in plain torch; see `fold_conv_weight` for the arguments."""
    wide = torch.promote_types(x.dtype, torch.float32)
    taps = [
        torch.einsum("bksc,bksf->cf", _take(x, near, inside).to(wide), g.to(wide))
        for _, _, near, inside in _tap_sources(periods, steps, g.shape[2], x.shape[2], size // 2)
    ]
    return torch.stack(taps).unflatten(0, (size, size)).to(x.dtype)


@jit
def _fold_conv_kernel(
    x_ptr, w_ptr, bias_ptr, period_ptr, out_ptr,
    steps, S, length, C, F, num_periods,
    stride_xb, stride_xk, stride_xs, stride_xc, stride_pb, stride_pk,
    HALF: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_S slots of one image, BLOCK_F channels."""
    num_tiles = tl.cdiv(length, BLOCK_S)
    i_image = (tl.program_id(0) // num_tiles).to(tl.int64)
    i_b, i_k = i_image // num_periods, i_image % num_periods
    o_s = (tl.program_id(0) % num_tiles) * BLOCK_S + tl.arange(0, BLOCK_S)
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    m_f = o_f < F

    period = tl.load(period_ptr + i_b * stride_pb + i_k * stride_pk).to(tl.int32)
    rows = (steps + period - 1) // period
    row, column = o_s // period, o_s % period
    p_x = x_ptr + i_b * stride_xb + i_k * stride_xk

    # One loop over taps and blocks of channels, which the compiler can pipeline; taps that cannot meet the image at
    # all are left out.
    reach_u, reach_v = tl.minimum(HALF, rows - 1), tl.minimum(HALF, period - 1)
    width, num_c = 2 * reach_v + 1, tl.cdiv(C, BLOCK_C)
    acc = tl.zeros((BLOCK_S, BLOCK_F), tl.float32)
    for i in range((2 * reach_u + 1) * width * num_c):
        u, v = i // num_c // width - reach_u, (i // num_c) % width - reach_v
        near = o_s + u * period + v
        inside = (row < rows) & (row + u >= 0) & (row + u < rows) & (column + v >= 0) & (column + v < period)
        inside = inside & (near < S)
        o_c = (i % num_c) * BLOCK_C + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        offset = near.to(tl.int64)[:, None] * stride_xs + o_c[None, :] * stride_xc
        b_x = tl.load(p_x + offset, mask=inside[:, None] & m_c[None, :], other=0)
        tap = (u + HALF) * (2 * HALF + 1) + v + HALF
        p_w = w_ptr + (tap * C + o_c).to(tl.int64)[:, None] * F + o_f[None, :]
        b_w = tl.load(p_w, mask=m_c[:, None] & m_f[None, :], other=0)
        acc = dot(b_x, b_w, acc, PRECISION)

    if HAS_BIAS:
        acc += tl.load(bias_ptr + o_f, mask=m_f, other=0).to(tl.float32)[None, :]
    p_out = out_ptr + (i_image * length + o_s)[:, None] * F + o_f[None, :]
    tl.store(p_out, acc.to(out_ptr.dtype.element_ty), mask=(o_s < length)[:, None] & m_f[None, :])


@jit
def _fold_conv_weight_kernel(
    x_ptr, g_ptr, period_ptr, out_ptr,
    steps, S, length, C, F, num_images, num_periods,
    stride_xb, stride_xk, stride_xs, stride_xc, stride_pb, stride_pk,
    HALF: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """One program: one tap, a block of input and of output channels, every SPLIT-th image."""
    num_c, num_f = tl.cdiv(C, BLOCK_C), tl.cdiv(F, BLOCK_F)
    tap = tl.program_id(0) // (num_c * num_f)
    i_block = tl.program_id(0) % (num_c * num_f)
    i_split = tl.program_id(1)
    u, v = tap // (2 * HALF + 1) - HALF, tap % (2 * HALF + 1) - HALF
    o_c = (i_block // num_f) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_f = (i_block % num_f) * BLOCK_F + tl.arange(0, BLOCK_F)
    m_c, m_f = o_c < C, o_f < F

    acc = tl.zeros((BLOCK_C, BLOCK_F), tl.float32)
    for i_image in range(i_split, num_images, SPLIT):
        image = tl.cast(i_image, tl.int64)
        i_b, i_k = image // num_periods, image % num_periods
        period = tl.load(period_ptr + i_b * stride_pb + i_k * stride_pk).to(tl.int32)
        rows = (steps + period - 1) // period
        p_x = x_ptr + i_b * stride_xb + i_k * stride_xk
        p_g = g_ptr + image * length * F
        # Slots from which this tap can stay inside: none, if it is longer than the image.
        end = tl.minimum(length, rows * period)
        end = tl.where((u < rows) & (-u < rows) & (v < period) & (-v < period), end, 0)
        for start in range(0, end, BLOCK_S):
            o_s = start + tl.arange(0, BLOCK_S)
            row, column = o_s // period, o_s % period
            near = o_s + u * period + v
            inside = (o_s < end) & (row + u >= 0) & (row + u < rows) & (column + v >= 0) & (column + v < period)
            inside = inside & (near < S)
            p_near = p_x + near.to(tl.int64)[None, :] * stride_xs + o_c[:, None] * stride_xc
            b_x = tl.load(p_near, mask=m_c[:, None] & inside[None, :], other=0)
            p_gs = p_g + o_s.to(tl.int64)[:, None] * F + o_f[None, :]
            b_g = tl.load(p_gs, mask=inside[:, None] & m_f[None, :], other=0)
            acc = dot(b_x, b_g, acc, PRECISION)

    num_taps = (2 * HALF + 1) * (2 * HALF + 1)
    p_out = out_ptr + ((i_split * num_taps + tap).to(tl.int64) * C + o_c)[:, None] * F + o_f[None, :]
    tl.store(p_out, acc, mask=m_c[:, None] & m_f[None, :])


@on_its_device
def _launch(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, periods: torch.Tensor, steps: int, length: int
) -> torch.Tensor:
    batch, count, size, chans = x.shape
    out = x.new_empty(batch, count, length, w.shape[3])
    if out.numel() == 0:
        return out
    w = w.contiguous()
    default = {
        "BLOCK_S": 64,
        "BLOCK_C": min(next_power(chans), 128 // x.element_size()),  # three stages fit 99 kB of shared memory
        "BLOCK_F": min(next_power(w.shape[3]), 128),
        "num_warps": 4,
        "num_stages": 3,
    }
    sizes = {"length": length, "in_chans": chans, "out_chans": w.shape[3], "images": batch * count}
    config = launch_config("fold_conv", x, sizes, default)
    grid = (batch * count * triton.cdiv(length, config["BLOCK_S"]), triton.cdiv(w.shape[3], config["BLOCK_F"]))
    _fold_conv_kernel[grid](
        x_ptr=x, w_ptr=w, bias_ptr=w if bias is None else bias.contiguous(), period_ptr=periods, out_ptr=out,
        steps=steps, S=size, length=length, C=chans, F=w.shape[3], num_periods=count,
        stride_xb=x.stride(0), stride_xk=x.stride(1), stride_xs=x.stride(2), stride_xc=x.stride(3),
        stride_pb=periods.stride(0), stride_pk=periods.stride(1),
        HALF=w.shape[0] // 2, HAS_BIAS=bias is not None, PRECISION=dot_precision(x), **config,
    )  # fmt: skip
    return out


@on_its_device
def _launch_weight(x: torch.Tensor, g: torch.Tensor, periods: torch.Tensor, steps: int, size: int) -> torch.Tensor:
    batch, count, slots, chans = x.shape
    g = g.contiguous()
    length, out_chans = g.shape[2:]
    default = {
        "BLOCK_S": 128 // x.element_size(),  # as above
        "BLOCK_C": min(next_power(chans), 64), "BLOCK_F": min(next_power(out_chans), 64),
        "SPLIT": max(1, min(8, batch * count)), "num_warps": 4, "num_stages": 3,
    }  # fmt: skip
    sizes = {"length": length, "in_chans": chans, "out_chans": out_chans, "images": batch * count}
    config = launch_config("fold_conv_weight", x, sizes, default)
    parts = x.new_empty(config["SPLIT"], size, size, chans, out_chans, dtype=torch.float32)
    if parts.numel() == 0:
        return parts.sum(0).to(x.dtype)
    blocks = triton.cdiv(chans, config["BLOCK_C"]) * triton.cdiv(out_chans, config["BLOCK_F"])
    _fold_conv_weight_kernel[(size * size * blocks, config["SPLIT"])](
        x_ptr=x, g_ptr=g, period_ptr=periods, out_ptr=parts,
        steps=steps, S=slots, length=length, C=chans, F=out_chans, num_images=batch * count, num_periods=count,
        stride_xb=x.stride(0), stride_xk=x.stride(1), stride_xs=x.stride(2), stride_xc=x.stride(3),
        stride_pb=periods.stride(0), stride_pk=periods.stride(1),
        HALF=size // 2, PRECISION=dot_precision(x), **config,
    )  # fmt: skip
    return parts.sum(0).to(x.dtype)  # a fixed order, so that the result is the same in every run


@torch.library.custom_op("blockzoo::fold_conv", mutates_args=())
def fold_conv(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, periods: torch.Tensor, steps: int, length: int
) -> torch.Tensor:
    """Convolve the images that result when a series is folded by its periods.

    Args:
        x: Slots of the images, (B, k, S, C), float32, bfloat16 or float16; any strides.
        w: Taps, (K, K, C, F), K odd, of the type of x.
        bias: (F,), or None.
        periods: Columns of each image, (B, k), int64, from 1 to `steps`.
        steps: Steps T of the series, which set the rows of each image.
        length: Slots of the result.

    Returns:
        (B, k, length, F), of the type of x.
    """
    return _launch(x, w, bias, periods, steps, length)


@fold_conv.register_kernel("cpu")
@outside_autocast
def _(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, periods: torch.Tensor, steps: int, length: int
) -> torch.Tensor:
    return (_launch if INTERPRETED else fold_conv_ref)(x, w, bias, periods, steps, length)


@fold_conv.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, periods: torch.Tensor, steps: int, length: int
) -> torch.Tensor:
    return x.new_empty(x.shape[0], x.shape[1], length, w.shape[3])


@torch.library.custom_op("blockzoo::fold_conv_weight", mutates_args=())
def fold_conv_weight(x: torch.Tensor, g: torch.Tensor, periods: torch.Tensor, steps: int, size: int) -> torch.Tensor:
    """Gradient of the taps of `fold_conv`.

    Args:
        x: Its input, (B, k, S, C).
        g: Gradient of its result, (B, k, length, F).
        periods: (B, k), int64.
        steps: Steps of the series.
        size: Taps K along each axis.

    Returns:
        (K, K, C, F), of the type of x; the same bits in every run.
    """
    return _launch_weight(x, g, periods, steps, size)


@fold_conv_weight.register_kernel("cpu")
@outside_autocast
def _(x: torch.Tensor, g: torch.Tensor, periods: torch.Tensor, steps: int, size: int) -> torch.Tensor:
    return (_launch_weight if INTERPRETED else fold_conv_weight_ref)(x, g, periods, steps, size)


@fold_conv_weight.register_fake
def _(x: torch.Tensor, g: torch.Tensor, periods: torch.Tensor, steps: int, size: int) -> torch.Tensor:
    return x.new_empty(size, size, x.shape[3], g.shape[3])


def _transposed(w: torch.Tensor) -> torch.Tensor:
    """Taps of the adjoint: turned around, channels swapped."""
    return w.flip(0, 1).transpose(2, 3)


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, w, bias, periods, ctx.steps, ctx.length = inputs
    ctx.save_for_backward(x, w, periods)
    ctx.has_bias = bias is not None


def _backward(ctx, g):  # type: ignore[no-untyped-def]
    x, w, periods = ctx.saved_tensors
    dx = dw = db = None
    if ctx.needs_input_grad[0]:
        dx = fold_conv(g, _transposed(w), None, periods, ctx.steps, x.shape[2])
    if ctx.needs_input_grad[1]:
        dw = fold_conv_weight(x, g, periods, ctx.steps, w.shape[0])
    if ctx.has_bias and ctx.needs_input_grad[2]:
        db = g.sum((0, 1, 2))
    return dx, dw, db, None, None, None


def _setup_weight(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, g, periods, ctx.steps, _ = inputs
    ctx.save_for_backward(x, g, periods)


def _backward_weight(ctx, h):  # type: ignore[no-untyped-def]
    x, g, periods = ctx.saved_tensors
    dx = dg = None
    if ctx.needs_input_grad[0]:
        dx = fold_conv(g, _transposed(h), None, periods, ctx.steps, x.shape[2])
    if ctx.needs_input_grad[1]:
        dg = fold_conv(x, h, None, periods, ctx.steps, g.shape[2])
    return dx, dg, None, None, None


fold_conv.register_autograd(_backward, setup_context=_setup)
fold_conv_weight.register_autograd(_backward_weight, setup_context=_setup_weight)
