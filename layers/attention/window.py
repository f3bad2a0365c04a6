"""Attention inside windows of neighbouring and of strided pixels, with values wider than queries and keys.

Source: "EMOv2: Pushing 5M Vision Model Frontier" (2024), section 3.3, "spanning window attention", and its code.
"""

from collections.abc import Sequence

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import nn

from blockzoo.layers.conv.conv_norm_act import fold_before, replace_parameters
from blockzoo.layers.conv.deployed_conv import DeployedConv2d

__all__ = ["WindowAttention", "from_windows", "to_windows", "window_attention"]

torch.fx.wrap("window_attention")  # torch.fx keeps its calls whole, whoever traces
torch.fx.wrap("known")

PARTITIONS = ("close", "remote")


def to_windows(x: torch.Tensor, window: tuple[int, int], heads: int, partition: str) -> torch.Tensor:
    """Sort the pixels of a map into windows.

    Args:
        x: (B, heads * d, H, W); H and W are multiples of the window.
        window: Pixels of a window along both axes, (wh, ww).
        heads: Heads that share the channels.
        partition: "close": a window is a tile of neighbours. "remote": a window's pixels lie H // wh rows and W // ww
            columns apart, all over the map.

    Returns:
        (B * windows, heads, wh * ww, d).
    """
    batch, chans, height, width = x.shape
    wh, ww = window
    nh, nw, dim = height // wh, width // ww, chans // heads
    y = x.permute(0, 2, 3, 1)
    if partition == "close":
        y = y.reshape(batch, nh, wh, nw, ww, heads, dim).permute(0, 1, 3, 5, 2, 4, 6)
    else:
        y = y.reshape(batch, wh, nh, ww, nw, heads, dim).permute(0, 2, 4, 5, 1, 3, 6)
    return y.reshape(batch * nh * nw, heads, wh * ww, dim)


def from_windows(y: torch.Tensor, window: tuple[int, int], size: tuple[int, int], partition: str) -> torch.Tensor:
    """Undo `to_windows`: (B * windows, heads, wh * ww, d) -> (B, heads * d, H, W), in channels-last memory."""
    wh, ww = window
    height, width = size
    nh, nw = height // wh, width // ww
    heads, dim = y.shape[1], y.shape[3]
    y = y.reshape(-1, nh, nw, heads, wh, ww, dim)
    y = y.permute(0, 1, 4, 2, 5, 3, 6) if partition == "close" else y.permute(0, 4, 1, 5, 2, 3, 6)
    return y.reshape(-1, height, width, heads * dim).permute(0, 3, 1, 2)


@register_notrace_function
def window_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pad_qk: torch.Tensor,
    pad_v: torch.Tensor,
    heads: int,
    window: int,
    close: bool,
    remote: bool,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention in one or both partitions with the same queries, keys and values; the results are added.

    Maps whose size is not a multiple of the window are padded at the right and below. Padding takes part as keys, as
    published.

    Args:
        q: (B, C, H, W).
        k: (B, C, H, W).
        v: (B, M, H, W).
        pad_qk: Values of q, then k, where there is padding, (2 * C,).
        pad_v: Values of v where there is padding, (M,).
        heads: Divides C and M; scores are scaled by the inverse root of C // heads.
        window: Pixels of a window along each axis; 0 or less for one window over the whole map.
        close: Use windows of neighbours.
        remote: Use windows of strided pixels.
        dropout: Dropout rate of the attention weights.

    Returns:
        (B, M, H, W).
    """
    height, width = q.shape[2], q.shape[3]
    wh, ww = (window, window) if window > 0 else (height, width)
    below, right = -height % wh, -width % ww
    if below > 0 or right > 0:
        pad_q, pad_k = pad_qk.chunk(2)
        padded = []
        for x, pad in ((q, pad_q), (k, pad_k), (v, pad_v)):
            value = pad.reshape(1, -1, 1, 1).to(x.dtype)
            padded.append(F.pad(x - value, [0, right, 0, below]) + value)
        q, k, v = padded[0], padded[1], padded[2]
    size = (height + below, width + right)
    one = size[0] == wh and size[1] == ww  # then both partitions are the same
    names = ["close"] if one or not remote else ["close", "remote"] if close else ["remote"]
    parts = [torch.cat([to_windows(x, (wh, ww), heads, name) for name in names]) for x in (q, k, v)]
    y = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], dropout_p=dropout)
    y = y.reshape(len(names), -1, heads, wh * ww, y.shape[3])
    total = from_windows(y[0], (wh, ww), size, names[0])
    if len(names) == 2:
        total = total + from_windows(y[1], (wh, ww), size, names[1])
    if one and close and remote:
        total = total * 2
    return total[:, :, :height, :width]


@register_notrace_function
def known(bias: torch.Tensor | None) -> torch.Tensor:
    """The bias, known to exist; TorchScript cannot know that of a traced convolution."""
    assert bias is not None
    return bias


class WindowAttention(nn.Module):
    """Expanded attention: queries and keys of `chans` channels move values of `v_chans` channels; no output projection.

    Args:
        chans: Input channels, a multiple of `head_dim`.
        v_chans: Output channels, a multiple of the number of heads.
        head_dim: Channels of a head's queries and keys.
        window: See `window_attention`.
        partitions: "close", "remote" or both.
        act_layer: Activation of the values, before attention.
        attn_drop: Dropout of attention weights.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, chans, H, W) -> (B, v_chans, H, W), any H and W.

    Raises:
        ValueError: Channels do not fit the heads, or a partition is unknown.
    """

    def __init__(
        self,
        chans: int,
        v_chans: int,
        head_dim: int,
        window: int = 7,
        partitions: Sequence[str] = PARTITIONS,
        act_layer: type[nn.Module] = nn.GELU,
        attn_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if chans % head_dim or v_chans % (chans // head_dim):
            raise ValueError(
                f"chans={chans} must be a multiple of head_dim={head_dim}, and v_chans={v_chans} of their quotient"
            )
        if not partitions or not set(partitions) <= set(PARTITIONS):
            raise ValueError(f"partitions={tuple(partitions)} must be one or both of {', '.join(PARTITIONS)}")
        self.heads = chans // head_dim
        self.window = window
        self.close = "close" in partitions
        self.remote = "remote" in partitions
        self.attn_drop = attn_drop
        self.qk = nn.Conv2d(chans, 2 * chans, 1, device=device, dtype=dtype)
        self.v = nn.Conv2d(chans, v_chans, 1, device=device, dtype=dtype)
        self.act: nn.Module = act_layer()
        self.pad_qk: torch.Tensor | None
        self.pad_v: torch.Tensor | None
        self.register_buffer("pad_qk", None)
        self.register_buffer("pad_v", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the map x (B, chans, H, W)."""
        q, k = self.qk(x).chunk(2, 1)
        v = self.act(self.v(x))
        # Zeros in front of the projections become their biases; after `fold_input`, those before folding.
        pad_qk, pad_v = self.pad_qk, self.pad_v
        if pad_qk is None or pad_v is None:
            pad_qk, pad_v = known(self.qk.bias), self.act(known(self.v.bias))
        dropout = self.attn_drop if self.training else 0.0
        return window_attention(q, k, v, pad_qk, pad_v, self.heads, self.window, self.close, self.remote, dropout)

    @torch.no_grad()
    def fold_input(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Merge the affine map x -> scale * x + shift in front of the layer, and the activation into the pass of v.

        Padding is zero after that map, so it keeps the previous biases.
        """
        self.pad_qk = known(self.qk.bias).detach().clone()
        self.pad_v = self.act(known(self.v.bias).detach())
        replace_parameters(self.qk, *fold_before(self.qk, scale, shift))
        replace_parameters(self.v, *fold_before(self.v, scale, shift))
        self.v = DeployedConv2d(self.v, self.act)
        self.act = nn.Identity()
