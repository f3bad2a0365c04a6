r"""Residual connection with layer scale and drop path, and the layer norm after it, in one pass.

For rows of D values, row r belonging to sample r // (rows / samples),

    z = x + keep[sample] * scale * y,    out = (z - mean(z)) / sqrt(var(z) + eps) * weight + bias

Any of scale, keep, weight and bias may be missing, which means ones and zeros. With m = (z - mean) * rstd, h = g_out *
weight and P(h) = rstd (h - mean(h) - m mean(h m)), the gradients are

    dx = dz = g_z + P(h),   dy = keep scale dz,   dscale = sum keep y dz,   dweight = sum g_out m,   dbias = sum g_out

keep is a mask, and has no gradient. Statistics and sums are float32.

    x, y: (..., D), scale, weight, bias: (D,), keep: (samples,) -> z and out, as x

Floor: 4 D values read or written for a row forward (x, y, z, out) and 6 backward (z, y, g_z, g_out, dx, dy; without
a scale y is not read): bound by memory. The separate operations move 9 and more.
"""

import torch
import torch.nn.functional as F

from blockzoo.kernels._dispatch import (
    INTERPRETED,
    jit,
    launch_config,
    next_power,
    on_its_device,
    outside_autocast,
    tl,
    use_kernel,
)

__all__ = ["residual_norm", "residual_norm_op", "residual_norm_ref"]

Optional = torch.Tensor | None


def residual_norm_ref(
    x: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional, weight: Optional, bias: Optional, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in plain torch; differentiable. See `residual_norm` for the arguments."""
    if scale is not None:
        y = y * scale
    if keep is not None:
        y = y * keep.reshape(-1, *[1] * (y.ndim - 1)).to(y.dtype)
    z = x + y
    return z, F.layer_norm(z, z.shape[-1:], weight, bias, eps)


@jit
def _residual_norm_kernel(
    x_ptr, y_ptr, scale_ptr, keep_ptr, weight_ptr, bias_ptr, z_ptr, out_ptr, mean_ptr, rstd_ptr,
    D, rows_per_sample, eps,
    SCALED: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr, BIASED: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: one row."""
    i_row = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    b_x = tl.load(x_ptr + i_row * D + o_d, mask=m_d, other=0).to(tl.float32)
    b_y = tl.load(y_ptr + i_row * D + o_d, mask=m_d, other=0).to(tl.float32)
    if SCALED:
        b_y *= tl.load(scale_ptr + o_d, mask=m_d, other=0).to(tl.float32)
    if MASKED:
        b_y *= tl.load(keep_ptr + i_row // rows_per_sample).to(tl.float32)
    b_z = b_x + b_y
    mean = tl.sum(b_z, axis=0) / D
    centred = tl.where(m_d, b_z - mean, 0)
    rstd = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / D + eps)
    b_out = centred * rstd
    if WEIGHTED:
        b_out *= tl.load(weight_ptr + o_d, mask=m_d, other=0).to(tl.float32)
    if BIASED:
        b_out += tl.load(bias_ptr + o_d, mask=m_d, other=0).to(tl.float32)
    tl.store(z_ptr + i_row * D + o_d, b_z.to(z_ptr.dtype.element_ty), mask=m_d)
    tl.store(out_ptr + i_row * D + o_d, b_out.to(out_ptr.dtype.element_ty), mask=m_d)
    tl.store(mean_ptr + i_row, mean)
    tl.store(rstd_ptr + i_row, rstd)


@jit
def _residual_norm_backward_kernel(
    gz_ptr, gout_ptr, z_ptr, y_ptr, scale_ptr, keep_ptr, weight_ptr, mean_ptr, rstd_ptr,
    dx_ptr, dy_ptr, dscale_ptr, dweight_ptr, dbias_ptr,
    rows, D, rows_per_sample, rows_per_program,
    SCALED: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr, BIASED: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: a run of rows, and its part of the sums over rows."""
    i_program = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    d_scale = tl.zeros((BLOCK_D,), tl.float32)
    d_weight = tl.zeros((BLOCK_D,), tl.float32)
    d_bias = tl.zeros((BLOCK_D,), tl.float32)
    b_scale = tl.load(scale_ptr + o_d, mask=m_d, other=0).to(tl.float32) if SCALED else d_scale
    b_weight = tl.load(weight_ptr + o_d, mask=m_d, other=0).to(tl.float32) if WEIGHTED else d_weight
    start = i_program * rows_per_program
    for i in range(start, tl.minimum(start + rows_per_program, rows)):
        i_row = tl.cast(i, tl.int64)
        mean, rstd = tl.load(mean_ptr + i_row), tl.load(rstd_ptr + i_row)
        b_z = tl.load(z_ptr + i_row * D + o_d, mask=m_d, other=0).to(tl.float32)
        b_g = tl.load(gout_ptr + i_row * D + o_d, mask=m_d, other=0).to(tl.float32)
        b_gz = tl.load(gz_ptr + i_row * D + o_d, mask=m_d, other=0).to(tl.float32)
        b_m = tl.where(m_d, (b_z - mean) * rstd, 0)
        b_h = b_g * b_weight if WEIGHTED else b_g
        dz = b_gz + rstd * (b_h - tl.sum(b_h, axis=0) / D - b_m * (tl.sum(b_h * b_m, axis=0) / D))
        tl.store(dx_ptr + i_row * D + o_d, dz.to(dx_ptr.dtype.element_ty), mask=m_d)
        dy = dz
        if MASKED:
            dy *= tl.load(keep_ptr + i_row // rows_per_sample).to(tl.float32)
        if SCALED:
            d_scale += dy * tl.load(y_ptr + i_row * D + o_d, mask=m_d, other=0).to(tl.float32)
            dy *= b_scale
        tl.store(dy_ptr + i_row * D + o_d, dy.to(dy_ptr.dtype.element_ty), mask=m_d)
        if WEIGHTED:
            d_weight += b_g * b_m
        if BIASED:
            d_bias += b_g
    if SCALED:
        tl.store(dscale_ptr + i_program * D + o_d, d_scale, mask=m_d)
    if WEIGHTED:
        tl.store(dweight_ptr + i_program * D + o_d, d_weight, mask=m_d)
    if BIASED:
        tl.store(dbias_ptr + i_program * D + o_d, d_bias, mask=m_d)


def _or(tensor: Optional, other: torch.Tensor) -> torch.Tensor:
    return other if tensor is None else tensor.contiguous()


def _config(kernel: str, x: torch.Tensor) -> dict[str, int]:
    warps = min(max(next_power(x.shape[-1]) // 256, 1), 16)
    return launch_config(kernel, x, {"dim": x.shape[-1]}, {"num_warps": warps})


def _flags(scale: Optional, keep: Optional, weight: Optional, bias: Optional) -> dict[str, bool]:
    parts = {"SCALED": scale, "MASKED": keep, "WEIGHTED": weight, "BIASED": bias}
    return {name: part is not None for name, part in parts.items()}


@on_its_device
def _launch(
    x: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional, weight: Optional, bias: Optional, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y, dim = x.contiguous(), y.contiguous(), x.shape[-1]
    rows = x.numel() // dim if dim else 0
    z, out = torch.empty_like(x), torch.empty_like(x)
    mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    if rows:
        _residual_norm_kernel[(rows,)](
            x_ptr=x, y_ptr=y, scale_ptr=_or(scale, x), keep_ptr=_or(keep, x), weight_ptr=_or(weight, x),
            bias_ptr=_or(bias, x), z_ptr=z, out_ptr=out, mean_ptr=mean, rstd_ptr=rstd,
            D=dim, rows_per_sample=1 if keep is None else rows // keep.numel(), eps=eps,
            **_flags(scale, keep, weight, bias), BLOCK_D=next_power(dim), **_config("residual_norm", x),
        )  # fmt: skip
    return z, out, mean, rstd


@on_its_device
def _launch_backward(
    gz: torch.Tensor, gout: torch.Tensor, z: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional,
    weight: Optional, biased: bool, mean: torch.Tensor, rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    gz, gout, z, y, dim = gz.contiguous(), gout.contiguous(), z.contiguous(), y.contiguous(), z.shape[-1]
    rows = z.numel() // dim if dim else 0
    config = launch_config("residual_norm_backward", z, {"dim": dim}, {**_config("residual_norm", z), "programs": 264})
    per_program = max(1, -(-rows // config.pop("programs")))
    programs = -(-rows // per_program)
    dx, dy = torch.empty_like(z), torch.empty_like(y)
    flags = _flags(scale, keep, weight, gout if biased else None)
    sums = [
        z.new_empty(programs if flags[name] else 0, dim, dtype=torch.float32)
        for name in ("SCALED", "WEIGHTED", "BIASED")
    ]
    if rows:
        _residual_norm_backward_kernel[(programs,)](
            gz_ptr=gz, gout_ptr=gout, z_ptr=z, y_ptr=y, scale_ptr=_or(scale, z), keep_ptr=_or(keep, z),
            weight_ptr=_or(weight, z), mean_ptr=mean, rstd_ptr=rstd, dx_ptr=dx, dy_ptr=dy,
            dscale_ptr=sums[0], dweight_ptr=sums[1], dbias_ptr=sums[2],
            rows=rows, D=dim, rows_per_sample=1 if keep is None else rows // keep.numel(),
            rows_per_program=per_program, **flags, BLOCK_D=next_power(dim), **config,
        )  # fmt: skip
    return dx, dy, *(part.sum(0) for part in sums)  # type: ignore[return-value]


@torch.library.custom_op("blockzoo::residual_norm", mutates_args=())
def residual_norm_op(
    x: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional, weight: Optional, bias: Optional, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """z, out, and mean and 1 / deviation of each row, float32."""
    return _launch(x, y, scale, keep, weight, bias, eps)


@residual_norm_op.register_kernel("cpu")
@outside_autocast
def _(
    x: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional, weight: Optional, bias: Optional, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    if INTERPRETED:
        return _launch(x, y, scale, keep, weight, bias, eps)
    z, out = residual_norm_ref(x, y, scale, keep, weight, bias, eps)
    wide = z.flatten(0, -2).to(_statistics_type(x))
    variance, mean = torch.var_mean(wide, -1, correction=0)
    return z.contiguous(), out.contiguous(), mean, (variance + eps).rsqrt()


@residual_norm_op.register_fake
def _(
    x: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional, weight: Optional, bias: Optional, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    z, out = (x.new_empty(x.shape) for _ in range(2))
    rows = x.numel() // x.shape[-1]
    mean, rstd = (x.new_empty(rows, dtype=_statistics_type(x)) for _ in range(2))
    return z, out, mean, rstd


def _statistics_type(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


@torch.library.custom_op("blockzoo::residual_norm_backward", mutates_args=())
def residual_norm_backward(
    gz: torch.Tensor, gout: torch.Tensor, z: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional,
    weight: Optional, biased: bool, mean: torch.Tensor, rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of x, y, scale, weight and bias; the last three as float32, and zero where there is no such input."""
    return _launch_backward(gz, gout, z, y, scale, keep, weight, biased, mean, rstd)


@residual_norm_backward.register_kernel("cpu")
@outside_autocast
def _(
    gz: torch.Tensor, gout: torch.Tensor, z: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional,
    weight: Optional, biased: bool, mean: torch.Tensor, rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    if INTERPRETED:
        return _launch_backward(gz, gout, z, y, scale, keep, weight, biased, mean, rstd)
    shape = (*z.shape[:-1], 1)
    wide = mean.dtype
    normed = (z.to(wide) - mean.reshape(shape)) * rstd.reshape(shape)
    g, rows = gout.to(wide), tuple(range(z.ndim - 1))
    h = g if weight is None else g * weight.to(wide)
    inner = h - h.mean(-1, keepdim=True) - normed * (h * normed).mean(-1, keepdim=True)
    dz = gz.to(wide) + rstd.reshape(shape) * inner
    dy = dz if keep is None else dz * keep.to(wide).reshape(-1, *[1] * (z.ndim - 1))
    none = dz.new_zeros(z.shape[-1])
    dscale = none if scale is None else (dy * y.to(wide)).sum(rows)
    dy = dy if scale is None else dy * scale.to(wide)
    dweight = none.clone() if weight is None else (g * normed).sum(rows)
    dbias = g.sum(rows) if biased else none.clone()
    memory = torch.contiguous_format
    dx, dy = dz.to(z.dtype, memory_format=memory), dy.to(y.dtype, copy=True, memory_format=memory)
    return dx, dy, dscale, dweight, dbias


@residual_norm_backward.register_fake
def _(
    gz: torch.Tensor, gout: torch.Tensor, z: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional,
    weight: Optional, biased: bool, mean: torch.Tensor, rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    dx, dy = z.new_empty(z.shape), y.new_empty(y.shape)
    dscale, dweight, dbias = (mean.new_empty(z.shape[-1]) for _ in range(3))
    return dx, dy, dscale, dweight, dbias


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, y, scale, keep, weight, bias, _ = inputs
    z, _, mean, rstd = output
    ctx.save_for_backward(y, scale, keep, weight, bias, z, mean, rstd)


def _backward(ctx, gz, gout, gmean, grstd):  # type: ignore[no-untyped-def]
    y, scale, keep, weight, bias, z, mean, rstd = ctx.saved_tensors
    dx, dy, dscale, dweight, dbias = residual_norm_backward(
        gz, gout, z, y, scale, keep, weight, bias is not None, mean, rstd
    )
    parts = zip((scale, weight, bias), (dscale, dweight, dbias), strict=True)
    dscale, dweight, dbias = (None if part is None else grad.to(part.dtype) for part, grad in parts)
    return dx, dy, dscale, None, dweight, dbias, None


residual_norm_op.register_autograd(_backward, setup_context=_setup)


def residual_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    scale: Optional = None,
    keep: Optional = None,
    weight: Optional = None,
    bias: Optional = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a branch to a residual stream and normalise the sum over its last axis.

    Only the reference has second derivatives. The models that use this norm (Raptor, TimesNet) train on first
    derivatives; potentials, which train on forces, do not use it. Differentiating the kernel's gradient raises an
    error; `BLOCKZOO_KERNELS=torch` gives the reference.

    Args:
        x: The stream, (B, ..., D).
        y: The branch, as x.
        scale: Layer scale, (D,).
        keep: Factor of each sample's branch, (B,): 0 where drop path drops it, 1 / (1 - rate) elsewhere.
        weight: Of the norm, (D,).
        bias: Of the norm, (D,).
        eps: Added to the variance in the norm.

    Returns:
        The sum and its norm, each as x; the kernel keeps that type under autocast too.
    """
    if use_kernel("residual_norm", x) and _fits(x, y, scale, keep, weight, bias):
        z, out, _, _ = residual_norm_op(x, y, scale, keep, weight, bias, eps)
        return z, out
    return residual_norm_ref(x, y, scale, keep, weight, bias, eps)


def _fits(x: torch.Tensor, y: torch.Tensor, scale: Optional, keep: Optional, weight: Optional, bias: Optional) -> bool:
    """Whether nothing is broadcast or converted."""
    rows = all(part is None or part.shape == x.shape[-1:] for part in (scale, weight, bias))
    samples = keep is None or keep.shape == x.shape[:1]
    return rows and samples and x.ndim > 1 and x.shape == y.shape and x.dtype == y.dtype
