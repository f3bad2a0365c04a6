"""Configuration of a pretrained tag: timm's, extended for other modalities than images."""

from dataclasses import dataclass, field
from typing import Any

from timm.models._pretrained import PretrainedCfg

from blockzoo.checkpoints import load_manifest

__all__ = ["ZooCfg", "field_cfg", "from_manifest", "graph_cfg", "series_cfg", "tags_of"]


@dataclass
class ZooCfg(PretrainedCfg):
    """timm's `PretrainedCfg`, extended.

    Attributes:
        input_size: Sizes of one input along `input_axes`, without the batch; images keep timm's (C, H, W).
        task: What the outputs are.
        modality: "image", "video", "series", "graph" or "field".
        input_axes: One letter for each axis of `input_size`, for example "CHW" or "TC".
        model_args: Constructor arguments that belong to the weights; the caller's arguments take precedence.
        checkpoint: Key of the weights in the checkpoint manifest; None when there are none.
        series: How a table of series is read for these weights: names of `columns`, `features`, `target`, `time_freq`.
        structures: How files of structures are read for the weights: names and units of their `labels`.
        frame_stride: Distance of a clip's frames in a video.
        clips: How clips are taken from a video for these weights: `sampling`, `num_clips`, `num_crops`, `resize`,
            `pad_short`, see `blockzoo.tasks.video.files.ClipForm`.
        multi_label: Whether an input may have no label or several, so that each class has a probability of its own.
        none_args: Constructor arguments for which None is a value; elsewhere None means the default, as in timm.
    """

    task: str = "classification"
    modality: str = "image"
    input_axes: str = "CHW"
    model_args: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    series: dict[str, Any] = field(default_factory=dict)
    structures: dict[str, Any] = field(default_factory=dict)
    frame_stride: int | None = None
    clips: dict[str, Any] = field(default_factory=dict)
    multi_label: bool = False
    none_args: tuple[str, ...] = ()

    @property
    def has_weights(self) -> Any:
        """Whether there are weights for this tag."""
        return self.checkpoint or super().has_weights


def series_cfg(task: str, input_size: tuple[int, ...], **kwargs: Any) -> ZooCfg:
    """Configuration of a time-series model; `input_size` is (steps, channels)."""
    image_only: dict[str, Any] = {"interpolation": None, "crop_pct": None, "crop_mode": None, "mean": None, "std": None}
    defaults: dict[str, Any] = {**image_only, "num_classes": None, "license": "apache-2.0"}
    return ZooCfg(
        **{**defaults, **kwargs, "task": task, "modality": "series", "input_axes": "TC", "input_size": input_size}
    )


def field_cfg(task: str, input_size: tuple[int, ...], **kwargs: Any) -> ZooCfg:
    """Configuration of a model of fields; `input_size` is (channels, *points)."""
    image_only: dict[str, Any] = {"interpolation": None, "crop_pct": None, "crop_mode": None, "mean": None, "std": None}
    defaults: dict[str, Any] = {**image_only, "num_classes": None, "license": "apache-2.0"}
    axes = "C" + "DHW"[3 - (len(input_size) - 1) :]
    return ZooCfg(
        **{**defaults, **kwargs, "task": task, "modality": "field", "input_axes": axes, "input_size": input_size}
    )


def graph_cfg(task: str, **kwargs: Any) -> ZooCfg:
    """Configuration of a model of atoms; `input_size` is the 3 coordinates of one atom, of any number."""
    image_only: dict[str, Any] = {"interpolation": None, "crop_pct": None, "crop_mode": None, "mean": None, "std": None}
    defaults: dict[str, Any] = {**image_only, "num_classes": None, "license": "apache-2.0"}
    return ZooCfg(**{**defaults, **kwargs, "task": task, "modality": "graph", "input_axes": "X", "input_size": (3,)})


def from_manifest(name: str) -> dict[str, Any]:
    """The entries of a configuration that belong to the weights of "model.tag", from the checkpoint manifest."""
    artifact = load_manifest()[name]
    about = {"checkpoint": name, "model_args": dict(artifact.model_args), "license": artifact.license.lower()}
    sizes = {key: tuple(value) for key, value in artifact.preprocessing.items() if key in ("input_size", "pool_size")}
    return {**about, "description": artifact.command, **artifact.preprocessing, **sizes}


def tags_of(model_name: str) -> list[str]:
    """Tags of a model in the checkpoint manifest, in its order."""
    return [name.partition(".")[2] for name in load_manifest() if name.partition(".")[0] == model_name]
