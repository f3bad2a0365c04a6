"""A transformer block that is applied many times over depth and knows how often it has been applied.

Source: "Block-Recurrent Dynamics in Vision Transformers" (2025), the authors' code (KempnerInstitute/raptor), whose
parameter names and initial values these are. With l the index, from 1, of the layer that an application replaces,

    (s1, s2, s3) = 1 + W_b SiLU(W_a l + b_a) + b_b
    x <- x + s1 * g1 * Attention(LN(x));  x <- x + s2 * g2 * MLP(LN(x));  x <- s3 * x

where g1 and g2 are layer scales and s3 scales the whole residual stream. Layer norms have an epsilon of 1e-5.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from torch import nn

from blockzoo.kernels._dispatch import use_kernel
from blockzoo.kernels.residual_norm import residual_norm

__all__ = ["DeployedRecurrentBlock", "RecurrentBlock", "SwiGLU"]

EPS = 1e-5
"""Of the blocks' layer norms; a teacher's own norms have 1e-6."""


class SwiGLU(nn.Module):
    """Gated activation: SiLU of the first half of the last axis times the second half ("GLU Variants ..." 2020)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., 2 H) to (..., H)."""
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


def _heads(qkv: torch.Tensor, num_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, tokens, width = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


class _Attention(nn.Module):
    """Multi-head self-attention with the parameter names of `torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, num_heads: int, **dd: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim, **dd))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim, **dd))
        self.out_proj = nn.Linear(dim, dim, **dd)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = _heads(F.linear(x, self.in_proj_weight, self.in_proj_bias), self.num_heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class RecurrentBlock(nn.Module):
    """See the module's docstring.

    Args:
        dim: Channels of a token.
        num_heads: Attention heads, a divisor of `dim`.
        mlp: "swiglu" (three matrices, as in all published models) or "gelu" (two).
        mlp_ratio: Hidden channels over `dim`. At 4, "swiglu" costs 1.31 times a usual block; at 8/3 it costs as much.
        depth_scale: Condition the block on the depth, by s1, s2 and s3; without it, the block does the same at every
            depth.
        init_values: First values of the layer scales; None for no layer scales.

    Raises:
        ValueError: `num_heads` is not a divisor of `dim`, or `mlp` is unknown.
    """

    if TYPE_CHECKING:  # TorchScript would read these as types of its own
        norm1: Any
        norm2: Any
        attn: Any
        ls1: Any
        ls2: Any
        mlp: Any
        t_proj: Any

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp: Literal["swiglu", "gelu"] = "swiglu",
        mlp_ratio: float = 4.0,
        depth_scale: bool = True,
        init_values: float | None = 1e-5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide dim={dim}")
        if mlp not in ("swiglu", "gelu"):
            raise ValueError(f"mlp={mlp!r} must be 'swiglu' or 'gelu'")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        hidden = int(dim * mlp_ratio)
        gated = mlp == "swiglu"
        self.norm1 = nn.LayerNorm(dim, eps=EPS, **dd)
        self.attn = _Attention(dim, num_heads, **dd)
        self.ls1 = nn.Identity() if init_values is None else LayerScale(dim, init_values, **dd)
        self.norm2 = nn.LayerNorm(dim, eps=EPS, **dd)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * hidden if gated else hidden, **dd),
            SwiGLU() if gated else nn.GELU(),
            nn.Linear(hidden, dim, **dd),
        )
        self.ls2 = nn.Identity() if init_values is None else LayerScale(dim, init_values, **dd)
        self.depth_scale = depth_scale
        if depth_scale:
            self.t_proj = nn.Sequential(nn.Linear(1, 16, **dd), nn.SiLU(), nn.Linear(16, 3 * dim, **dd))
            nn.init.normal_(self.t_proj[2].weight, std=1e-4)
            nn.init.normal_(self.t_proj[2].bias, std=1e-4)
        else:
            self.t_proj = nn.Sequential()

    def scales(self, depths: torch.Tensor) -> torch.Tensor:
        """(s1, s2, s3) at depths (n,), counted from 1: (n, 3, dim).

        Products are written out, because autocast would round those of `nn.Linear`, and s3 scales the residual stream.
        """
        hidden = F.silu(depths[:, None] * self.t_proj[0].weight[:, 0] + self.t_proj[0].bias)
        scale = (self.t_proj[2].weight * hidden[:, None, :]).sum(-1) + self.t_proj[2].bias + 1
        return scale.reshape(depths.shape[0], 3, -1)

    def forward(self, x: torch.Tensor, depth: int) -> torch.Tensor:
        """Apply the block once to tokens (B, N, dim), as layer `depth`, counted from 1."""
        if not self.depth_scale:
            return self.apply_scaled(x, None)
        weight = self.t_proj[0].weight
        at = torch.full((1,), float(depth), dtype=weight.dtype, device=weight.device)
        return self.apply_scaled(x, self.scales(at))

    def apply_scaled(self, x: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        """Apply the block to tokens (B, N, dim) with scales (1 or B, 3, dim) of `scales`, or None."""
        if not torch.jit.is_scripting():  # alone: scripting reads what stands beside it
            if use_kernel("residual_norm", x) and (scales is None or scales.shape[0] == 1):
                return self._apply_fused(x, None if scales is None else scales[0])
        if scales is None:
            x = x + self.ls1(self.attn(self.norm1(x)))
            return x + self.ls2(self.mlp(self.norm2(x)))
        s1, s2, s3 = scales[:, 0, None], scales[:, 1, None], scales[:, 2, None]
        x = x + s1 * self.ls1(self.attn(self.norm1(x)))
        x = x + s2 * self.ls2(self.mlp(self.norm2(x)))
        return s3 * x

    def _apply_fused(self, x: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        """Apply the block with scales (3, dim), with the first sum and the norm after it in one pass."""
        gains: list[torch.Tensor | None] = [
            layer.gamma if isinstance(layer, LayerScale) else None for layer in (self.ls1, self.ls2)
        ]
        if scales is not None:
            gains = [scales[i] if gain is None else scales[i] * gain for i, gain in enumerate(gains)]
        branch = self.attn(self.norm1(x)).to(x.dtype)
        x, normed = residual_norm(x, branch, gains[0], None, self.norm2.weight, self.norm2.bias, EPS)
        branch = self.mlp(normed)
        x = x + (branch if gains[1] is None else gains[1] * branch)
        return x if scales is None else scales[2] * x


class DeployedRecurrentBlock(nn.Module):
    """A `RecurrentBlock` whose layers are merged for inference; outputs stay the same.

    - Scales become a table over the block's depths, joined with the layer scales; without depth scales, layer scales
      go into the rows of the output matrices.
    - Affine parts of the layer norms go into the columns and biases of the matrices after them.
    - The key bias is dropped: it adds one number to all scores of a query. The value bias passes through attention,
      whose weights sum to 1, and joins the output bias. 1/sqrt(head_dim) goes into the query matrix.

    Args:
        block: The block to merge.
        first: First depth at which it is applied, counted from 1.
        last: Last depth at which it is applied.
    """

    if TYPE_CHECKING:  # TorchScript would read these as types of its own
        table: torch.Tensor
        act: Any

    def __init__(self, block: RecurrentBlock, first: int, last: int) -> None:
        super().__init__()
        self.first = first
        self.eps = EPS
        self.num_heads = block.attn.num_heads
        self.depth_scale = block.depth_scale
        weight = block.attn.in_proj_weight
        dim = weight.shape[1]
        head_dim = dim // self.num_heads

        def gain(layer: nn.Module) -> torch.Tensor:
            return layer.gamma.double() if isinstance(layer, LayerScale) else weight.new_ones(dim).double()

        g1, g2 = gain(block.ls1), gain(block.ls2)
        qkv, qkv_bias = _fold_norm(block.norm1, weight, block.attn.in_proj_bias)
        out, out_bias = block.attn.out_proj.weight.double(), block.attn.out_proj.bias.double()
        out_bias = out_bias + out @ qkv_bias[2 * dim :]
        qkv, qkv_bias = qkv.clone(), qkv_bias.clone()
        qkv[:dim] *= head_dim**-0.5
        qkv_bias[:dim] *= head_dim**-0.5
        qkv_bias[dim:] = 0
        fc1, fc1_bias = _fold_norm(block.norm2, block.mlp[0].weight, block.mlp[0].bias)
        fc2, fc2_bias = block.mlp[2].weight.double(), block.mlp[2].bias.double()
        table = weight.new_zeros(0)
        if block.depth_scale:
            depths = torch.arange(first, last + 1, dtype=torch.double, device=weight.device)
            scales = _double_scales(block, depths)
            # the last scale reaches both terms of the second sum
            table = torch.stack([scales[:, 0] * g1, scales[:, 2] * scales[:, 1] * g2, scales[:, 2]], 1)
        else:
            out, out_bias = g1[:, None] * out, g1 * out_bias
            fc2, fc2_bias = g2[:, None] * fc2, g2 * fc2_bias
        self.register_buffer("table", table.to(weight.dtype))
        self.qkv, self.proj = _linear(qkv, qkv_bias, weight), _linear(out, out_bias, weight)
        self.fc1, self.act, self.fc2 = _linear(fc1, fc1_bias, weight), block.mlp[1], _linear(fc2, fc2_bias, weight)

    def forward(self, x: torch.Tensor, depth: int) -> torch.Tensor:
        """Apply the block once to tokens (B, N, dim), as layer `depth`, counted from 1."""
        width = (x.shape[-1],)
        q, k, v = _heads(self.qkv(F.layer_norm(x, width, None, None, self.eps)), self.num_heads)
        y = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        y = self.proj(y.transpose(1, 2).flatten(2))
        if not torch.jit.is_scripting():
            if use_kernel("residual_norm", x):
                table = self.table[depth - self.first] if self.depth_scale else None
                x, normed = residual_norm(x, y.to(x.dtype), None if table is None else table[0], eps=EPS)
                y = self.fc2(self.act(self.fc1(normed)))
                return x + y if table is None else torch.addcmul(x * table[2], y, table[1])
        if self.depth_scale:
            table = self.table[depth - self.first]
            in_place = not torch.is_grad_enabled() and x.dtype == y.dtype and x.dtype == table.dtype
            x = torch.addcmul(x, y, table[0], out=y) if in_place else torch.addcmul(x, y, table[0])
            y = self.fc2(self.act(self.fc1(F.layer_norm(x, width, None, None, self.eps))))
            return torch.addcmul(x.mul_(table[2]) if in_place else x * table[2], y, table[1])
        x = x + y
        return x + self.fc2(self.act(self.fc1(F.layer_norm(x, width, None, None, self.eps))))


def _double_scales(block: RecurrentBlock, depths: torch.Tensor) -> torch.Tensor:
    first, second = block.t_proj[0], block.t_proj[2]
    hidden = F.silu(F.linear(depths[:, None], first.weight.double(), first.bias.double()))
    return F.linear(hidden, second.weight.double(), second.bias.double()).unflatten(1, (3, -1)) + 1


def _fold_norm(norm: nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = weight.double(), bias.double()
    return weight * norm.weight.double(), bias + weight @ norm.bias.double()


def _linear(weight: torch.Tensor, bias: torch.Tensor, like: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight.to(like.dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(like.dtype), requires_grad=False)
    return layer
