"""What the tools of `blockzoo science` for crystals share: options, structures, relaxation and figures."""

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.output import add_out

__all__ = ["add_common_arguments", "check_positive", "crystal", "relax_crystal", "set_up"]

SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model, the structure, and where results go."""
    parser.add_argument("name", help="model.tag")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--structure", metavar="FILE", help="a periodic structure that ASE reads; of many, the last one")
    what.add_argument("--bulk", metavar="SYMBOL:LATTICE:A", help="of ASE's bulk crystals, for example C:diamond:3.567")
    parser.add_argument("--fmax", type=float, default=0.01, help="relax to this force first, in eV/Å; 0: as it is")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="(default: float64)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add_out(parser, "image of the result")
    parser.add_argument("--json", action="store_true", help="print JSON")


def check_positive(**values: float) -> None:
    """Refuse options that are not positive and finite.

    Raises:
        ValueError: One is not; the message has its name as it is typed.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} {value:g} must be positive and finite")


def set_up(args: argparse.Namespace) -> Any:
    """The structure of a tool with the potential as its calculator, relaxed if that is asked for.

    Raises:
        ValueError: An option is out of range, the structure cannot be used, or the output cannot be written.
    """
    if not (math.isfinite(args.fmax) and args.fmax >= 0):
        raise ValueError(f"--fmax {args.fmax:g} must be at least 0 and finite")
    if args.out:
        if Path(args.out).suffix.lower() not in SUFFIXES:
            raise ValueError(f"--out {args.out} must end in one of {', '.join(SUFFIXES)}")
        check_output(args.out, [args.structure] if args.structure else [])
    atoms = crystal(args.bulk, args.structure)
    from blockzoo.tasks.molecules.ase_calculator import ZooCalculator

    atoms.calc = ZooCalculator(args.name, device=args.device, dtype=getattr(torch, args.dtype))
    if args.fmax and not relax_crystal(atoms, args.fmax):
        raise ValueError(
            f"--fmax {args.fmax:g}: {atoms.get_chemical_formula()} has not relaxed; does the potential know crystals "
            "like it? --fmax 0 leaves the structure as it is"
        )
    return atoms


def crystal(bulk: str | None, structure: str | None) -> Any:
    """A periodic structure, from ASE's bulk crystals or a file.

    Args:
        bulk: "SYMBOL", "SYMBOL:LATTICE" or "SYMBOL:LATTICE:A", see `ase.build.bulk`.
        structure: A file that ASE reads, whose last structure is taken.

    Raises:
        ValueError: There is no such crystal, or the structure is not periodic in all directions.
    """
    from blockzoo.tasks.molecules.files import read_frames

    if structure is not None:
        atoms = read_frames(structure)[-1][1]
        if not atoms.pbc.all():
            raise ValueError(f"--structure {structure}: the structure must be periodic in all directions")
        return atoms
    needs("ase", "molecules", "--bulk")
    import ase.build

    symbol, lattice, size, *_ = [*str(bulk).split(":"), "", ""]
    try:
        return ase.build.bulk(symbol, lattice or None, a=float(size) if size else None)
    except (KeyError, ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(f"--bulk {bulk}: {error}; give SYMBOL:LATTICE:A, such as C:diamond:3.567") from error


def relax_crystal(atoms: Any, fmax: float = 0.01, steps: int = 500, cell: bool = True) -> bool:
    """Move atoms, and the cell with them, to a minimum of the energy, in place.

    Args:
        atoms: ASE's `Atoms` with a calculator.
        fmax: Largest force that may remain, in eV/Å; for the cell that of its strain by each atom.
        steps: Largest number of steps.
        cell: Relax the cell as well.

    Returns:
        Whether the forces have become so small.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE, LBFGS

    what: Any = FrechetCellFilter(atoms) if cell else atoms
    quiet: Any = None
    if bool(LBFGS(what, logfile=quiet).run(fmax=fmax, steps=steps // 2)):
        return True
    return bool(FIRE(what, logfile=quiet).run(fmax=fmax, steps=steps))
