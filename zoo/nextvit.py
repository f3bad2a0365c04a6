"""Next-ViT: convolution blocks and transformer blocks in one hierarchy.

Source: "Next-ViT: Next Generation Vision Transformer for Efficient Deployment in Realistic Industrial Scenarios"
(2022), sections 3.2 to 3.5, and its code (bytedance/Next-ViT), whose outputs these models reproduce from the same
weights.

What differs from that code: queries, keys and values are one or two 1x1 convolutions; batch norms know the four modes
of `blockzoo.layers.conv.conv_norm_act`; any number of input channels; `deploy()` leaves no batch norm but the final
one.
"""

import re
from typing import Any

import torch
from timm.layers import ClassifierHead, DropPath, calculate_drop_path_rates, make_divisible, trunc_normal_
from timm.models._registry import generate_default_cfgs
from torch import nn

from blockzoo._about import FamilyAbout, Small
from blockzoo._arguments import positive, same_length
from blockzoo._builder import build_model
from blockzoo._image_model import ImageModel, image_cfg, image_cfgs
from blockzoo._model import ZooModel
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model
from blockzoo.layers.attention.pooled import PooledAttention
from blockzoo.layers.conv.conv_norm_act import ConvNormAct, ModalBatchNorm2d, NormConv
from blockzoo.layers.conv.deployed_conv import DeployedConv2d
from blockzoo.layers.conv.squeeze_excite import create_se

__all__ = ["NextViT"]

about = FamilyAbout(
    title="Next-ViT",
    purpose=(
        "Classifies images, and is a backbone for other tasks, where time on the device counts. Convolutions do "
        "most of the work, and at the end of each stage a transformer block sees the whole image."
    ),
    paper="Next-ViT",
    year=2022,
    small=(Small("nextvit_cifar", ("nextvit_*",)),),
)


class PatchEmbed(nn.Module):
    """Change width and resolution before a block: average pool, 1x1 convolution and norm, where needed."""

    def __init__(self, in_chans: int, out_chans: int, stride: int = 1, **dd: Any) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
        changes = stride == 2 or in_chans != out_chans
        self.conv = ConvNormAct(in_chans, out_chans, 1, act_layer=None, **dd) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, out_chans, H', W'), where a stride of 2 halves sizes, rounded up."""
        return self.conv(self.pool(x))


class ConvAttention(nn.Module):
    """Multi-head convolutional attention, section 3.2, equation 3: a grouped 3x3 convolution and a projection."""

    def __init__(self, chans: int, head_dim: int, **dd: Any) -> None:
        super().__init__()
        self.group_conv = ConvNormAct(chans, chans, 3, groups=chans // head_dim, **dd)
        self.proj = nn.Conv2d(chans, chans, 1, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, chans, H, W) -> (B, chans, H, W)."""
        return self.proj(self.group_conv(x))


class NormMlp(nn.Module):
    """Batch norm and a two-layer perceptron on each position; the hidden width is rounded to a multiple of 32."""

    def __init__(self, chans: int, ratio: float, drop: float, **dd: Any) -> None:
        super().__init__()
        hidden = int(make_divisible(chans * ratio, 32))
        self.fc1 = NormConv(chans, hidden, **dd)
        self.act: nn.Module = nn.ReLU(inplace=True)
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Conv2d(hidden, chans, 1, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, chans, H, W) -> (B, chans, H, W)."""
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))

    def fuse(self) -> None:
        """Let the first convolution apply the activation."""
        if not isinstance(self.act, nn.Identity):
            self.fc1.conv = DeployedConv2d(self.fc1.conv, self.act)
            self.act = nn.Identity()


class NextConvBlock(nn.Module):
    """Convolution block, section 3.2."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        stride: int,
        head_dim: int,
        mlp_ratio: float,
        drop_path: float,
        drop: float,
        se: str | None,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_chans, out_chans, stride, **dd)
        self.mhca = ConvAttention(out_chans, head_dim, **dd)
        self.drop_path1 = DropPath(drop_path)
        self.mlp = NormMlp(out_chans, mlp_ratio, drop, **dd)
        self.se = create_se(se, out_chans, **dd)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, out_chans, H', W')."""
        x = self.patch_embed(x)
        x = x + self.drop_path1(self.mhca(x))
        return x + self.drop_path2(self.se(self.mlp(x)))


class NextTransformerBlock(nn.Module):
    """Transformer block, section 3.3: attention on most channels, convolutional attention on the rest."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        stride: int,
        head_dim: int,
        sr_ratio: int,
        mix_ratio: float,
        mlp_ratio: float,
        drop_path: float,
        drop: float,
        attn_drop: float,
        se: str | None,
        **dd: Any,
    ) -> None:
        super().__init__()
        attn_chans = int(make_divisible(out_chans * mix_ratio, 32))
        conv_chans = out_chans - attn_chans
        if conv_chans < head_dim:
            raise ValueError(
                f"attn_chans={out_chans} with mix_ratio={mix_ratio} leaves {conv_chans} channels to convolutions, "
                f"it must leave at least head_dim={head_dim}"
            )
        self.patch_embed = PatchEmbed(in_chans, attn_chans, stride, **dd)
        self.attn = PooledAttention(attn_chans, head_dim, sr_ratio**2, attn_drop, drop, **dd)
        self.drop_path1 = DropPath(drop_path * mix_ratio)
        self.projection = ConvNormAct(attn_chans, conv_chans, 1, act_layer=None, **dd)
        self.mhca = ConvAttention(conv_chans, head_dim, **dd)
        self.drop_path2 = DropPath(drop_path * (1 - mix_ratio))
        self.mlp = NormMlp(out_chans, mlp_ratio, drop, **dd)
        self.se = create_se(se, out_chans, **dd)
        self.drop_path3 = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, out_chans, H', W')."""
        x = self.patch_embed(x)
        x = x + self.drop_path1(self.attn(x))
        y = self.projection(x)
        y = y + self.drop_path2(self.mhca(y))
        x = torch.cat([x, y], 1)
        return x + self.drop_path3(self.se(self.mlp(x)))


class NextStage(nn.Module):
    """Blocks at one resolution."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            for block in self.blocks:
                x = recomputed(block, x)
            return x
        return self.blocks(x)


class NextViT(ImageModel):
    """The Next-ViT network.

    Args:
        num_classes: Classes; 0 for none.
        in_chans: Channels of the images.
        global_pool: Pooling before the classifier, as in timm.
        stem_chans: Channels of the 3x3 convolutions of the stem.
        stem_strides: Strides of the stem's convolutions.
        depths: Blocks of each stage.
        conv_chans: Width of each stage's convolution blocks, multiples of `head_dim`.
        attn_chans: Width of each stage's transformer blocks, None for a stage that has none.
        group: Blocks of stage 3 between transformer blocks, counting those; in the other stages the last block is one.
        strides: Stride of each stage, 1 or 2.
        sr_ratios: Root of the number of positions that share a key, for each stage.
        head_dim: Width of an attention head and of a convolution group.
        mix_ratio: Share of a transformer block's channels that attention gets, rounded to a multiple of 32.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout in the blocks.
        attn_drop_rate: Dropout of attention weights.
        se: Squeeze-and-excitation at the end of every block: "cse", "sse", "scse", or None as published.
        device: Device of the parameters.
        dtype: Type of the parameters.

    An image must be large enough for stage 2 to have `sr_ratios[1]` squared positions, 32 x 25 px for instance; in
    stages with pooled keys the positions beyond the last full run are not attended to, as published.
    """

    cache_stages = 2

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        stem_chans: tuple[int, ...] = (64, 32, 64, 64),
        stem_strides: tuple[int, ...] = (2, 1, 1, 2),
        depths: tuple[int, ...] = (3, 4, 10, 3),
        conv_chans: tuple[int, ...] = (96, 192, 384, 768),
        attn_chans: tuple[int | None, ...] = (None, 256, 512, 1024),
        group: int = 5,
        strides: tuple[int, ...] = (1, 2, 2, 2),
        sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
        head_dim: int = 32,
        mix_ratio: float = 0.75,
        drop_path_rate: float = 0.1,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        se: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_classes, in_chans)
        positive(stem_chans=stem_chans, stem_strides=stem_strides, depths=depths, conv_chans=conv_chans, group=group)
        positive(strides=strides, sr_ratios=sr_ratios, head_dim=head_dim)
        same_length(stem_chans=stem_chans, stem_strides=stem_strides)
        same_length(depths=depths, conv_chans=conv_chans, attn_chans=attn_chans, strides=strides, sr_ratios=sr_ratios)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        widths = [in_chans, *stem_chans]
        self.stem = nn.Sequential(
            *(ConvNormAct(widths[i], widths[i + 1], 3, stride, **dd) for i, stride in enumerate(stem_strides))
        )
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        chans, reduction = stem_chans[-1], 1
        for stride in stem_strides:
            reduction *= stride
        stages: list[nn.Module] = []
        for i, depth in enumerate(depths):
            period = group if i == 2 else depth
            blocks: list[nn.Module] = []
            for j in range(depth):
                stride = strides[i] if j == 0 else 1
                width = attn_chans[i]
                if width is not None and (j + 1) % period == 0:
                    options = {"drop": proj_drop_rate, "attn_drop": attn_drop_rate, "se": se, **dd}
                    block: nn.Module = NextTransformerBlock(
                        chans, width, stride, head_dim, sr_ratios[i], mix_ratio, 2.0, rates[i][j], **options
                    )
                else:
                    width = conv_chans[i]
                    options = {"drop": proj_drop_rate, "se": se, **dd}
                    block = NextConvBlock(chans, width, stride, head_dim, 3.0, rates[i][j], **options)
                blocks.append(block)
                chans = width
            stages.append(NextStage(blocks))
            reduction *= strides[i]
            self.feature_info.append({"num_chs": chans, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = chans
        self.norm = ModalBatchNorm2d(chans, **dd)
        self.head = ClassifierHead(chans, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """Convert the official layout (also wrapped under "model") or timm's to ours; ours is returned unchanged.

        Official blocks are numbered through all stages; timm's by stage.
        """
        state_dict = state_dict.get("model", state_dict)
        if any(".mhca.group_conv." in name for name in state_dict):
            return state_dict
        assert isinstance(model, NextViT)
        return _merge_attention({_rename(name, model): value for name, value in state_dict.items()})


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAMES = (
    (r"^proj_head\.0\.", "head.fc."),
    (r"\.mlp\.conv(\d)\.", r".mlp.fc\1."),
    (r"\.patch_embed\.(conv|norm)\.", r".patch_embed.conv.\1."),
    (r"\.mhca\.group_conv3x3\.", ".mhca.group_conv.conv."),
    (r"\.mhca\.norm\.", ".mhca.group_conv.norm."),
    (r"\.mhca\.projection\.", ".mhca.proj."),
    (r"\.e_mhsa\.norm\.", ".attn.kv_norm."),
    (r"\.e_mhsa\.", ".attn."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.attn.norm."),
    (r"(blocks\.\d+)\.norm2?\.", r"\1.mlp.fc1.norm."),
    (r"\.mlp\.fc1\.(weight|bias)$", r".mlp.fc1.conv.\1"),
)
"""What official and timm names become, one after the other, once blocks are numbered by stage."""


def _rename(name: str, model: NextViT) -> str:
    match = re.match(r"features\.(\d+)\.(.*)", name)
    if match:
        index = int(match[1])
        for i, stage in enumerate(model.stages):
            depth = len(stage.blocks)  # type: ignore[arg-type]
            if index < depth:
                name = f"stages.{i}.blocks.{index}.{match[2]}"
                break
            index -= depth
    for pattern, new in _RENAMES:
        name = re.sub(pattern, new, name)
    return name


def _merge_attention(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Stack separate linear q, k, v into the convolutions of `PooledAttention`."""
    merged: dict[str, Any] = {}
    for name, value in state_dict.items():
        match = re.fullmatch(r"(.*\.attn)\.(q|k|v|proj)\.(weight|bias)", name)
        if not match:
            merged[name] = value
            continue
        prefix, part, kind = match.groups()
        pooled = f"{prefix}.kv_norm.weight" in state_dict
        parts = {"proj": ("proj",), "q": ("q",) if pooled else ("q", "k", "v"), "k": ("k", "v") if pooled else ()}
        if sources := parts.get(part):
            tensor = torch.cat([state_dict[f"{prefix}.{source}.{kind}"] for source in sources])
            target = part if len(sources) == 1 else "".join(sources)
            merged[f"{prefix}.{target}.{kind}"] = tensor[..., None, None] if kind == "weight" else tensor
    return merged


def _cfg(**kwargs: Any) -> Any:
    return image_cfg(**{"first_conv": "stem.0.conv", "crop_pct": 0.95, **kwargs})


default_cfgs = generate_default_cfgs(
    image_cfgs(
        {
            "nextvit_small": _cfg(),
            "nextvit_base": _cfg(),
            "nextvit_large": _cfg(),
            "nextvit_cifar": _cfg(
                input_size=(3, 32, 32), pool_size=(4, 4), num_classes=10, crop_pct=1.0, interpolation="bilinear"
            ),
        }
    )
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> Any:
    feature_cfg = {"flatten_sequential": True, "out_indices": kwargs.pop("out_indices", (0, 1, 2, 3))}
    return build_model(NextViT, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


@register_model
def nextvit_small(pretrained: bool = False, **kwargs: Any) -> NextViT:
    """Next-ViT-S: 31.8 M parameters, 5.8 GMAC at 224 px."""
    return _create("nextvit_small", pretrained, **{"depths": (3, 4, 10, 3), "drop_path_rate": 0.1, **kwargs})


@register_model
def nextvit_base(pretrained: bool = False, **kwargs: Any) -> NextViT:
    """Next-ViT-B: 44.8 M parameters, 8.3 GMAC at 224 px."""
    return _create("nextvit_base", pretrained, **{"depths": (3, 4, 20, 3), "drop_path_rate": 0.2, **kwargs})


@register_model
def nextvit_large(pretrained: bool = False, **kwargs: Any) -> NextViT:
    """Next-ViT-L: 57.9 M parameters, 10.8 GMAC at 224 px."""
    return _create("nextvit_large", pretrained, **{"depths": (3, 4, 30, 3), "drop_path_rate": 0.2, **kwargs})


@register_model
def nextvit_cifar(pretrained: bool = False, **kwargs: Any) -> NextViT:
    """A small Next-ViT of ours for 32 px: three stages, 0.59 M parameters, 23 MMAC."""
    arch: dict[str, Any] = {"stem_chans": (32, 32), "stem_strides": (2, 1), "depths": (1, 2, 2), "group": 2}
    arch |= {"conv_chans": (32, 64, 96), "attn_chans": (None, 128, 192), "strides": (1, 2, 2), "sr_ratios": (1, 2, 1)}
    arch |= {"drop_path_rate": 0.0, "out_indices": (0, 1, 2)}
    return _create("nextvit_cifar", pretrained, **{**arch, **kwargs})
