"""NASNet-A: cells found by architecture search.

Source: "Learning Transferable Architectures for Scalable Image Recognition" (2018), figures 2 and 4, appendix A.4, the
authors' code (tensorflow/models, slim), and the ports of timm (large) and Cadene (large, mobile), whose outputs these
models reproduce from the same weights.

What differs from the ports: "same" padding follows the size of each map, so that any image size works; activations
and pools that several branches share are computed once; gradient checkpointing; scheduled drop path.

Average pools of stride 2 divide windows at the border by the number of real pixels in the authors' code and in Cadene's
port (`pool_count="real"`), and by 9 in timm's (`"window"`). Released weights were trained with the former. The default
of `nasnetalarge` is timm's, because the name and its weights are timm's and a user expects the same numbers; logits
differ by a few per cent of their deviation.
"""

import re
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from timm.models._features import feature_take_indices
from timm.models._registry import generate_default_cfgs
from torch import nn

from blockzoo._about import FamilyAbout, Small
from blockzoo._arguments import positive
from blockzoo._builder import build_model
from blockzoo._image_model import ImageModel, image_cfg, image_cfgs
from blockzoo._model import ZooModel
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model
from blockzoo.layers.conv.conv_norm_act import ConvNormAct
from blockzoo.layers.conv.scheduled_drop_path import ScheduledDropPath
from blockzoo.layers.conv.separable_conv import SeparableConv
from blockzoo.layers.conv.squeeze_excite import create_se

__all__ = ["NASNet"]

about = FamilyAbout(
    title="NASNet",
    purpose=(
        "Classifies images with cells that a search found, not a person. It is accurate for its number of "
        "parameters where speed matters less."
    ),
    paper="Learning Transferable Architectures for Scalable Image Recognition",
    year=2018,
    small=(Small("nasnet_cifar", ("nasnet*",), {"num_cells": 1}),),
)

_NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.1}

PoolCount = Literal["real", "window"]


def _avg_pool(x: torch.Tensor, stride: int, count: str) -> torch.Tensor:
    if stride == 1:
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    pad = [x.shape[2] % 2, x.shape[3] % 2]  # TensorFlow's padding: both sides of an odd axis, the end of an even one
    if count == "real":
        return F.avg_pool2d(x, 3, 2, pad, ceil_mode=True, count_include_pad=False)
    return F.avg_pool2d(x, 3, 2, pad, ceil_mode=True, divisor_override=9)


def _max_pool(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, 2, [x.shape[2] % 2, x.shape[3] % 2], ceil_mode=True)


class SeparableBranch(nn.Module):
    """Two separable convolutions with an activation between; the caller applies the activation before the first."""

    def __init__(
        self, in_chans: int, out_chans: int, kernel_size: int, stride: int = 1, widen_first: bool = False, **dd: Any
    ) -> None:
        super().__init__()
        mid = out_chans if widen_first else in_chans
        self.first = SeparableConv(in_chans, mid, kernel_size, stride, "same", nn.ReLU, **_NORM, **dd)
        self.second = SeparableConv(mid, out_chans, kernel_size, 1, "same", None, **_NORM, **dd)

    def forward(self, x: torch.Tensor, relu_first: bool = False) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, out_chans, H', W'); `relu_first`: the first activation is applied here."""
        return self.second(self.first(x, relu_first))


class FactorizedReduction(nn.Module):
    """Halve a map by two 1x1 convolutions, one on even pixels and one on odd pixels, and a norm over both halves."""

    def __init__(self, in_chans: int, out_chans: int, **dd: Any) -> None:
        super().__init__()
        if out_chans % 2:
            raise ValueError(f"width {out_chans} of a cell behind a reduction must be even")
        self.pair = ConvNormAct(2 * in_chans, out_chans, 1, groups=2, act_layer=None, **_NORM, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, out_chans, H', W'), sizes halved and rounded up."""
        odd = F.pad(x, [0, 1, 0, 1])[:, :, 1::2, 1::2]
        return self.pair(torch.cat([x[:, :, ::2, ::2], odd], 1))


class _Cell(nn.Module):
    """Base class of both kinds of cell, which prepares their two activated inputs."""

    def __init__(
        self, in_chans: int, prev_chans: int, width: int, prev: str, drop_path: float, se: str | None, **dd: Any
    ) -> None:
        super().__init__()
        self.cur_proj = ConvNormAct(in_chans, width, 1, act_layer=None, **_NORM, **dd)
        if prev == "same":
            self.prev_proj: nn.Module = ConvNormAct(prev_chans, width, 1, act_layer=None, **_NORM, **dd)
        elif prev == "halve":
            self.prev_proj = FactorizedReduction(prev_chans, width, **dd)
        else:
            self.prev_proj = nn.Identity()
        self.drop = ScheduledDropPath(drop_path)
        self.se = create_se(se, self.multiplier * width, **dd)

    multiplier = 0
    """Width of the cell's output over that of its branches."""

    @torch.jit.ignore
    def _fuses(self, x: torch.Tensor) -> bool:
        """Whether branches apply the activation before them themselves, inside a kernel and at no cost."""
        return self.branch_0_left.first.fuses(x)  # type: ignore[operator, union-attr, return-value]


class NormalCell(_Cell):
    """Cell that keeps the size of the map, figure 4 left."""

    multiplier = 6

    def __init__(self, in_chans: int, prev_chans: int, width: int, **kwargs: Any) -> None:
        super().__init__(in_chans, prev_chans, width, **kwargs)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        self.branch_0_left = SeparableBranch(width, width, 5, **dd)
        self.branch_0_right = SeparableBranch(width, width, 3, **dd)
        self.branch_1_left = SeparableBranch(width, width, 5, **dd)
        self.branch_1_right = SeparableBranch(width, width, 3, **dd)
        self.branch_4_left = SeparableBranch(width, width, 3, **dd)

    def forward(self, x: torch.Tensor, prev: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W), (B, prev_chans, ..) -> (B, 6 * width, H, W)."""
        cur, prev = self.cur_proj(x), self.prev_proj(prev)
        late = not torch.jit.is_scripting() and self._fuses(cur)
        active_cur, active_prev = (cur, prev) if late else (F.relu(cur), F.relu(prev))
        pooled = _avg_pool(prev, 1, "real")
        parts = [
            prev,
            self.drop(self.branch_0_left(active_cur, late)) + self.drop(self.branch_0_right(active_prev, late)),
            self.drop(self.branch_1_left(active_prev, late)) + self.drop(self.branch_1_right(active_prev, late)),
            self.drop(_avg_pool(cur, 1, "real")) + prev,
            self.drop(pooled) + self.drop(pooled),
            self.drop(self.branch_4_left(active_cur, late)) + cur,
        ]
        return self.se(torch.cat(parts, 1))


class ReductionCell(_Cell):
    """Cell that halves the map, figure 4 right."""

    multiplier = 4

    def __init__(
        self, in_chans: int, prev_chans: int, width: int, pool_count: PoolCount, prev: str, **kwargs: Any
    ) -> None:
        super().__init__(in_chans, prev_chans, width, prev=prev, **kwargs)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        self.pool_count = pool_count
        of_prev: dict[str, Any] = {"stride": 2, "widen_first": prev == "raw", **dd}
        chans = prev_chans if prev == "raw" else width
        self.branch_0_left = SeparableBranch(width, width, 5, 2, **dd)
        self.branch_0_right = SeparableBranch(chans, width, 7, **of_prev)
        self.branch_1_right = SeparableBranch(chans, width, 7, **of_prev)
        self.branch_2_right = SeparableBranch(chans, width, 5, **of_prev)
        self.branch_4_left = SeparableBranch(width, width, 3, **dd)

    def forward(self, x: torch.Tensor, prev: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W), (B, prev_chans, ..) -> (B, 4 * width, H', W'), sizes halved and rounded up."""
        cur = self.cur_proj(x)
        prev = self.prev_proj(prev)
        late = not torch.jit.is_scripting() and self._fuses(cur)
        active_cur, active_prev = (cur, prev) if late else (F.relu(cur), F.relu(prev))
        largest = _max_pool(cur)
        c0 = self.drop(self.branch_0_left(active_cur, late)) + self.drop(self.branch_0_right(active_prev, late))
        c1 = self.drop(largest) + self.drop(self.branch_1_right(active_prev, late))
        c2 = self.drop(_avg_pool(cur, 2, self.pool_count)) + self.drop(self.branch_2_right(active_prev, late))
        c3 = self.drop(_avg_pool(c0, 1, "real")) + c1
        c4 = self.drop(self.branch_4_left(c0, True)) + self.drop(largest)
        return self.se(torch.cat([c1, c2, c3, c4], 1))


class NASNet(ImageModel):
    """The NASNet-A network.

    Args:
        num_classes: Classes; 0 for none.
        in_chans: Channels of the images.
        global_pool: Pooling before the classifier, as in timm.
        num_cells: Normal cells in each of the three stages, N of the paper.
        width: Filters of the first stage's branches, F; they double from stage to stage, and `forward_features` has
            24 F channels. "N @ penultimate filters" of the paper is num_cells @ 24 * width.
        stem_chans: Filters of the first convolution.
        stem_stride: Stride of the first convolution.
        stem_cells: Two reduction cells before the first stage, as for ImageNet; without them the form for CIFAR-10.
        skip_reduction_input: The second input of a cell after a reduction cell is the reduction cell's second input
            (large), not its first (mobile).
        pool_count: What border windows of strided average pools are divided by, see the docstring of this module.
        drop_path_rate: Scheduled drop path of the last cell at the end of training, growing linearly over the cells and
            with `blockzoo.layers.conv.scheduled_drop_path.set_drop_path_progress`.
        drop_rate: Dropout before the classifier.
        se: Squeeze-and-excitation of every cell's output: "cse", "sse", "scse", or None as published.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: `pool_count` is unknown, or a width does not fit.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        num_cells: int = 6,
        width: int = 168,
        stem_chans: int = 96,
        stem_stride: int = 2,
        stem_cells: bool = True,
        skip_reduction_input: bool = True,
        pool_count: PoolCount = "real",
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        se: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_classes, in_chans)
        positive(num_cells=num_cells, width=width, stem_chans=stem_chans, stem_stride=stem_stride)
        if pool_count not in ("real", "window"):
            raise ValueError(f"pool_count={pool_count!r} must be 'real' or 'window'")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        pad = 0 if stem_cells else 1
        self.stem = ConvNormAct(in_chans, stem_chans, 3, stem_stride, pad, act_layer=None, **_NORM, **dd)
        plan = [(True, width // 4), (True, width // 2)] if stem_cells else []
        for stage in range(3):
            plan += [(True, width * 2**stage)] if stage else []
            plan += [(False, width * 2**stage)] * num_cells
        self.cells = nn.ModuleList()
        self.official_cells = _official_cells(num_cells, stem_cells)
        stem_length = len(plan) - 3 * num_cells - 2
        # After a reduction cell, "large" keeps the second input for one cell more.
        self.keeps_prev = [skip_reduction_input and reduces and i >= stem_length for i, (reduces, _) in enumerate(plan)]
        chans, prev_chans, scale, prev_scale = stem_chans, stem_chans, stem_stride, stem_stride
        taps = [{"num_chs": stem_chans, "reduction": scale, "module": "stem"}]
        for i, (reduces, cell_width) in enumerate(plan):
            prev = "raw" if stem_cells and i == 0 else "same" if prev_scale == scale else "halve"
            rest = {"prev": prev, "drop_path": drop_path_rate * (i + 1) / len(plan), "se": se, **dd}
            if reduces:
                cell: _Cell = ReductionCell(chans, prev_chans, cell_width, pool_count, **rest)
            else:
                cell = NormalCell(chans, prev_chans, cell_width, **rest)
            self.cells.append(cell)
            if not self.keeps_prev[i]:
                prev_chans, prev_scale = chans, scale
            chans, scale = cell.multiplier * cell_width, scale * (2 if reduces else 1)
            last_of_stage = not reduces and (i + 1 == len(plan) or plan[i + 1][0])
            if last_of_stage or (stem_cells and i == 0):
                taps.append({"num_chs": chans, "reduction": scale, "module": f"cells.{i}"})
        self.feature_info = taps
        self.num_features = chans
        self.head = ClassifierHead(chans, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^cells\.(\d+)"}

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Cut off what the requested levels do not need, see `forward_intermediates`; returns their indices."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        if last < len(self.feature_info) - 1:
            self.cells = self.cells[: self._cell_of(last) + 1]
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def _cell_of(self, level: int) -> int:
        """Index of the cell whose output is a feature level; -1 for the stem."""
        module = str(self.feature_info[level]["module"])
        return -1 if module == "stem" else int(module.removeprefix("cells."))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Feature levels as in timm: the stem's output as it is, and activated outputs of cells.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Which levels: the last n for a number, all for None.
            norm: Without effect; there is no final norm.
            stop_early: Stop behind the last requested stage.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: Leave out the output of `forward_features`.

        Returns:
            The list of levels, or (final, list).

        Raises:
            ValueError: Unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt={output_fmt!r} must be 'NCHW' or 'NHWC'")
        take, last = feature_take_indices(len(self.feature_info), indices)
        wanted = [self._cell_of(level) for level in take]
        stop = self._cell_of(last) if stop_early else len(self.cells) - 1
        raw = self.stem(x)
        found = [raw] if -1 in wanted else []
        x = prev = F.relu(raw)
        for i, cell in enumerate(self.cells):
            if i > stop:
                break
            x, prev = self._step(cell, x, prev), prev if self.keeps_prev[i] else x
            if i in wanted:
                found.append(x)
        if output_fmt == "NHWC":
            found = [y.permute(0, 2, 3, 1) for y in found]
        return found if intermediates_only else (x, found)

    @torch.jit.ignore
    def _step(self, cell: nn.Module, x: torch.Tensor, prev: torch.Tensor) -> torch.Tensor:
        """A cell's activated output."""
        if self.grad_checkpointing and self.training:
            y: torch.Tensor = recomputed(cell, x, prev)
        else:
            y = cell(x, prev)
        return F.relu(y)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Activated output of the last cell, (B, 24 * width, H', W')."""
        x = F.relu(self.stem(x))
        prev = x
        for i, cell in enumerate(self.cells):
            if torch.jit.is_scripting():
                y = F.relu(cell(x, prev))
            else:
                y = self._step(cell, x, prev)
            if not self.keeps_prev[i]:
                prev = x
            x = y
        return x

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """Convert the layout of timm and Cadene, which share one, to ours.

        The background class before the 1000 classes is dropped, except for a model of 1001 classes.
        """
        if not any(name.startswith(("conv0.", "cell_stem_0.", "cell_0.")) for name in state_dict):
            return state_dict
        assert isinstance(model, NASNet)
        cells = {name: index for index, name in enumerate(model.official_cells)}
        converted: dict[str, Any] = {}
        for name, value in state_dict.items():
            head, _, rest = name.partition(".")
            if head == "last_linear":
                background = len(value) == 1001 != model.num_classes
                converted[f"head.fc.{rest}"] = value[1:] if background else value
            elif head == "conv0":
                converted[f"stem.{rest.replace('bn.', 'norm.', 1)}"] = value
            elif head not in cells:
                raise ValueError(f"state_dict has {name!r}; the cells of this model are {', '.join(cells)}")
            elif rest.startswith("path_1"):
                both = torch.cat([value, state_dict[f"{head}.path_2.conv.weight"]])
                converted[f"cells.{cells[head]}.prev_proj.pair.conv.weight"] = both
            elif not rest.startswith("path_2"):
                converted[f"cells.{cells[head]}.{_rename(rest)}"] = value
        return converted


_RENAMES = (
    (r"^conv_1x1\.", "cur_proj."),
    (r"^conv_prev_1x1\.", "prev_proj."),
    (r"^final_path_bn\.", "prev_proj.pair.norm."),
    (r"^comb_iter_(\d)_(left|right)\.", r"branch_\1_\2."),
    (r"\.separable_(\d)\.depthwise_conv2d\.", r".\1.dw."),
    (r"\.separable_(\d)\.pointwise_conv2d\.", r".\1.pw.conv."),
    (r"\.bn_sep_(\d)\.", r".\1.pw.norm."),
    (r"(_left|_right)\.1\.", r"\1.first."),
    (r"(_left|_right)\.2\.", r"\1.second."),
    (r"^(cur_proj|prev_proj)\.bn\.", r"\1.norm."),
)
"""What a cell's official names become, one after the other."""


def _rename(name: str) -> str:
    for pattern, new in _RENAMES:
        name = re.sub(pattern, new, name)
    return name


def _official_cells(num_cells: int, stem_cells: bool) -> list[str]:
    """The ports' names of the cells, in order; the small model leaves gaps, so that stages start at 0, 6 and 12."""
    names = ["cell_stem_0", "cell_stem_1"] if stem_cells else []
    for stage in range(3):
        names += [f"reduction_cell_{stage - 1}"] if stage else []
        names += [f"cell_{stage * max(6, num_cells) + i}" for i in range(num_cells)]
    return names


def _cfg(**kwargs: Any) -> Any:
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return image_cfg(**{"first_conv": "stem.conv", **half, **kwargs})


default_cfgs = generate_default_cfgs(
    image_cfgs(
        {
            "nasnetalarge": _cfg(input_size=(3, 331, 331), pool_size=(11, 11), crop_pct=0.911),
            "nasnetamobile": _cfg(),
            "nasnet_cifar": _cfg(
                input_size=(3, 32, 32), pool_size=(4, 4), num_classes=10, crop_pct=1.0, interpolation="bilinear"
            ),
        }
    )
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> Any:
    levels = 5 if kwargs.get("stem_cells", True) else 4
    feature_cfg = {"feature_cls": "getter", "out_indices": kwargs.pop("out_indices", tuple(range(levels)))}
    return build_model(NASNet, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


@register_model
def nasnetalarge(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A 6 @ 4032: 88.8 M parameters, 23.8 GMAC at 331 px; average pools as in timm."""
    return _create("nasnetalarge", pretrained, **{"pool_count": "window", **kwargs})


@register_model
def nasnetamobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A 4 @ 1056: 5.3 M parameters, 0.56 GMAC at 224 px."""
    arch: dict[str, Any] = {"num_cells": 4, "width": 44, "stem_chans": 32, "skip_reduction_input": False}
    return _create("nasnetamobile", pretrained, **{**arch, **kwargs})


@register_model
def nasnet_cifar(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """A small NASNet-A of ours for 32 px, in the paper's form for CIFAR-10, with a first convolution of stride 2."""
    arch: dict[str, Any] = {"num_cells": 1, "width": 28, "stem_chans": 32, "stem_cells": False}
    return _create("nasnet_cifar", pretrained, **{**arch, **kwargs})
