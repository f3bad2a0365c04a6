"""Vibrations of a crystal by a potential: bands, density of states and heat capacity, with phonopy.

    blockzoo science phonons tdn.gfn2 --bulk C:diamond:3.567 --supercell 3 --out phonons.png

It needs `pip install 'blockzoo[phonons]'`. Source of the method: "First principles phonon calculations in materials
science" (2015).
"""

import argparse
from typing import Any

import numpy as np

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.core.output import print_json
from blockzoo.tasks.molecules.options import check_positive
from blockzoo.tasks.molecules.science import add_common_arguments, set_up

__all__ = ["add_arguments", "draw", "phonons", "run"]

IMAGINARY = -0.1
"""THz below which a frequency counts as imaginary; phonopy gives those as negative numbers."""


def phonons(
    atoms: Any, supercell: int = 3, displacement: float = 0.01, mesh: int = 20, temperature: float = 300.0
) -> dict[str, Any]:
    """Phonons from the forces of displaced atoms in a supercell.

    Args:
        atoms: ASE's `Atoms` with a calculator, at its minimum; they stay as they are.
        supercell: Repetitions along each axis.
        displacement: In Å.
        mesh: Points of the Brillouin zone along each axis.
        temperature: Of the heat capacity and the free energy, in K.

    Returns:
        "lowest" and "highest" frequency, in THz, imaginary ones negative; "stable"; "gamma", the frequencies at the
        centre; "free_energy" in kJ/mol and "heat_capacity" in J/K/mol, of one primitive cell; "bands" as a list of
        paths with "distances", "frequencies" and "labels"; and "dos" with "frequencies" and "density".

    Raises:
        ImportError: phonopy is not installed.
    """
    needs("phonopy", "phonons", "science phonons")
    import ase
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(), scaled_positions=atoms.get_scaled_positions(), cell=atoms.cell.array
    )
    phonon: Any = Phonopy(cell, supercell_matrix=supercell * np.eye(3, dtype=int), log_level=0)
    phonon.generate_displacements(distance=displacement)
    forces = []
    for displaced in phonon.supercells_with_displacements or []:
        moved = ase.Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell, pbc=True)
        moved.calc = atoms.calc
        forces.append(moved.get_forces())
    phonon.forces = np.array(forces)
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    phonon.run_mesh([mesh] * 3, is_gamma_center=True)
    frequencies = np.array(phonon.mesh.frequencies)
    phonon.run_total_dos()
    phonon.run_thermal_properties(temperatures=[temperature], cutoff_frequency=1e-2)  # not the three at rest
    heat, dos = phonon.thermal_properties, phonon.total_dos
    gamma = _frequencies(phonon, np.zeros((1, 3)))[0]
    return {
        "lowest": float(min(frequencies.min(), gamma.min())),
        "highest": float(frequencies.max()),
        "stable": bool(min(frequencies.min(), gamma.min()) > IMAGINARY),
        "gamma": [float(value) for value in gamma],
        "temperature": temperature,
        "free_energy": float(heat.free_energy[0]),
        "heat_capacity": float(heat.heat_capacity[0]),
        "bands": _bands(phonon, atoms),
        "dos": {
            "frequencies": np.asarray(dos.frequency_points).tolist(),
            "density": np.asarray(dos.dos).tolist(),
        },
    }


def _frequencies(phonon: Any, points: np.ndarray) -> np.ndarray:
    """Frequencies in THz at points of reciprocal space, (P, 3) -> (P, branches), sorted."""
    phonon.run_qpoints(points)
    return np.sort(np.array(phonon.qpoints.frequencies), axis=1)


def _bands(phonon: Any, atoms: Any, points: int = 40) -> list[dict[str, Any]]:
    """Bands along ASE's standard path of the cell's lattice."""
    path = atoms.cell.bandpath(npoints=0)
    special, found, start = path.special_points, [], 0.0
    from ase.dft.kpoints import parse_path_string

    for segment in parse_path_string(path.path):
        for first, last in zip(segment[:-1], segment[1:], strict=True):
            line = np.linspace(special[first], special[last], points)
            steps = np.linalg.norm(np.diff(line @ atoms.cell.reciprocal(), axis=0), axis=1)
            distances = start + np.concatenate([[0.0], np.cumsum(steps)])
            frequencies = _frequencies(phonon, line)
            found.append({"distances": distances.tolist(), "frequencies": frequencies.tolist(),
                          "labels": [first, last]})  # fmt: skip
            start = float(distances[-1])
    return found


def draw(found: dict[str, Any], out: str, title: str = "") -> None:
    """Draw bands and density of states into an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8))
    bands, dos = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    ticks: dict[float, str] = {}
    for path in found["bands"]:
        bands.plot(path["distances"], path["frequencies"], color="#0072B2", linewidth=1)
        for place, label in zip((path["distances"][0], path["distances"][-1]), path["labels"], strict=True):
            name = "Γ" if label == "G" else label
            ticks[place] = name if ticks.get(place, name) == name else f"{ticks[place]}|{name}"
    for place in ticks:
        bands.axvline(place, color="#bbbbbb", linewidth=0.6)
    bands.set_xticks(list(ticks), list(ticks.values()))
    bands.axhline(0, color="#888888", linewidth=0.6)
    bands.set(ylabel="frequency (THz), imaginary below 0", title=title, xlim=(min(ticks), max(ticks)))
    dos.fill_betweenx(found["dos"]["frequencies"], found["dos"]["density"], color="#D55E00", alpha=0.6)
    dos.set(xlabel="density of states", xlim=(0, None))
    figure.tight_layout()
    write_figure(out, figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common_arguments(parser)
    parser.add_argument("--supercell", type=int, default=3, help="repetitions along each axis (default: 3)")
    parser.add_argument("--displacement", type=float, default=0.01, help="in Å (default: 0.01)")
    parser.add_argument("--mesh", type=int, default=20, help="points of the zone along each axis (default: 20)")
    parser.add_argument("--temperature", type=float, default=300.0, help="in K (default: 300)")


def run(args: argparse.Namespace) -> int:
    """Relax, displace, print; status 1 if a frequency is imaginary.

    Raises:
        ValueError: An option is out of range, or the structure cannot be used.
    """
    check_positive(displacement=args.displacement, temperature=args.temperature)
    for name in ("supercell", "mesh"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least 1")
    atoms = set_up(args)
    found = {"model": args.name, "formula": atoms.get_chemical_formula(), "supercell": args.supercell}
    found |= phonons(atoms, args.supercell, args.displacement, args.mesh, args.temperature)
    if args.out:
        draw(found, args.out, f"{args.name}, {found['formula']}")
    if args.json:
        units = {"frequency": "THz", "free_energy": "kJ/mol", "heat_capacity": "J/K/mol"}
        print_json({**found, "units": units})
    else:
        print(f"{args.name}, {found['formula']}: frequencies from {found['lowest']:.3f} to {found['highest']:.3f} THz")
        print(f"at {args.temperature:g} K: free energy {found['free_energy']:.3f} kJ/mol,", end=" ")
        print(f"heat capacity {found['heat_capacity']:.3f} J/K/mol of a primitive cell")
        if not found["stable"]:
            print("frequencies below 0 are imaginary: the crystal is not at a minimum of this potential")
    return int(not found["stable"])
