"""Raptor: a vision transformer as two to four recurrent blocks.

Source: "Block-Recurrent Dynamics in Vision Transformers" (2025) and the authors' code (KempnerInstitute/raptor). The
layers of a teacher fall into phases; one block for each phase is applied as often as the phase has layers, and every
state in between is trained to match the teacher's. Patch embedding, tokens, positions, final norm and head are the
teacher's: here those of any timm `VisionTransformer`, kept as a submodule `vit` without its layers.

    create_model("raptor", teacher="vit_small_patch16_224", blocks=3)
    create_model("raptor", embed_dim=768, num_heads=12, depth=12, boundaries=(7,))

What differs from the authors' code: any teacher, instead of DINOv2 with registers at base size; classifiers and
features with timm's interface; a merged form for inference. The published SwiGLU of ratio 4 makes the whole model cost
1.31 times the teacher's multiplications; `mlp="gelu"`, or SwiGLU with `mlp_ratio=8/3`, cost as much as the teacher.

Images are (B, in_chans, H, W) of any size that the teacher takes; built by name, that is every size, positions being
interpolated as timm does and borders padded up to whole patches. Away from 518 px, the DINOv2 code interpolates
positions of teachers without registers with another kernel. timm does not reproduce that, and neither do we.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import timm
import torch
import torch.fx
from timm.layers import register_notrace_function, resample_abs_pos_embed
from timm.models._features import feature_take_indices
from timm.models._registry import generate_default_cfgs
from torch import nn
from typing_extensions import Self

from blockzoo._about import FamilyAbout, Small
from blockzoo._arguments import positive
from blockzoo._builder import build_model
from blockzoo._image_model import get_device_dtype, image_cfg, image_cfgs
from blockzoo._model import ZooModel
from blockzoo._raptor_teacher import (
    adds_positions_as_timm,
    as_vit,
    embed_tokens,
    layout_of,
    load_teacher,
    new_vit,
    teacher_trajectory,
)
from blockzoo._raptor_weights import convert
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model, resolve_cfg
from blockzoo.layers.attention.recurrent_block import DeployedRecurrentBlock, RecurrentBlock

__all__ = ["Raptor", "embed_tokens", "equal_boundaries", "teacher_trajectory"]

about = FamilyAbout(
    title="Raptor",
    purpose=(
        "Replaces the layers of a vision transformer by two to four blocks that are applied again and again. It "
        "has far fewer parameters than its teacher, and follows the teacher's states from layer to layer."
    ),
    paper="Block-Recurrent Dynamics in Vision Transformers",
    year=2025,
    small=(
        Small(
            "raptor",
            ("raptor*",),
            {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 56, "num_classes": 10},
        ),
    ),
    train=("blockzoo fit --config raptor/cifar10_teacher", "blockzoo fit --config raptor/cifar10_blocks"),
)

PUBLISHED = {2: (7,), 3: (7, 10), 4: (4, 7, 10)}
"""Last layers of all phases but the final one, for DINOv2-B with registers (12 layers)."""


def equal_boundaries(depth: int, blocks: int) -> tuple[int, ...]:
    """Phases of equal length, up to one layer: the last layer of each phase but the final one, counted from 1.

    Raises:
        ValueError: There are fewer layers than blocks, or no block.
    """
    if not 1 <= blocks <= depth:
        raise ValueError(f"blocks={blocks} must be from 1 to the depth, which is {depth}")
    return tuple(-(-depth * i // blocks) for i in range(1, blocks))


@register_notrace_function
def resampled_positions(
    table: torch.Tensor, height: int, width: int, old_size: tuple[int, int], prefix: int
) -> torch.Tensor:
    """The table of positions (1, prefix + old patches, C) for a grid of height x width patches."""
    positions: torch.Tensor = resample_abs_pos_embed(table, [height, width], list(old_size), prefix)
    return positions


torch.fx.wrap("resampled_positions")  # torch.fx keeps its calls whole, whoever traces


class Raptor(ZooModel):
    """See the module's docstring.

    Args:
        teacher: Name of a timm ViT (`VisionTransformer` and subclasses) or such a model, whose embedding, final norm
            and head are copied; None to build them from the arguments below, in the form of DINOv2.
        teacher_kwargs: Further arguments for building the teacher by name.
        teacher_pretrained: Start from the teacher's published weights.
        teacher_checkpoint: Start from the weights in this file instead.
        blocks: Number of blocks, 2 by default.
        boundaries: The last layer of each phase but the final one, counted from 1, for example from
            `blockzoo.tasks.raptor.segmentation.segment_layers`; phases of equal length by default.
        depth: Layers to stand for; the teacher's, or 12.
        embed_dim: Channels of a token; the teacher's, or 384.
        num_heads: Attention heads of a block; the teacher's, or 6.
        mlp: "swiglu" or "gelu".
        mlp_ratio: Hidden channels of the MLP over `embed_dim`.
        depth_scale: Condition the blocks on the depth.
        init_values: First values of the layer scales; None for no layer scales.
        img_size: Size of the position table in pixels; the teacher's, or 224.
        patch_size: Side of a patch in pixels, without a teacher.
        in_chans: Channels of the images.
        num_classes: Outputs of the classifier, 0 for none; the teacher's, or 1000.
        class_token: Whether there is a class token, without a teacher.
        reg_tokens: Number of register tokens, without a teacher.
        global_pool: What the classifier sees: one of timm's ways ("token", "avg", "map", ...), or "token_avg", the
            class token beside the mean of the patches, as DINOv2's linear heads do; the teacher's way, or "token_avg",
            and "token" without a classifier.
        drop_rate: Dropout before the classifier.

    Attributes:
        bounds: 0, the boundaries and the depth.
        embed_dim: Channels of a token.
        num_prefix_tokens: Class, distillation and register tokens, which come before the patches.

    Raises:
        ValueError: Arguments contradict the teacher, or the boundaries do not increase from 1 to below the depth.
        TypeError: The teacher is no timm `VisionTransformer`.
    """

    task: ClassVar[str] = "classification"
    modality: ClassVar[str] = "image"
    any_size: ClassVar[bool] = True

    if TYPE_CHECKING:  # TorchScript would read these as types of its own
        vit: Any
        blocks: Any
        head: Any
        depth: int
        embed_dim: int

    def __init__(
        self,
        teacher: str | nn.Module | None = None,
        teacher_kwargs: dict[str, Any] | None = None,
        teacher_pretrained: bool = False,
        teacher_checkpoint: str | None = None,
        blocks: int | None = None,
        boundaries: Sequence[int] | None = None,
        depth: int | None = None,
        embed_dim: int | None = None,
        num_heads: int | None = None,
        mlp: Literal["swiglu", "gelu"] = "swiglu",
        mlp_ratio: float = 4.0,
        depth_scale: bool = True,
        init_values: float | None = 1e-5,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int = 14,
        in_chans: int = 3,
        num_classes: int | None = None,
        class_token: bool = True,
        reg_tokens: int = 4,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if global_pool is None and teacher is None and class_token and num_classes != 0:
            global_pool = "token_avg"
        positive(in_chans=in_chans)
        joint = global_pool == "token_avg"

        # The vision transformer without its layers: embedding, final norm and, unless the pooling is ours, the head.
        options: dict[str, Any] = {"in_chans": in_chans, "drop_rate": drop_rate, **dd}
        options |= {"dynamic_img_size": True, "dynamic_img_pad": True}
        chosen = {"img_size": img_size, "num_classes": num_classes, "global_pool": global_pool}
        if joint:
            chosen |= {"num_classes": 0, "global_pool": None}
        options |= {name: value for name, value in chosen.items() if value is not None}
        if teacher is None:
            depth = 12 if depth is None else depth
            embed_dim = 384 if embed_dim is None else embed_dim
            num_heads = 6 if num_heads is None else num_heads
            num_classes = 1000 if num_classes is None else num_classes
            vit = new_vit(embed_dim, num_heads, patch_size, class_token, reg_tokens, options)
        else:
            if isinstance(teacher, nn.Module):
                vit = as_vit(copy.deepcopy(teacher))
                if not joint and (num_classes is not None or global_pool is not None):
                    vit.reset_classifier(vit.num_classes if num_classes is None else num_classes, global_pool)
            else:
                options |= teacher_kwargs or {}
                vit = as_vit(load_teacher(teacher, teacher_pretrained, teacher_checkpoint, options))
                if not joint and num_classes not in (None, vit.num_classes):  # teacher_kwargs chose other classes
                    vit.reset_classifier(num_classes)
            depth, embed_dim, num_heads = layout_of(vit, depth, embed_dim, num_heads)
            num_classes = vit.num_classes if num_classes is None else num_classes
            vit.blocks = nn.Sequential()
        self.vit = vit
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.own_positions = adds_positions_as_timm(vit)

        # One block for each phase between two bounds.
        self.depth, self.embed_dim = depth, embed_dim
        self.bounds = self._bounds(depth, blocks, boundaries)
        self.blocks = nn.ModuleList(
            RecurrentBlock(embed_dim, num_heads, mlp, mlp_ratio, depth_scale, init_values=init_values, **dd)
            for _ in self.bounds[1:]
        )
        if isinstance(teacher, nn.Module):
            self.blocks.to(**get_device_dtype(vit))

        # What timm wants to know of an image model.
        self.in_chans = in_chans
        self.num_classes = 0
        self.num_features = self.head_hidden_size = embed_dim
        reduction = vit.patch_embed.feat_ratio()
        self.feature_info = [
            {"module": f"layers.{i}", "num_chs": embed_dim, "reduction": reduction} for i in range(depth)
        ]
        self.grad_checkpointing = False
        self.deployed = False

        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Identity()
        self.joint_pool = False
        self._set_head(num_classes, "token_avg" if joint else None, reset=joint)

    @staticmethod
    def _bounds(depth: int, blocks: int | None, boundaries: Sequence[int] | None) -> list[int]:
        if boundaries is None:
            boundaries = equal_boundaries(depth, 2 if blocks is None else blocks)
        bounds = [0, *(int(bound) for bound in boundaries), depth]
        if any(low >= high for low, high in zip(bounds, bounds[1:], strict=False)):
            raise ValueError(f"boundaries={tuple(boundaries)} must increase, from 1 to below the depth, {depth}")
        if blocks is not None and len(bounds) != blocks + 1:
            raise ValueError(f"blocks={blocks} needs {blocks - 1} boundaries, boundaries={tuple(boundaries)}")
        return bounds

    def _set_head(self, num_classes: int, global_pool: str | None, reset: bool = True) -> None:
        if global_pool == "token_avg":
            if not self.vit.has_class_token:
                raise ValueError("global_pool='token_avg' needs a teacher with a class token")
            if self.vit.attn_pool is not None:
                raise ValueError("global_pool='token_avg' cannot replace a teacher's attention pooling")
            self.joint_pool = True
        elif global_pool is not None:
            self.joint_pool = False
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} must be 0 (no classifier) or more")
        self.num_classes = num_classes
        if self.joint_pool:
            width = 2 * self.embed_dim
            self.vit.reset_classifier(0)
            dd = get_device_dtype(self.vit)
            self.head = nn.Linear(width, num_classes, **dd) if num_classes else nn.Identity()
            self.head_hidden_size = width
            if num_classes:
                nn.init.trunc_normal_(self.head.weight, std=0.02)
                nn.init.zeros_(self.head.bias)
        else:
            self.head = nn.Identity()
            self.head_hidden_size = self.embed_dim
            if reset:
                self.vit.reset_classifier(num_classes, global_pool)

    @torch.jit.ignore
    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Normal noise of the size in `pretrained_cfg`."""
        size = getattr(self, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-2:]
        return {"x": self._example(batch_size, self.in_chans, *size, generator=generator)}

    def size_steps(self) -> tuple[int, ...]:
        """See `ZooModel.size_steps`: the size of a patch, along both axes."""
        stride = max(int(info["reduction"]) for info in self.feature_info)
        return (stride, stride)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Positions and tokens."""
        return {f"vit.{name}" for name in ("pos_embed", "cls_token", "dist_token", "reg_token")}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning rates: the embedding, then the blocks."""
        stem = r"^vit\.(?:cls_token|dist_token|reg_token|pos_embed|patch_embed|norm_pre)"
        return {"stem": stem, "blocks": [(r"^blocks\.(\d+)", None), (r"^vit\.norm", (99999,))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training: compute blocks again in the backward pass instead of storing activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> Any:
        """The last linear layer, or the two of a distilled teacher."""
        return self.head if self.joint_pool else self.vit.get_classifier()

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier with a new one.

        Args:
            num_classes: Its outputs; 0 for none.
            global_pool: "token_avg", or one of timm's ways; None keeps the present pooling.
        """
        self._set_head(num_classes, global_pool)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embed images as tokens (B, prefix + patches, embed_dim)."""
        vit = self.vit
        patches = vit.patch_embed(x)
        tokens = self._with_positions(patches) if self.own_positions else vit._pos_embed(patches)
        return vit.norm_pre(vit.patch_drop(tokens))

    def _with_positions(self, patches: torch.Tensor) -> torch.Tensor:
        """As timm's `_pos_embed`, in a form that torch.fx can trace and that takes an empty batch.

        Args:
            patches: (B, height, width, embed_dim).
        """
        vit = self.vit
        batch, height, width = patches.shape[0], patches.shape[1], patches.shape[2]
        prefix = 0 if vit.no_embed_class else self.num_prefix_tokens
        positions = resampled_positions(vit.pos_embed, height, width, vit.patch_embed.grid_size, prefix)
        tokens = []
        if vit.cls_token is not None:
            tokens.append(vit.cls_token.expand(batch, -1, -1))
        if vit.reg_token is not None:
            tokens.append(vit.reg_token.expand(batch, -1, -1))
        x = patches.flatten(1, 2)
        if vit.no_embed_class:
            x = torch.cat(tokens + [x + positions], 1)  # TorchScript unpacks no lists
        else:
            x = torch.cat(tokens + [x], 1) + positions
        return vit.pos_drop(x)

    def _step(self, block: nn.Module, x: torch.Tensor, depth: int) -> torch.Tensor:
        if self.grad_checkpointing and self.training:
            y: torch.Tensor = recomputed(block, x, depth)
            return y
        return block(x, depth)

    def forward_trajectory(self, x: torch.Tensor) -> list[torch.Tensor]:
        """All states of a free run, before the final norm.

        Args:
            x: Embedded tokens (B, N, embed_dim), or images (B, in_chans, H, W), which are embedded.

        Returns:
            depth + 1 states (B, N, embed_dim), the first being the tokens.
        """
        if x.ndim == 4:
            x = self.embed(x)
        states = [x]
        for i, block in enumerate(self.blocks):
            for layer in range(self.bounds[i], self.bounds[i + 1]):
                x = self._step(block, x, layer + 1)
                states.append(x)
        return states

    @torch.jit.ignore
    def block_of(self, depth: int) -> int:
        """Index of the block that stands for layer `depth`, counted from 1."""
        if not 1 <= depth <= self.depth:
            raise ValueError(f"depth={depth} must be from 1 to {self.depth}")
        return sum(depth > bound for bound in self.bounds[1:-1])

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Compute the states after the chosen layers, and the output of `forward_features`.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Which layers, from 0: the last n for a number, all for None.
            return_prefix_tokens: Give pairs of patch and prefix tokens.
            norm: Apply the final norm to all.
            stop_early: Stop behind the last requested layer.
            output_fmt: "NCHW" or "NLC".
            intermediates_only: Leave out the output of `forward_features`.

        Returns:
            The list, or (final, list).

        Raises:
            ValueError: Unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r} must be 'NCHW' or 'NLC'")
        take, last = feature_take_indices(self.depth, indices)
        height, width = x.shape[-2:]
        states = []
        x = self.embed(x)
        for i, block in enumerate(self.blocks):
            for layer in range(self.bounds[i], self.bounds[i + 1]):
                if stop_early and layer > last:
                    break
                x = self._step(block, x, layer + 1)
                if layer in take:
                    states.append(self.vit.norm(x) if norm else x)
        prefix = [state[:, : self.num_prefix_tokens] for state in states]
        patches = [state[:, self.num_prefix_tokens :] for state in states]
        if output_fmt == "NCHW":
            rows, columns = self.vit.patch_embed.dynamic_feat_size((height, width))
            patches = [y.transpose(1, 2).unflatten(2, (rows, columns)).contiguous() for y in patches]
        results: list[Any] = list(zip(patches, prefix, strict=True)) if return_prefix_tokens else patches
        return results if intermediates_only else (self.vit.norm(x), results)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the parts that the requested layers do not need; returns the indices of the layers."""
        take, last = feature_take_indices(self.depth, indices)
        kept = self.block_of(last + 1) + 1
        self.blocks = self.blocks[:kept]
        self.depth = last + 1
        self.bounds = [*self.bounds[:kept], self.depth]
        self.feature_info = self.feature_info[: self.depth]
        if prune_norm:
            self.vit.norm = nn.Identity()
        if prune_head:
            self.vit.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Normed tokens (B, prefix + patches, embed_dim)."""
        x = self.embed(x)
        for i, block in enumerate(self.blocks):
            for layer in range(self.bounds[i], self.bounds[i + 1]):
                if torch.jit.is_scripting():
                    x = block(x, layer + 1)
                else:
                    x = self._step(block, x, layer + 1)
        return self.vit.norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify tokens of `forward_features`; with `pre_logits`, stop before the classifier."""
        if not self.joint_pool:
            return self.vit.forward_head(x, pre_logits)
        x = torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(1)], -1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    @torch.no_grad()
    def deploy(self) -> Self:
        """See `ZooModel.deploy`: blocks become `blockzoo.layers.attention.recurrent_block.DeployedRecurrentBlock`."""
        super().deploy()
        if not self.deployed:
            spans = zip(self.blocks, self.bounds, self.bounds[1:], strict=False)
            merged = [DeployedRecurrentBlock(block, low + 1, high) for block, low, high in spans]
            self.blocks = nn.ModuleList(merged).eval()
            self.deployed = True
        return self

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """Convert the layouts of the authors' code to ours.

        - A whole model: "raptor.", "dino." and "classifier." in front; positions are resampled to the model's table.
        - Blocks alone ("blocks.0." ...), as that code saves a Raptor: everything else stays as it is in `model`.
        - One block, as it saves a block of the first training stage: for a model of one block.

        Raises:
            ValueError: One block alone, for a model of several.
        """
        assert isinstance(model, Raptor)
        return convert(state_dict, model)


def _cfg(**kwargs: Any) -> Any:
    shared: dict[str, Any] = {"num_classes": None, "none_args": ("init_values",), "pool_size": None}
    return image_cfg(**{**shared, "first_conv": "vit.patch_embed.proj", "classifier": "head", **kwargs})


_DINOV2: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_PRESETS = [f"raptor{k}_vit_{size}_patch14_reg4_dinov2" for size in ("small", "base") for k in (2, 3, 4)]

_CIFAR: dict[str, Any] = {
    "teacher": "vit_tiny_patch16_224",
    "teacher_kwargs": {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 8, "num_heads": 3},
    "mlp": "gelu",
    "init_values": 0.1,
    "num_classes": 10,
}
"""Of the students of configs/raptor/cifar10_teacher.yaml."""

default_cfgs = generate_default_cfgs(
    image_cfgs(
        {
            **{name: _cfg(**_DINOV2) for name in ("raptor", *_PRESETS)},
            "raptor_cifar": _cfg(input_size=(3, 32, 32), num_classes=10, classifier="vit.head"),
        }
    )
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> Any:
    feature_cfg = {"feature_cls": "getter", "out_indices": kwargs.pop("out_indices", 3)}
    teacher = kwargs.get("teacher")
    overlay: dict[str, Any] = _preparation(teacher) if isinstance(teacher, str) else {}
    of_teacher = kwargs.get("teacher_kwargs") or {}
    if not isinstance(of_teacher, dict):
        raise ValueError(f"{variant}: teacher_kwargs={of_teacher!r} must be a dictionary")
    if "num_classes" in of_teacher:
        overlay["num_classes"] = of_teacher["num_classes"]
    size = kwargs.get("img_size") or of_teacher.get("img_size")
    if size is not None:
        overlay["input_size"] = (kwargs.get("in_chans", 3), *(size if isinstance(size, Sequence) else (size, size)))
    if teacher is not None and kwargs.get("global_pool") != "token_avg":
        overlay["classifier"] = "vit.head"
    if pretrained or kwargs.get("pretrained_cfg"):  # weights bring how their images were prepared
        of_weights = resolve_cfg(variant, kwargs.get("pretrained_cfg"))
        classes = of_weights.model_args.get("num_classes", overlay.get("num_classes"))
        overlay = {key: value for key, value in overlay.items() if key == "classifier"}
        overlay |= {"num_classes": classes} if of_weights.num_classes is None else {}
    overlay |= kwargs.pop("pretrained_cfg_overlay", None) or {}
    return build_model(
        Raptor, variant, pretrained, feature_cfg=feature_cfg, pretrained_cfg_overlay=overlay or None, **kwargs
    )


def _preparation(teacher: str) -> dict[str, Any]:
    """How images are prepared for a timm model, and how many classes its weights have."""
    cfg = timm.get_pretrained_cfg(teacher.removeprefix("timm:"))
    keys = ("num_classes", "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    return {key: getattr(cfg, key) for key in keys} if cfg is not None else {}


def _published(size: str, blocks: int, pretrained: bool, **kwargs: Any) -> Any:
    teacher = f"vit_{size}_patch14_reg4_dinov2"
    own: dict[str, Any] = {"teacher": teacher, "boundaries": PUBLISHED[blocks]}
    own |= {"num_classes": 1000}
    if kwargs.get("num_classes") != 0:  # without a classifier, the features are the class token
        own["global_pool"] = "token_avg"
    kwargs["pretrained_cfg_overlay"] = {"input_size": (3, 224, 224), **(kwargs.get("pretrained_cfg_overlay") or {})}
    return _create(f"raptor{blocks}_{teacher}", pretrained, **{**own, **kwargs})


@register_model
def raptor(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """A Raptor of any teacher, see `blockzoo.raptor.Raptor`; by default 2 blocks of width 384 for 12 layers."""
    return _create("raptor", pretrained, **kwargs)


@register_model
def raptor2_vit_base_patch14_reg4_dinov2(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """2 blocks for DINOv2-B with registers: 22.0 M parameters (20.5 M without classifier), 30.9 GMAC at 224 px."""
    return _published("base", 2, pretrained, **kwargs)


@register_model
def raptor3_vit_base_patch14_reg4_dinov2(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """3 blocks for DINOv2-B with registers: 31.5 M parameters, 30.9 GMAC at 224 px."""
    return _published("base", 3, pretrained, **kwargs)


@register_model
def raptor4_vit_base_patch14_reg4_dinov2(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """4 blocks for DINOv2-B with registers: 41.0 M parameters, 30.9 GMAC at 224 px."""
    return _published("base", 4, pretrained, **kwargs)


@register_model
def raptor2_vit_small_patch14_reg4_dinov2(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """2 blocks for DINOv2-S with registers, the phases of DINOv2-B: 8.1 GMAC at 224 px."""
    return _published("small", 2, pretrained, **kwargs)


@register_model
def raptor3_vit_small_patch14_reg4_dinov2(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """3 blocks for DINOv2-S with registers, the phases of DINOv2-B: 8.1 GMAC at 224 px."""
    return _published("small", 3, pretrained, **kwargs)


@register_model
def raptor4_vit_small_patch14_reg4_dinov2(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """4 blocks for DINOv2-S with registers, the phases of DINOv2-B: 8.1 GMAC at 224 px."""
    return _published("small", 4, pretrained, **kwargs)


@register_model
def raptor_cifar(pretrained: bool = False, **kwargs: Any) -> Raptor:
    """3 blocks for a ViT of 8 layers and width 96 on 32 x 32 pixels, as many multiplications as the teacher's."""
    if kwargs.get("boundaries") is None and kwargs.get("blocks") is None:
        kwargs["boundaries"] = (2, 5)  # by `blockzoo.tasks.raptor.segmentation`
    return _create("raptor_cifar", pretrained, **{**_CIFAR, **kwargs})
