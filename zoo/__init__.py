"""blockzoo: a model zoo for vision and science.

    import blockzoo

    blockzoo.list_models()
    model = blockzoo.create_model("timesnet_classifier.japanese_vowels", pretrained=True)

Importing this package loads nothing heavy; timm, Lightning, e3nn and Triton come in when something needs them. Image
models whose names timm does not have are also found by `timm.create_model`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from blockzoo import _timm_bridge

if TYPE_CHECKING:
    from blockzoo._builder import create_model, from_pretrained
    from blockzoo._model import ZooModel
    from blockzoo._registry import (
        get_pretrained_cfg,
        is_model,
        list_families,
        list_models,
        list_pretrained,
        model_entrypoint,
        register_model,
    )
    from blockzoo._sharing import push_to_hub, save_pretrained
    from blockzoo._weights_file import convert_state_dict

    __version__: str

_HOMES = {
    "convert_state_dict": "_weights_file",
    "create_model": "_builder",
    "from_pretrained": "_builder",
    "ZooModel": "_model",
    "get_pretrained_cfg": "_registry",
    "is_model": "_registry",
    "list_families": "_registry",
    "list_models": "_registry",
    "list_pretrained": "_registry",
    "model_entrypoint": "_registry",
    "register_model": "_registry",
    "push_to_hub": "_sharing",
    "save_pretrained": "_sharing",
}

__all__ = [
    "ZooModel",
    "__version__",
    "convert_state_dict",
    "create_model",
    "from_pretrained",
    "get_pretrained_cfg",
    "is_model",
    "list_families",
    "list_models",
    "list_pretrained",
    "model_entrypoint",
    "push_to_hub",
    "register_model",
    "save_pretrained",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("blockzoo")
        if name not in _HOMES:
            raise AttributeError(f"module 'blockzoo' has no attribute {name!r}")
        importlib.import_module("timm")  # before any module of ours, see _timm_bridge
        value = getattr(importlib.import_module(f"blockzoo.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _load_families() -> None:
    importlib.import_module("blockzoo._registry").load_families()


_timm_bridge.install(_load_families)
