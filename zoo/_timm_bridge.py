"""Makes our image models available through `timm.create_model`.

timm is heavy to import, so nothing here imports it: when timm is loaded already, the models are registered there at
once, otherwise when it is imported. timm's own entries are never replaced: if timm has the name, our model is
"blockzoo_name" there.
"""

import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["PREFIX", "install", "offer"]

PREFIX = "blockzoo_"
"""In front of the names of ours in timm that timm has too, so that a saved model says whose it is."""

default_cfgs: dict[str, Any] = {}
"""Configurations of the models offered to timm, where timm's `register_model` looks for them."""


def install(load_families: Callable[[], None]) -> None:
    """Register our image models in timm now if it is imported, otherwise when it is.

    Args:
        load_families: Imports every family, each of which offers its models here.
    """
    if hasattr(sys.modules.get("timm"), "create_model"):
        load_families()
    else:
        sys.meta_path.insert(0, _TimmFinder(load_families))


def offer(name: str, fn: Callable[..., Any], cfgs: Any) -> None:
    """Register an image model of ours in timm, with a prefix if timm has the name.

    Args:
        name: The model's name.
        fn: Its entrypoint.
        cfgs: Its configurations by tag, timm's `DefaultCfg`.
    """
    from timm.models._registry import is_model, register_model

    if is_model(name):
        name = f"{PREFIX}{name}"

    @functools.wraps(fn)
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> Any:
        return fn(pretrained=pretrained, **kwargs)

    entrypoint.__module__ = __name__  # timm's registry reads name and configurations through these two
    entrypoint.__name__ = name
    default_cfgs[name] = cfgs
    register_model(entrypoint)


def _is_importing_us() -> bool:
    """Whether timm is imported while one of our own modules is only partly imported; a family might need all of it.

    The public names of `blockzoo` import timm before any of our modules. A family module that is imported alone
    registers its own models; the others follow when the registry is first read.
    """
    ours = [module for name, module in sys.modules.items() if name.startswith("blockzoo.")]
    return any(getattr(module.__spec__, "_initializing", False) for module in ours)


class _TimmFinder(importlib.abc.MetaPathFinder):
    """Import hook: lets the ordinary finders load timm once, then registers our models."""

    def __init__(self, load_families: Callable[[], None]) -> None:
        self.load_families = load_families

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("timm")
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            if not _is_importing_us():
                self.load_families()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
