"""Write a model to a file, then read the file back, run it on fresh inputs and compare.

The exported program takes any batch size, unless --static-batch fixes it. With --dynamic-size it also takes other
heights and widths (and times), in steps of the network's stride. Nothing is written if the outputs differ. With
--quantize, the file holds int8 weights; for shipped checkpoints, the command measures the metric of the card before and
after, on the packaged test data.

Examples:
  blockzoo export timesnet_classifier.japanese_vowels --format torch-export --out vowels.pt2
  blockzoo export nextvit_small --format onnx --dynamic-size --out nextvit.onnx        (needs blockzoo[export])
  blockzoo export emov2_5m --format onnx --size 256,256 --deploy --out emov2.onnx
  blockzoo export tdn --format aoti --out tdn.pt2      (compiled, potentials with forces; needs a C++ compiler)
  blockzoo export timesnet_classifier.japanese_vowels --format onnx --quantize static --out vowels.int8.onnx
  blockzoo export nasnet_cifar.cifar10 --format onnx --quantize static --calibration data/cifar10 --out nasnet.onnx
  blockzoo export runs/flowers/version_0 --format onnx --quantize static --out flowers.onnx   (the run's own data)
  blockzoo export --table docs/exports.md      (exports a small model of each family in every format; for maintainers)
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from blockzoo.checkpoints.hub import WEIGHTS
from blockzoo.tasks.core import names, rooms
from blockzoo.tasks.core.evaluation import measure
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.output import add_model_args, add_out, parse_model_args
from blockzoo.tasks.deploy.checking import FORMATS, TOLERANCE, liven


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name", nargs="?", help="name, name.tag, local-dir:FOLDER, hf-hub:OWNER/NAME, timm:NAME, or a run's folder"
    )
    parser.add_argument("--format", choices=FORMATS, help="what to write")
    add_out(parser, "the file to write")
    parser.add_argument("--deploy", action="store_true", help="first merge all layers that can be merged")
    parser.add_argument("--static-batch", type=int, metavar="N", help="fix the batch size instead of leaving it free")
    parser.add_argument(
        "--size", metavar="H,W", help="sizes of the axes after the channels, instead of the model's own"
    )
    parser.add_argument(
        "--dynamic-size", action="store_true", help="leave the sizes of the axes after the channels free"
    )
    parser.add_argument("--quantize", choices=("dynamic", "static"), help="int8, with --format onnx")
    parser.add_argument(
        "--calibration", metavar="PATH", help="data for --quantize static: a folder or a file (default: a run's own)"
    )
    parser.add_argument("--table", metavar="PAGE", help="export small models of all families, and write the table")
    parser.add_argument("--only", metavar="NAME", action="append", help="with --table: measure only these rows again")
    add_model_args(parser)


def run(args: argparse.Namespace) -> int:
    """Export and check; status 1 if the outputs differ."""
    if args.table:
        from blockzoo.tasks.app.export_table import write_table

        return write_table(Path(args.table), args.only)
    for option in ("name", "format", "out"):
        if getattr(args, option) is None:
            raise ValueError(
                f"give {'a model' if option == 'name' else '--' + option}; blockzoo export --help says more"
            )
    if args.static_batch is not None and args.static_batch < 1:
        raise ValueError(f"--static-batch {args.static_batch} must be at least 1")
    if args.quantize and args.format != "onnx":
        raise ValueError(f"--quantize goes with --format onnx, not {args.format}")
    if args.calibration and args.quantize != "static":
        raise ValueError("--calibration goes with --quantize static")
    args.name = names.resolve(args.name)
    source = Path(args.name.removeprefix("local-dir:"))
    check_output(args.out, [source / file for file in ("config.json", *WEIGHTS)])
    pretrained = names.has_weights(args.name)
    model = names.build(args.name, **parse_model_args(args.arg))
    if not pretrained:
        liven(model)
    if args.deploy:
        model.deploy()
    if args.quantize:
        return _quantize(args, model)
    return _export(args, model, "pretrained" if pretrained else "random")


def _size(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--size {text!r} must be numbers with commas between, such as 256,256") from None


def _export(args: argparse.Namespace, model: Any, weights: str) -> int:
    from blockzoo.tasks.deploy import export as model_export

    how: dict[str, Any] = {"batch": args.static_batch, "size": _size(args.size), "dynamic_size": args.dynamic_size}
    fresh = model_export.fresh_examples(model, **how)
    out = Path(args.out)
    temporary = out.with_name(f".{os.getpid()}-{out.name}")  # the suffix matters to the writers
    try:
        model_export.export_model(model, args.format, temporary, **how)
        runner = _rebuilt(args, temporary) if args.format == "safetensors" else None
        error = model_export.difference(model, runner or model_export.load_exported(temporary, args.format), fresh)
        if not error < TOLERANCE:
            print(f"the exported model differs from the original by {error:.2e} of its deviation; nothing was written")
            return 1
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    tried = ", ".join("x".join(map(str, next(iter(inputs.values())).shape)) for inputs in fresh)
    free = "" if model.modality in rooms.declared("exporters") or args.static_batch else ", any batch"
    if args.dynamic_size:
        steps = "x".join(map(str, model.size_steps()))
        free += f", sizes in steps of {steps}, two steps or more"
    print(
        f"{out}: {args.name}, {weights} weights, {args.format}{free}, {out.stat().st_size:,} bytes, "
        f"checked: difference {error:.2e} on {tried}"
    )
    return 0


def _rebuilt(args: argparse.Namespace, path: Path) -> Any:
    """Build the model again with the weights of a file, as a program to run."""
    import blockzoo
    from blockzoo.checkpoints import load_state_dict
    from blockzoo.tasks.deploy.export import flatten

    copy = blockzoo.create_model(args.name, **parse_model_args(args.arg)).eval()
    if args.deploy:
        copy.deploy()
    copy.load_state_dict(load_state_dict(path))
    return lambda inputs: flatten(copy(**inputs))


def _quantize(args: argparse.Namespace, model: Any) -> int:
    from blockzoo.checkpoints import load_manifest
    from blockzoo.tasks.deploy import export as model_export
    from blockzoo.tasks.deploy import quantize

    able = rooms.declared("int8")
    if model.modality not in able:
        kinds = ", ".join(f"{modality}s" if modality[-1] != "s" else modality for modality in able)
        raise ValueError(f"--quantize is for {kinds}; {args.name} is a model of {model.modality}s")
    int8 = able[model.modality]
    artifact = load_manifest().get(args.name)
    dataset = artifact.metric["dataset"] if artifact is not None else None
    samples = None
    if args.quantize == "static" or int8.real_inputs:
        try:
            own = _own_data(args.name) if artifact is None and args.calibration is None else None
            samples = quantize.calibration_samples(model, dataset, args.calibration, own)
        except (ValueError, OSError) as missing:
            if args.quantize == "static":
                raise
            print(f"blockzoo export: traced on example inputs, not on real ones: {missing}", file=sys.stderr)
    inputs = None if samples is None else {key: value[:3] for key, value in samples.items()}
    how: dict[str, Any] = {"batch": args.static_batch, "size": _size(args.size), "dynamic_size": args.dynamic_size}
    out = Path(args.out)
    temporary = out.with_name(f".{os.getpid()}-{out.name}")  # the suffix matters to the writers
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float.onnx"
        model_export.export_model(model, "onnx", plain, inputs=inputs, **how)
        size = args.static_batch or 16
        parts = (
            []
            if samples is None
            else [
                {key: value[i : i + size] for key, value in samples.items()}
                for i in range(0, len(next(iter(samples.values()))) - size + 1, size)
            ]
        )
        try:
            quantize.quantize_onnx(plain, temporary, args.quantize, parts)
            runner = model_export.load_exported(temporary, "onnx")
            fresh = [parts[-1]] if parts else model_export.fresh_examples(model, **how)
            error = model_export.difference(model, runner, fresh)
            if not error < float("inf"):
                raise ValueError("the quantised program gives other shapes than the model, or no finite numbers")
            sizes = plain.stat().st_size, temporary.stat().st_size
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    print(f"{out}: {args.name}, int8 ({args.quantize}), {sizes[1]:,} bytes, float32 has {sizes[0]:,}")
    print(f"largest difference of an output: {error:.3f} of its deviation")
    if artifact is None or artifact.origin != "ours":
        print("accuracy was not measured: no test data are packaged for these weights")
        return 0
    _report_loss(args.name, artifact.metric["dataset"], model, quantize.RunningModel(model, runner))
    return 0


def _own_data(name: str) -> Any:
    """The data module of a run's folder, with the options of the run; None for any other name."""
    folder = Path(name.removeprefix("local-dir:"))
    if not name.startswith("local-dir:") or not (folder / "config.yaml").is_file():
        return None
    from blockzoo.tasks.app import training
    from blockzoo.tasks.core.run_config import check_run_config

    check_run_config(folder / "config.yaml")
    weights = f"--model.init_args.checkpoint_path={folder / 'model.safetensors'}"
    config = ["--config", str(folder / "config.yaml"), "--trainer.logger=false", "--trainer.accelerator=cpu"]
    return training.build([*config, "--trainer.devices=1", weights])[1]


def _report_loss(name: str, dataset: str, model: Any, quantized: Any) -> None:
    """Measure and print the metric of the card before and after."""
    from blockzoo.checkpoints import load_manifest

    metric = load_manifest()[name].metric
    before, after = measure(model, name, dataset)[0], measure(quantized, name, dataset)[0]
    where = f"{metric['name']} on {dataset} ({metric['split']})"
    print(f"{where}: float32 {before:.6f}, int8 {after:.6f}, {after - before:+.6f}")
