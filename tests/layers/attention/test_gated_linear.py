"""Gated linear attention: the chunked form is the recurrence, and the layer mixes tokens."""

import pytest
import torch
from torch import nn

from blockzoo.layers.attention.gated_linear import (
    GatedLinearAttention,
    gated_linear_attention,
    gated_linear_attention_recurrent,
)


def arguments(tokens, keys=3, values=4, strength=1.0):
    q, k, g = (torch.randn(2, 2, tokens, keys, dtype=torch.float64) for _ in range(3))
    return q, k, torch.randn(2, 2, tokens, values, dtype=torch.float64), -strength * g.exp()


@pytest.mark.parametrize("chunk_size", [1, 4, 16])
@pytest.mark.parametrize("tokens", [0, 1, 16, 37])
def test_chunks_equal_the_recurrence(tokens, chunk_size):
    args = arguments(tokens)
    state = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    for one, other in zip(
        gated_linear_attention(*args, state, chunk_size), gated_linear_attention_recurrent(*args, state), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_strong_gates_neither_overflow_nor_lose_the_token_itself():
    args = [part.float().requires_grad_() for part in arguments(40, strength=300.0)]
    out, state = gated_linear_attention(*args)
    (out.sum() + state.sum()).backward()
    assert all(part.grad.isfinite().all() for part in args)
    expected = gated_linear_attention_recurrent(*(part.detach().double() for part in args))[0]
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


def test_gradients():
    args = [part.requires_grad_() for part in arguments(5, 2, 2)]
    assert torch.autograd.gradcheck(lambda *a: gated_linear_attention(*a, chunk_size=3), args)


def test_the_state_continues_a_sequence():
    args = arguments(20)
    whole, end = gated_linear_attention(*args)
    first, state = gated_linear_attention(*(part[:, :, :7] for part in args))
    second, last = gated_linear_attention(*(part[:, :, 7:] for part in args), state)
    torch.testing.assert_close(torch.cat([first, second], 2), whole)
    torch.testing.assert_close(last, end)


def test_direction():
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    changed = torch.cat([x[:, :5], torch.randn(1, 4, 8, dtype=torch.float64)], 1)
    causal = GatedLinearAttention(8, 2, bidirectional=False).double()
    torch.testing.assert_close(causal(x)[:, :5], causal(changed)[:, :5])
    both = GatedLinearAttention(8, 2).double()
    torch.testing.assert_close(both(x, is_causal=True)[:, :5], both(changed, is_causal=True)[:, :5])
    assert (both(x)[:, 0] - both(changed)[:, 0]).abs().max() > 1e-6
    torch.testing.assert_close(both(x.flip(1)), both(x).flip(1))


def test_it_stands_in_for_attention_in_a_vit_block_and_compiles_and_exports():
    from timm.models.vision_transformer import Block

    block = Block(16, 2).eval()
    block.attn = GatedLinearAttention(16, 2)
    x = torch.randn(2, 17, 16)
    with torch.no_grad():
        expected = block(x)
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(block, (x,)).module()
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert (block(x) - expected).abs().max() < 0.1


def test_it_learns_to_carry_a_value_over_the_sequence():
    # The answer at the last token is the sign of the first one, which is marked: out of reach without mixing.
    def draw(count):
        x = torch.randn(count, 20, 2)
        x[..., 1] = torch.arange(20) == 0
        return x, x[:, 0, 0].sign()

    model = nn.Sequential(nn.Linear(2, 8), GatedLinearAttention(8, 2, bidirectional=False), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(100):
        x, sign = draw(32)
        loss = nn.functional.soft_margin_loss(model(x)[:, -1, 0], sign)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, sign = draw(200)
    assert (model(x)[:, -1, 0].sign() == sign).float().mean() > 0.75


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_heads=3 must divide half of dim=8"):
        GatedLinearAttention(8, 3)
    with pytest.raises(ValueError, match="gate_rank=0"):
        GatedLinearAttention(8, 2, gate_rank=0)
    with pytest.raises(ValueError, match="attn_mask must be None"):
        GatedLinearAttention(8, 2)(torch.zeros(1, 3, 8), attn_mask=torch.ones(3, 3))
