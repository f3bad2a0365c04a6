"""Conversion of AIRS's TDN checkpoints to our layout."""

import re
from typing import Any

import torch

__all__ = ["from_official"]

_OFFICIAL_NAMES = (
    (r"^atom_embed\.atom_type_lin\.", "embed."),
    (r"^edge_embed\.", "degree."),
    (r"^degree\.proj\.bias$", "degree.bias"),
    (r"^rbf\.", "basis."),
    (r"^force_proj\.", "force_head."),
    (r"^force_head\.(?!linear|bias)", "force_attn."),
    (r"\.affine_", "."),
    (r"\.linear\.weight$", ".weight"),
    (r"\.rad\.offset$", ".radial.fc3.bias"),
    (r"\.rad\.net\.0\.", ".radial.fc1."),
    (r"\.rad\.net\.1\.", ".radial.norm1."),
    (r"\.rad\.net\.3\.", ".radial.fc2."),
    (r"\.rad\.net\.4\.", ".radial.norm2."),
    (r"\.rad\.net\.6\.", ".radial.fc3."),
    (r"\.alpha_dot$", ".alpha"),
    (r"\.merge_src\.", ".sender."),
    (r"\.merge_dst\.", ".receiver."),
    (r"\.ffn\.0\.", ".fc1."),
    (r"\.ffn\.2\.", ".fc2."),
)


def from_official(state_dict: dict[str, Any], model: Any) -> dict[str, Any]:
    """Convert a state dict from AIRS's layout to ours; the names of its compiled blocks work too.

    Consecutive linear maps with nothing between them become one, so our layout has fewer parameters. CP factors are
    left out of a model that has none; entries that the published code does not know keep the model's own values.

    Args:
        state_dict: Tensors by name; one in another layout is returned as it is.
        model: A `blockzoo.tdn.TDN`.

    Raises:
        ValueError: CP factors differ between layers, or an entry has no place in the model.
    """
    state = {name.replace("_orig_mod.", ""): value for name, value in state_dict.items()}
    if not any(name.startswith("atom_embed.") for name in state):
        return state_dict
    out: dict[str, torch.Tensor] = {}
    factors: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if ".cp_tp.cp_" in name:
            if not torch.equal(factors.setdefault(name[-1], value), value):
                raise ValueError(f"{name} differs from other layers' factors; the model has one set for all layers")
            continue
        for pattern, replacement in _OFFICIAL_NAMES:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    own = model.state_dict()
    embed = own["embed.weight"].clone()
    weight = (out.pop("embed.weight") + out.pop("embed.bias").unsqueeze(1)).T
    if weight.shape[1] != embed.shape[1]:
        raise ValueError(f"the published state dict is for hidden_channels={weight.shape[1]}, not {embed.shape[1]}")
    known = min(len(weight), len(embed))
    embed[:known] = weight[:known]
    out["embed.weight"] = embed
    out["has_element"] = torch.arange(len(embed), device=embed.device) < known
    out["degree.scalar"] = out.pop("degree.exp.weight").sum(1) + out.pop("degree.exp.bias").flatten()
    for name in [name for name in out if ".lin_alpha." in name]:
        value, gates = _halves(out.pop(name.replace("lin_alpha", "lin_value")), name)
        logits = out.pop(name)
        out[name.replace("lin_alpha", "scalars")] = torch.cat([logits.reshape(gates.shape), gates])
        out[name.replace("lin_alpha", "value")] = value
    for name in [name for name in out if re.match(r"blocks\.\d+\.fc1\.", name)]:
        out[name], out[name.replace("fc1", "gates")] = _halves(out[name], name)
    if model.product.from_factors:
        out.update({f"product.{kind}": value for kind, value in factors.items()})
    # A model whose forces are gradients has neither a force head nor gates in its last block; the bias of the force
    # head is for l = 0, which nobody reads.
    unread = ("force_", f"blocks.{len(model.blocks) - 1}.gates.")
    unknown = [name for name in out if name not in own and not name.startswith(unread)]
    if unknown:
        raise ValueError(f"the published state dict has entries that the model has not: {', '.join(sorted(unknown))}")
    kept = {}
    for name, value in out.items():
        if name in own:
            kept[name] = value.reshape(own[name].shape) if value.numel() == own[name].numel() else value
    defaults = ("references", "scales", "product.a", "product.b", "product.c")
    return {**{name: own[name] for name in defaults if name in own}, **kept}


def _halves(value: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The two halves of the rows of a weight, or of a bias (1, 2C)."""
    first, second = (value if name.endswith("weight") else value.flatten()).chunk(2)
    return first, second
