"""The kernel of deployed NASNet and EMOv2, as `blockzoo bench kernels` measures them: sizes, floors and peers."""

import torch

from blockzoo.kernels.separable_conv import separable_conv, separable_conv_ref
from blockzoo.tasks.core.kernel_case import Case, Cases, draw

__all__ = ["CASES"]


def _separable_conv(batch: int, side: int, chans: int, out_chans: int, window: int, inverted: int, device: str) -> Case:
    """NASNet's form, or EMOv2's (inverted)."""
    x = draw(batch, chans, side, side, device=device).contiguous(memory_format=torch.channels_last)
    residual = draw(batch, out_chans, side, side, device=device).contiguous(memory_format=torch.channels_last)
    dw, pw = draw(chans, 1, window, window, device=device) / window, draw(out_chans, chans, 1, 1, device=device)
    dw_bias, bias = draw(chans, device=device), draw(out_chans, device=device)
    half, acts = window // 2, ("none", "silu") if inverted else ("relu", "none")

    def ours(x: torch.Tensor, dw: torch.Tensor, pw: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if not inverted:
            return separable_conv(x, dw, pw, bias=rest[0], act_in="relu")
        return separable_conv(x, dw, pw, rest[0], residual=rest[1], act_mid="silu", skip=True)

    def reference(x: torch.Tensor, dw: torch.Tensor, pw: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        dw_bias, bias, residual = (rest[0], None, rest[1]) if inverted else (None, rest[0], None)
        geometry = (1, half, half, side, side, *acts, "none", bool(inverted))
        return separable_conv_ref(x, dw, dw_bias, pw, bias, residual, *geometry)

    inputs = [x, dw, pw / chans**0.5, *((dw_bias, residual) if inverted else (bias,))]
    pixels = batch * side**2
    flops = 2.0 * pixels * chans * (window**2 + out_chans)
    moved = 4.0 * pixels * (chans + (2 if inverted else 1) * out_chans)
    blocks = {"BLOCK_P": [32, 64, 128], "BLOCK_C": [16, 32, 64], "BLOCK_F": [64, 128, 256], "num_warps": [4, 8]}
    text = f"batch {batch}, {side} px, {chans}-{out_chans} channels, window {window}{', inverted' * inverted}"
    return Case("separable_conv", {"separable_conv": blocks}, text, inputs, ours, reference, flops, moved, trained=0)


CASES = {
    "separable_conv": Cases(
        _separable_conv,
        [(8, 42, 168, 168, 5, 0), (8, 21, 336, 336, 7, 0), (8, 14, 640, 160, 5, 1), (64, 28, 216, 72, 5, 1)],
        (1, 9, 12, 8, 5, 1),
    ),
}
"""By kernel."""
