"""What the tools of `blockzoo science` share: options, models, structures, relaxation and figures."""

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core import names
from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.core.timing import checked_device
from blockzoo.tasks.molecules.options import check_not_negative

__all__ = [
    "add_common_arguments",
    "add_model_arguments",
    "calculator",
    "check_figure",
    "crystal",
    "relax_crystal",
    "set_up",
]

SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model, what it runs in and on, and how results are printed."""
    parser.add_argument("name", help="name.tag, local-dir:FOLDER, hf-hub:OWNER/NAME, or a run's folder")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="(default: float64)")
    parser.add_argument("--device", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def calculator(args: argparse.Namespace) -> Any:
    """The potential that is named by the options of `add_model_arguments`, as a calculator of ASE.

    Raises:
        ValueError: There is no such model or device, or the model is no potential.
    """
    device = checked_device(args.device)
    from blockzoo.tasks.molecules.ase_calculator import ZooCalculator

    return ZooCalculator(names.resolve(args.name), device=device, dtype=getattr(torch, args.dtype))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the tools for crystals take: the model, the structure, and where the figure goes."""
    add_model_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--structure", metavar="FILE", help="a periodic structure that ASE reads; of many, the last one")
    what.add_argument("--bulk", metavar="SYMBOL:LATTICE:A", help="of ASE's bulk crystals, for example C:diamond:3.567")
    parser.add_argument("--fmax", type=float, default=0.01, help="relax to this force first, in eV/Å; 0: as it is")
    add_out(parser, "image of the result")


def check_figure(out: str | None, structure: str | None) -> None:
    """Refuse a figure that cannot be written, or would replace the structure that is read; None is no figure.

    Raises:
        ValueError: See `blockzoo.tasks.core.files.check_output`; or its suffix is of no format.
    """
    if out is None:
        return
    if Path(out).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out} must end in one of {', '.join(SUFFIXES)}")
    check_output(out, [structure] if structure else [])


def set_up(args: argparse.Namespace) -> Any:
    """The structure of a tool with the potential as its calculator, relaxed if that is asked for.

    Raises:
        ValueError: An option is out of range, the structure cannot be used, or the output cannot be written.
    """
    check_not_negative(fmax=args.fmax)
    check_figure(args.out, args.structure)
    atoms = crystal(args.bulk, args.structure)
    atoms.calc = calculator(args)
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

    symbol, lattice, size, *more = [*str(bulk).split(":"), "", ""]
    try:
        a = float(size) if size else None
        if any(more) or (a is not None and not (math.isfinite(a) and a > 0)):
            raise ValueError(f"A is {':'.join([size, *filter(None, more)])!r}, not a length in Å")
        return ase.build.bulk(symbol, lattice or None, a=a)
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
