"""The equation of state of a crystal by a potential: energy over volume, and the bulk modulus.

    blockzoo science eos tdn.gfn2 --bulk C:diamond:3.567 --out eos.png

It needs `pip install 'blockzoo[molecules]'`. The cell is scaled evenly, atoms relax in it; energies are fitted by the
third-order Birch-Murnaghan equation ("Finite Elastic Strain of Cubic Crystals", 1947) with ASE.
"""

import argparse
from typing import Any

import numpy as np

from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.core.output import print_json
from blockzoo.tasks.molecules.options import check_positive
from blockzoo.tasks.molecules.science import add_common_arguments, relax_crystal, set_up
from blockzoo.tasks.molecules.units import GPA

__all__ = ["add_arguments", "draw", "equation_of_state", "run"]


def equation_of_state(atoms: Any, span: float = 0.06, points: int = 9, fmax: float = 0.0) -> dict[str, Any]:
    """Energies over volumes, and the minimum and bulk modulus of a curve through them.

    Args:
        atoms: ASE's `Atoms` with a calculator, near the minimum; they stay as they are.
        span: Largest relative change of the volume.
        points: Volumes, at least five.
        fmax: Relax the atoms at each volume to this force, in eV/Å; 0 to scale them with the cell alone.

    Returns:
        "volumes" and "energies" by atom, in Å³ and eV; "volume", "energy", "bulk_modulus" in GPa at the minimum;
        "error", the root mean square distance of the energies from the curve in meV per atom.

    Raises:
        ValueError: The curve has no minimum between the volumes.
    """
    from ase.eos import EquationOfState, birchmurnaghan

    count, volumes, energies = len(atoms), [], []
    for factor in np.linspace(1 - span, 1 + span, points):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
        scaled.calc = atoms.calc
        if fmax:
            relax_crystal(scaled, fmax, cell=False)
        volumes.append(scaled.get_volume() / count)
        energies.append(scaled.get_potential_energy() / count)
    lowest = int(np.argmin(energies))
    if lowest in (0, points - 1):
        raise ValueError(
            f"the energy has no minimum between {volumes[0]:.3f} and {volumes[-1]:.3f} Å³ per atom; relax the crystal "
            "first, by --fmax, or take a larger --span"
        )
    state = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, energy, modulus = state.fit(warn=False)
    error = np.array(energies) - birchmurnaghan(np.array(volumes), *state.eos_parameters)
    return {
        "volumes": [float(v) for v in volumes],
        "energies": [float(e) for e in energies],
        "volume": float(volume),
        "energy": float(energy),
        "bulk_modulus": float(modulus * GPA),
        "error": float(1000 * np.sqrt((error**2).mean())),
        "parameters": [float(p) for p in state.eos_parameters],
    }


def draw(found: dict[str, Any], out: str, title: str = "") -> None:
    """Draw energies and curve into an image file."""
    from ase.eos import birchmurnaghan
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6))
    axis = figure.subplots()
    volumes = np.linspace(min(found["volumes"]), max(found["volumes"]), 200)
    axis.plot(volumes, birchmurnaghan(volumes, *found["parameters"]) - found["energy"], color="#0072B2")
    axis.plot(found["volumes"], np.array(found["energies"]) - found["energy"], "o", color="#D55E00", markersize=4)
    axis.axvline(found["volume"], color="#888888", linewidth=0.8)
    label = f"{found['volume']:.3f} Å³/atom, {found['bulk_modulus']:.1f} GPa"
    axis.set(xlabel="volume (Å³ per atom)", ylabel="energy − minimum (eV per atom)", title=f"{title}\n{label}")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    write_figure(out, figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common_arguments(parser)
    parser.add_argument("--span", type=float, default=0.06, help="largest relative change of the volume (default: .06)")
    parser.add_argument("--points", type=int, default=9, help="volumes (default: 9)")


def run(args: argparse.Namespace) -> int:
    """Relax, scale, fit, print.

    Raises:
        ValueError: An option is out of range, or there is no minimum.
    """
    check_positive(span=args.span)
    if args.span >= 0.5 or args.points < 5:
        raise ValueError(f"--span {args.span:g} must be below 0.5, and --points {args.points} at least 5")
    atoms = set_up(args)
    found = {"model": args.name, "formula": atoms.get_chemical_formula()}
    state = equation_of_state(atoms, args.span, args.points, args.fmax)
    if args.out:
        draw(state, args.out, f"{args.name}, {found['formula']}")
    units = {"volume": "Å³/atom", "energy": "eV/atom", "bulk_modulus": "GPa", "error": "meV/atom"}
    if args.json:
        print_json({**found, **state, "units": units})
    else:
        print(f"{args.name}, {found['formula']}: {state['volume']:.4f} Å³/atom, {state['energy']:.6f} eV/atom")
        print(f"bulk modulus {state['bulk_modulus']:.2f} GPa (fit: {state['error']:.3g} meV/atom off)")
    return 0
