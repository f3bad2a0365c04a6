"""The vision transformer that a Raptor follows: building it, its weights, its layout and its states.

See `blockzoo.raptor`.
"""

from typing import Any

import torch
from timm.models import VisionTransformer
from torch import nn

from blockzoo import checkpoints
from blockzoo._arguments import positive
from blockzoo._builder import create_model

__all__ = [
    "adds_positions_as_timm",
    "as_vit",
    "embed_tokens",
    "layout_of",
    "load_teacher",
    "load_whole",
    "new_vit",
    "teacher_trajectory",
]


def embed_tokens(vit: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    """What a timm ViT's first layer sees of images: (B, prefix + patches, embed_dim)."""
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))


def teacher_trajectory(vit: VisionTransformer, x: torch.Tensor) -> list[torch.Tensor]:
    """The depth + 1 states of a timm ViT on images, before the final norm; the first are the embedded tokens."""
    states = [embed_tokens(vit, x)]
    for block in vit.blocks:
        states.append(block(states[-1]))
    return states


def load_whole(model: nn.Module, weights: dict[str, Any], what: str) -> None:
    """Load weights that must be those of the whole model.

    Args:
        model: The model.
        weights: Tensors by name.
        what: What they are from, for the message.

    Raises:
        ValueError: A name is missing or not the model's, or a shape differs; the message names the first.
    """
    own = model.state_dict()
    for name in (*own, *weights):
        if name not in weights:
            wrong = f"lacks {name}"
        elif name not in own:
            wrong = f"has {name}, which the model has not"
        elif weights[name].shape != own[name].shape:
            wrong = f"has {tuple(weights[name].shape)} as {name}, the model {tuple(own[name].shape)}"
        else:
            continue
        raise ValueError(f"{what} does not fit a {type(model).__name__} of this size: it {wrong}")
    model.load_state_dict(weights)


def load_teacher(name: str, pretrained: bool, checkpoint_path: str | None, kwargs: dict[str, Any]) -> nn.Module:
    name = name.removeprefix("timm:")
    vit: nn.Module = create_model(f"timm:{name}", pretrained=pretrained and not checkpoint_path, **kwargs)
    if checkpoint_path:
        load_whole(vit, checkpoints.load_state_dict(checkpoint_path), f"teacher_checkpoint={checkpoint_path!r}")
    return vit


def as_vit(teacher: nn.Module) -> VisionTransformer:
    if not isinstance(teacher, VisionTransformer):
        raise TypeError(f"teacher={str(teacher)[:80]!r} is a {type(teacher).__name__}, not a timm VisionTransformer")
    return teacher


def new_vit(
    embed_dim: int, num_heads: int, patch_size: int, class_token: bool, reg_tokens: int, options: dict[str, Any]
) -> VisionTransformer:
    """A ViT without layers, in the form of DINOv2."""
    positive(embed_dim=embed_dim, num_heads=num_heads, patch_size=patch_size)
    form: dict[str, Any] = {"no_embed_class": reg_tokens > 0, "fc_norm": False}
    form |= {"global_pool": "token" if class_token else "avg", **options}
    return VisionTransformer(
        patch_size=patch_size,
        embed_dim=embed_dim,
        num_heads=num_heads,
        class_token=class_token,
        reg_tokens=reg_tokens,
        depth=0,
        **form,
    )


def layout_of(vit: Any, depth: int | None, embed_dim: int | None, num_heads: int | None) -> tuple[int, int, int]:
    """Layers, channels and heads of a teacher, which must agree with the requested ones, if any."""
    found = {"depth": len(vit.blocks), "embed_dim": vit.embed_dim, "num_heads": vit.blocks[0].attn.num_heads}
    asked = {"depth": depth, "embed_dim": embed_dim, "num_heads": num_heads}
    for name, value in asked.items():
        if value is not None and value != found[name]:
            raise ValueError(f"{name}={value} contradicts the teacher, a {type(vit).__name__} of {name} {found[name]}")
    return found["depth"], found["embed_dim"], found["num_heads"]


def adds_positions_as_timm(vit: VisionTransformer) -> bool:
    """Whether the embedding is that of timm's plain ViT with positions for any size, which `Raptor.embed` repeats."""
    plain = type(vit)._pos_embed is VisionTransformer._pos_embed
    return plain and vit.dynamic_img_size and vit.pos_embed is not None
