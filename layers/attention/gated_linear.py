r"""Gated linear attention: a token mixer whose cost grows with the number of tokens, not with its square.

Each head has a state S (keys x values). At every token, each key's row of S is multiplied by a gate in (0, 1), and the
state is read:

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,    o_t = scale * S_t^T q_t,    g_t <= 0

Two exact forms compute it. The recurrent one is the definition. The chunked one works on C tokens at a time: with
b the running sum of g inside a chunk, and S the state before it,

    o_i = scale (exp(b_i) q_i)^T S + scale sum_{j <= i} (sum_d q_id k_jd exp(b_id - b_jd)) v_j
    S <- diag(exp(b_C)) S + sum_j (exp(b_C - b_j) k_j) v_j^T

All exponents are at most zero, so nothing overflows, however strong the gates are. The price is a product of C x C x
keys for each chunk, so C must be small. On a CUDA device, the kernels of flash-linear-attention compute the same if the
package `fla` is installed; BLOCKZOO_KERNELS=torch turns them off.

Source: "Gated Linear Attention Transformers with Hardware-Efficient Training" (2023), equations 3 and 4, sections 4.3
and 4.4.
"""

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.kernels._dispatch import kernel_mode

__all__ = ["GatedLinearAttention", "gated_linear_attention", "gated_linear_attention_recurrent"]

_HAS_FLA = importlib.util.find_spec("fla") is not None
_CHUNK = 16


def gated_linear_attention_recurrent(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, token by token; see `gated_linear_attention`."""
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    out = []
    for t in range(q.shape[2]):
        state = state * g[:, :, t].exp().unsqueeze(-1) + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        out.append((q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    stacked = torch.stack(out, 2) if out else torch.zeros_like(v)
    return stacked * q.shape[-1] ** -0.5, state


def gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    state: torch.Tensor | None = None,
    chunk_size: int = _CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gated linear attention in its chunked form: read a fading state at every token.

    Args:
        q: Queries, (B, heads, T, K); multiplied by K^-0.5.
        k: Keys, (B, heads, T, K).
        v: Values, (B, heads, T, V).
        g: Logarithms of the gates, (B, heads, T, K), not above zero.
        state: The state in front of the first token, (B, heads, K, V); zero by default.
        chunk_size: Tokens of a chunk; does not change the result.

    Returns:
        Values read, (B, heads, T, V), and the state after the last token.
    """
    batch, heads, tokens, keys = q.shape
    scale = keys**-0.5
    if state is None:
        state = q.new_zeros(batch, heads, keys, v.shape[3])
    pad = -tokens % chunk_size
    # Tokens after the end add nothing to the state, and do not let it fade.
    q, k, v, g = (F.pad(x, (0, 0, 0, pad)).unflatten(2, (-1, chunk_size)) for x in (q, k, v, g))
    total = g.cumsum(3)  # (B, heads, chunks, C, K)
    end = total[..., -1:, :]
    faded_q, faded_k, fade = q * total.exp(), k * (end - total).exp(), end.exp().mT

    later = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device).triu(1).unsqueeze(-1)
    between = (total.unsqueeze(4) - total.unsqueeze(3)).masked_fill(later, float("-inf")).exp()
    scores = torch.einsum("bhnik,bhnjk,bhnijk->bhnij", q, k, between)
    added = faded_k.mT @ v  # what each chunk adds to the state
    states = []
    for chunk in range(q.shape[2]):
        states.append(state)
        state = fade[:, :, chunk] * state + added[:, :, chunk]
    if not states:
        return v.flatten(2, 3), state
    out = scores @ v + faded_q @ torch.stack(states, 2)
    return scale * out.flatten(2, 3)[:, :, :tokens], state


def _uses_fla(x: torch.Tensor) -> bool:
    outside = not (torch.compiler.is_exporting() or torch.jit.is_tracing())
    return _HAS_FLA and x.device.type == "cuda" and outside and kernel_mode() != "torch"


class GatedLinearAttention(nn.Module):
    """Token mixer with the interface of self-attention, at a cost linear in the tokens.

    Keys have half the channels of values; the gates of keys come from a bottleneck, and a root of degree 16 moves them
    towards one, as published. The values read are normalised for each head, multiplied by a SiLU gate and projected.

    Args:
        dim: Channels of a token.
        num_heads: Heads; divides dim / 2.
        bidirectional: Mix in both directions, for images and whole series: the mean of a pass from the first token and
            one from the last. False lets a token see only itself and the tokens before it.
        gate_rank: Width of the gates' bottleneck.
        gate_root: Degree of the root.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, T, dim) -> (B, T, dim), any T.

    Raises:
        ValueError: The heads do not divide dim / 2, or a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        bidirectional: bool = True,
        gate_rank: int = 16,
        gate_root: float = 16.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % 2 or (dim // 2) % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide half of dim={dim}")
        if gate_rank < 1 or gate_root <= 0:
            raise ValueError(f"gate_rank={gate_rank} and gate_root={gate_root} must be positive")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads, self.bidirectional, self.gate_root = num_heads, bidirectional, gate_root
        self.qkv = nn.Linear(dim, 2 * dim, bias=False, **dd)
        self.gate = nn.Sequential(nn.Linear(dim, gate_rank, bias=False, **dd), nn.Linear(gate_rank, dim // 2, **dd))
        self.out_gate = nn.Linear(dim, dim, **dd)
        self.norm = nn.LayerNorm(dim // num_heads, **dd)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """Mix the tokens x (B, T, dim).

        Args:
            x: Tokens.
            attn_mask: Must be None; part of the interface of timm's attention. There are no scores to mask.
            is_causal: Mix forward only in this call.

        Raises:
            ValueError: A mask is given.
        """
        if attn_mask is not None:
            raise ValueError("attn_mask must be None: linear attention has no scores to mask")
        dim = x.shape[-1]
        q, k, v = self.qkv(x).split([dim // 2, dim // 2, dim], -1)
        g = F.logsigmoid(self.gate(x).to(torch.promote_types(x.dtype, torch.float32))) / self.gate_root
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v, g)]
        y = self._mix(*heads)
        if self.bidirectional and not is_causal:
            y = (y + self._mix(*(part.flip(2) for part in heads)).flip(2)) / 2
        y = self.norm(y.to(x.dtype)).transpose(1, 2).flatten(2)
        return self.proj(y * F.silu(self.out_gate(x)))

    def _mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        if _uses_fla(q):
            from fla.ops.gla import chunk_gla

            out: torch.Tensor = chunk_gla(*(part.transpose(1, 2).contiguous() for part in (q, k, v, g)))[0]
            return out.transpose(1, 2)
        wide = torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):  # the state is a long sum
            return gated_linear_attention(q.to(wide), k.to(wide), v.to(wide), g.to(wide))[0]

    def extra_repr(self) -> str:
        """The settings that are not visible in the children."""
        return f"num_heads={self.num_heads}, bidirectional={self.bidirectional}, gate_root={self.gate_root}"
