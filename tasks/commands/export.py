"""Write a model to a file, then read the file back, run it on fresh inputs and compare.

Examples:
  blockzoo export timesnet_classifier.japanese_vowels --format torch-export --out vowels.pt2
  blockzoo export timesnet_forecast --format onnx --out forecast.onnx      (needs blockzoo[export])
  blockzoo export tdn --format aoti --out tdn.pt2      (potentials: compiled, with forces; needs a C++ compiler)
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

from blockzoo.tasks.commands.output import add_model_args, parse_model_args

FORMATS = ("safetensors", "torch-export", "onnx", "aoti")
TOLERANCE = 1e-4
"""Largest difference allowed, in units of the output's standard deviation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="model, or model.tag for its weights")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--deploy", action="store_true", help="merge what can be merged first")
    parser.add_argument("--static-batch", type=int, metavar="N", help="fix the batch size instead of leaving it free")
    add_model_args(parser)


def run(args: argparse.Namespace) -> int:
    """Export and check; status 1 if the outputs differ."""
    import torch

    import blockzoo

    pretrained = "." in args.name.split(":")[-1]
    model = blockzoo.create_model(args.name, pretrained=pretrained, **parse_model_args(args.arg)).eval()
    if args.deploy:
        model.deploy()
    is_graph = model.modality == "graph"
    if is_graph and (args.static_batch or args.format == "onnx"):
        raise ValueError(f"{args.name} exports as safetensors, torch-export or aoti, without --static-batch")
    if args.format == "aoti" and not is_graph:
        raise ValueError(f"--format aoti is for potentials, and {args.name} is none; use torch-export or onnx")
    batch = args.static_batch or (5 if is_graph else 3)  # tracing potentials needs a number that no axis has
    inputs = model.example_inputs(batch)
    fresh = model.example_inputs(args.static_batch or (4 if is_graph else 5))
    out = Path(args.out)
    temporary = out.with_name(f".{out.name}")
    try:
        with torch.no_grad():
            expected = _one_tensor(model(**fresh))
            found = _one_tensor(_EXPORTERS[args.format](args, model, inputs, fresh, temporary))
        error = ((found - expected).abs().max() / expected.std()).item()
        if not error < TOLERANCE:
            print(f"the exported model differs from the original by {error:.2e} of its deviation; nothing was written")
            return 1
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    weights = "pretrained weights" if pretrained else "random weights"
    print(
        f"{out}: {args.name}, {weights}, {args.format}, {out.stat().st_size:,} bytes, checked: difference {error:.2e}"
    )
    return 0


def _one_tensor(output: Any) -> Any:
    import torch

    return torch.cat([part.flatten() for part in output.values()]) if isinstance(output, dict) else output


def _dynamic(args: argparse.Namespace, inputs: dict[str, Any]) -> dict[str, Any] | None:
    import torch

    if args.static_batch:
        return None
    batch = torch.export.Dim("batch", min=2, max=4096)
    return {key: {0: batch} for key in inputs}


def _safetensors(args: argparse.Namespace, model: Any, inputs: Any, fresh: Any, path: Path) -> Any:
    import blockzoo
    from blockzoo.checkpoints import load_state_dict, save_state_dict

    save_state_dict(model.state_dict(), path, {"format": "pt", "model": args.name})
    copy = blockzoo.create_model(args.name, **parse_model_args(args.arg)).eval()
    if args.deploy:
        copy.deploy()
    copy.load_state_dict(load_state_dict(path))
    return copy(**fresh)


def _torch_export(args: argparse.Namespace, model: Any, inputs: Any, fresh: Any, path: Path) -> Any:
    import torch

    if model.modality == "graph":
        from blockzoo.tasks.potential_export import export_program

        program = export_program(model, inputs)
    else:
        program = torch.export.export(model, (), inputs, dynamic_shapes=_dynamic(args, inputs))
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return module(*fresh.values()) if model.modality == "graph" else module(**fresh)


def _aoti(args: argparse.Namespace, model: Any, inputs: Any, fresh: Any, path: Path) -> Any:
    import torch

    from blockzoo.tasks.potential_export import compile_package

    compile_package(model, path, inputs)
    return torch._inductor.aoti_load_package(str(path))(*fresh.values())


def _onnx(args: argparse.Namespace, model: Any, inputs: Any, fresh: Any, path: Path) -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs the package {error.name!r}: pip install 'blockzoo[export]'") from error
    import torch

    with warnings.catch_warnings():
        # All inputs share one batch axis, which the exporter mentions for each of them.
        warnings.filterwarnings("ignore", ".*axis name: batch will not be used", UserWarning)
        program = torch.onnx.export(
            model, (), kwargs=inputs, dynamo=True, dynamic_shapes=_dynamic(args, inputs), verbose=False
        )
    if program is None:
        raise ValueError("the ONNX exporter returned nothing")
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    feeds = dict(zip(names, [fresh[key].numpy() for key in inputs], strict=True))
    return torch.from_numpy(session.run(None, feeds)[0])


_EXPORTERS = {"safetensors": _safetensors, "torch-export": _torch_export, "onnx": _onnx, "aoti": _aoti}
