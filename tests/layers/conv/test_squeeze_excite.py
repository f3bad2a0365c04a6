"""Squeeze-and-excitation in its three forms."""

import pytest
import torch

from blockzoo.layers.conv.squeeze_excite import create_se


@pytest.mark.parametrize("space", [(5, 3), (2, 4, 3)])
@pytest.mark.parametrize("name", ["cse", "sse", "scse"])
def test_gates_act_where_they_should(name, space):
    layer = create_se(name, 6, dtype=torch.double)
    x = torch.randn(2, 6, *space, dtype=torch.double, requires_grad=True)
    ratio = layer(x) / x
    assert ratio.shape == x.shape and 0 < ratio.min() and ratio.max() < 1
    flat = ratio.flatten(2)
    if name == "cse":
        torch.testing.assert_close(flat, flat[..., :1].expand_as(flat))
    if name == "sse":
        torch.testing.assert_close(flat, flat[:, :1].expand_as(flat))
    assert torch.autograd.gradcheck(layer, x)


def test_concurrent_form_is_the_larger_of_the_two():
    layer = create_se("scse", 4)
    x = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(layer(x), torch.maximum(layer.cse(x), layer.sse(x)))


def test_names():
    assert isinstance(create_se(None, 3), torch.nn.Identity)
    with pytest.raises(ValueError, match="se='se' must be None or one of cse, sse, scse"):
        create_se("se", 3)
