"""From a name to a model: sources, configurations, construction and weights, on timm's builder.

1. `create_model` reads the name: a model of timm's, a registered name with its tag, or somebody's folder or repository,
   whose `config.json` says the name and arguments (`blockzoo._folder_config`).
2. The registered entrypoint adds the variant's arguments and calls `build_model`.
3. `build_model` looks up the configuration, checks the arguments, and has the weights fetched. timm builds the model
   within bounds (`blockzoo._size_limit`) and loads them. A file of weights that the caller names is adapted to the
   model first (`blockzoo._weights_file`).
"""

import difflib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from timm.models import build_model_with_cfg, parse_model_name
from timm.models._registry import split_model_name_tag
from torch import nn

from blockzoo import _registry, _timm_bridge, checkpoints
from blockzoo._arguments import check_arguments
from blockzoo._cfg import ZooCfg
from blockzoo._folder_config import read_folder_config
from blockzoo._model import ZooModel
from blockzoo._size_limit import build_within_limits
from blockzoo._weights_file import FileWeights, adapted
from blockzoo.checkpoints.folder import whole_folder
from blockzoo.checkpoints.hub import WEIGHTS

__all__ = ["build_model", "create_model", "from_pretrained"]

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
        pretrained_cfg, name, model_args = read_folder_config(folder, extra)
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
        state_dict = FileWeights(checkpoints.load_state_dict(weights))
        state_dict.file, state_dict.classes_chosen = weights, "num_classes" in kwargs or bool(source)
        pretrained_cfg_overlay = {**(pretrained_cfg_overlay or {}), "state_dict": state_dict}
    return _registry.model_entrypoint(name)(
        pretrained=pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        **kwargs,
    )


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


def _without_none(kwargs: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if value is not None or key in keep}


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
    if isinstance(cfg.state_dict, FileWeights):
        pretrained = True
        # timm copies what a configuration holds, so that the tensors go past it.
        overlay |= {"source": None, "custom_load": False, "state_dict": {"file": str(cfg.state_dict.file)}}
        filter_fn = partial(adapted, weights=cfg.state_dict)
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
