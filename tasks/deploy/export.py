"""Export of models to files that run without this package, with a comparison of their outputs.

    torch-export    `torch.export.save`; runs in Python with torch
    aoti            compiled by AOTInductor for this kind of processor; runs from Python and C++; needs a C++ compiler
    onnx            runs in onnxruntime and other runtimes; needs the extra `export`
    safetensors     only the weights

The batch is a free axis unless it is fixed. Sizes of images and videos may be free too, in steps of the network's
stride. If an architecture or a format cannot do something, a `ValueError` says so.
"""

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from blockzoo.tasks.core import rooms
from blockzoo.tasks.deploy.checking import FORMATS
from blockzoo.tasks.deploy.described import description

__all__ = [
    "FORMATS",
    "difference",
    "export_model",
    "fresh_examples",
    "load_exported",
    "save_program",
    "write_onnx",
]

MAX_BATCH = 4096
MAX_STEPS = 512
"""Largest batch, and largest size in steps, that an exported program takes."""

Inputs = dict[str, torch.Tensor]
Runner = Callable[[Inputs], list[torch.Tensor]]


def _start(model: Any, steps: Sequence[int], more: int) -> tuple[int, ...]:
    """A size for tracing (more = 0) or testing: near the model's own, and different along each axis."""
    own = model.export_inputs()["x"].shape[2:]
    return tuple(
        (max(2, round(n / step)) + more + i) * step for i, (n, step) in enumerate(zip(own, steps, strict=True))
    )


def fresh_examples(
    model: Any, batch: int | None = None, size: Sequence[int] | None = None, dynamic_size: bool = False
) -> list[Inputs]:
    """Make inputs to compare an exported program with its model: other batches, and other sizes if they are free.

    Args:
        model: A model of the zoo.
        batch: The fixed number of samples; None for a free one.
        size: The fixed size, if not the model's own.
        dynamic_size: Whether sizes are free.
    """
    batches = [batch, batch] if batch else model.trial_batches
    if not dynamic_size:
        return [model.export_inputs(count, size) for count in batches]
    steps = model.size_steps()
    return [model.export_inputs(count, _start(model, steps, more)) for count, more in zip(batches, (1, 2), strict=True)]


def export_model(
    model: Any,
    form: str,
    path: str | Path,
    batch: int | None = None,
    size: Sequence[int] | None = None,
    dynamic_size: bool = False,
    inputs: Inputs | None = None,
) -> None:
    """Write a model to a file, with its size, preprocessing and names of classes in the entry `pretrained_cfg`.

    That entry is JSON: a property of an ONNX file, the extra file `pretrained_cfg.json` of a torch program, metadata of
    a compiled one and of safetensors.

    Args:
        model: A model of the zoo in eval mode, deployed or not.
        form: One of `FORMATS`.
        path: The file. To keep an earlier file on failure, write to another name and rename.
        batch: Fix the number of samples; a free one by default, up to `MAX_BATCH`.
        size: Export for this size, the axes after the channels, instead of the model's own.
        dynamic_size: Leave the size free, in steps of `model.size_steps()`.
        inputs: Forward arguments to trace with, for a program that takes just these; not for potentials.

    Raises:
        ValueError: The format or the architecture does not support the request, or a package or compiler is missing.
    """
    if form not in FORMATS:
        raise ValueError(f"form={form!r} must be one of {', '.join(FORMATS)}")
    if size is not None and dynamic_size:
        raise ValueError(f"size={tuple(size)} and a free size exclude each other")
    if form == "safetensors":
        from blockzoo.checkpoints import save_state_dict

        return save_state_dict(model.state_dict(), path, {"format": "pt", **description(model, size)})
    if model.modality in rooms.declared("exporters"):
        return _export_by_room(model, form, Path(path), batch, dynamic_size)
    steps = model.size_steps() if dynamic_size else None
    if inputs is None:
        inputs = model.export_inputs(batch or 3, _start(model, steps, 0) if steps else size)
    elif batch:
        inputs = {key: value[:1].expand(batch, *value.shape[1:]).contiguous() for key, value in inputs.items()}
    shapes = _dynamic_shapes(inputs, batch, steps)
    if form == "onnx":
        return write_onnx(model, inputs, shapes, Path(path), description(model, size))
    with _told(f"{type(model).__name__} cannot be written as {form}"):
        with torch.no_grad():
            program = torch.export.export(model, (), inputs, dynamic_shapes=shapes)
        if form == "aoti":
            compile_program(program, path, description(model, size))
        else:
            save_program(program, Path(path), description(model, size))


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn errors of torch and onnxruntime into a `ValueError` of one line."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # their classes have no common base
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        reason = re.sub(r"(?<!\w)/\S+/", "", lines[0])[:300]  # without the places of files on this machine
        raise ValueError(f"{what}: {type(error).__name__}: {reason}") from error


def save_program(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a program without the inputs that it was traced with.

    Args:
        program: The program.
        path: The file.
        metadata: Text by key, stored as the extra files `KEY.json`.
    """
    program.example_inputs = None  # they would be saved along, and may be larger than the weights
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{key}.json": text for key, text in (metadata or {}).items()})


def _dynamic_shapes(inputs: Inputs, batch: int | None, steps: Sequence[int] | None) -> dict[str, Any] | None:
    free: dict[int, Any] = {} if batch else {0: Dim("batch", min=2, max=MAX_BATCH)}
    shapes = {key: dict(free) for key in inputs}
    for i, step in enumerate(steps or ()):
        number = Dim(f"size{i}", min=2, max=MAX_STEPS)
        shapes["x"][2 + i] = step * number if step > 1 else number
    return shapes if any(shapes.values()) else None


def _export_by_room(model: Any, form: str, path: Path, batch: int | None, dynamic_size: bool) -> None:
    if batch:
        raise ValueError(f"{type(model).__name__} always has free sizes; leave --static-batch out")
    if dynamic_size:
        model.size_steps()
    with _told(f"{type(model).__name__} cannot be written as {form}"):
        rooms.load(rooms.declared("exporters")[model.modality])(model, form, path)


def _need_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError("aoti needs a C++ compiler (g++ or clang++), or its path in CXX; use torch-export") from error


def compile_program(
    program: torch.export.ExportedProgram, path: str | Path, metadata: dict[str, str] | None = None
) -> None:
    """Compile an exported program with AOTInductor into one file, whatever the file's suffix.

    Args:
        program: The program, on the device that it is to run on.
        path: The file to write, completely or not at all.
        metadata: Text by key to store with it.

    Raises:
        ValueError: There is no C++ compiler.
    """
    _need_compiler()
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part.pt2")
    try:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(temporary), inductor_configs={"aot_inductor.metadata": metadata or {}}
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def need_onnx() -> None:
    """Check that the packages of the extra `export` are installed.

    Raises:
        ValueError: One is missing; the message names the extra.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs the package {error.name!r}: pip install 'blockzoo[export]'") from error


def write_onnx(
    model: Any,
    inputs: Inputs | None,
    shapes: dict[str, Any] | None,
    path: Path,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a model or a program as ONNX, with `metadata` as its properties."""
    need_onnx()
    from torch.onnx.errors import OnnxExporterError

    try:
        with warnings.catch_warnings():
            # All inputs share one batch axis, which the exporter mentions for each of them.
            warnings.filterwarnings("ignore", ".*will not be used, since it shares the same shape", UserWarning)
            program = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
    except OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0].partition(" : [")[0]
        raise ValueError(f"{type(model).__name__} cannot be written as ONNX: {reason}") from error
    if program is None:
        raise ValueError("the ONNX exporter returned nothing")
    program.model.metadata_props.update(metadata or {})
    program.save(str(path))


def load_exported(path: str | Path, form: str) -> Runner:
    """Load a file from `export_model`, or any file of its format, to run it on the CPU.

    Args:
        path: The file.
        form: "torch-export", "onnx" or "aoti".

    Returns:
        A function from forward arguments by name to the list of outputs, in the model's order.
    """
    if form == "onnx":
        return _onnx_runner(path)
    program: Any
    if form == "aoti":
        program = torch._inductor.aoti_load_package(str(path))
        spec = torch.utils._pytree.treespec_loads(program.loader.get_call_spec()[0])
    else:
        with Path(path).open("rb") as file:
            exported = torch.export.load(file)
        program, spec = exported.module(), exported.call_spec.in_spec
    positional = spec.child(0).num_leaves > 0  # a program takes its arguments as it was traced: in order or by name

    def run(inputs: Inputs) -> list[torch.Tensor]:
        with torch.no_grad(), _told("the exported program fails"):
            return flatten(program(*inputs.values()) if positional else program(**inputs))

    return run


def _onnx_runner(path: str | Path) -> Runner:
    need_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(inputs: Inputs) -> list[torch.Tensor]:
        # A model's own names where the file has kept them, else the same order.
        keys = names if set(names) <= set(inputs) else list(inputs)
        with _told("the exported program fails"):
            feeds = {name: inputs[key].numpy() for name, key in zip(names, keys, strict=True)}
            return [torch.from_numpy(value) for value in session.run(None, feeds)]

    return run


def flatten(output: Any) -> list[torch.Tensor]:
    """The tensors of a model's output, in order: of a tensor, a sequence or a dictionary."""
    leaves = torch.utils._pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@torch.no_grad()
def difference(model: Any, run: Runner, examples: Sequence[Inputs]) -> float:
    """The largest difference between a model and its exported program, in units of each output's deviation.

    Args:
        model: The model.
        run: The program.
        examples: Inputs for both.

    Returns:
        The difference; infinite if the numbers or shapes of outputs differ, or one is not finite.
    """
    worst = 0.0
    for inputs in examples:
        wanted, found = flatten(model(**inputs)), run(inputs)
        if [value.shape for value in wanted] != [value.shape for value in found]:
            return math.inf
        for ours, theirs in zip(wanted, found, strict=True):
            scale = ours.double().std() if ours.numel() > 1 else ours.double().abs().max()
            error = float((ours.double() - theirs.double()).abs().max() / scale.clamp(min=1e-12))
            worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst
