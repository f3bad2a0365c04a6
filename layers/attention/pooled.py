"""Self-attention of a feature map with pooled keys and values.

Source: "Next-ViT: Next Generation Vision Transformer for Efficient Deployment in Realistic Industrial Scenarios"
(2022), section 3.3, "efficient multi-head self-attention", and its code.
"""

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import nn

from blockzoo.layers.conv.conv_norm_act import ModalBatchNorm2d, batch_norm_affine, fold_before, replace_parameters

__all__ = ["PooledAttention", "pool_tokens"]

torch.fx.wrap("pool_tokens")  # torch.fx keeps its calls whole, whoever traces


@register_notrace_function
def pool_tokens(x: torch.Tensor, window: int) -> torch.Tensor:
    """Average runs of consecutive positions of a map in row-major order.

    A run continues from one row into the next; positions that do not fill a last run are left out. This is the pooling
    that the published weights were trained with, not one over squares, so the result depends on the width of the map.

    Args:
        x: (B, C, H, W).
        window: Positions in a run.

    Returns:
        (B, C, H * W // window, 1).

    Raises:
        ValueError: The map has fewer positions than one run.
    """
    height, width = x.shape[2], x.shape[3]
    if height * width < window:
        raise ValueError(f"x is a map of {height} x {width} positions, too small for keys pooled over {window}")
    kept = height * width // window * window
    tokens = x.permute(0, 2, 3, 1).reshape(x.shape[0], height * width, x.shape[1])[:, :kept]
    pooled = tokens.reshape(x.shape[0], kept // window, window, x.shape[1]).mean(2)
    return pooled.transpose(1, 2).contiguous().unsqueeze(3)  # strides that convolution and compiler read alike


class PooledAttention(nn.Module):
    """Batch norm, then multi-head attention in which keys and values come from pooled positions.

    Projections are 1x1 convolutions, so a map in channels-last memory is never rearranged. Without pooling, queries,
    keys and values are one convolution.

    Args:
        chans: Channels, a multiple of `head_dim`.
        head_dim: Channels of a head; scores are scaled by its inverse root.
        pool: Positions averaged into one key, see `pool_tokens`; the pooled map has its own batch norm. 1 for no
            pooling.
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout after the output projection.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, chans, H, W) -> (B, chans, H, W).

    Raises:
        ValueError: `chans` is not a multiple of `head_dim`.
    """

    def __init__(
        self,
        chans: int,
        head_dim: int = 32,
        pool: int = 1,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if chans % head_dim:
            raise ValueError(f"chans={chans} must be a multiple of head_dim={head_dim}")
        self.head_dim = head_dim
        self.pool = pool
        self.attn_drop = attn_drop
        self.norm: nn.Module = ModalBatchNorm2d(chans, device=device, dtype=dtype)
        self.kv_norm: nn.Module = ModalBatchNorm2d(chans, device=device, dtype=dtype) if pool > 1 else nn.Identity()
        self.q = nn.Conv2d(chans, chans, 1, device=device, dtype=dtype) if pool > 1 else nn.Identity()
        self.kv = nn.Conv2d(chans, 2 * chans, 1, device=device, dtype=dtype) if pool > 1 else nn.Identity()
        self.qkv = nn.Identity() if pool > 1 else nn.Conv2d(chans, 3 * chans, 1, device=device, dtype=dtype)
        self.proj = nn.Conv2d(chans, chans, 1, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, heads * head_dim, H, W) -> (B, heads, H * W, head_dim)."""
        heads = x.shape[1] // self.head_dim
        return x.reshape(x.shape[0], heads, self.head_dim, x.shape[2] * x.shape[3]).transpose(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the map x (B, chans, H, W)."""
        normed = self.norm(x)
        if self.pool > 1:
            q = self.q(normed)
            k, v = self.kv(self.kv_norm(pool_tokens(normed, self.pool))).chunk(2, 1)
        else:
            q, k, v = self.qkv(normed).chunk(3, 1)
        y = F.scaled_dot_product_attention(
            self._heads(q), self._heads(k), self._heads(v), dropout_p=self.attn_drop if self.training else 0.0
        )
        y = y.transpose(1, 2).reshape(x.shape[0], x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)
        return self.proj_drop(self.proj(y))

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge both batch norms into the projections after them: a mean over runs commutes with an affine map."""
        if not isinstance(self.norm, ModalBatchNorm2d):
            return
        scale, shift = batch_norm_affine(self.norm)
        if self.pool > 1:
            kv_scale, kv_shift = batch_norm_affine(self.kv_norm)
            replace_parameters(self.q, *fold_before(self.q, scale, shift))  # type: ignore[arg-type]
            folded = fold_before(self.kv, kv_scale * scale, kv_scale * shift + kv_shift)  # type: ignore[arg-type]
            replace_parameters(self.kv, *folded)
        else:
            replace_parameters(self.qkv, *fold_before(self.qkv, scale, shift))  # type: ignore[arg-type]
        self.norm = self.kv_norm = nn.Identity()
