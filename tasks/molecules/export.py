"""Write potentials to files that run without this package: energies and forces for any number of atoms.

Forces that are gradients are part of the graph, which is traced with its backward pass. The
package that AOTInductor makes of it holds compiled code, runs from Python and C++ (`AOTIModelPackageLoader`), and takes
the arguments that molecular-dynamics codes have at hand: positions, atomic numbers, neighbour pairs, and images.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from blockzoo.tasks.deploy.export import compile_program, save_program, write_onnx

__all__ = ["compile_package", "export_program", "package_inputs", "write"]

_BACKWARD = [
    getattr(torch.ops.aten, f"{name}_backward")
    for name in ("native_layer_norm", "select", "sigmoid", "silu", "slice", "softplus")
]


class _Traced(nn.Module):
    """A traced graph that takes parameters as arguments, with them as buffers."""

    def __init__(self, graph: Any, constants: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph
        self.names = {name: f"constant_{i}" for i, name in enumerate(constants)}
        for name, key in self.names.items():
            self.register_buffer(key, constants[name])

    def forward(self, *args: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.graph({name: getattr(self, key) for name, key in self.names.items()}, *args)


def package_inputs(model: Any, batch_size: int = 5, periodic: bool = False) -> dict[str, torch.Tensor]:
    """Example arguments for `export_program`: as `model.example_inputs`, with images if `periodic`.

    Args:
        model: A potential, see `blockzoo.tdn.TDN`.
        batch_size: Graphs.
        periodic: Whether the program takes image shifts and returns the stress.
    """
    inputs = model.example_inputs(batch_size)
    if periodic:
        positions = inputs["positions"]
        inputs["cell"] = 30 * torch.eye(3).to(positions).repeat(batch_size, 1, 1)
        inputs["shifts"] = positions.new_zeros(inputs["edge_index"].shape[1], 3)
    return inputs


def export_program(
    model: Any, inputs: dict[str, torch.Tensor] | None = None, elementary: bool = False
) -> torch.export.ExportedProgram:
    """Export a potential with free numbers of atoms, edges and graphs.

    Args:
        model: A potential, see `blockzoo.tdn.TDN`; it is put in eval mode.
        inputs: Example arguments with edges, see `package_inputs`; what they hold is what the program takes, in this
            order. Without "batch" and "cell", or without "batch" and with one cell, the program is for one graph.
        elementary: Replace the operations of backward passes by elementary ones, for formats that lack them.

    Returns:
        The program; it returns what the model does. Forces that are gradients cannot be differentiated again.

    Raises:
        ValueError: Two sizes of the example coincide.
    """
    model.eval()
    inputs = package_inputs(model) if inputs is None else inputs
    names = tuple(inputs)
    sizes = [len(inputs["positions"]), inputs["edge_index"].shape[1]]
    if "batch" in inputs:
        sizes.append(len(inputs["cell"]))
    if len({2, 3, *sizes}) < 2 + len(sizes):  # tracing takes equal sizes for the same one
        raise ValueError(f"inputs has {sizes} atoms, edges and graphs; give numbers other than 2 and 3, and different")
    free = {name: torch.export.Dim(name, min=2) for name in ("atoms", "edges", "graphs")}
    axes = {
        "edge_index": {1: free["edges"]},
        "shifts": {0: free["edges"]},
        "cell": {0: free["graphs"]},
        "pbc": {0: free["graphs"]},
    }
    if "batch" not in inputs:
        axes["cell"] = axes["pbc"] = {}
    shapes = tuple(axes.get(name, {0: free["atoms"]}) for name in names)
    if model.forces == "direct":
        traced: nn.Module = _ByPosition(model, names)
    else:
        constants = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}

        def run(constants: dict[str, torch.Tensor], *args: torch.Tensor) -> dict[str, torch.Tensor]:
            return torch.func.functional_call(model, constants, (), dict(zip(names, args, strict=True)))

        table: Any = get_decompositions(_BACKWARD) if elementary else None
        with torch.no_grad():
            graph = make_fx(run, table, tracing_mode="symbolic")(constants, *inputs.values())
        traced = _Traced(graph, constants)
    with torch.no_grad():
        return torch.export.export(traced, tuple(inputs.values()), dynamic_shapes=(shapes,))


class _ByPosition(nn.Module):
    """A model whose keyword arguments come in a fixed order."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *args: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.model(**dict(zip(self.names, args, strict=True)))


def compile_package(model: Any, path: str | Path, inputs: dict[str, torch.Tensor] | None = None) -> Path:
    """Compile a potential with AOTInductor into one file, for the device of the model.

    Facts that a molecular-dynamics code needs are stored as metadata, read by `load_metadata` of the loader: the order
    of the arguments, the cutoff in Å and the atomic numbers that the model accepts.

    Args:
        model: A potential, see `blockzoo.tdn.TDN`.
        path: The file to write, by convention `*.pt2`.
        inputs: See `export_program`.

    Returns:
        The path.
    """
    inputs = package_inputs(model) if inputs is None else inputs
    program = export_program(model, inputs)
    about = {
        "arguments": ",".join(inputs),
        "cutoff": repr(float(model.cutoff)),
        "elements": json.dumps(model.elements),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
    compile_program(program, path, about)
    return Path(path)


def write(model: Any, form: str, path: Path) -> None:
    """Write a potential in a format of `blockzoo export`, with free numbers of atoms, edges and graphs.

    Args:
        model: A potential, see `blockzoo.tdn.TDN`.
        form: "torch-export", "onnx" or "aoti".
        path: The file.
    """
    if form == "aoti":
        compile_package(model, path)
    elif form == "onnx":
        with torch.no_grad():
            write_onnx(export_program(model, elementary=True), None, None, path)
    else:
        save_program(export_program(model), path)
