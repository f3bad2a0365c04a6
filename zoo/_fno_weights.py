"""Conversion of weights of neuraloperator 0.3, 1.0 and later to the layout of our models."""

import re
from typing import Any

import torch

from blockzoo.layers.spectral.field_ops import FieldNorm, LocalConv, SoftGate

__all__ = ["convert"]


def convert(state_dict: dict[str, Any], model: Any) -> dict[str, Any]:
    """Convert a state dict of neuraloperator to the layout of `blockzoo.fno.FNO`; ours is returned unchanged.

    neuraloperator's `_metadata`, the constructor's arguments, is left out.

    Raises:
        ValueError: No FNO has an entry of that name, or the ranks of the factors differ from the model's.
    """
    if not any(name.startswith("fno_blocks.") for name in state_dict):
        return {name: value for name, value in state_dict.items() if name != "_metadata"}
    converted: dict[str, Any] = {name: value for name, value in model.named_buffers() if _is_statistic(name)}
    for name, value in state_dict.items():
        if name != "_metadata":
            converted.update(_converted(name, value, model))
    return converted


def _is_statistic(name: str) -> bool:
    return name in ("input_mean", "input_std", "output_mean", "output_std")


_PARTS = {"fr": "real", "fi": "imag"}


def _converted(name: str, value: torch.Tensor, model: Any) -> list[tuple[str, torch.Tensor]]:
    """Our name or names for a tensor of neuraloperator, and the converted tensor."""
    name = re.sub(r"\.(fr|fi)\.", lambda found: f".{_PARTS[found[1]]}.", name)
    if found := re.fullmatch(r"(lifting|projection)(\.real|\.imag)?\.fcs\.(\d)\.(weight|bias)", name):
        return [(f"{found[1]}{found[2] or ''}.layers.{found[3]}.{found[4]}", _matrix(value))]
    if found := re.fullmatch(r"fno_blocks\.(?:channel_)?mlp\.(\d+)(\.real|\.imag)?\.fcs\.(\d)\.(weight|bias)", name):
        return [(f"blocks.{found[1]}.mlp{found[2] or ''}.layers.{found[3]}.{found[4]}", _matrix(value))]
    if found := re.fullmatch(
        r"fno_blocks\.(fno_skips|(?:channel_)?mlp_skips)\.(\d+)(\.real|\.imag)?\.(?:conv\.)?weight", name
    ):
        skip = "fno_skip" if found[1] == "fno_skips" else "mlp_skip"
        place = f"blocks.{found[2]}.{skip}{found[3] or ''}"
        module = _module(model, place)
        if isinstance(module, LocalConv):
            return [(f"{place}.conv.weight", value)]
        return [(f"{place}.weight", value.flatten() if isinstance(module, SoftGate) else _matrix(value))]
    if found := re.fullmatch(r"fno_blocks\.norm\.(\d+)\.(mlp\.\d\.)?(?:norm\.)?(\w+)", name):
        norms = 2 if getattr(model.blocks[0], "norm2", None) is not None else 1
        place = f"blocks.{int(found[1]) // norms}.norm{int(found[1]) % norms + 1}"
        if found[2]:  # maps 0 and 2, with the activation between
            return [(f"{place}.affine.layers.{int(found[2][4]) // 2}.{found[3]}", value)]
        norm = _module(model, place)
        batch = isinstance(norm, FieldNorm) and norm.batch is not None
        return [(f"{place}.batch.{found[3]}" if batch else f"{place}.{found[3]}", value)]
    if name == "fno_blocks.convs.bias":  # 0.3: of all layers
        return [pair for i, bias in enumerate(value) for pair in _converted(f"fno_blocks.convs.{i}.bias", bias, model)]
    if found := re.fullmatch(r"fno_blocks\.convs\.(\d+)\.bias", name):
        bias = value.flatten()
        if model.complex_data:
            bias = torch.stack([bias.real, bias.imag] if bias.is_complex() else [bias, torch.zeros_like(bias)])
        return [(f"blocks.{found[1]}.spectral.bias", bias)]
    if found := re.fullmatch(r"fno_blocks\.convs\.(?:(\d+)\.weight|weight\.(\d+))\.(.+)", name):
        layer = found[1] or found[2]
        return [_spectral(f"blocks.{layer}.spectral.weight.tensor", found[3], value, model)]
    if found := re.fullmatch(r"fno_blocks\.convs\.weight\.(.+)", name):
        return [_spectral("shared_weight.tensor", found[1], value, model)]
    raise ValueError(f"state_dict has {name!r}, which no model of neuraloperator's 0.3 to 2.0 has")


def _matrix(value: torch.Tensor) -> torch.Tensor:
    """Weights of a pointwise convolution as those of a linear map; biases as they are."""
    return value if value.ndim == 1 else value.flatten(1)


def _module(model: Any, place: str) -> Any:
    """The module of that name, or None. If it is None, loading the weights names the entries without a place."""
    module = model
    for part in place.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part, None)
    return module


def _spectral(place: str, part: str, value: torch.Tensor, model: Any) -> tuple[str, torch.Tensor]:
    """Spectral weights or factors as pairs of real numbers; in a dense tensor, modes come before channels."""
    value = torch.view_as_real(value) if value.is_complex() else value
    weight = model.blocks[0].spectral.weight if model.shared_weight is None else model.shared_weight
    tensor, slots = weight.tensor, weight.slots
    dims, stack = len(slots), 0 if weight.layers is None else 1
    if part == "tensor":
        # The last axis may hold as many slots as there are modes, of which the second half is never used.
        value = value[..., : slots[-1], :]
        chans, modes = range(stack, value.ndim - 1 - dims), range(value.ndim - 1 - dims, value.ndim - 1)
        return f"{place}.tensor", value.permute(*range(stack), *modes, *chans, -1).contiguous()
    if part.startswith("factors."):
        index = int(part.removeprefix("factors.factor_"))
        if index == len(tensor.shape) - 1:
            value = value[:, : slots[-1]] if tensor.factorization == "tt" else value[: slots[-1]]
        part = f"factors.{index}"
    ours = dict(tensor.named_parameters()).get(part)
    if ours is not None and ours.shape != value.shape:
        raise ValueError(
            f"{place}.{part} of the state dict has shape {tuple(value.shape)}, the model's {tuple(ours.shape)}; create "
            f"the model with the ranks of the state dict as a list, rank=[..], instead of those that make {tensor.rank}"
        )
    return f"{place}.{part}", value
