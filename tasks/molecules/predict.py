"""Energies and forces of the structures of a file, by potentials."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.files import check_output, replacing
from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.molecules.files import read_frames
from blockzoo.tasks.molecules.labels import Labels, to_structure
from blockzoo.tasks.molecules.structures import Structure
from blockzoo.tasks.molecules.units import LENGTH_UNITS

__all__ = ["add_arguments", "predict", "predict_structures"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of structures."""
    options = parser.add_argument_group("structures")
    options.add_argument("--energy-key", help="name of the file's energies (default: energy, else REF_energy)")
    options.add_argument("--forces-key", help="name of the file's forces (default: forces, else REF_forces)")
    options.add_argument("--energy-unit", help="of the file's energies (this and below: as the model's own data)")
    options.add_argument("--length-unit", help="of positions and cells, Angstrom, nm or Bohr")
    options.add_argument("--forces-unit", help="of the file's forces, such as eV/Angstrom")


def _key(given: str | None, name: str, labels: dict[str, Any], where: str) -> str | None:
    """What the file calls "energy" or "forces", or None."""
    if given is not None and given not in labels:
        raise ValueError(f"{where}: no {name} {given!r}; there are {', '.join(sorted(map(str, labels))) or 'none'}")
    return next((key for key in ((given,) if given else (name, f"REF_{name}")) if key in labels), None)


def _truth(atoms: Any, where: str, reading: dict[str, Any], asked: set[str]) -> Structure:
    """A frame with what it knows of its energy and forces, in eV and Å.

    Args:
        atoms: The frame.
        where: Names it in messages.
        reading: Arguments of `Labels`, as far as they are given.
        asked: Those that the caller gave, and that a frame may not lack.
    """
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    found = dict(reading)
    for name, owner in (("energy", atoms.info), ("forces", atoms.arrays)):
        option, labels = f"{name}_key", {**results, **owner}
        given = found.get(option)
        if option not in asked and given not in labels:
            given = None
        found[option] = _key(given, name, labels, where) or ""
    found |= {"partial": True, "stress_key": "", "virial_key": ""}
    return to_structure(atoms, where, Labels(**found), labelled=False)


def predict_structures(
    model: Any,
    path: str,
    out: str | None = None,
    as_json: bool = False,
    **reading: str | None,
) -> int:
    """Compute energy, forces and, for periodic structures, stress of every frame, and write them to a file.

    Where the file has energies or forces of its own, the differences from them are printed.

    Args:
        model: Of the task "potential"; it runs in float64.
        path: Extended XYZ, an ASE database, or anything else that ASE reads.
        out: Extended XYZ to write; by default `NAME_predicted.extxyz` in the current folder.
        as_json: Print JSON.
        **reading: Names and units, see `Labels`; by default as the model's own data were read. Without a name, that is
            "energy" and "forces", or "REF_energy" and "REF_forces" where those are missing.

    Returns:
        Exit status: 1 if frames were left out because the model refuses them, each with a line on stderr.

    Raises:
        ImportError: ase is not installed.
        ValueError: A frame is broken, or has no label of the given name; the output cannot be written; or the model
            refuses every frame, as for an unknown element. The message names file and frame.
    """
    target = Path(out or f"{Path(path).stem}_predicted.extxyz")
    if target.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"--out {target} must end in .extxyz or .xyz")
    check_output(target, [path])
    given = {key: value for key, value in reading.items() if value is not None}
    kept = getattr(model, "pretrained_cfg", {}).get("structures", {}).get("labels", {})
    how = {**kept, **given}
    length = LENGTH_UNITS[Labels(**how).length_unit]
    frames = read_frames(path)
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    from blockzoo.tasks.molecules.ase_calculator import ZooCalculator

    calculator = ZooCalculator(model, dtype=torch.float64)
    rows: list[dict[str, Any]] = []
    done: list[Any] = []
    refused: list[str] = []
    for number, (where, atoms) in enumerate(frames):
        truth = _truth(atoms, where, how, set(given))
        atoms = ase.Atoms(  # in float64, unlike `truth`
            atoms.symbols, positions=atoms.positions * length, cell=atoms.cell.array * length, pbc=atoms.pbc
        )
        try:
            calculator.calculate(atoms)
        except ValueError as error:
            refused.append(f"{where}: {error}")
            continue
        found = dict(calculator.results)
        row: dict[str, Any] = {"frame": number, "formula": atoms.get_chemical_formula(), "energy": found["energy"]}
        row["largest force"] = float(np.linalg.norm(found["forces"], axis=1).max(initial=0.0))
        if truth.energy.isfinite():
            row["energy error"] = found["energy"] - float(truth.energy)
        known = truth.forces.isfinite().all(1).numpy()
        if known.any():
            row["force MAE"] = float(np.abs(found["forces"] - truth.forces.numpy())[known].mean())
        rows.append(row)
        atoms.calc = SinglePointCalculator(atoms, **found)
        done.append(atoms)
    if not done:
        raise ValueError("; ".join(refused[:3]) + (f"; and {len(refused) - 3} more" if len(refused) > 3 else ""))
    replacing(target, lambda temporary: ase.io.write(temporary, done, format="extxyz"))
    for line in refused:
        print(line, file=sys.stderr)
    if refused:
        print(f"{len(refused)} of {len(frames)} frames were left out", file=sys.stderr)
    if as_json:
        report: dict[str, Any] = {"file": str(target), "units": {"energy": "eV", "force": "eV/Å"}, "frames": rows}
        print_json({**report, "refused": refused})
        return int(bool(refused))
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[f"{v:.6f}" if isinstance(v := row.get(name, "-"), float) else v for name in names] for row in rows]
    print_table(names, cells, title="eV and eV/Å")
    print(f"energies and forces: {target}")
    return int(bool(refused))


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Compute the structures of one file, for `blockzoo predict`; see `predict_structures`."""
    if len(files) > 1:
        raise ValueError(f"structures are read from one file, not {len(files)}")
    names = ("energy_key", "forces_key", "energy_unit", "length_unit", "forces_unit")
    return predict_structures(model, files[0], args.out, args.json, **{name: getattr(args, name) for name in names})
