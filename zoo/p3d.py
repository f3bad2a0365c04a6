"""P3D: residual networks for video whose 3-D convolutions are split into space and time.

Source: "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks" (2017), sections 3.1 and 3.2, the
authors' Caffe network (ZhaofanQiu/pseudo-3d-residual-networks) and its PyTorch port (qijiezhao/pseudo-3d-pytorch),
whose outputs `semantics="port"` reproduces from the same weights at 16 frames of 160 px.

The network and the port differ. The published weights were trained in the Caffe network: the port's README says that
its files are converted from there. In the Caffe network (deploy_p3d_resnet_*.prototxt, all three files agree)

- blocks B and C apply a ReLU to the sum of their parts and none to the part over time before it;
- blocks C take half of the sum, coefficients 0.5 and 0.5 (`mean_c`; the port's converted files do not change the
  weights after that sum, so they need it too);
- the first pool has no padding and rounds sizes up, and so do the pools over time;
- the last pool is over the whole map.

So tags with published weights are built with `semantics="caffe"` and `mean_c=True`. The default is "port" because code
and weights from users of the port expect it.

What differs from the port: any number of frames and any size, where the port mixes samples of a batch if more than one
frame reaches the last stage, and pools a fixed window of 5 x 5. Here, each remaining frame goes through the last stage
by itself, and the mean over frames and over space is classified.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import ClassifierHead, DropPath, calculate_drop_path_rates, register_notrace_function
from timm.models._features import feature_take_indices
from timm.models._manipulate import adapt_input_conv
from timm.models._registry import generate_default_cfgs
from torch import nn
from typing_extensions import Self

from blockzoo._about import FamilyAbout, Small
from blockzoo._arguments import positive, same_length
from blockzoo._builder import build_model
from blockzoo._cfg import ZooCfg
from blockzoo._image_model import ImageModel, image_cfgs
from blockzoo._model import ZooModel
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model
from blockzoo.layers.conv.pseudo3d import FrameConv, PseudoConv3d, as_clip, as_frames, channels_last_clip, pool_time
from blockzoo.layers.conv.squeeze_excite import create_se

__all__ = ["P3D", "inflate_resnet"]

torch.fx.wrap("_first_pool")  # torch.fx keeps its calls whole, whoever traces
torch.fx.wrap("pool_time")

about = FamilyAbout(
    title="P3D",
    purpose=(
        "Says what happens in a video clip, from its frames or its optical flow. Every 3-D convolution is split "
        "into one over space and one over time, so that it can start from an image network."
    ),
    paper="Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks",
    year=2017,
    small=(Small("p3d_tiny", ("p3d*",)),),
)

Semantics = Literal["port", "caffe"]

_PIXELS_AT_ONCE = 16 * 160 * 160
"""Pixels of the clips that go through a deployed model's first stages together."""


@register_notrace_function
def _first_pool(x: torch.Tensor, round_up: bool) -> torch.Tensor:
    """Maximum over pairs of frames and 3x3 windows of stride 2: padded by one, or unpadded with sizes rounded up."""
    steps = max(1, -(-x.shape[2] // 2) if round_up else x.shape[2] // 2)
    frames = as_frames(pool_time(x, round_up))
    if round_up:
        if min(frames.shape[2:]) < 3:  # a window must fit once
            frames = F.pad(frames, [0, max(0, 3 - frames.shape[3]), 0, max(0, 3 - frames.shape[2])], value=-torch.inf)
        frames = F.max_pool2d(frames, 3, 2, ceil_mode=True)
    else:
        frames = F.max_pool2d(frames, 3, 2, 1)
    return as_clip(frames, steps)


class Stem(nn.Module):
    """Convolution of every frame and the first pool."""

    def __init__(
        self, in_chans: int, chans: int, kernel_size: int, stride: int, round_up: bool, center: bool, **dd: Any
    ) -> None:
        super().__init__()
        self.round_up, self.center = round_up, center
        self.conv = FrameConv(in_chans, chans, kernel_size, stride, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, T, H, W) -> (B, chans, T / 2, H / 4, W / 4)."""
        if self.center:
            x = x - x.mean(2, keepdim=True)
        return _first_pool(self.conv(channels_last_clip(x)), self.round_up)


class Bottleneck(nn.Module):
    """Residual block: 1x1, the pair over space and time (or a 3x3 over space alone), 1x1, and a shortcut."""

    def __init__(
        self,
        in_chans: int,
        mid_chans: int,
        out_chans: int,
        stride: int,
        structure: Literal["A", "B", "C"] | None,
        semantics: Semantics,
        mean_c: bool,
        late_stride: bool,
        se: str | None,
        drop_path: float,
        **dd: Any,
    ) -> None:
        super().__init__()
        first, second = (1, stride) if late_stride else (stride, 1)
        self.reduce = FrameConv(in_chans, mid_chans, 1, first, **dd)
        if structure is None:
            self.conv: nn.Module = FrameConv(mid_chans, mid_chans, 3, second, **dd)
        else:
            self.conv = PseudoConv3d(mid_chans, structure, semantics, mean_c, second, **dd)
        self.expand = FrameConv(mid_chans, out_chans, act_layer=None, **dd)
        self.se = create_se(se, out_chans, **dd)
        self.plain = se is None
        self.drop_path = DropPath(drop_path)
        changes = stride != 1 or in_chans != out_chans
        self.shortcut = FrameConv(in_chans, out_chans, 1, stride, None, **dd) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, T, H, W) -> (B, out_chans, T, H', W')."""
        y = self.conv(self.reduce(x))
        if self.plain and not (self.training and self.drop_path.drop_prob):
            return self.expand.add_relu(y, self.shortcut(x))
        return F.relu(self.drop_path(self.se(self.expand(y))) + self.shortcut(x))


class P3DStage(nn.Module):
    """Maximum over pairs of frames (not in the first stage), then blocks at one resolution."""

    def __init__(self, blocks: list[nn.Module], pools: bool, round_up: bool) -> None:
        super().__init__()
        self.pools, self.round_up = pools, round_up
        self.grad_checkpointing = False
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) -> (B, C', T', H', W')."""
        if self.pools:
            x = pool_time(x, self.round_up)
        for block in self.blocks:
            x = recomputed(block, x) if self.grad_checkpointing and self.training else block(x)
        return x


class P3D(ImageModel):
    """The P3D residual network.

    Clips are (B, in_chans, T, H, W), RGB frames or two channels of optical flow; logits are (B, num_classes). Stages
    give (B, C, T', H', W').

    Args:
        num_classes: Classes; 0 for none.
        in_chans: Channels of the frames: 3 for RGB, 2 for flow.
        global_pool: Pooling over space and the remaining frames, as in timm.
        depths: Blocks of each stage; the last stage has no convolution over time.
        widths: Channels in the middle of each stage's blocks; outputs have `expansion` times as many.
        expansion: See `widths`.
        stem_chans: Filters of the first convolution.
        stem_kernel: Kernel size of the first convolution.
        stem_stride: Stride of the first convolution.
        center_time: Subtract each clip's mean over time from it first, so that only what changes is seen.
        st_struct: Structures of the blocks, taken in turn through all stages but the last: "ABC", "AB", "A", ...
        semantics: "port" or "caffe", see the docstring of this module.
        mean_c: Blocks C take the mean of their two parts, see the docstring of this module.
        late_stride: Strides are in the 3x3 convolutions over space, as in today's ResNets, not in the first 1x1
            convolutions of a block, as published.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        drop_rate: Dropout before the classifier.
        se: Squeeze-and-excitation at the end of every block: "cse", "sse", "scse", or None as published.
        num_frames: Frames of a clip in `pretrained_cfg` and `example_inputs`; the model takes any number.
        img_size: Side of these frames in pixels; the model takes any height and width.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: `st_struct` or `semantics` is unknown, or there are not as many widths as depths.
    """

    modality = "video"
    cache_stages = 2

    def __init__(
        self,
        num_classes: int = 400,
        in_chans: int = 3,
        global_pool: str = "avg",
        depths: tuple[int, ...] = (3, 4, 6, 3),
        widths: tuple[int, ...] = (64, 128, 256, 512),
        expansion: int = 4,
        stem_chans: int = 64,
        stem_kernel: int = 7,
        stem_stride: int = 2,
        center_time: bool = False,
        st_struct: str = "ABC",
        semantics: Semantics = "port",
        mean_c: bool = False,
        late_stride: bool = False,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.5,
        se: str | None = None,
        num_frames: int = 16,
        img_size: int = 160,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_classes, in_chans)
        cycle: Any = "".join(st_struct)
        if not cycle or set(cycle) - set("ABC"):
            raise ValueError(f"st_struct={st_struct!r} must be made of the letters A, B and C")
        if semantics not in ("port", "caffe"):
            raise ValueError(f"semantics={semantics!r} must be 'port' or 'caffe'")
        same_length(depths=depths, widths=widths)
        positive(depths=depths, widths=widths, expansion=expansion, stem_chans=stem_chans, stem_kernel=stem_kernel)
        positive(stem_stride=stem_stride, num_frames=num_frames, img_size=img_size)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.input_size = (in_chans, num_frames, img_size, img_size)
        round_up = semantics == "caffe"
        self.stem = Stem(in_chans, stem_chans, stem_kernel, stem_stride, round_up, center_time, **dd)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        chans, index, reduction = stem_chans, 0, 2 * stem_stride
        stages: list[nn.Module] = []
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks: list[nn.Module] = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                structure = cycle[index % len(cycle)] if i < len(depths) - 1 else None
                rest = (structure, semantics, mean_c, late_stride, se, rates[i][j])
                blocks.append(Bottleneck(chans, width, expansion * width, stride, *rest, **dd))
                chans, index = expansion * width, index + 1
            stages.append(P3DStage(blocks, i > 0, round_up))
            reduction *= 2 if i > 0 else 1
            self.feature_info.append({"num_chs": chans, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.norm = nn.Identity()
        self.num_features = chans
        self.head = ClassifierHead(chans, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Normal noise of the size in `pretrained_cfg`."""
        return {"x": self._example(batch_size, *self.input_size, generator=generator)}

    def size_arguments(self, input_size: Sequence[int]) -> dict[str, Any]:
        """See `ZooModel.size_arguments`."""
        return {"num_frames": int(input_size[1]), "img_size": int(min(input_size[2:]))}

    def size_steps(self) -> tuple[int, ...]:
        """See `ZooModel.size_steps`: the stride over frames, and that in space twice."""
        return (2 ** len(self.feature_info), *super().size_steps())

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Compute the outputs of the stages, and of `forward_features`.

        Args:
            x: Clips (B, in_chans, T, H, W).
            indices: Which stages: the last n for a number, all for None.
            norm: Without effect; there is no final norm.
            stop_early: Stop behind the last requested stage.
            output_fmt: "NCHW" for (B, C, T', H', W'), "NHWC" for (B, T', H', W', C).
            intermediates_only: Leave out the output of `forward_features`.

        Returns:
            The list of stage outputs, or (final, list).

        Raises:
            ValueError: Unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt={output_fmt!r} must be 'NCHW' or 'NHWC'")
        take, last = feature_take_indices(len(self.stages), indices)
        found = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if index in take:
                found.append(x.permute(0, 2, 3, 4, 1) if output_fmt == "NHWC" else x)
        return found if intermediates_only else (x, found)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the last stage, (B, num_features, T', H', W')."""
        return super().forward_features(x)

    def _early(self, x: torch.Tensor) -> torch.Tensor:
        """See `ImageModel._early`; by the size of clips."""
        at_once = max(1, _PIXELS_AT_ONCE // x[0, 0].numel())
        early = self.stages[: self.cache_stages]
        return (
            torch.cat([early(self.stem(part)) for part in x.split(at_once)])
            if len(x) > at_once
            else early(self.stem(x))
        )

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify the output of the last stage; with `pre_logits`, stop before the classifier."""
        return self.head(x.flatten(2, 3), pre_logits=pre_logits)

    @torch.no_grad()
    def deploy(self) -> Self:
        """See `ImageModel.deploy`; the factor of `mean_c` is merged too."""
        super().deploy()
        for module in self.modules():
            if isinstance(module, Bottleneck) and isinstance(module.conv, PseudoConv3d):
                module.conv.absorb_scale(module.expand.layer.conv)
        return self

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """Convert the port's layout (also in "state_dict", with prefix "module.") to ours; ours stays unchanged.

        A 2-D ResNet's state dict works too, see `inflate_resnet`.
        """
        state_dict = state_dict.get("state_dict", state_dict)
        state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
        if not any(name.startswith("layer1.") for name in state_dict):
            return state_dict
        if "conv1_custom.weight" not in state_dict:
            assert isinstance(model, P3D)
            return _inflate(state_dict, model)
        return {_rename(name, _RENAMES): _flatten(value) for name, value in state_dict.items()}


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_RENAMES: tuple[tuple[str, Any], ...] = (
    (r"^fc\.", "head.fc."),
    (r"^conv1_custom\.", "stem.conv.layer.conv."),
    (r"^bn1\.", "stem.conv.layer.norm."),
    (r"^layer(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
    (r"\.downsample\.0\.", ".shortcut.layer.conv."),
    (r"\.downsample\.1\.", ".shortcut.layer.norm."),
    (r"\.(conv|bn)_normal\.", r".conv.layer.\1."),
    (r"\.(conv|bn)1\.", r".reduce.layer.\1."),
    (r"\.(conv|bn)2\.", r".conv.space.layer.\1."),
    (r"\.(conv|bn)3\.", r".conv.time.layer.\1."),
    (r"\.(conv|bn)4\.", r".expand.layer.\1."),
    (r"\.layer\.bn\.", ".layer.norm."),
)
"""What the port's names become, one after the other."""


def _rename(name: str, table: tuple[tuple[str, Any], ...]) -> str:
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name


def _flatten(value: torch.Tensor) -> torch.Tensor:
    """A 3-D convolution's weight without the axis in which its kernel has size 1."""
    if value.ndim != 5:
        return value
    return value.squeeze(2) if value.shape[2] == 1 else value.squeeze(4)


@torch.no_grad()
def inflate_resnet(model: P3D, state_dict: dict[str, torch.Tensor]) -> P3D:
    """Initialise a P3D from a 2-D ResNet (section 4.1 of the paper): its weights over space, new ones over time.

    The convolutions over time start so that the ResNet's function is kept: in blocks A as identities; in B and C with a
    norm of scale 0 after them, so that they add nothing (with `semantics="port"`, 1e-4, because the ReLU after the norm
    would pass no gradient at 0). So a model with `st_struct="A"`, `semantics="port"` and `late_stride=True` maps a clip
    of equal frames, however many, to the logits of timm's ResNet for that frame, in eval mode and apart from rounding.
    Otherwise the outputs are only close: the published strides shift pixels, and the Caffe network's first pool has no
    padding.

    `checkpoint_path` of `blockzoo.create_model` and of tasks takes a ResNet's file too and does the same.

    Args:
        model: The model to fill. Its classifier keeps its values if the ResNet has other classes; with other input
            channels than the ResNet, the first filters are spread over them as in timm.
        state_dict: timm's or torchvision's `resnet50` for `p3d63`, `resnet101` for `p3d131`; `p3d199` is a ResNet-152.

    Returns:
        The model.

    Raises:
        ValueError: The ResNet does not have the shape of the model.
    """
    model.load_state_dict(_inflate(state_dict, model))
    return model


_RESNET_RENAMES: tuple[tuple[str, Any], ...] = (
    (r"^fc\.", "head.fc."),
    (r"^(conv|bn)1\.", r"stem.conv.layer.\1."),
    (r"^layer(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
    (r"\.downsample\.0\.", ".shortcut.layer.conv."),
    (r"\.downsample\.1\.", ".shortcut.layer.norm."),
    (r"\.(conv|bn)1\.", r".reduce.layer.\1."),
    (r"\.(conv|bn)2\.", r".conv.space.layer.\1."),
    (r"\.(conv|bn)3\.", r".expand.layer.\1."),
    (r"\.layer\.bn\.", ".layer.norm."),
)
"""What a ResNet's names become, one after the other; in the last stage the 3x3 convolution stands alone."""


def _inflate(state_dict: dict[str, torch.Tensor], model: P3D) -> dict[str, torch.Tensor]:
    full = dict(model.state_dict())
    last = f"stages.{len(model.stages) - 1}."
    for name, value in state_dict.items():
        ours = _rename(name, _RESNET_RENAMES)
        if ours.startswith(last):
            ours = ours.replace(".conv.space.", ".conv.")
        if ours == "stem.conv.layer.conv.weight" and value.ndim == 4 and value.shape[1] != model.in_chans:
            value = adapt_input_conv(model.in_chans, value)
        if ours.startswith("head.fc.") and (ours not in full or full[ours].shape != value.shape):
            continue
        if ours not in full or full[ours].shape != value.shape:
            wanted = f"has shape {tuple(full[ours].shape)}" if ours in full else "does not exist"
            raise ValueError(f"state_dict: {name} of shape {tuple(value.shape)} does not fit; ours, {ours}, {wanted}")
        full[ours] = value
    for name, module in model.named_modules():
        if isinstance(module, PseudoConv3d):
            layer = module.time.layer
            if module.structure == "A":
                full[f"{name}.time.layer.conv.weight"] = nn.init.dirac_(torch.empty_like(layer.conv.weight))
            full[f"{name}.time.layer.norm.running_mean"] = torch.zeros_like(layer.norm.running_mean)
            full[f"{name}.time.layer.norm.running_var"] = torch.ones_like(layer.norm.running_var)
            one = (1 + layer.norm.eps) ** 0.5  # the norm divides by this
            scale = one if module.structure == "A" else 0.0
            shift = 1e-4 if module.structure != "A" and not module.late_act else 0.0
            full[f"{name}.time.layer.norm.weight"] = torch.full_like(layer.norm.weight, scale)
            full[f"{name}.time.layer.norm.bias"] = torch.full_like(layer.norm.bias, shift)
    return full


def _cfg(**kwargs: Any) -> ZooCfg:
    defaults: dict[str, Any] = {
        "modality": "video",
        "input_axes": "CTHW",
        "input_size": (3, 16, 160, 160),
        "num_classes": 400,
        "pool_size": None,
        "crop_pct": 0.625,
        "interpolation": "bilinear",
        "first_conv": "stem.conv.layer.conv",
        "classifier": "head.fc",
        "license": "apache-2.0",
    }
    return ZooCfg(**{**defaults, **kwargs})


default_cfgs = generate_default_cfgs(
    image_cfgs(
        {
            "p3d63": _cfg(),
            "p3d131": _cfg(),
            "p3d199": _cfg(),
            "p3d_tiny": _cfg(input_size=(3, 8, 48, 48), num_classes=4, crop_pct=1.0),
        }
    )
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> Any:
    feature_cfg = {"feature_cls": "getter", "out_indices": kwargs.pop("out_indices", (0, 1, 2, 3))}
    return build_model(P3D, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


@register_model
def p3d63(pretrained: bool = False, **kwargs: Any) -> P3D:
    """P3D-63, after ResNet-50: 25.7 M parameters, 8.4 GMAC at 16 x 160 x 160."""
    return _create("p3d63", pretrained, **{"depths": (3, 4, 6, 3), **kwargs})


@register_model
def p3d131(pretrained: bool = False, **kwargs: Any) -> P3D:
    """P3D-131, after ResNet-101: 48.1 M parameters, 12.9 GMAC at 16 x 160 x 160."""
    return _create("p3d131", pretrained, **{"depths": (3, 4, 23, 3), **kwargs})


@register_model
def p3d199(pretrained: bool = False, **kwargs: Any) -> P3D:
    """P3D-199, after ResNet-152: 66.5 M parameters, 18.4 GMAC at 16 x 160 x 160.

    The published weights (tags `kinetics_rgb`, `kinetics_flow`) are those of the Caffe network, see the docstring of
    this module; they are built with `semantics="caffe"`, `mean_c=True`.
    """
    return _create("p3d199", pretrained, **{"depths": (3, 8, 36, 3), **kwargs})


@register_model
def p3d_tiny(pretrained: bool = False, **kwargs: Any) -> P3D:
    """A small P3D, not from the paper, for motion in clips of 8 frames of 48 px: 0.13 M parameters."""
    arch: dict[str, Any] = {"depths": (3, 3, 3, 1), "widths": (16, 24, 32, 48), "expansion": 2, "stem_chans": 16}
    arch |= {"stem_kernel": 3, "num_classes": 4, "num_frames": 8, "img_size": 48, "drop_rate": 0.0}
    return _create("p3d_tiny", pretrained, **{**arch, "center_time": True, **kwargs})
