"""Base class of the image backbones: timm's model interface over a stem, stages, a norm and a head."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from timm.layers import ClassifierHead
from timm.models._features import feature_take_indices
from torch import nn
from typing_extensions import Self

from blockzoo._cfg import ZooCfg, from_manifest, tags_of
from blockzoo._model import ZooModel
from blockzoo._recompute import recomputed
from blockzoo.layers.conv.deployed_conv import deploy_convolutions, runs_eagerly_on_cpu

__all__ = ["ImageModel", "get_device_dtype", "image_cfg", "image_cfgs"]

_PIXELS_AT_ONCE = 2 * 224 * 224
"""Pixels of the images that go through a deployed model's first stages together."""


def image_cfg(**kwargs: Any) -> ZooCfg:
    """Configuration of an image classifier, by default for ImageNet-1k at 224 px."""
    defaults: dict[str, Any] = {
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "num_classes": 1000,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "classifier": "head.fc",
        "license": "apache-2.0",
    }
    return ZooCfg(**{**defaults, **kwargs})


def get_device_dtype(model: nn.Module) -> dict[str, Any]:
    """Device and type of a model's parameters, as keyword arguments."""
    parameter = next(model.parameters())
    return {"device": parameter.device, "dtype": parameter.dtype}


def image_cfgs(cfgs: dict[str, ZooCfg]) -> dict[str, Any]:
    """A family's configurations by name, and by "name.tag" for every tag of the checkpoint manifest."""
    table: dict[str, Any] = dict(cfgs)
    for name, cfg in cfgs.items():
        tags = {f"{name}.{tag}": replace(cfg, **from_manifest(f"{name}.{tag}")) for tag in tags_of(name)}
        if tags:
            del table[name]
            table |= tags
    return table


class ImageModel(ZooModel):
    """An image classifier that is a stem, stages, a final norm and timm's `ClassifierHead`, with timm's interface.

    Subclasses set `stem`, `stages`, `norm`, `head` and `feature_info`, one entry for each stage. A stage that has its
    own gradient checkpointing has an attribute `grad_checkpointing`; other stages are wrapped as a whole.

    Images are (B, in_chans, H, W), logits (B, num_classes).

    Attributes:
        num_classes: Number of logits; 0 for no classifier.
        in_chans: Channels of the images.
        num_features: Channels of `forward_features`.
        head_hidden_size: Width of `forward_head(x, pre_logits=True)`.
        feature_info: Channels, stride and module name of every feature level.
    """

    task: ClassVar[str] = "classification"
    modality: ClassVar[str] = "image"
    any_size: ClassVar[bool] = True

    cache_stages: ClassVar[int] = 0
    """Leading stages that a deployed model runs on a few samples at a time, see `_early`."""

    if TYPE_CHECKING:  # TorchScript would read these as types of its own
        stem: nn.Module
        stages: nn.Sequential
        norm: nn.Module
        head: ClassifierHead

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} must be 0 (no classifier) or more")
        if in_chans < 1:
            raise ValueError(f"in_chans={in_chans} must be at least 1")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = 0
        self.feature_info: list[dict[str, Any]] = []
        self.grad_checkpointing = False
        self.deployed = False

    @torch.jit.ignore
    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Normal noise of the size in `pretrained_cfg`."""
        size = getattr(self, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-2:]
        return {"x": self._example(batch_size, self.in_chans, *size, generator=generator)}

    def size_steps(self) -> tuple[int, ...]:
        """See `ZooModel.size_steps`: the stride of the network, along both axes."""
        stride = max(int(info["reduction"]) for info in self.feature_info)
        return (stride, stride)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay should leave alone, beyond biases and norms: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning rates."""
        fine = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else fine}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training: compute the stages again in the backward pass instead of storing activations."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if hasattr(module, "grad_checkpointing"):
                setattr(module, "grad_checkpointing", enable)  # noqa: B010  # as a name of `Module` it has another type

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer, or an identity if there are no classes."""
        return self.head.fc

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier with a new one.

        Args:
            num_classes: Its outputs; 0 for none.
            global_pool: "avg", "max", "avgmax", "catavgmax", or "" for no pooling; None keeps the present pooling.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool, in_features=self.num_features, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features

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
            x: Images (B, in_chans, H, W).
            indices: Which stages: the last n for a number, all for None.
            norm: Apply the final norm to the output of the last stage.
            stop_early: Stop behind the last requested stage.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: Leave out the output of `forward_features`.

        Returns:
            The list of stage outputs, or (final, list).

        Raises:
            ValueError: Unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt={output_fmt!r} must be 'NCHW' or 'NHWC'")
        take, last = feature_take_indices(len(self.stages), indices)
        final = len(self.stages) - 1
        intermediates = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = self._stage(stage, x)
            if index in take:
                y = self.norm(x) if norm and index == final else x
                intermediates.append(y.permute(0, 2, 3, 1) if output_fmt == "NHWC" else y)
        if intermediates_only:
            return intermediates
        return (self.norm(x) if index == final else x), intermediates

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the parts that the requested stages do not need; returns the indices of the stages."""
        take, last = feature_take_indices(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        if prune_norm or cut:
            self.norm = nn.Identity()
        self.stages = self.stages[: last + 1]
        if cut:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or cut:
            self.reset_classifier(0, "")
        return take

    def _stage(self, stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if self.grad_checkpointing and self.training and not hasattr(stage, "grad_checkpointing"):
            y: torch.Tensor = recomputed(stage, x)
            return y
        return stage(x)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map (B, num_features, H', W') before pooling."""
        if not torch.jit.is_scripting() and self._goes_in_parts(x):
            return self.norm(self.stages[self.cache_stages :](self._early(x)))
        return self.norm(self.stages(self.stem(x)))

    @torch.jit.ignore
    def _goes_in_parts(self, x: torch.Tensor) -> bool:
        return self.deployed and self.cache_stages > 0 and runs_eagerly_on_cpu(x)

    @torch.jit.ignore
    def _early(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the stem and the first stages to a few samples at a time.

        Their maps are large and their weights small. With a few samples at a time, each map is still in
        the CPU's cache when the next layer reads it, which saves more than a larger batch does. The result is the same.
        """
        at_once = max(1, _PIXELS_AT_ONCE // (x.shape[2] * x.shape[3]))
        early = self.stages[: self.cache_stages]
        if len(x) <= at_once:
            return early(self.stem(x))
        return torch.cat([early(self.stem(part)) for part in x.split(at_once)])

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify a feature map; with `pre_logits`, stop before the classifier."""
        return self.head(x, pre_logits=pre_logits) if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    @torch.no_grad()
    def deploy(self) -> Self:
        """See `ZooModel.deploy`. Weights are stored channels-last, so that CPU convolutions use this order.

        Convolutions become `blockzoo.layers.conv.deployed_conv.DeployedConv2d`, under the same names.
        """
        super().deploy()
        deploy_convolutions(self)
        self.deployed = True
        return self.to(memory_format=torch.channels_last)
