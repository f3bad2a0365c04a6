"""Show what a model takes, gives and costs, and its pretrained weights.

Examples:
  blockzoo info timesnet_classifier.japanese_vowels
  blockzoo info timesnet_forecast --arg seq_len=336 --arg pred_len=96 --json
"""

import argparse
import inspect
from typing import Any

from blockzoo.tasks.core.output import add_model_args, parse_model_args, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="model, or model.tag")
    add_model_args(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def describe(name: str, model_args: dict[str, Any]) -> dict[str, Any]:
    """Facts about a model, measured on one that is built for it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import blockzoo
    from blockzoo._registry import family_of
    from blockzoo.kernels._dispatch import describe as describe_kernels

    model = blockzoo.create_model(name, **model_args).eval()
    cfg = blockzoo.get_pretrained_cfg(name)
    inputs = model.example_inputs(1)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        output = model(**inputs)
    signature = inspect.signature(type(model)).parameters
    return {
        "model": name,
        "family": family_of(name),
        "task": model.task,
        "modality": model.modality,
        "inputs": {key: tuple(value.shape) for key, value in inputs.items()},
        "output": tuple(output.shape) if isinstance(output, torch.Tensor) else str(type(output).__name__),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "kernels": describe_kernels(),
        "arguments": {key: repr(value.default) for key, value in signature.items()},
        "paper": cfg.paper_name,
        "code": cfg.origin_url,
        "weights": [_weights(tag) for tag in blockzoo.list_models(f"{name.split('.')[0]}.*", pretrained=True)],
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
