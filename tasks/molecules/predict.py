"""Energies and forces of the structures of a file, by potentials."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.molecules.files import read_frames

__all__ = ["predict", "predict_structures"]


def predict_structures(model: Any, path: str, out: str | None = None, as_json: bool = False) -> int:
    """Compute energy, forces and, for periodic structures, stress of every frame, and write them to a file.

    Where the file has energies or forces of its own, the differences from them are printed.

    Args:
        model: Of the task "potential"; it runs in float64.
        path: Extended XYZ, an ASE database, or anything else that ASE reads.
        out: Extended XYZ to write; by default `NAME_predicted.extxyz` in the current folder.
        as_json: Print JSON.

    Returns:
        Exit status.

    Raises:
        ImportError: ase is not installed.
        ValueError: A frame is broken or has an element that the model does not know; the message names it.
    """
    frames = read_frames(path)
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    from blockzoo.tasks.molecules.ase_calculator import ZooCalculator

    target = Path(out or f"{Path(path).stem}_predicted.extxyz")
    if target.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"--out {target} must end in .extxyz or .xyz")
    calculator = ZooCalculator(model, dtype=torch.float64)
    rows: list[dict[str, Any]] = []
    done: list[Any] = []
    for where, atoms in frames:
        known = {} if atoms.calc is None else dict(atoms.calc.results)
        known |= {key: atoms.info[key] for key in ("energy",) if key in atoms.info}
        known |= {key: atoms.arrays[key] for key in ("forces",) if key in atoms.arrays}
        try:
            calculator.calculate(atoms)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        found = dict(calculator.results)
        row: dict[str, Any] = {"frame": len(rows), "formula": atoms.get_chemical_formula(), "energy": found["energy"]}
        row["largest force"] = float(np.linalg.norm(found["forces"], axis=1).max(initial=0.0))
        if "energy" in known:
            row["energy error"] = found["energy"] - float(known["energy"])
        if "forces" in known:
            row["force MAE"] = float(np.abs(found["forces"] - known["forces"]).mean())
        rows.append(row)
        plain = ase.Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        plain.calc = SinglePointCalculator(plain, **found)
        done.append(plain)
    temporary = target.with_name(f".{target.name}.tmp")
    ase.io.write(temporary, done, format="extxyz")
    temporary.replace(target)
    if as_json:
        print_json({"file": str(target), "units": {"energy": "eV", "force": "eV/Å"}, "frames": rows})
        return 0
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[f"{v:.6f}" if isinstance(v := row.get(name, "-"), float) else v for name in names] for row in rows]
    print_table(names, cells, title="eV and eV/Å")
    print(f"energies and forces: {target}")
    return 0


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Compute the structures of one file, for `blockzoo predict`; see `predict_structures`."""
    if len(files) > 1:
        raise ValueError(f"structures are read from one file, not {len(files)}")
    return predict_structures(model, files[0], args.out, args.json)
