"""EMOv2 and EMOv1: inverted residual blocks whose expansion is a convolution or an attention.

Source: "EMOv2: Pushing 5M Vision Model Frontier" (2024), section 3, and its code (zhangzjn/EMOv2), whose outputs these
models reproduce from the same weights. `emov1_*` are the predecessors as that code has them, with windows of strided
pixels only and 3x3 kernels in the first two stages; they are not the models of the first paper's own repository.

What differs from that code: `forward` returns logits, not a dictionary; windows of both kinds go through one
scaled-dot-product attention, without loops; projections are not computed for padding; `deploy()`.

One checkpoint serves every `window_size`: no parameter depends on it.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead, DropPath, LayerNorm2d, calculate_drop_path_rates, trunc_normal_
from timm.models._registry import generate_default_cfgs
from torch import nn
from typing_extensions import Self

from blockzoo._about import FamilyAbout, Small
from blockzoo._arguments import positive, same_length
from blockzoo._builder import build_model
from blockzoo._image_model import ImageModel, image_cfg, image_cfgs
from blockzoo._model import ZooModel
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model
from blockzoo.kernels._dispatch import use_kernel
from blockzoo.kernels.separable_conv import separable_conv
from blockzoo.layers.attention.window import WindowAttention
from blockzoo.layers.conv.conv_norm_act import ConvNormAct, NormConv, fold_before, replace_parameters
from blockzoo.layers.conv.deployed_conv import DeployedConv2d
from blockzoo.layers.conv.squeeze_excite import create_se

__all__ = ["EMOv2"]

about = FamilyAbout(
    title="EMOv2",
    purpose=(
        "Image classifiers and backbones of few parameters, for phones and other small devices. They consist of "
        "one kind of block, whose middle is a convolution or an attention among near and far pixels."
    ),
    paper="EMOv2",
    year=2024,
    small=(Small("emov2_cifar", ("emov1_*", "emov2_*"), {"depths": (1, 1, 2)}),),
)

_EPS = 1e-6


class BatchNormExpand(nn.Module):
    """Batch norm, 1x1 convolution, activation: the expansion of the early stages."""

    def __init__(self, chans: int, mid: int, act_layer: type[nn.Module], **dd: Any) -> None:
        super().__init__()
        self.pair = NormConv(chans, mid, eps=_EPS, **dd)
        self.act: nn.Module = act_layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, chans, H, W) -> (B, mid, H, W)."""
        return self.act(self.pair(x))

    def fuse(self) -> None:
        """Let the convolution apply the activation."""
        if not isinstance(self.act, nn.Identity):
            self.pair.conv = DeployedConv2d(self.pair.conv, self.act)
            self.act = nn.Identity()


class LayerNormExpand(nn.Module):
    """Layer norm over channels, then a 1x1 convolution and activation, or attention: that of the late stages."""

    def __init__(
        self, chans: int, mid: int, act_layer: type[nn.Module], attn: dict[str, Any] | None, **dd: Any
    ) -> None:
        super().__init__()
        self.norm = LayerNorm2d(chans, eps=_EPS, **dd)
        if attn is None:
            self.net: nn.Module = nn.Conv2d(chans, mid, 1, **dd)
            self.act: nn.Module = act_layer()
        else:
            self.net = WindowAttention(chans, mid, act_layer=act_layer, **attn, **dd)
            self.act = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, chans, H, W) -> (B, mid, H, W)."""
        return self.act(self.net(self.norm(x)))

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge the norm's scale and shift into what follows, and let the convolution apply the activation."""
        if self.norm.weight is None:
            return
        scale, shift = self.norm.weight, self.norm.bias
        if isinstance(self.net, WindowAttention):
            self.net.fold_input(scale, shift)
        else:
            assert isinstance(self.net, nn.Conv2d)
            replace_parameters(self.net, *fold_before(self.net, scale, shift))
            self.net = DeployedConv2d(self.net, self.act)
            self.act = nn.Identity()
        self.norm.register_parameter("weight", None)
        self.norm.register_parameter("bias", None)


class InvertedResidual(nn.Module):
    """Improved inverted residual block (i2RMB), section 3.2: expand, depthwise convolution, project."""

    def __init__(
        self,
        expand: nn.Module,
        in_chans: int,
        mid: int,
        out_chans: int,
        stride: int,
        kernel_size: int,
        residual: bool,
        init_values: float,
        drop_path: float,
        se: str | None,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.expand = expand
        self.local = ConvNormAct(mid, mid, kernel_size, stride, groups=mid, act_layer=nn.SiLU, eps=_EPS, **dd)
        self.se = create_se(se, mid, **dd)
        self.proj = nn.Conv2d(mid, out_chans, 1, bias=False, **dd)
        self.gamma = nn.Parameter(torch.full((1, out_chans, 1, 1), init_values, **dd))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, out_chans, H', W')."""
        y = self.expand(x)
        if not torch.jit.is_scripting() and self._fuses(y):
            return self._fused(x, y)
        z = self.local(y)
        y = self.proj(self.se(y + z if self.residual else z))
        if self.gamma is not None:
            y = y * self.gamma
        return x + self.drop_path(y) if self.residual else y

    @torch.jit.ignore
    def _fuses(self, y: torch.Tensor) -> bool:
        """Whether all behind the expansion is one kernel."""
        merged = self.gamma is None and self.local.mode == "deploy" and isinstance(self.se, nn.Identity)
        return merged and not self.training and use_kernel("separable_conv", y)

    @torch.jit.ignore
    def _fused(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        conv: Any = self.local.conv
        geometry: dict[str, Any] = {"stride": conv.stride[0], "padding": conv.padding[0], "act_mid": "silu"}
        residual = x if self.residual else None
        weights = (conv.weight, self.proj.weight, conv.bias, self.proj.bias)
        return separable_conv(y, *weights, residual=residual, **geometry, skip=self.residual)

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge the layer scale into the projection."""
        if self.gamma is not None:
            self.proj.weight.mul_(self.gamma.reshape(-1, 1, 1, 1))
            self.register_parameter("gamma", None)


class EMOStage(nn.Module):
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


class EMOv2(ImageModel):
    """The EMOv2 network, and EMOv1 by its arguments.

    The first block of a stage changes width, has no skip connection, and expands by twice the ratio.

    Args:
        num_classes: Classes; 0 for none.
        in_chans: Channels of the images.
        global_pool: Pooling before the classifier, as in timm.
        depths: Blocks of each stage.
        embed_dims: Width of each stage; the stem has half the first.
        ratios: Expansion of each stage.
        head_dims: Channels of an attention head's queries and keys in each stage.
        kernel_sizes: Kernel size of the depthwise convolutions of each stage.
        strides: Stride of each stage.
        attn_stages: Which stages have attention, with layer norm and GELU; the others have batch norm and SiLU.
        window_size: Side of the attention's windows, in pixels; 0 for one window over the whole map. Use 7 for images
            of 224 px, 8 for 256 and 512 px.
        attn_partitions: "close", "remote" or both, see `blockzoo.layers.attention.window`.
        init_values: First value of the layer scale. At the published 1e-6 a fresh model's logits do not depend on its
            input to any visible degree.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0; blocks without a skip have none.
        drop_rate: Dropout before the classifier.
        attn_drop_rate: Dropout of attention weights.
        se: Squeeze-and-excitation of the expanded features: "cse", "sse", "scse", or None as published.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    cache_stages = 2

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 3, 9, 3),
        embed_dims: Sequence[int] = (48, 72, 160, 288),
        ratios: Sequence[float] = (2.0, 3.0, 4.0, 4.0),
        head_dims: Sequence[int] = (16, 24, 32, 32),
        kernel_sizes: Sequence[int] = (5, 5, 5, 5),
        strides: Sequence[int] = (2, 2, 2, 2),
        attn_stages: Sequence[bool] = (False, False, True, True),
        window_size: int = 7,
        attn_partitions: Sequence[str] = ("close", "remote"),
        init_values: float = 1e-6,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        se: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_classes, in_chans)
        positive(depths=depths, embed_dims=embed_dims, head_dims=head_dims, kernel_sizes=kernel_sizes, strides=strides)
        same_length(depths=depths, embed_dims=embed_dims, ratios=ratios, head_dims=head_dims)
        same_length(depths=depths, kernel_sizes=kernel_sizes, strides=strides, attn_stages=attn_stages)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        chans = embed_dims[0] // 2
        options: dict[str, Any] = {"act_layer": nn.SiLU, "eps": _EPS, **dd}
        self.stem = nn.Sequential(
            ConvNormAct(in_chans, chans, 3, 2, bias=True, **options),
            ConvNormAct(chans, chans, 3, groups=chans, **options),
            nn.Conv2d(chans, chans, 1, bias=False, **dd),
        )
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        reduction, stages = 2, []
        for i, depth in enumerate(depths):
            attn = {"window": window_size, "partitions": attn_partitions, "attn_drop": attn_drop_rate}
            blocks: list[nn.Module] = []
            for j in range(depth):
                first = j == 0
                mid = int(chans * (2 * ratios[i] if first else ratios[i]))
                if attn_stages[i]:
                    attn["head_dim"] = head_dims[i]
                    expand: nn.Module = LayerNormExpand(chans, mid, nn.GELU, None if first else attn, **dd)
                else:
                    expand = BatchNormExpand(chans, mid, nn.SiLU, **dd)
                shape = (chans, mid, embed_dims[i], strides[i] if first else 1, kernel_sizes[i], not first)
                blocks.append(InvertedResidual(expand, *shape, init_values, rates[i][j], se, **dd))
                chans = embed_dims[i]
            stages.append(EMOStage(blocks))
            reduction *= strides[i]
            self.feature_info.append({"num_chs": chans, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = chans
        self.norm = LayerNorm2d(chans, eps=_EPS, **dd)
        self.head = ClassifierHead(chans, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    def size_steps(self) -> tuple[int, ...]:
        """See `ZooModel.size_steps`; with attention in windows, a program is for one size."""
        if any(isinstance(module, WindowAttention) for module in self.modules()):
            raise ValueError(
                f"{type(self).__name__} cuts maps into windows, with a padding that an exported program holds for one "
                "size; write one file for each size, by --size"
            )
        return super().size_steps()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The layer scales, as published."""
        return {name for name, _ in self.named_parameters() if name.endswith("gamma")}

    @torch.no_grad()
    def deploy(self) -> Self:
        """See `ImageModel.deploy`; the stem's last convolution joins the first expansion, both being 1x1."""
        merged = self.deployed
        super().deploy()
        stem: Any = self.stem
        expand: Any = self.stages[0].blocks[0].expand  # type: ignore[index, union-attr]
        if not merged and isinstance(expand, BatchNormExpand):
            last, conv = stem[2], expand.pair.conv
            weight = conv.weight.flatten(1) @ last.weight.flatten(1)
            joined = nn.Conv2d(last.in_channels, conv.out_channels, 1, device="meta")
            replace_parameters(joined, weight[..., None, None], conv.bias)  # type: ignore[arg-type]
            expand.pair.conv = DeployedConv2d(joined, conv.act)  # type: ignore[arg-type]
            stem[2] = nn.Identity()
        return self.to(memory_format=torch.channels_last)

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """The official layout, also wrapped under "net" or "net_E" (averaged weights, preferred) -> ours."""
        for key in ("net_E", "net"):
            if isinstance(state_dict.get(key), dict):
                state_dict = state_dict[key]
        if not any(name.startswith("stage0.") for name in state_dict):
            return state_dict
        return {_rename(name): value for name, value in state_dict.items()}


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAMES = (
    (r"^stage0\.2\.conv\.", "stem.2."),
    (r"^stage0\.", "stem."),
    (r"^norm\.norm\.", "norm."),
    (r"^head\.", "head.fc."),
    (r"\.norm\.norm\.", ".expand.norm."),
    (r"(stages\.\d+\.blocks\.\d+)\.norm\.", r"\1.expand.pair.norm."),
    (r"\.eops\.0\.(qk|v)\.conv\.", r".expand.net.\1."),
    (r"\.conv_local\.", ".local."),
    (r"\.proj\.conv\.", ".proj."),
    (r"\.ls\.gamma$", ".gamma"),
)
"""What official names become, one after the other, once stages are numbered from 0."""


def _rename(name: str) -> str:
    match = re.match(r"stage([1-9])\.(\d+)\.(.*)", name)
    if match:
        stage = int(match[1]) - 1
        name = f"stages.{stage}.blocks.{match[2]}.{match[3]}"
        name = re.sub(r"\.eops\.0\.net\.conv\.", ".expand.pair.conv." if stage < 2 else ".expand.net.", name)
    for pattern, new in _RENAMES:
        name = re.sub(pattern, new, name)
    return name


def _cfg(**kwargs: Any) -> Any:
    return image_cfg(**{"first_conv": "stem.0.conv", "license": "unknown", **kwargs})


_NAMES = ("emov1_1m", "emov1_2m", "emov1_5m", "emov1_20m", "emov2_1m", "emov2_2m", "emov2_5m", "emov2_20m", "emov2_50m")

default_cfgs = generate_default_cfgs(
    image_cfgs(
        {
            **{name: _cfg() for name in _NAMES},
            "emov2_cifar": _cfg(
                input_size=(3, 32, 32),
                pool_size=(4, 4),
                num_classes=10,
                crop_pct=1.0,
                interpolation="bilinear",
                license="apache-2.0",
            ),
        }
    )
)

_SIZES: dict[str, dict[str, Any]] = {
    "1m": {
        "depths": (2, 2, 8, 3),
        "embed_dims": (32, 48, 80, 180),
        "ratios": (2.0, 2.5, 3.0, 3.5),
        "head_dims": (16, 16, 20, 20),
        "drop_path_rate": 0.04036,
    },
    "2m": {
        "depths": (3, 3, 9, 3),
        "embed_dims": (32, 48, 120, 200),
        "ratios": (2.0, 2.5, 3.0, 3.5),
        "head_dims": (16, 16, 20, 20),
        "drop_path_rate": 0.05,
    },
    "5m": {
        "depths": (3, 3, 9, 3),
        "embed_dims": (48, 72, 160, 288),
        "head_dims": (16, 24, 32, 32),
        "drop_path_rate": 0.05,
    },
    "20m": {
        "depths": (3, 3, 13, 3),
        "embed_dims": (64, 128, 320, 448),
        "head_dims": (16, 32, 32, 32),
        "drop_path_rate": 0.1,
    },
    "50m": {
        "depths": (5, 8, 20, 7),
        "embed_dims": (64, 128, 384, 512),
        "head_dims": (16, 32, 32, 32),
        "drop_path_rate": 0.2,
    },
}


def _create(variant: str, pretrained: bool, **kwargs: Any) -> Any:
    feature_cfg = {"flatten_sequential": True, "out_indices": kwargs.pop("out_indices", (0, 1, 2, 3))}
    return build_model(EMOv2, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


def _create_v2(size: str, pretrained: bool, **kwargs: Any) -> Any:
    return _create(f"emov2_{size}", pretrained, **{**_SIZES[size], **kwargs})


def _create_v1(size: str, pretrained: bool, **kwargs: Any) -> Any:
    of_v1 = {"kernel_sizes": (3, 3, 5, 5), "attn_partitions": ("remote",)}
    return _create(f"emov1_{size}", pretrained, **{**_SIZES[size], **of_v1, **kwargs})


@register_model
def emov2_1m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv2-1M: 1.46 M parameters, 0.28 GMAC at 224 px."""
    return _create_v2("1m", pretrained, **kwargs)


@register_model
def emov2_2m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv2-2M: 2.38 M parameters, 0.48 GMAC at 224 px."""
    return _create_v2("2m", pretrained, **kwargs)


@register_model
def emov2_5m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv2-5M: 5.13 M parameters, 1.03 GMAC at 224 px."""
    return _create_v2("5m", pretrained, **kwargs)


@register_model
def emov2_20m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv2-20M: 20.2 M parameters, 4.00 GMAC at 224 px."""
    return _create_v2("20m", pretrained, **kwargs)


@register_model
def emov2_50m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv2-50M: 49.8 M parameters, 8.77 GMAC at 224 px."""
    return _create_v2("50m", pretrained, **kwargs)


@register_model
def emov1_1m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv1-1M: 1.45 M parameters, 0.24 GMAC at 224 px."""
    return _create_v1("1m", pretrained, **kwargs)


@register_model
def emov1_2m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv1-2M: 2.37 M parameters, 0.43 GMAC at 224 px."""
    return _create_v1("2m", pretrained, **kwargs)


@register_model
def emov1_5m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv1-5M: 5.11 M parameters, 0.93 GMAC at 224 px."""
    return _create_v1("5m", pretrained, **kwargs)


@register_model
def emov1_20m(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """EMOv1-20M: 20.2 M parameters, 3.77 GMAC at 224 px."""
    return _create_v1("20m", pretrained, **kwargs)


@register_model
def emov2_cifar(pretrained: bool = False, **kwargs: Any) -> EMOv2:
    """A small EMOv2 of ours for 32 px: three stages, 0.58 M parameters, 17 MMAC."""
    arch: dict[str, Any] = {"depths": (1, 2, 3), "embed_dims": (32, 64, 160), "ratios": (2.0, 3.0, 3.0)}
    arch |= {"head_dims": (16, 32, 32), "kernel_sizes": (5, 5, 3), "strides": (1, 2, 2), "window_size": 4}
    arch |= {"attn_stages": (False, True, True), "init_values": 1.0, "out_indices": (0, 1, 2)}
    return _create("emov2_cifar", pretrained, **{**arch, **kwargs})
