"""TimesNet's kernel, as `blockzoo bench kernels` measures them: sizes, floors and peers."""

import torch

from blockzoo.kernels.period_conv import period_candidates, period_conv, period_conv_folded, period_conv_gathered
from blockzoo.tasks.core.kernel_case import Case, Cases, Peer, draw

__all__ = ["CASES"]


def _period_conv(batch: int, steps: int, chans: int, hidden: int, device: str, top_k: int = 5, size: int = 11) -> Case:
    candidates = torch.tensor(period_candidates(steps))
    strongest = [min(len(candidates) - 1, place) for place in (len(candidates) - 4, 3, 7, 10, 14)][:top_k]
    periods = candidates[strongest]
    weights = draw(batch, top_k, device=device).softmax(1)
    w1 = draw(hidden, chans, size, size, device=device) / size
    w2 = draw(chans, hidden, size, size, device=device) / size
    # Taps that meet the image: rows and columns cut off what lies outside.
    slots = [-(-steps // p) * p for p in periods.tolist()]
    taps = [min(size, 2 * -(-steps // p) - 1) * min(size, 2 * p - 1) for p in periods.tolist()]
    flops = sum(2 * 2 * batch * s * t * chans * hidden for s, t in zip(slots, taps, strict=True))
    moved = 4 * (2 * batch * steps * chans + 2 * batch * sum(slots) * hidden + w1.numel() + w2.numel())
    blocks = {"BLOCK_S": [32, 64, 128], "num_warps": [4, 8], "num_stages": [2, 3, 4]}
    x = draw(batch, steps, chans, device=device)
    inputs = [x, periods.to(device), weights, w1, draw(hidden, device=device), w2, draw(chans, device=device)]
    launches = {"fold_conv": blocks, "fold_conv_weight": {**blocks, "SPLIT": [4, 8, 16]}}
    text = f"batch {batch}, {steps} steps, {chans}-{hidden} channels, {top_k} periods"
    peers = {"folded": Peer(period_conv_folded)}
    return Case("fold_conv", launches, text, inputs, period_conv, period_conv_gathered, flops, moved, peers)


CASES = {
    "fold_conv": Cases(_period_conv, [(32, 192, 16, 32), (32, 192, 32, 32), (32, 192, 64, 64)], (2, 48, 8, 8)),
}
"""By kernel."""
