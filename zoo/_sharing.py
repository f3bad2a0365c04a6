"""Saving and sharing models, as a folder or a hub repository that `create_model` and timm can load.

It holds `model.safetensors`, `config.json` in timm's format and a model card, `README.md`.
"""

import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from timm.models._input import get_model_args
from timm.models._registry import is_model as timm_has

from blockzoo import _timm_bridge, checkpoints
from blockzoo._arguments import constructor_arguments
from blockzoo._builder import from_pretrained
from blockzoo._cfg import ZooCfg
from blockzoo._model import ZooModel
from blockzoo._registry import is_model
from blockzoo.checkpoints.folder import replace_files

__all__ = ["push_to_hub", "save_pretrained"]

_OF_OTHER_WEIGHTS = (
    "architecture",
    "checkpoint",
    "description",
    "file",
    "hf_hub_id",
    "source",
    "state_dict",
    "tag",
    "url",
)
_RUNTIME = ("cache_dir", "device", "dtype", "out_indices", "features_only")


def save_pretrained(
    model: ZooModel, folder: str | Path, card: str | None = None, name: str | None = None, **about: Any
) -> Path:
    """Write a model to a folder, and check that loading it gives the same model.

    Args:
        model: A model that `create_model` made, not deployed.
        folder: Where to write. If anything fails, an earlier model in the folder stays complete and `create_model`
            loads that one.
        card: Text of the model card, Markdown; by default one that says what the model is, how to load it and under
            which licence, with `about` as metadata.
        name: "org/name", or "local-dir:path", by which the card loads the model; the folder by default.
        **about: Entries of the configuration to set, for example `label_names`, `mean`, `std`, `license`; `label_names`
            of the weights are dropped if the number of classes has changed.

    Returns:
        The folder.

    Raises:
        TypeError: `model` is not one of ours, or `about` has an unknown entry.
        ValueError: The model was not made by `create_model`, was deployed or changed, or was made with an argument
            that is not a plain value.
    """
    config = _config(model, about)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "config": json.dumps(config)}
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as held:
        checkpoints.save_state_dict(model.state_dict(), Path(held) / "model.safetensors", metadata)
        (Path(held) / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (Path(held) / "README.md").write_text(card or _card(model, config, name or str(folder)), encoding="utf-8")
        _read_back(model, Path(held))
        replace_files(Path(held), folder, ("README.md", "model.safetensors", "config.json"))
    return folder


def push_to_hub(
    model: ZooModel,
    repo_id: str,
    card: str | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str = "Add model",
    **about: Any,
) -> str:
    """Upload a model to a repository on the Hugging Face Hub; a missing repository is created.

    Args:
        model: See `save_pretrained`.
        repo_id: "organisation/name".
        card: See `save_pretrained`.
        private: Whether a new repository is private.
        revision: Branch to commit to; it must exist.
        token: Access token; that of `hf auth login` or HF_TOKEN by default.
        commit_message: First line of the commit.
        **about: See `save_pretrained`.

    Returns:
        Name for `create_model`: "hf-hub:organisation/name".

    Raises:
        RuntimeError: The hub refused, or cannot be reached.
        TypeError: See `save_pretrained`.
        ValueError: `repo_id` has another form, or see `save_pretrained`.
    """
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"repo_id={repo_id!r} must be 'organisation/name'")
    if checkpoints.is_offline():
        raise checkpoints.OfflineError(f"{repo_id} cannot be written to: offline mode is on")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, card, f"hf-hub:{repo_id}", **about)
        try:
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)
        except Exception as error:  # beside its own errors the client raises those of its transport
            raise checkpoints.CheckpointError(
                f"{repo_id} could not be written: {type(error).__name__}: {error}"
            ) from error
    return f"hf-hub:{repo_id}"


def _config(model: ZooModel, about: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(model, ZooModel):
        raise TypeError(f"model must be a model of the zoo, not {type(model).__name__}; timm's are pushed by timm")
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg or not is_model(str(cfg.get("architecture"))):
        raise ValueError(f"this {type(model).__name__} was not made by create_model, so nothing says how to build it")
    name = str(cfg["architecture"])
    args = _arguments(model)
    for key, value in args.items():
        if not _is_plain(value):
            raise ValueError(f"{name} was made with {key}={value!r}, which a file cannot hold; use plain values")
    kept = {key: value for key, value in cfg.items() if key not in _OF_OTHER_WEIGHTS and value is not None}
    if kept.get("label_names") and len(kept["label_names"]) != getattr(model, "num_classes", 0):
        del kept["label_names"]
    if model.modality == "image" and timm_has(_timm_bridge.PREFIX + name):
        name = _timm_bridge.PREFIX + name
    config: dict[str, Any] = {"architecture": name, "model_args": args, "pretrained_cfg": {**kept, "model_args": args}}
    if hasattr(model, "num_classes"):
        config["num_classes"] = kept["num_classes"] = model.num_classes
    known = {field.name for field in fields(ZooCfg)}
    for key in about:
        if key not in known:
            raise TypeError(
                f"save_pretrained has no argument {key!r}; entries of the configuration are {', '.join(sorted(known))}"
            )
    config["pretrained_cfg"] = {**config["pretrained_cfg"], **about}
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _arguments(model: ZooModel) -> dict[str, Any]:
    """The constructor's arguments, with the changes of `reset_classifier`."""
    args = {key: value for key, value in model.init_args.items() if key not in _RUNTIME}
    parameters = constructor_arguments(type(model))
    for key in ("num_classes", "in_chans"):
        if key in parameters and hasattr(model, key):
            args[key] = getattr(model, key)
    if "global_pool" in parameters and "global_pool" in (found := get_model_args(model)):
        args["global_pool"] = found["global_pool"]
    return args


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)


@torch.no_grad()
def _read_back(model: ZooModel, folder: Path) -> None:
    """Build the model from the folder and compare every tensor."""
    hint = "save it as create_model made it: before deploy(), and without changes by hand"
    try:
        copy = from_pretrained(folder)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the saved {type(model).__name__} could not be read back; {hint}: {error}") from error
    ours, theirs = model.state_dict(), copy.state_dict()
    wrong = sorted(set(ours) ^ set(theirs))
    wrong += [
        key for key in ours if key in theirs and not torch.equal(ours[key].cpu().to(theirs[key].dtype), theirs[key])
    ]
    if wrong:
        raise ValueError(
            f"the saved {type(model).__name__} reads back with other tensors ({', '.join(wrong[:3])}); {hint}"
        )


def _card(model: ZooModel, config: dict[str, Any], name: str) -> str:
    cfg = config["pretrained_cfg"]
    source = name if ":" in name else f"local-dir:{name}"
    head = {"license": cfg.get("license") or "unknown", "library_name": "blockzoo"}
    tags = ["blockzoo", f"{model.modality}-{model.task}"]
    lines = ["---", *(f"{key}: {value}" for key, value in head.items()), "tags:", *(f"- {tag}" for tag in tags), "---"]
    args = ", ".join(f"{key}={value!r}" for key, value in config["model_args"].items()) or "the defaults"
    count = sum(parameter.numel() for parameter in model.parameters())
    size = "x".join(map(str, cfg.get("input_size") or ()))
    lines += [
        "",
        f"# {source.rpartition('/')[2].removeprefix('local-dir:')}",
        "",
        f"`{config['architecture']}` of blockzoo: {model.modality} -> {model.task}, {count:,} parameters.",
        "",
        "```python",
        "import blockzoo",
        "",
        f'model = blockzoo.create_model("{source}", pretrained=True).eval()',
        "output = model(**model.example_inputs())",
        "```",
        "",
        f"- input: {size} ({cfg.get('input_axes', 'CHW')}, without the batch)",
        f"- arguments: {args}",
    ]
    if model.modality == "image":
        lines += [f'- with timm: `import blockzoo, timm; timm.create_model("{source}", pretrained=True)`']
    lines += [
        f"- {key}: {cfg[key]}" for key in ("mean", "std", "label_names", "paper_ids", "origin_url") if cfg.get(key)
    ]
    return "\n".join([*lines, ""])
