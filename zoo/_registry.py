"""Registry of the zoo's models: names, tags and configurations, in timm's notation.

A family is a module of the package without a leading underscore. It registers its models when it is imported, and is
found by looking at the package's folder: there is no list to add it to. A model's entrypoint is a function of its name
in that module, which holds a `default_cfgs` table made by timm's `generate_default_cfgs`.

These tables belong to blockzoo. timm's tables are never changed, except by `blockzoo._timm_bridge` for image models
whose names timm does not have.
"""

import difflib
import fnmatch
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

from timm.models._pretrained import DefaultCfg
from timm.models._registry import is_model as timm_has
from timm.models._registry import split_model_name_tag

import blockzoo
from blockzoo import _timm_bridge
from blockzoo._about import FamilyAbout, Small
from blockzoo._cfg import ZooCfg

__all__ = [
    "get_pretrained_cfg",
    "is_model",
    "list_families",
    "list_models",
    "list_pretrained",
    "model_entrypoint",
    "register_model",
    "resolve_cfg",
]

_OF_WEIGHTS: dict[str, Any] = {
    **dict.fromkeys(("url", "hf_hub_id", "file", "checkpoint", "label_names", "mean", "std", "description")),
    "model_args": {},
    "series": {},
    "clips": {},
    "multi_label": False,
}
"""Entries of a configuration that belong to one tag's weights, at the values that mean none."""

Entrypoint = TypeVar("Entrypoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Entry:
    entrypoint: Callable[..., Any]
    family: str
    cfgs: DefaultCfg

    def cfg(self, tag: str) -> ZooCfg:
        """The configuration of a tag; registration has checked its class."""
        cfg = self.cfgs.cfgs[tag]
        assert isinstance(cfg, ZooCfg)
        return cfg

    @property
    def default(self) -> ZooCfg:
        return self.cfg(self.cfgs.tags[0])


_entries: dict[str, _Entry] = {}


def register_model(fn: Entrypoint) -> Entrypoint:
    """Register a model under the name of its entrypoint `fn(pretrained=False, **kwargs)`.

    The configurations come from `default_cfgs[name]` in the module that defines `fn`; the table must come before `fn`.
    The family is the last part of the module's name. An image model whose name is free in timm is reachable through
    timm as well.

    If the caller asks for weights or a configuration, `fn` gets the `model_args` of that tag; the caller's own
    arguments take precedence. A name without a tag uses the defaults of the entrypoint.

    Returns:
        The entrypoint that is registered.

    Raises:
        ValueError: The module has no configuration for the name, or another function has taken the name.
    """
    name, module = fn.__name__, sys.modules[fn.__module__]
    cfgs = getattr(module, "default_cfgs", {}).get(name)
    if not isinstance(cfgs, DefaultCfg) or not all(isinstance(cfg, ZooCfg) for cfg in cfgs.cfgs.values()):
        raise ValueError(
            f"{fn.__module__}.default_cfgs has no entry {name!r} made by generate_default_cfgs from ZooCfg values"
        )
    taken = _entries.get(name)
    if taken is not None and taken.entrypoint.__module__ != fn.__module__:
        raise ValueError(f"the model name {name!r} is taken by {taken.entrypoint.__module__}; choose another")

    @functools.wraps(fn)
    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | ZooCfg | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if pretrained or pretrained_cfg:
            kwargs = {**resolve_cfg(name, pretrained_cfg, pretrained_cfg_overlay).model_args, **kwargs}
        chosen: dict[str, Any] = {"pretrained_cfg": pretrained_cfg, "pretrained_cfg_overlay": pretrained_cfg_overlay}
        return fn(pretrained=pretrained, **chosen, **kwargs)

    tagged = {tag: replace(cfg, architecture=name, tag=tag or None) for tag, cfg in cfgs.cfgs.items()}
    family = fn.__module__.rpartition(".")[2]
    _entries[name] = _Entry(entrypoint, family, DefaultCfg(deepcopy(cfgs.tags), tagged, cfgs.is_pretrained))
    if _entries[name].default.modality == "image":
        _timm_bridge.offer(name, entrypoint, _entries[name].cfgs)
    return cast(Entrypoint, entrypoint)


def family_modules() -> list[str]:
    """Names of the package's family modules, sorted; none is imported."""
    found = pkgutil.iter_modules(blockzoo.__path__)
    return sorted(module.name for module in found if not module.ispkg and not module.name.startswith("_"))


@functools.cache
def load_families() -> None:
    """Import every family module, so that the tables are complete."""
    for family in family_modules():
        importlib.import_module(f"blockzoo.{family}")


def small_models() -> list[Small]:
    """Small models that stand for all others in tables and tests, in the order of families."""
    found: list[Small] = []
    for family in list_families():
        first = next(name for name in list_models(family=family))
        found += family_about(family).small or (Small(first, tuple(list_models(family=family))),)
    return found


def family_about(family: str) -> FamilyAbout:
    """Texts about a family for people; if it has none, the first paragraph of its docstring.

    Args:
        family: A name of `list_families()`.

    Raises:
        ValueError: There is no such family; the message lists the existing ones.
    """
    load_families()
    modules = {entry.family: sys.modules[inspect.unwrap(entry.entrypoint).__module__] for entry in _entries.values()}
    if family not in modules:
        raise ValueError(f"unknown family {family!r}; the families are {', '.join(sorted(modules))}")
    about = getattr(modules[family], "about", None)
    if isinstance(about, FamilyAbout):
        return about
    text = inspect.getdoc(modules[family]) or f"The family {family}."
    return FamilyAbout(title=family, purpose=" ".join(text.split("\n\n")[0].split()))


def _entry(model_name: str) -> _Entry:
    load_families()
    name = split_model_name_tag(model_name)[0]
    if name in _entries:
        return _entries[name]
    close = difflib.get_close_matches(name, _entries, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; blockzoo.list_models() lists what there is"
    if timm_has(name):
        hint = f"; timm has it: use 'timm:{name}'"
    raise ValueError(f"unknown model {name!r}{hint}")


def _natural(text: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.lower())]


def _as_list(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def list_models(
    filter: str | Iterable[str] = "",
    family: str | Iterable[str] = "",
    task: str | Iterable[str] = "",
    modality: str | Iterable[str] = "",
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = "",
    include_tags: bool | None = None,
) -> list[str]:
    """Names of the models, sorted naturally.

    Args:
        filter: Wildcard or wildcards that a name must match, as in `fnmatch`; one without a dot matches any tag.
        family: Only models of this family or these families.
        task: Only models for this task or these tasks.
        modality: Only models with this kind of input.
        pretrained: Only models with weights.
        exclude_filters: Wildcard or wildcards of names to leave out.
        include_tags: List "name.tag" instead of names; by default exactly when `pretrained` is set.
    """
    load_families()
    if include_tags is None:
        include_tags = pretrained

    def matches(name: str, patterns: str | Iterable[str]) -> bool:
        arch = split_model_name_tag(name)[0]
        return any(fnmatch.fnmatchcase(name if "." in pattern else arch, pattern) for pattern in _as_list(patterns))

    def keep(value: str, wanted: str | Iterable[str]) -> bool:
        return not wanted or value in _as_list(wanted)

    names = []
    for name, entry in _entries.items():
        default = entry.default
        if not (keep(entry.family, family) and keep(default.task, task) and keep(default.modality, modality)):
            continue
        tags = [tag for tag in entry.cfgs.tags if not pretrained or entry.cfgs.cfgs[tag].has_weights]
        if include_tags:
            names += [f"{name}.{tag}" if tag else name for tag in tags]
        elif tags:
            names.append(name)
    kept = [name for name in names if (not filter or matches(name, filter)) and not matches(name, exclude_filters)]
    return sorted(kept, key=_natural)


def list_pretrained(filter: str | Iterable[str] = "", exclude_filters: str | Iterable[str] = "") -> list[str]:
    """All "name.tag" that have weights."""
    return list_models(filter, pretrained=True, exclude_filters=exclude_filters)


def list_families(task: str | Iterable[str] = "", modality: str | Iterable[str] = "") -> list[str]:
    """Names of the model families."""
    return sorted({_entries[name].family for name in list_models(task=task, modality=modality)}, key=_natural)


def is_model(model_name: str) -> bool:
    """Whether the zoo has a model of this name; a tag is ignored."""
    load_families()
    return split_model_name_tag(model_name)[0] in _entries


def model_entrypoint(model_name: str) -> Callable[..., Any]:
    """The function that builds a model; a tag is ignored.

    Raises:
        ValueError: There is no such model; the message suggests near names.
    """
    return _entry(model_name).entrypoint


def family_of(model_name: str) -> str:
    """The family that a model belongs to."""
    return _entry(model_name).family


def get_pretrained_cfg(model_name: str) -> ZooCfg:
    """A copy of the configuration of "name" (its default tag) or "name.tag".

    Raises:
        ValueError: There is no such model, or no such tag; the message lists the tags.
    """
    entry = _entry(model_name)
    name, tag = split_model_name_tag(model_name)
    if not tag:
        return deepcopy(entry.default)
    if tag not in entry.cfgs.cfgs:
        tags = ", ".join(filter(None, entry.cfgs.tags)) or "none"
        raise ValueError(f"{name!r} has no pretrained tag {tag!r}; its tags: {tags}")
    return deepcopy(entry.cfg(tag))


def resolve_cfg(
    model_name: str,
    cfg: str | dict[str, Any] | ZooCfg | None = None,
    overlay: dict[str, Any] | None = None,
) -> ZooCfg:
    """Find the configuration that a builder's arguments describe.

    Args:
        model_name: The registered name.
        cfg: A tag, or a whole configuration; the default tag when None.
        overlay: Entries that replace those of the configuration.

    Raises:
        ValueError: Unknown name or tag.
        TypeError: A dictionary has an unknown entry; the message lists the known ones.
    """
    if isinstance(cfg, dict):
        cfg = replace(get_pretrained_cfg(model_name), **{**_OF_WEIGHTS, **_known(cfg, "pretrained_cfg")})
    elif not isinstance(cfg, ZooCfg):
        cfg = get_pretrained_cfg(f"{model_name}.{cfg}" if cfg else model_name)
    return replace(cfg, **_known(overlay or {}, "pretrained_cfg_overlay"))


def _known(entries: dict[str, Any], argument: str) -> dict[str, Any]:
    names = [field.name for field in fields(ZooCfg)]
    for key in entries:
        if key not in names:
            raise TypeError(f"{argument} has an unknown entry {key!r}; the entries are {', '.join(names)}")
    return entries
