"""From a name to a model: sources, configurations, construction and weights, on timm's builder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import timm
from timm.models import build_model_with_cfg, parse_model_name
from timm.models._hub import load_model_config_from_path
from timm.models._registry import split_model_name_tag
from torch import nn

from blockzoo import _registry, _timm_bridge, checkpoints
from blockzoo._arguments import check_arguments
from blockzoo._cfg import ZooCfg
from blockzoo._model import ZooModel

__all__ = ["build_model", "convert_state_dict", "create_model", "from_pretrained"]

ModelT = TypeVar("ModelT", bound=nn.Module)

BUILDER_ARGS = ("features_only", "out_indices", "feature_cls", "output_fmt", "pretrained_model_args")
"""Arguments that timm's builder takes, beside those of the model's constructor."""


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg: str | dict[str, Any] | ZooCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> Any:
    """Create a model, with timm's arguments and semantics.

    Args:
        model_name: "name", "name.tag", "hf-hub:org/name[@revision]", "local-dir:path", or "timm:anything" for what
            `timm.create_model` builds under that name; weights of timm's that the manifest lists go our verified path.
        pretrained: Load the weights of the tag, by default the first that has weights. Packaged, cached and downloaded
            weights go through one verified path (`blockzoo.checkpoints.fetch`).
        pretrained_cfg: A tag, or a whole configuration, instead of the tag in the name.
        pretrained_cfg_overlay: Entries that replace those of the configuration.
        checkpoint_path: A file of weights in our layout or a published one, loaded strictly after construction.
        cache_dir: Folder for downloads instead of the default one.
        **kwargs: Arguments of the model (`num_classes`, `in_chans`, `drop_rate`, ...) and of timm's builder
            (`features_only`, `out_indices`, ...); None means the default, except where it is a value (`none_args` of
            the configuration).

    Returns:
        The model, an instance of `ZooModel` unless `features_only` or "timm:" asks for another.

    Raises:
        ValueError: Unknown name, tag or source; the message suggests near ones.
        TypeError: An argument that the model does not take; the message lists those that it does.
        RuntimeError: There are no weights, or they cannot be fetched or do not fit.
    """
    if model_name.startswith("timm:"):
        kwargs = _without_none(kwargs)
        if pretrained and not (pretrained_cfg or pretrained_cfg_overlay or checkpoint_path):
            pretrained_cfg_overlay = _fetched(model_name.removeprefix("timm:"), cache_dir)
        return timm.create_model(
            model_name.removeprefix("timm:"),
            pretrained=pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            checkpoint_path=checkpoint_path,
            cache_dir=cache_dir,
            **kwargs,
        )
    source, name = parse_model_name(model_name)
    if source is None:
        name, tag = split_model_name_tag(name)
        pretrained_cfg = pretrained_cfg or tag or None
    elif pretrained_cfg:
        raise ValueError(f"pretrained_cfg={pretrained_cfg!r} cannot be given with {model_name!r}, which brings its own")
    else:
        if source == "local-dir":
            pretrained_cfg, name, model_args = _described(Path(name), {"file": name, "source": "local-dir"})
        else:
            about = checkpoints.fetch_hub(name, ("config.json",), cache_dir)
            found = {"file": str(checkpoints.fetch_hub(name, cache_dir=cache_dir))} if pretrained else {}
            pretrained_cfg, name, model_args = _described(
                about.parent, {"hf_hub_id": name, "source": "hf-hub", **found}
            )
        name = name.removeprefix(_timm_bridge.PREFIX)
        kwargs = {**(model_args or {}), **_without_none(kwargs, _registry.get_pretrained_cfg(name).none_args)}
    kwargs = _without_none(kwargs, _registry.get_pretrained_cfg(name).none_args)
    model = _registry.model_entrypoint(name)(
        pretrained=pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        **kwargs,
    )
    if checkpoint_path:
        model.load_state_dict(convert_state_dict(model, checkpoints.load_state_dict(checkpoint_path)), strict=True)
    return model


def from_pretrained(source: str | Path, **kwargs: Any) -> Any:
    """Load a model with its weights: what `save_pretrained` and `push_to_hub` wrote, or any name with weights.

    Args:
        source: A folder, "hf-hub:org/name[@revision]", "local-dir:path", or "name.tag".
        **kwargs: See `create_model`.

    Raises:
        ValueError: There is no such folder, name or source.
        RuntimeError: The weights cannot be had or do not fit.
    """
    name = str(source)
    if isinstance(source, Path) or (":" not in name and Path(name).is_dir()):
        name = f"local-dir:{name}"
    return create_model(name, pretrained=True, **kwargs)


def _fetched(name: str, cache_dir: str | Path | None) -> dict[str, Any] | None:
    """Overlay with the verified file of timm's weights, where the manifest lists them."""
    name = name if split_model_name_tag(name)[1] else f"{name}.{getattr(timm.get_pretrained_cfg(name), 'tag', None)}"
    artifact = checkpoints.load_manifest().get(name)
    return None if artifact is None else {"file": str(checkpoints.fetch(artifact, cache_dir=cache_dir))}


def _described(folder: Path, extra: dict[str, Any]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What `config.json` in a folder says: configuration of the weights, name, and arguments of the model."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json, so it is not a model's folder")
    try:
        text = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(text, dict) or not isinstance(text.get("architecture"), str):
            raise ValueError("it names no architecture")
        cfg, name, model_args = load_model_config_from_path(folder)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} does not describe a model: {error}") from error
    return {**{key: value for key, value in cfg.items() if key != "file"}, **extra}, name, model_args or {}


def _without_none(kwargs: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if value is not None or key in keep}


def convert_state_dict(model: nn.Module, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Turn a published checkpoint's state dict into the layout of `model`; ours passes unchanged.

    Args:
        model: A model of the zoo, which says what layouts it knows.
        state_dict: Tensors by name in the published layout, or in ours, also with the prefix "model." of a task.

    Raises:
        TypeError: `model` is not one of ours.
    """
    if not isinstance(model, ZooModel):
        raise TypeError(f"model must be a model of the zoo, not {type(model).__name__}")
    if all(name.startswith("model.") for name in state_dict):
        state_dict = {name.removeprefix("model."): value for name, value in state_dict.items()}
    return type(model).convert_state_dict(state_dict, model)


def build_model(
    cls: type[ModelT],
    variant: str,
    pretrained: bool = False,
    pretrained_cfg: str | dict[str, Any] | ZooCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    feature_cfg: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Build a variant of a family: what an entrypoint calls.

    The configuration is looked up in our tables, its weights are fetched and verified, and timm's
    `build_model_with_cfg` does the rest: adaptation of stem and classifier, feature wrappers, strict loading.

    Args:
        cls: The model class.
        variant: The registered name.
        pretrained: Load weights.
        pretrained_cfg: Tag, dictionary or configuration; the default tag when None.
        pretrained_cfg_overlay: Entries that replace those of the configuration.
        cache_dir: Folder for downloads.
        feature_cfg: timm's settings for `features_only`.
        **kwargs: Arguments of the constructor and of timm's builder.
    """
    cfg = _registry.resolve_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    check_arguments(cls, variant, kwargs, also=BUILDER_ARGS)
    if pretrained and not (cfg.has_weights or cfg.state_dict):
        tags = ", ".join(_registry.list_models(f"{variant}.*", pretrained=True)) or "none"
        raise checkpoints.CheckpointError(f"no pretrained weights for {variant}; names with weights: {tags}")
    overlay: dict[str, Any] = {}
    if pretrained and cfg.checkpoint and not (cfg.file or cfg.state_dict):
        overlay["file"] = str(checkpoints.fetch(checkpoints.load_manifest()[cfg.checkpoint], cache_dir=cache_dir))
    if cfg.modality != "image":
        overlay["input_size"] = None  # timm's builder takes every size for that of an image
    try:
        model: Any = build_model_with_cfg(
            cls,
            variant,
            pretrained,
            pretrained_cfg=replace(cfg, **overlay),  # type: ignore[arg-type]  # timm takes its dataclass too
            pretrained_filter_fn=cls.convert_state_dict if issubclass(cls, ZooModel) else None,
            feature_cfg=feature_cfg,
            cache_dir=cache_dir,
            **kwargs,
        )
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not _is_too_large(error):
            raise
        sizes = ", ".join(f"{name}={value}" for name, value in kwargs.items() if name not in ("device", "dtype"))
        raise ValueError(f"{variant} cannot be built with {sizes}: it would not fit into memory") from error
    built = getattr(model, "model", model) if kwargs.get("features_only") else model
    described: dict[str, Any] = {**model.pretrained_cfg, "file": cfg.file}
    if cfg.modality != "image":
        described["input_size"] = built.input_size
    elif described.get("input_size"):
        described["input_size"] = (kwargs.get("in_chans", described["input_size"][0]), *described["input_size"][1:])
    if ("num_classes" in described or cfg.modality == "image") and hasattr(built, "num_classes"):
        described["num_classes"] = built.num_classes
    built.init_args = {key: value for key, value in kwargs.items() if key not in BUILDER_ARGS}
    model.pretrained_cfg = model.default_cfg = {key: value for key, value in described.items() if value is not None}
    return model


def _is_too_large(error: Exception) -> bool:
    """Whether a constructor failed because a tensor has no place in memory, or its size no place in 64 bits."""
    signs = ("allocate memory", "out of memory", "overflow", "too large to")
    return not isinstance(error, RuntimeError) or any(sign in str(error).lower() for sign in signs)
