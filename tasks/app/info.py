"""Show the inputs, outputs, size and pretrained weights of a model.

Examples:
  blockzoo info timesnet_classifier.japanese_vowels
  blockzoo info timesnet_forecast --arg seq_len=336 --arg pred_len=96 --json
"""

import argparse
from typing import Any

from blockzoo.tasks.core import names
from blockzoo.tasks.core.output import add_model_args, parse_model_args, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name", help="name, name.tag, local-dir:FOLDER, hf-hub:OWNER/NAME, timm:NAME, or a run's folder"
    )
    add_model_args(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def describe(name: str, model_args: dict[str, Any]) -> dict[str, Any]:
    """Facts about a model, measured on one that is built with these arguments."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import blockzoo
    from blockzoo._arguments import constructor_arguments
    from blockzoo._registry import family_of
    from blockzoo.kernels._dispatch import describe as describe_kernels

    resolved = names.resolve(name)
    # The tag's arguments, without its weights, which need not be at hand to describe the model.
    tagged = blockzoo.is_model(resolved) and ":" not in resolved and "." in resolved
    own = dict(blockzoo.get_pretrained_cfg(resolved).model_args) if tagged else {}
    model = names.build(name, pretrained=None if ":" in resolved else False, **{**own, **model_args})
    cfg = getattr(model, "pretrained_cfg", {})
    ours = isinstance(model, blockzoo.ZooModel)
    architecture = str(cfg.get("architecture") or resolved.split(".")[0])
    known = ours and blockzoo.is_model(architecture)
    inputs = model.example_inputs(1) if ours else {"x": torch.zeros(1, *cfg["input_size"])}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        output = model(**inputs)
    parameters = constructor_arguments(type(model))
    given = {**own, **model_args, **getattr(model, "init_args", {})}
    if resolved.startswith("local-dir:"):
        given |= dict(cfg.get("model_args") or {})
    return {
        "model": resolved,
        "family": family_of(architecture) if known else "timm's",
        "task": getattr(model, "task", "classification"),
        "modality": getattr(model, "modality", "image"),
        "inputs": {key: tuple(value.shape) for key, value in inputs.items()},
        "output": tuple(output.shape) if isinstance(output, torch.Tensor) else str(type(output).__name__),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "kernels": describe_kernels(),
        "arguments": {key: repr(given.get(key, parameter.default)) for key, parameter in parameters.items()},
        "paper": cfg.get("paper_name"),
        "code": cfg.get("origin_url"),
        "weights": [_weights(tag) for tag in blockzoo.list_models(f"{architecture}.*", pretrained=True)]
        if known
        else [],
    }


def _weights(name: str) -> dict[str, Any]:
    import blockzoo
    from blockzoo.checkpoints import is_cached, load_manifest

    artifact = load_manifest().get(str(blockzoo.get_pretrained_cfg(name).checkpoint))
    if artifact is None:
        return {"tag": name}
    metric = artifact.metric
    return {
        "tag": name,
        "metric": f"{metric['name']} {metric['value']:.4f} on {metric['dataset']} ({metric['split']})",
        "license": artifact.license,
        "data_license": artifact.data_license,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "source": str(artifact.sources[0]),
        "available": is_cached(artifact),
    }


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    facts = describe(args.name, parse_model_args(args.arg))
    if args.json:
        print_json(facts)
        return 0
    nested = ("arguments", "weights", "inputs", "kernels")
    rows = [
        (key, f"{value:,}" if isinstance(value, int) else value) for key, value in facts.items() if key not in nested
    ]
    rows += [(f"input {key}", shape) for key, shape in facts["inputs"].items()]
    rows += [(f"argument {key}", default) for key, default in facts["arguments"].items()]
    rows += [(f"kernels {key}", value) for key, value in facts["kernels"].items()]
    for weights in facts["weights"]:
        rows += [(f"weights {weights['tag']}", f"{key}: {value}") for key, value in weights.items() if key != "tag"]
    print_table(("fact", "value"), rows)
    return 0
