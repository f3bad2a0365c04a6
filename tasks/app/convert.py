"""Convert a file of weights that you fetched by hand, and put it into the cache like a download.

Use it for weights that a program cannot fetch, such as those on a page that asks for confirmation: save the file with a
browser, then run this command. The result is a safetensors file in blockzoo's layout. The file is read without running
code from it; its layout must be that of the model, tensor for tensor. It goes into the cache, where `create_model(NAME,
pretrained=True)` finds it, and its hash is recorded: from then on, no other file is accepted for these weights. With
--out, the result is written to that file instead, for any model.

Examples:
  blockzoo convert p3d_rgb_199.checkpoint.pth.tar --as p3d199.kinetics_rgb
  blockzoo convert EMOv2_1M_224.pth --as emov2_1m.in1k
  blockzoo convert mine.pth --as nextvit_small --arg num_classes=37 --out mine.safetensors
"""

import argparse
from pathlib import Path
from typing import Any

from blockzoo.checkpoints import CheckpointError, adopt, load_manifest
from blockzoo.checkpoints.verification import digest_of
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.output import add_cache_dir, add_model_args, add_out, parse_model_args

__all__ = ["add_arguments", "read_as", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", help="a safetensors file, or a torch file without code")
    parser.add_argument("--as", dest="name", required=True, metavar="NAME", help="MODEL.TAG; with --out also a MODEL")
    add_out(parser, "write the converted weights to this file, not to the cache")
    add_cache_dir(parser)
    add_model_args(parser)


def read_as(path: str | Path, name: str, model_args: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read the tensors of a file in the layout of a model, and check that each fits.

    Args:
        path: A file of weights in our layout or a published one.
        name: "model" or "model.tag"; or a timm model with weights in the manifest.
        model_args: Arguments of the model, besides those of the tag.

    Raises:
        CheckpointError: The file does not hold weights, or has the layout of another model; the message names tensors
            that are missing, unknown, of another shape, or not finite.
    """
    import blockzoo
    from blockzoo.checkpoints import load_state_dict

    state_dict = load_state_dict(path)
    ours = blockzoo.is_model(name)
    model = blockzoo.create_model(name if ours else f"timm:{name}", **(model_args or {}))
    try:
        converted = blockzoo.convert_state_dict(model, state_dict) if ours else _as_timm(model, state_dict)
    except (ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not in a layout that {name} knows: {error}") from error
    wanted = model.state_dict()
    faults = [f"{key} is missing" for key in wanted if key not in converted]
    faults += [f"{key} is unknown" for key in converted if key not in wanted]
    for key, value in converted.items():
        if key not in wanted or not hasattr(value, "shape"):
            continue
        if value.shape != wanted[key].shape:
            faults.append(f"{key} has shape {tuple(value.shape)} and not {tuple(wanted[key].shape)}")
        elif value.is_floating_point() and not value.isfinite().all():
            faults.append(f"{key} has values that are not finite")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{path} does not fit {name}: {'; '.join(faults[:5])}{more}")
    return {key: value.to(wanted[key].dtype) for key, value in converted.items()}


def _as_timm(model: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    from timm.models.vision_transformer import checkpoint_filter_fn

    return state_dict if set(state_dict) == set(model.state_dict()) else dict(checkpoint_filter_fn(state_dict, model))


def run(args: argparse.Namespace) -> int:
    """Convert, and print where the file is."""
    from blockzoo.checkpoints import save_state_dict

    path, model_args = Path(args.path), parse_model_args(args.arg)
    artifact = load_manifest().get(args.name)
    if args.out is None:
        if artifact is None or artifact.origin != "official":
            names = [name for name, item in load_manifest().items() if item.origin == "official"]
            raise ValueError(f"--as {args.name} names no official weights; give --out, or one of {', '.join(names)}")
        if model_args:
            raise ValueError("--arg goes with --out: weights in the cache have the arguments of their tag")
    else:
        check_output(args.out, [path])
    weights = read_as(path, args.name, model_args)
    digest = digest_of(path)
    about = {"format": "pt", "model": args.name, "converted_from_sha256": digest}
    if args.out is not None:
        out = Path(args.out)
        save_state_dict(weights, out, about)
    else:
        assert artifact is not None
        out = adopt(artifact, path, lambda part: save_state_dict(weights, part, about), args.cache_dir)
    print(f"{path} (sha256 {digest}) fits {args.name}: {len(weights)} tensors, written to {out}")
    if artifact is not None and args.out is None:
        metric = artifact.metric
        print(f"license {artifact.license}; expected {metric['name']} {metric['value']} on {metric['dataset']}")
    return 0
