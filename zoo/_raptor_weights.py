"""Layouts of Raptor's published weights.

See `blockzoo.raptor`.
"""

from typing import Any

from timm.layers import resample_abs_pos_embed

__all__ = ["convert"]


def convert(state_dict: dict[str, Any], model: Any) -> dict[str, Any]:
    """See `blockzoo.raptor.Raptor.convert_state_dict`."""
    if "norm1.weight" in state_dict:
        if len(model.blocks) != 1:
            raise ValueError(
                f"state_dict holds one block, the model has {len(model.blocks)}: put 'blocks.N.' before its names"
            )
        state_dict = {f"blocks.0.{name}": value for name, value in state_dict.items()}
    if any(name.startswith("dino.") for name in state_dict):
        return _from_official(state_dict, model)
    state_dict = {name.removeprefix("raptor."): value for name, value in state_dict.items()}
    if state_dict and all(name.startswith("blocks.") for name in state_dict):
        rest = {name: value for name, value in model.state_dict().items() if not name.startswith("blocks.")}
        return {**rest, **state_dict}
    return state_dict


def _from_official(state_dict: dict[str, Any], model: Any) -> dict[str, Any]:
    vit = model.vit
    converted: dict[str, Any] = {}
    for name, value in state_dict.items():
        head, _, rest = name.partition(".")
        if head == "raptor":
            converted[rest] = value
        elif head == "classifier":
            converted[f"head.{rest}" if model.joint_pool else f"vit.head.{rest}"] = value
        elif rest != "mask_token":  # of DINOv2's training
            converted[f"vit.{rest.replace('register_tokens', 'reg_token')}"] = value
    positions = converted["vit.pos_embed"]
    if vit.no_embed_class:  # only patches have a position there
        converted["vit.cls_token"] = converted["vit.cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    converted["vit.pos_embed"] = resample_abs_pos_embed(positions, vit.patch_embed.grid_size, num_prefix_tokens=prefix)
    return converted
