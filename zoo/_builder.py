"""From a name to a model: sources, configurations, construction and weights, on timm's builder."""

import difflib
import json
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from timm.models import build_model_with_cfg, parse_model_name
from timm.models._hub import load_model_config_from_path
from timm.models._registry import split_model_name_tag
from torch import nn

from blockzoo import _registry, _timm_bridge, checkpoints
from blockzoo._arguments import check_arguments
from blockzoo._cfg import ZooCfg
from blockzoo._model import ZooModel
from blockzoo._size_limit import build_within_limits
from blockzoo.checkpoints.folder import whole_folder
from blockzoo.checkpoints.hub import WEIGHTS
from blockzoo.checkpoints.io import unwrap

__all__ = ["build_model", "convert_state_dict", "create_model", "from_pretrained"]

ModelT = TypeVar("ModelT", bound=nn.Module)

BUILDER_ARGS = ("features_only", "out_indices", "feature_cls", "output_fmt", "pretrained_model_args")
"""Arguments that timm's builder takes, beside those of the model's constructor."""


_OF_THE_SOURCE = {"url", "file", "state_dict", "checkpoint", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
"""Entries of a configuration that say where weights come from."""

_OF_THE_CALLER = {
    "cache_dir",
    "checkpoint_path",
    "device",
    "dtype",
    "feature_cls",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
}
"""Arguments that a folder's own configuration may not set."""

_MAX_DEPTH = 16
_MAX_BYTES = 16 << 20
"""Bounds of a folder's `config.json`; the names of 21,843 classes take 1 MB."""

_OF_THE_ARCHITECTURE = ("task", "modality", "input_axes", "none_args")
"""Entries of a configuration in which a folder's must be that of the model it names."""


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
        checkpoint_path: A file of weights in our layout or a published one, instead of those of the tag. They are
            adapted to `num_classes` and `in_chans` as the tag's are.
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
        _check_timms(model_name.removeprefix("timm:"))
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
    weights = None if checkpoint_path is None else Path(checkpoint_path)
    if source is None:
        name, tag = split_model_name_tag(name)
        pretrained_cfg = pretrained_cfg or tag or None
    elif pretrained_cfg:
        raise ValueError(f"pretrained_cfg={pretrained_cfg!r} cannot be given with {model_name!r}, which brings its own")
    else:
        if source == "local-dir":
            folder, extra = whole_folder(Path(name)), {"file": name, "source": "local-dir"}
        else:
            folder = checkpoints.fetch_hub(name, ("config.json",), cache_dir).parent
            extra = {"hf_hub_id": name, "source": "hf-hub"}
            if pretrained and weights is None:
                weights = checkpoints.fetch_hub(name, cache_dir=cache_dir)
                extra["file"] = str(weights)
        pretrained_cfg, name, model_args = _described(folder, extra)
        name = name.removeprefix(_timm_bridge.PREFIX)
        try:
            _registry.model_entrypoint(name)
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'}: {error}") from error
        if source == "local-dir" and pretrained and weights is None:
            weights = _weights_in(folder)
        kwargs = {**model_args, **_without_none(kwargs, _registry.get_pretrained_cfg(name).none_args)}
    kwargs = _without_none(kwargs, _registry.get_pretrained_cfg(name).none_args)
    if weights is not None:
        # Only the architecture's own arguments are asked of the configuration; the weights come from this file.
        state_dict = _Weights(checkpoints.load_state_dict(weights))
        state_dict.file, state_dict.classes_chosen = weights, "num_classes" in kwargs or bool(source)
        pretrained_cfg_overlay = {**(pretrained_cfg_overlay or {}), "state_dict": state_dict}
    return _registry.model_entrypoint(name)(
        pretrained=pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        **kwargs,
    )


class _Weights(dict[str, Any]):
    """A state dict that knows where it came from, and whether its reader chose a number of classes."""

    file: Path
    classes_chosen: bool


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


def _check_timms(name: str) -> None:
    """Refuse a name that timm does not know, with near ones; sources such as "hf-hub:" are timm's to judge."""
    source, found = parse_model_name(name)
    arch = split_model_name_tag(found)[0]
    if source is None and not timm.is_model(arch):
        close = difflib.get_close_matches(arch, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"timm has no model {arch!r}{hint}")


def _fetched(name: str, cache_dir: str | Path | None) -> dict[str, Any] | None:
    """Overlay with the verified file of timm's weights, where the manifest lists them."""
    name = name if split_model_name_tag(name)[1] else f"{name}.{getattr(timm.get_pretrained_cfg(name), 'tag', None)}"
    artifact = checkpoints.load_manifest().get(name)
    return None if artifact is None else {"file": str(checkpoints.fetch(artifact, cache_dir=cache_dir))}


def _weights_in(folder: Path) -> Path:
    """The file of weights in a model's folder."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise checkpoints.CheckpointError(f"{folder} holds no weights: it has no {' or '.join(WEIGHTS)}")


def _described(folder: Path, extra: dict[str, Any]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What `config.json` in a folder says: configuration of the weights, name, and arguments of the model.

    The folder may be anybody's. It says what to build and how inputs are prepared; where weights come from, and what
    the caller alone decides, is not taken from it.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no config.json, so it is not a model's folder")
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has {file.stat().st_size:,} bytes, more than {_MAX_BYTES:,}")
        text = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(text, dict) or not isinstance(text.get("architecture"), str):
            raise ValueError("it names no architecture")
        if _depth(text) > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        for key in ("pretrained_cfg", "model_args"):
            if not isinstance(text.get(key, {}), dict):
                raise ValueError(f"{key} is {str(text[key])[:40]!r}, which must be an object")
        cfg, name, model_args = load_model_config_from_path(folder)
        model_args = dict(model_args or {})
        own = dict(cfg.get("model_args") or {})
        if refused := sorted(_OF_THE_CALLER & {*model_args, *own}):
            raise ValueError(f"model_args holds {', '.join(refused)}, which only the caller may give")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{file} does not describe a model: {what}") from error
    kept = {key: value for key, value in cfg.items() if key not in _OF_THE_SOURCE}
    _check_described(file, name, kept)
    return {**kept, **extra}, name, model_args


def _check_described(file: Path, name: str, cfg: dict[str, Any]) -> None:
    """Refuse a folder's configuration that the model it names cannot have.

    Raises:
        ValueError: An entry is unknown, of another type, or contradicts the model; the message names it.
    """
    known = [field.name for field in fields(ZooCfg)]
    if unknown := sorted(set(cfg) - set(known)):
        raise ValueError(f"{file}: unknown entries {', '.join(unknown)}; known are {', '.join(known)}")
    classes = cfg.get("num_classes")
    if not (classes is None or type(classes) is int and classes >= 0):
        raise ValueError(f"{file}: num_classes is {str(classes)[:40]!r}, which must be a whole number, 0 or more")
    name = name.removeprefix(_timm_bridge.PREFIX)
    if not _registry.is_model(name):
        return  # named as unknown where the model is looked up
    own = _registry.get_pretrained_cfg(name)
    for key in _OF_THE_ARCHITECTURE:
        value, right = cfg.get(key), getattr(own, key)
        if value is not None and value != (list(right) if isinstance(right, tuple) else right):
            raise ValueError(f"{file}: {key} is {str(value)[:40]!r}, but {name} has {right!r}")


def _depth(value: Any, limit: int = 64) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(item, limit - 1) for item in inner), default=0) if limit else 0


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
    return type(model).convert_state_dict(unwrap(state_dict), model)


def _adapted(state_dict: dict[str, Any], model: ZooModel, weights: _Weights) -> dict[str, Any]:
    """Weights of a file in our layout; the configuration learns from it how many classes and channels it is for.

    timm drops a classifier of another number of classes and adapts a stem to other channels by what the configuration
    says. A file of weights says that itself.
    """
    found = convert_state_dict(model, weights)
    cfg = model.pretrained_cfg
    heads = cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    own = model.state_dict()
    for head in heads:
        weight = found.get(f"{head}.weight")
        if not isinstance(weight, torch.Tensor) or not cfg.get("num_classes"):
            continue
        cfg["num_classes"] = weight.shape[0]
        built = getattr(model, "num_classes", weight.shape[0])
        if built != weight.shape[0] and not weights.classes_chosen:
            raise checkpoints.CheckpointError(
                f"{weights.file} has {weight.shape[0]} classes and the model {built}: give "
                f"num_classes={weight.shape[0]} to use them, or num_classes={built} to start a new classifier"
            )
    stems = getattr(model, "_traits", {}).get("first_conv") or cfg.get("first_conv")
    for stem in (stems,) if isinstance(stems, str) else stems or ():
        weight, module = found.get(f"{stem}.weight"), model.get_submodule(stem)
        if isinstance(weight, torch.Tensor) and isinstance(module, nn.Conv2d) and cfg.get("input_size"):
            cfg["input_size"] = (weight.shape[1] * module.groups, *cfg["input_size"][1:])
    # timm loads loosely once the number of classes differs, so what else is missing must be found here.
    missing = [name for name in own if name not in found and not name.startswith(tuple(f"{head}." for head in heads))]
    if missing:
        raise checkpoints.CheckpointError(
            f"{weights.file} does not fit {type(model).__name__}: it lacks {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        )
    return found


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
    filter_fn: Any = cls.convert_state_dict if issubclass(cls, ZooModel) else None
    if isinstance(cfg.state_dict, _Weights):
        pretrained = True
        # timm copies what a configuration holds, so that the tensors go past it.
        overlay |= {"source": None, "custom_load": False, "state_dict": {"file": str(cfg.state_dict.file)}}
        filter_fn = partial(_adapted, weights=cfg.state_dict)
    elif pretrained and cfg.checkpoint and not (cfg.file or cfg.state_dict):
        overlay["file"] = str(checkpoints.fetch(checkpoints.load_manifest()[cfg.checkpoint], cache_dir=cache_dir))
    if cfg.modality != "image":
        overlay["input_size"] = None  # timm's builder takes every size for that of an image
    given = {name: str(value) for name, value in kwargs.items() if name not in ("device", "dtype")}
    sizes = ", ".join(f"{name}={text[:40]}{'..' if len(text) > 40 else ''}" for name, text in given.items())
    refusal = f"{variant} cannot be built" + (f" with {sizes}" if sizes else "")
    build = partial(
        build_model_with_cfg,
        cls,
        variant,
        pretrained_cfg=replace(cfg, **overlay),  # type: ignore[arg-type]  # timm takes its dataclass too
        pretrained_filter_fn=filter_fn,
        feature_cfg=feature_cfg,
        cache_dir=cache_dir,
        **kwargs,
    )
    on_meta = {"device": torch.device("meta")} if "device" in kwargs else {}
    try:
        model: Any = build_within_limits(
            refusal, partial(build, pretrained=pretrained), partial(build, pretrained=False, **on_meta)
        )
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not _is_too_large(error):
            raise
        raise ValueError(f"{refusal}: it would not fit into memory") from error
    built = getattr(model, "model", model) if kwargs.get("features_only") else model
    described: dict[str, Any] = {**model.pretrained_cfg, "file": cfg.file, "source": cfg.source, "state_dict": None}
    if cfg.modality != "image":
        described["input_size"] = built.input_size
    elif described.get("input_size"):
        described["input_size"] = (
            kwargs.get("in_chans", getattr(built, "in_chans", described["input_size"][0])),
            *described["input_size"][1:],
        )
    if ("num_classes" in described or cfg.modality == "image") and hasattr(built, "num_classes"):
        described["num_classes"] = built.num_classes
    built.init_args = {key: value for key, value in kwargs.items() if key not in BUILDER_ARGS}
    model.pretrained_cfg = model.default_cfg = {key: value for key, value in described.items() if value is not None}
    return model


def _is_too_large(error: Exception) -> bool:
    """Whether a constructor failed because a tensor has no place in memory, or its size no place in 64 bits."""
    signs = ("allocate memory", "out of memory", "overflow", "too large to")
    return not isinstance(error, RuntimeError) or any(sign in str(error).lower() for sign in signs)
