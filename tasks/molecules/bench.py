"""Equivariant products and potentials against e3nn and the published formulation: `blockzoo bench equivariant`.

Four tables. "edge product": features of 128 channels with the harmonics of 10,000 edges (`--edges`, `--chans`), all
paths with one weight a channel, against e3nn's `TensorProduct` for the same function, outputs compared first.
"uuu product": channel by channel, feature with feature, where exact, CP and Gaunt forms cross. "powers": a feature's
first three powers as a function on the sphere (the product basis of MACE), by the coupling tensor twice and on a grid.
"model": energy and gradient forces of TDN at the paper's sizes for a molecule of 40 atoms, against a plain version like
the published code, from the same weights, and against that code itself where `--official PATH` names a checkout of
AIRS.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn

import blockzoo
from blockzoo.layers.equivariant.coupling import clebsch_gordan_tensor, gaunt_tensor, paths
from blockzoo.layers.equivariant.cp_factors import cp_factors
from blockzoo.layers.equivariant.edge_product import EdgeProduct
from blockzoo.layers.equivariant.neighbors import neighbor_list
from blockzoo.layers.equivariant.spherical_power import SphericalPower
from blockzoo.layers.equivariant.tensor_product import ClebschGordanProduct, CPTensorProduct, GauntTensorProduct
from blockzoo.tasks.core.suites import Rows, Suite
from blockzoo.tasks.core.timing import interleaved, timed_rows
from blockzoo.tasks.molecules.plain import plain_energy_forces

__all__ = ["SUITES", "TABLES", "add_arguments", "e3nn_product", "edge_rows", "flat_features", "model_rows", "uuu_rows"]

TABLES = ("edge", "uuu", "powers", "model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this suite."""
    parser.add_argument("--edges", type=int, default=10_000, help="edges (default: 10000)")
    parser.add_argument("--chans", type=int, default=128, help="channels (default: 128)")
    parser.add_argument("--l-max", type=int, nargs="+", default=[1, 2, 3], help="degrees (default: all)")
    parser.add_argument("--atoms", type=int, default=40, help="atoms of the molecule (default: 40)")
    parser.add_argument("--official", type=Path, help="OpenMol/TDN of a checkout of AIRS, to compare with")


def e3nn_product(l_max: int, channels: int, harmonics: bool) -> Any:
    """e3nn's product of all paths, with weights that the caller gives, in our normalisation."""
    from e3nn import o3

    feature = o3.Irreps([(channels, (degree, 1)) for degree in range(l_max + 1)])
    other = o3.Irreps.spherical_harmonics(l_max, p=1) if harmonics else feature
    mode = "uvu" if harmonics else "uuu"
    instructions = [(*path, mode, True, 1.0) for path in paths(l_max, l_max, l_max)]
    return o3.TensorProduct(
        feature,
        other,
        feature,
        instructions,
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=False,
        shared_weights=False,
    )


def flat_features(x: torch.Tensor, l_max: int) -> torch.Tensor:
    """(E, d, C) in e3nn's layout, channels outside of components."""
    return torch.cat([x[:, degree**2 : (degree + 1) ** 2].mT.flatten(1) for degree in range(l_max + 1)], 1)


def _rows(table: str, case: str, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    return timed_rows({"table": table, "case": case}, times)


def _compare(functions: dict[str, Callable[[], torch.Tensor]], tolerance: float = 1e-4) -> None:
    outputs = {name: function().detach() for name, function in functions.items()}
    first = next(iter(outputs.values()))
    for name, output in outputs.items():
        torch.testing.assert_close(output, first, rtol=0, atol=tolerance * float(first.std()), msg=f"{name} differs")


def edge_rows(l_max: int, edges: int, channels: int, runs: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Time the edge product and e3nn's, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    d = (l_max + 1) ** 2
    shapes = ((d, channels), (d,), (channels,))
    x, y, w = (torch.randn(edges, *shape, generator=generator).to(device) for shape in shapes)
    theirs = e3nn_product(l_max, channels, True).to(device)
    ours = EdgeProduct(clebsch_gordan_tensor(l_max, l_max, l_max)).to(device)
    weights = w.repeat(1, len(paths(l_max, l_max, l_max)))  # each path has the same one
    flat = flat_features(x, l_max)
    functions: dict[str, Callable[[], torch.Tensor]] = {
        "e3nn uvu": lambda: theirs(flat, y, weights),
        "EdgeProduct": lambda: ours(x, y, w),
    }
    with torch.no_grad():
        _compare({"e3nn": functions["e3nn uvu"], "ours": lambda: flat_features(functions["EdgeProduct"](), l_max)})
        rows = _rows("edge product", f"l_max {l_max}, forward", interleaved(functions, runs, device))
    leaves = [tensor.requires_grad_() for tensor in (x, y, w, flat, weights)]

    def step(function: Callable[[], torch.Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = None
        function().square().mean().backward()

    trained: dict[str, Callable[[], Any]] = {name: partial(step, function) for name, function in functions.items()}
    return rows + _rows("edge product", f"l_max {l_max}, forward and backward", interleaved(trained, runs, device))


def uuu_rows(l_max: int, edges: int, channels: int, runs: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Time products of two features, forward."""
    generator = torch.Generator().manual_seed(0)
    shape = (edges, (l_max + 1) ** 2, channels)
    x1, x2 = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    theirs = e3nn_product(l_max, channels, False).to(device)
    ones = x1.new_ones(edges, channels * len(paths(l_max, l_max, l_max)))
    flat1, flat2 = flat_features(x1, l_max), flat_features(x2, l_max)
    exact = ClebschGordanProduct(l_max, l_max, l_max).to(device)
    functions: dict[str, Callable[[], torch.Tensor]] = {
        "e3nn uuu": lambda: theirs(flat1, flat2, ones),
        "exact, one GEMM": lambda: exact(x1, x2),
    }
    with torch.no_grad():
        same = {"e3nn": functions["e3nn uuu"], "exact": lambda: flat_features(exact(x1, x2), l_max)}
        if l_max <= 3:
            cp = CPTensorProduct(l_max, "exact").to(device)
            functions[f"CP, exact rank {cp.rank}"] = lambda: cp(x1, x2)
            same["cp"] = lambda: flat_features(cp(x1, x2), l_max)
        gaunt = GauntTensorProduct(l_max, l_max, l_max).to(device)
        functions[f"Gaunt, {gaunt.rank} points, even paths"] = lambda: gaunt(x1, x2)
        _compare(same)
        return _rows("uuu product", f"l_max {l_max}, forward", interleaved(functions, runs, device))


def _powers(l_max: int, nodes: int, channels: int, runs: int, device: str) -> list[dict[str, Any]]:
    shape = (nodes, (l_max + 1) ** 2, channels)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    square = ClebschGordanProduct(l_max, l_max, 2 * l_max, parity="o3")
    cube = ClebschGordanProduct(2 * l_max, l_max, l_max, parity="o3")
    square.register_constant("tensor", gaunt_tensor(l_max, l_max, 2 * l_max), device=device)
    cube.register_constant("tensor", gaunt_tensor(2 * l_max, l_max, l_max), device=device)
    grid = SphericalPower(l_max, 3).to(device)

    def by_tensor() -> torch.Tensor:
        second = square(x, x)
        return torch.stack([x, second[:, : x.shape[1]], cube(second, x)])

    functions: dict[str, Callable[[], torch.Tensor]] = {
        "coupling tensor, two GEMMs": by_tensor,
        f"grid of {len(grid.to_grid)} points": lambda: grid(x),
    }
    with torch.no_grad():
        _compare(functions)
        return _rows("powers", f"l_max {l_max}, forward", interleaved(functions, runs, device))


def _molecule(atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    side = next(n for n in range(1, 100) if n**3 >= atoms)
    grid = torch.cartesian_prod(*[torch.arange(float(side))] * 3)[:atoms] * 1.45
    numbers = torch.tensor([1, 6, 7, 8])[torch.randint(4, (atoms,), generator=generator)]
    return grid + 0.12 * torch.randn(atoms, 3, generator=generator), numbers


def _official(folder: Path, l_max: int, sizes: dict[str, Any]) -> Any:
    """The published model from a checkout, with our factors where it would fit its own."""
    if not (folder / "models" / "tdn.py").is_file():
        raise ValueError(f"--official {folder} has no models/tdn.py; give the folder OpenMol/TDN of a checkout of AIRS")
    sys.path.insert(0, str(folder.resolve()))
    try:
        module, product = importlib.import_module("models.tdn"), importlib.import_module("models._tensor_product")
    finally:
        sys.path.remove(str(folder.resolve()))

    def take_ours(cp_tp: nn.Module, **_: Any) -> dict[str, float]:
        for name, factor in zip(("cp_a", "cp_b", "cp_c"), cp_factors(l_max), strict=True):
            getattr(cp_tp, name).data.copy_(factor)
        return {}

    given = {"hidden_channels": "hidden_channels", "depth": "num_interactions", "num_basis": "num_gaussians"}
    kwargs = {theirs: sizes[ours] for ours, theirs in given.items()}
    before = Path.cwd()
    with (
        mock.patch.object(product, "fit_cp_to_exact_tp", take_ours),
        tempfile.TemporaryDirectory() as scratch,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        os.chdir(scratch)  # the code keeps its factors in the working folder
        try:
            build = module.TensorDecompositionNetwork
            return build(lmax=l_max, gradient_force=True, compile_blocks=False, **kwargs).eval()
        finally:
            os.chdir(before)


def model_rows(l_max: int, atoms: int, runs: int, official: Path | None, device: str = "cpu") -> list[dict[str, Any]]:
    """Time energy and forces of TDN and of the plain version."""
    torch.manual_seed(0)
    positions, numbers = (part.to(device) for part in _molecule(atoms))
    sizes: dict[str, Any] = {"hidden_channels": 256, "depth": 6, "num_basis": 256}
    published = blockzoo.create_model("tdn", l_max=l_max, **sizes, product="cp", extensive=False).to(device).eval()
    exact = blockzoo.create_model("tdn", l_max=l_max, **sizes).to(device).eval()
    batch = torch.zeros_like(numbers)
    functions: dict[str, Callable[[], Any]] = {}
    if official is not None:
        net = _official(official, l_max, sizes).to(device)
        published.load_state_dict(blockzoo.convert_state_dict(published, net.state_dict()))

        def run_official() -> Any:
            data = SimpleNamespace(pos=positions.clone(), x=numbers[:, None], batch=batch, num_nodes=atoms)
            return net(data)

        functions["published code"] = run_official
    edge_index, _ = neighbor_list(positions, published.cutoff)
    functions["plain"] = lambda: plain_energy_forces(published, positions, numbers, edge_index)
    functions["ours, published form"] = lambda: tuple(published(positions, numbers, edge_index=edge_index).values())
    functions["ours, default"] = lambda: tuple(exact(positions, numbers, edge_index=edge_index).values())
    _compare({name: lambda f=f: f()[1] for name, f in functions.items() if name != "ours, default"}, 1e-3)  # type: ignore[misc]
    evaluated = {name: f if name in ("published code", "plain") else _without_graph(f) for name, f in functions.items()}
    case = f"l_max {l_max}, {atoms} atoms, {edge_index.shape[1]} edges, energy and forces"
    return _rows("model", case, interleaved(evaluated, runs, device))


def _without_graph(function: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return function()

    return call


def _suite(args: argparse.Namespace) -> Rows:
    only = args.only or TABLES
    for l_max in args.l_max:
        runs = max(3, args.runs // (1 + 2 * (l_max > 2)))
        if "edge" in only:
            yield from edge_rows(l_max, args.edges, args.chans, runs, args.device)
        if "uuu" in only:
            yield from uuu_rows(l_max, args.edges // 4, args.chans, runs, args.device)
        if "powers" in only:
            yield from _powers(l_max, args.edges // 4, args.chans, runs, args.device)
        if "model" in only:
            yield from model_rows(l_max, args.atoms, max(3, args.runs // 3), args.official, args.device)


SUITES = {
    "equivariant": Suite(
        "equivariant products against e3nn, and TDN against the published formulation",
        _suite,
        ("device",),
        add_arguments,
        TABLES,
        {"only": ("edge", "model")},
        "tdn",
    )
}
"""By name after `blockzoo bench`."""
