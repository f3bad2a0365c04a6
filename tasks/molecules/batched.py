"""Many structures at once: relaxations and molecular dynamics in batches, one evaluation of the model for all.

    blockzoo science relax tdn.gfn2 structures.extxyz --fmax 0.02 --out relaxed.extxyz

Relaxation follows "Structural Relaxation Made Simple" (2006), FIRE; dynamics is velocity Verlet, with the thermostat of
"Robust and efficient configurational molecular sampling via Langevin dynamics" (2013) if a friction is given. Cells
stay as they are. Structures that are done leave the batch, so that the others go faster.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core.files import check_output, replacing
from blockzoo.tasks.core.output import add_batch_size, add_out, print_json, print_table
from blockzoo.tasks.molecules.options import check_positive
from blockzoo.tasks.molecules.science import add_model_arguments, calculator
from blockzoo.tasks.molecules.units import AKMA, BOLTZMANN

__all__ = ["Batch", "add_arguments", "dynamics", "relax_batch", "run"]


class Batch:
    """Structures side by side, and a potential that gives energies and forces of all.

    Args:
        model: A potential of the zoo, in eval mode.
        structures: ASE's `Atoms`.
    """

    def __init__(self, model: Any, structures: Sequence[Any]) -> None:
        self.model = model
        device = next(model.parameters()).device
        wide = torch.float32 if device.type == "mps" else torch.float64
        sizes = torch.tensor([len(atoms) for atoms in structures])
        options = {"device": device, "dtype": wide}
        self.owner = torch.repeat_interleave(torch.arange(len(structures)), sizes).to(device)
        self.numbers = torch.cat([torch.as_tensor(atoms.numbers, dtype=torch.int64) for atoms in structures]).to(device)
        self.positions = torch.cat([torch.tensor(atoms.positions, **options) for atoms in structures])
        self.masses = torch.cat([torch.tensor(atoms.get_masses(), **options) for atoms in structures]).unsqueeze(1)
        self.cell = torch.stack([torch.tensor(atoms.cell.array, **options) for atoms in structures])
        self.pbc = torch.tensor([atoms.pbc.tolist() for atoms in structures], device=device)
        self.count = len(structures)

    @torch.no_grad()
    def evaluate(self, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (B,) and forces (N, 3) of all structures, or of some.

        Args:
            rows: Which structures, (B,), bool; what is left out gets zeros.
        """
        energies = self.positions.new_zeros(self.count)
        forces = torch.zeros_like(self.positions)
        rows = torch.ones(self.count, dtype=torch.bool, device=self.owner.device) if rows is None else rows
        atoms = rows[self.owner]
        if not bool(atoms.any()):
            return energies, forces
        periodic = {"cell": self.cell[rows], "pbc": self.pbc[rows]} if bool(self.pbc.any()) else {}
        place = rows.cumsum(0) - 1
        found = self.model(
            self.positions[atoms],
            self.numbers[atoms],
            place[self.owner[atoms]],
            **periodic,
            num_graphs=int(rows.sum()),
        )
        energies[rows] = found["energy"].to(energies.dtype)
        forces[atoms] = found["forces"].to(forces.dtype)
        return energies, forces

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sums over the atoms of each structure of (N, ...): (B, ...)."""
        return values.new_zeros(self.count, *values.shape[1:]).index_add(0, self.owner, values)

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """The largest over the atoms of each structure of (N,), not negative: (B,)."""
        return values.new_zeros(self.count).scatter_reduce(0, self.owner, values, "amax")


def relax_batch(
    batch: Batch, fmax: float = 0.02, steps: int = 500, largest_move: float = 0.2
) -> dict[str, torch.Tensor]:
    """Move atoms to minima of the energy, in place, all structures at once.

    Args:
        batch: The structures.
        fmax: Largest force that may remain, in eV/Å.
        steps: Largest number of steps.
        largest_move: Of an atom in a step, in Å.

    Returns:
        By structure, (B,): "energy" in eV, "fmax" in eV/Å, "converged", and "steps" that it took; and "forces" (N, 3).
    """
    positions = batch.positions
    velocity = torch.zeros_like(positions)
    time_step = positions.new_full((batch.count,), 0.1)
    mixing = positions.new_full((batch.count,), 0.1)
    uphill_free = torch.zeros(batch.count, dtype=torch.int64, device=positions.device)
    taken = torch.zeros_like(uphill_free)
    energies, forces = batch.evaluate()
    open_rows = batch.largest(forces.norm(dim=1)) > fmax
    for _ in range(steps):
        if not bool(open_rows.any()):
            break
        power = batch.sums((forces * velocity).sum(1))
        speed, size = batch.sums(velocity.square().sum(1)).sqrt(), batch.sums(forces.square().sum(1)).sqrt()
        turn = (mixing * speed / size.clamp_min(1e-30))[batch.owner].unsqueeze(1)
        downhill = (power > 0)[batch.owner].unsqueeze(1)
        velocity = torch.where(downhill, (1 - mixing[batch.owner].unsqueeze(1)) * velocity + turn * forces, 0)
        uphill_free = torch.where(power > 0, uphill_free + 1, 0)
        faster = uphill_free > 5
        time_step = torch.where(faster, (time_step * 1.1).clamp(max=1.0), time_step)
        time_step = torch.where(power > 0, time_step, time_step * 0.5)
        mixing = torch.where(power > 0, torch.where(faster, mixing * 0.99, mixing), 0.1)

        step = time_step[batch.owner].unsqueeze(1)
        velocity = velocity + step * forces
        move = step * velocity
        longest = batch.largest(move.norm(dim=1)).clamp_min(1e-30)
        scale = (largest_move / longest).clamp(max=1.0) * open_rows
        positions += scale[batch.owner].unsqueeze(1) * move
        taken += open_rows
        new_energies, new_forces = batch.evaluate(open_rows)
        atoms = open_rows[batch.owner]
        energies[open_rows], forces[atoms] = new_energies[open_rows], new_forces[atoms]
        open_rows = open_rows & (batch.largest(forces.norm(dim=1)) > fmax)
    worst = batch.largest(forces.norm(dim=1))
    return {"energy": energies, "fmax": worst, "converged": worst <= fmax, "steps": taken, "forces": forces}


def dynamics(
    batch: Batch,
    steps: int,
    timestep: float = 0.5,
    temperature: float = 300.0,
    friction: float = 0.0,
    interval: int = 10,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Molecular dynamics of all structures at once, in place.

    Args:
        batch: The structures.
        steps: Of velocity Verlet.
        timestep: In fs.
        temperature: Of the first velocities, and of the thermostat, in K.
        friction: Of the Langevin thermostat, in 1/fs; 0 for constant energy.
        interval: Steps between records.
        seed: Of the velocities and the thermostat.

    Returns:
        "time" in ps, (R,), and "potential" and "kinetic" energies in eV, (R, B), at the records.

    Raises:
        FloatingPointError: The energy is not finite any more.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        drawn = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
        return drawn.to(batch.positions) * (BOLTZMANN * temperature * AKMA / batch.masses).sqrt()

    velocity = noise()
    momentum = batch.sums(batch.masses * velocity) / batch.sums(batch.masses)
    velocity = velocity - momentum[batch.owner]  # at rest as a whole
    keep = math.exp(-friction * timestep)
    energies, forces = batch.evaluate()
    rows = []
    for step in range(steps + 1):
        if step % interval == 0:
            kinetic = batch.sums((batch.masses * velocity.square()).sum(1)) / (2 * AKMA)
            if not bool((energies + kinetic).isfinite().all()):
                raise FloatingPointError(f"an energy is not finite after {step} steps; use a smaller timestep")
            rows.append((step * timestep / 1000, energies.clone(), kinetic))
        if step == steps:
            break
        velocity = velocity + 0.5 * timestep * AKMA * forces / batch.masses
        batch.positions += 0.5 * timestep * velocity
        if friction:
            velocity = keep * velocity + math.sqrt(1 - keep**2) * noise()
        batch.positions += 0.5 * timestep * velocity
        energies, forces = batch.evaluate()
        velocity = velocity + 0.5 * timestep * AKMA * forces / batch.masses
    times, potential, kinetic_rows = zip(*rows, strict=True)
    return {"time": torch.tensor(times), "potential": torch.stack(potential), "kinetic": torch.stack(kinetic_rows)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_arguments(parser)
    parser.add_argument("structures", metavar="FILE", help="structures of any number and kind that ASE reads")
    parser.add_argument("--fmax", type=float, default=0.02, help="largest force that may remain, in eV/Å")
    parser.add_argument("--steps", type=int, default=500, help="largest number of steps (default: 500)")
    add_batch_size(parser)
    parser.set_defaults(batch_size=32)
    add_out(parser, "extended XYZ to write (default: NAME_relaxed.extxyz in the current folder)")


def run(args: argparse.Namespace) -> int:
    """Relax all structures of a file; status 1 if one has not converged.

    Raises:
        ValueError: An option is out of range, the file is broken, or the model refuses a structure.
    """
    check_positive(fmax=args.fmax)
    for name in ("steps", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    target = Path(args.out or f"{Path(args.structures).stem}_relaxed.extxyz")
    if target.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"--out {target} must end in .extxyz or .xyz")
    check_output(target, [args.structures])
    from blockzoo.tasks.molecules.files import read_frames

    frames = read_frames(args.structures)
    model = calculator(args).model
    known = set(model.elements)
    for where, atoms in frames:
        unknown = sorted(set(atoms.numbers.tolist()) - known)
        if unknown:
            raise ValueError(f"{where}: atomic numbers {unknown}, elements that {args.name} does not know")
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    rows: list[dict[str, Any]] = []
    done: list[Any] = []
    for start in range(0, len(frames), args.batch_size):
        chosen = [atoms for _, atoms in frames[start : start + args.batch_size]]
        batch = Batch(model, chosen)
        found = relax_batch(batch, args.fmax, args.steps)
        sizes = [len(atoms) for atoms in chosen]
        parts = zip(batch.positions.cpu().split(sizes), found["forces"].cpu().split(sizes), strict=True)
        for i, (atoms, (positions, forces)) in enumerate(zip(chosen, parts, strict=True)):
            energy = float(found["energy"][i])
            plain = ase.Atoms(atoms.symbols, positions=positions.numpy(), cell=atoms.cell, pbc=atoms.pbc)
            plain.calc = SinglePointCalculator(plain, energy=energy, forces=forces.numpy())
            done.append(plain)
            rows.append(
                {
                    "frame": start + i,
                    "formula": plain.get_chemical_formula(),
                    "energy": energy,
                    "largest force": float(found["fmax"][i]),
                    "steps": int(found["steps"][i]),
                    "converged": bool(found["converged"][i]),
                }
            )
    replacing(target, lambda temporary: ase.io.write(temporary, done, format="extxyz"))
    converged = all(row["converged"] for row in rows)
    if args.json:
        print_json({"file": str(target), "units": {"energy": "eV", "force": "eV/Å"}, "frames": rows})
        return int(not converged)
    cells = [[f"{v:.6f}" if isinstance(v, float) else v for v in row.values()] for row in rows]
    print_table(list(rows[0]), cells, title="eV and eV/Å")
    print(f"relaxed structures: {target}")
    return int(not converged)
