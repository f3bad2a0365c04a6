"""Gradient checkpointing changes neither gradients nor buffers, whatever the family."""

import copy

import pytest
import torch

import blockzoo
from blockzoo._registry import small_models

CASES = [
    small
    for small in small_models()
    if blockzoo.get_pretrained_cfg(small.name).modality in ("image", "video", "series")
]
"""Models of one output; those of fields and molecules have tests of their own."""


def step(model, inputs):
    """One training step's gradients and buffers."""
    torch.manual_seed(0)
    output = model(**inputs)
    output.square().mean().backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return grads, {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("small", CASES, ids=lambda small: small.name)
def test_gradients_and_buffers_are_those_without(small):
    plain = blockzoo.create_model(small.name, **small.args).double().train()
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing()
    inputs = plain.example_inputs(2, torch.Generator().manual_seed(1))
    (grads, buffers), (grads_again, buffers_again) = step(plain, inputs), step(again, inputs)
    torch.testing.assert_close(buffers_again, buffers, rtol=0, atol=0)
    torch.testing.assert_close(grads_again, grads, rtol=1e-9, atol=1e-12)


def test_a_compiled_step_counts_a_batch_once():
    model = blockzoo.create_model("nextvit_cifar").train()
    model.set_grad_checkpointing()
    counts = [buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]
    torch.compile(model, backend="aot_eager")(**model.example_inputs(2)).mean().backward()
    assert counts and all(int(count) == 1 for count in counts)


def test_statistics_come_back_after_a_failure():
    model = blockzoo.create_model("nextvit_cifar").train()
    model.set_grad_checkpointing()
    before = dict(model.named_buffers())
    output = model(**model.example_inputs(2))
    handle = model.stages[1].blocks[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.mean().backward()
    handle.remove()
    assert all(buffer is before[name] for name, buffer in model.named_buffers())
