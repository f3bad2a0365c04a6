"""Relax a molecule, run dynamics without a thermostat, and measure how well a potential conserves the energy.

    blockzoo science md tdn.gfn2 --molecule CH3CH2OH --steps 10000 --out nve.png

It needs `pip install 'blockzoo[molecules]'`.

Velocity Verlet in ASE from a relaxed structure with random velocities. Printed are the drift of the total energy, as
the slope of a line through it, and its largest deviation from the start, both for each atom. Exit status 1 if the
deviation exceeds `--limit`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.core.output import add_out, print_json
from blockzoo.tasks.molecules.options import check_not_negative, check_positive
from blockzoo.tasks.molecules.science import (
    add_model_arguments,
    calculator,
    check_figure,
)
from blockzoo.tasks.molecules.xtb import set_thermal_momenta

__all__ = ["draw", "add_arguments", "run", "nve", "relax", "summarize"]


def relax(atoms: Any, fmax: float = 0.02, steps: int = 500) -> bool:
    """Move the atoms of ASE's `Atoms` to a minimum of the energy, in place.

    Args:
        atoms: The structure, with a calculator.
        fmax: Largest force that may remain, in eV/Å.
        steps: Largest number of steps.

    Returns:
        Whether the forces have fallen below `fmax`.
    """
    from ase.optimize import BFGS

    return bool(BFGS(atoms, logfile=None).run(fmax=fmax, steps=steps))


def nve(
    atoms: Any,
    steps: int = 10_000,
    timestep: float = 0.5,
    temperature: float = 300.0,
    interval: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Molecular dynamics at constant energy.

    Args:
        atoms: The structure, with a calculator; it is moved.
        steps: Of velocity Verlet.
        timestep: In fs.
        temperature: Of the initial velocities, in K; about half of it remains where the start is a minimum.
        interval: Steps between records; the last step is recorded too.
        seed: Of the velocities.
        progress: Show a bar.

    Returns:
        "time" in ps, and "potential", "kinetic" and "total" energy in eV, at the records (R,).

    Raises:
        FloatingPointError: The energy is not finite any more.
    """
    from ase import units
    from ase.md.verlet import VelocityVerlet

    set_thermal_momenta(atoms, temperature, np.random.default_rng(seed))
    dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
    rows, before = [], 0
    with tqdm(total=steps, unit="step", desc="molecular dynamics", disable=not progress) as bar:
        for step in sorted({*range(0, steps, interval), steps}):
            if step:
                dynamics.run(step - before)
                bar.update(step - before)
                before = step
            energy, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
            if not np.isfinite(energy + kinetic):
                raise FloatingPointError(f"the energy is {energy + kinetic} after {step} steps; use a smaller timestep")
            rows.append((step * timestep / 1000, energy, kinetic, energy + kinetic))
    return dict(zip(("time", "potential", "kinetic", "total"), np.array(rows).T, strict=True))


def summarize(record: dict[str, np.ndarray], num_atoms: int) -> dict[str, float]:
    """How well the energy is conserved.

    Returns:
        "drift", the slope of a line through the total energy, in meV per atom and ps; "deviation", the largest distance
        of the total energy from its first value, and "fluctuation", the standard deviation of the kinetic energy, which
        shows how much energy is exchanged, both in meV per atom; and "length" in ps.
    """
    per_atom = 1000 * (record["total"] - record["total"][0]) / num_atoms
    slope = np.polyfit(record["time"], per_atom, 1)[0] if len(per_atom) > 1 else 0.0
    return {
        "drift": float(slope),
        "deviation": float(np.abs(per_atom).max()),
        "fluctuation": float(1000 * record["kinetic"].std() / num_atoms),
        "length": float(record["time"][-1]),
    }


def draw(record: dict[str, np.ndarray], num_atoms: int, out: str | Path, title: str = "") -> None:
    """Draw the energies over time into an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6))
    axis = figure.subplots()
    for name, colour in (("potential", "#0072B2"), ("kinetic", "#D55E00"), ("total", "#222222")):
        values = 1000 * (record[name] - record[name][0]) / num_atoms
        axis.plot(record["time"], values, color=colour, label=name, linewidth=1.6 if name == "total" else 0.8)
    axis.set(xlabel="time (ps)", ylabel="energy − first energy (meV/atom)", title=title)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, ncols=3)
    figure.tight_layout()
    write_figure(out, figure)


def _structure(molecule: str | None, structure: str | None) -> Any:
    if structure is not None:
        from blockzoo.tasks.molecules.files import read_frames

        return read_frames(structure)[-1][1]
    build = needs("ase.build", "molecules", "science md")
    try:
        return build.molecule(molecule)
    except (KeyError, NotImplementedError) as error:
        raise ValueError(
            f"--molecule {molecule}: not a molecule of ASE's G2 set; give a file by --structure"
        ) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_arguments(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--molecule", default="CH3CH2OH", help="name in ASE's G2 set (default: CH3CH2OH, ethanol)")
    what.add_argument("--structure", metavar="FILE", help="a structure that ASE reads")
    parser.add_argument("--steps", type=int, default=10_000, help="time steps (default: 10000)")
    parser.add_argument("--timestep", type=float, default=0.5, help="time step in fs (default: 0.5)")
    parser.add_argument(
        "--temperature", type=float, default=300.0, help="temperature of the initial velocities, in K (default: 300)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first velocities (default: 0)")
    parser.add_argument(
        "--fmax", type=float, default=0.02, help="first relax to this force, in eV/Å; 0 to skip (default: 0.02)"
    )
    parser.add_argument("--limit", type=float, help="fail if the energy deviates by more, in meV/atom")
    add_out(parser, "image of the energies over time")


def run(args: argparse.Namespace) -> int:
    """Relax, run dynamics, print; status 1 if the energy deviates by more than --limit.

    Raises:
        ValueError: An option is out of range, the structure or the output can't be used, or the energy diverges.
    """
    for name, least in (("steps", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least {least}")
    check_positive(timestep=args.timestep)
    check_not_negative(temperature=args.temperature, fmax=args.fmax, limit=args.limit or 0.0)
    check_figure(args.out, args.structure)
    atoms = _structure(args.molecule, args.structure)
    atoms.calc = calculator(args)
    found: dict[str, Any] = {"model": args.name, "formula": atoms.get_chemical_formula()}
    if args.fmax:
        found |= {"relaxed": relax(atoms, args.fmax), "relaxed_energy": atoms.get_potential_energy()}
    try:
        record = nve(atoms, args.steps, args.timestep, args.temperature, max(1, args.steps // 1000), args.seed)
    except FloatingPointError as error:
        raise ValueError(f"--timestep {args.timestep:g}: {error}") from error
    found |= {"steps": args.steps, "timestep": args.timestep, **summarize(record, len(atoms))}
    if args.out:
        draw(record, len(atoms), args.out, f"{args.name}, {found['formula']}, constant energy")
    if args.json:
        print_json(found)
    else:
        print(f"{args.name}, {found['formula']}: {args.steps} steps of {args.timestep:g} fs")
        print(f"drift {found['drift']:.4f} meV/atom/ps, largest deviation {found['deviation']:.4f} meV/atom,")
        print(f"exchanged energy (standard deviation of the kinetic one) {found['fluctuation']:.3f} meV/atom")
    return int(args.limit is not None and found["deviation"] > args.limit)
