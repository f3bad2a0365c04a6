"""The demo's part on potentials: errors on the test frames, a short trajectory, and molecules with their forces."""

import copy
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from blockzoo.tasks.core.pictures import STYLE, panels, picture
from blockzoo.tasks.molecules.elements import MASSES, SYMBOLS
from blockzoo.tasks.molecules.parity import draw_parity
from blockzoo.tasks.molecules.structures import Structure, XTBMolecules
from blockzoo.tasks.molecules.units import AKMA, BOLTZMANN

__all__ = ["evaluate_molecules", "velocity_verlet"]

COLOURS = {1: ("#e8e8e8", "#111111"), 6: ("#555555", "#fefefe"), 7: ("#3566a8", "#fefefe"), 8: ("#b83227", "#fefefe")}
"""Of an atom and its symbol."""
RADII = {1: 0.31, 6: 0.76, 7: 0.71, 8: 0.66}
"""Covalent radii in Å, "Covalent radii revisited" (2008)."""

MOVED = "ethanol"
SHOWN = {"ethanol": 0, "acetamide": 3, "furan": 5}
"""Molecules of the packaged set, by their place in it."""


def evaluate_molecules(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """Mean absolute error of forces on the GFN2-xTB test frames in meV/Å, and sections (heading, HTML) about it."""
    data = XTBMolecules(batch_size=48)
    data.setup("test")
    kept: dict[str, list[torch.Tensor]] = {}
    for batch in data.test_dataloader():
        found = model(batch["positions"], batch["atomic_numbers"], batch["batch"])
        count = batch["num_atoms"]
        row = {"energy": batch["energy"] / count, "predicted_energy": found["energy"].detach().double() / count}
        row |= {"forces": batch["forces"], "predicted_forces": found["forces"].detach(), "num_atoms": count}
        row["atomic_numbers"] = batch["atomic_numbers"]
        for key, value in row.items():
            kept.setdefault(key, []).append(value)
    predictions = {key: torch.cat(values) for key, values in kept.items()}
    error = (predictions["predicted_forces"].double() - predictions["forces"].double()).abs().mean()
    structures = data.datasets["test"].structures  # type: ignore[attr-defined]
    each = len(structures) // 6
    chosen = {name: structures[place * each + each // 2] for name, place in SHOWN.items()}
    sections = [
        ("Energies and forces against GFN2-xTB", _parity(predictions, len(structures))),
        ("Molecules and the forces on their atoms", _molecules(model, chosen)),
        ("Does it conserve energy?", _trajectory(model, chosen[MOVED])),
    ]
    return float(error) * 1000, sections


def velocity_verlet(
    model: Any, structure: Structure, steps: int, timestep: float = 0.5, temperature: float = 300.0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Newton's equations for one molecule under a potential.

    Args:
        model: The potential; a copy in float64 is used.
        structure: Where it starts; elements must be in `MASSES`.
        steps: How many.
        timestep: In fs.
        temperature: Of the initial velocities, in K.
        seed: Of the initial velocities.

    Returns:
        "time" in fs, and "potential" and "kinetic" energy in eV, (steps + 1,).
    """
    model = copy.deepcopy(model).double().eval()
    numbers, owner = structure.atomic_numbers, torch.zeros_like(structure.atomic_numbers)
    masses = torch.tensor([[MASSES[int(number)]] for number in numbers], dtype=torch.double)
    generator = torch.Generator().manual_seed(seed)
    spread = (BOLTZMANN * temperature * AKMA / masses).sqrt()
    velocity = spread * torch.randn(len(numbers), 3, generator=generator, dtype=torch.double)
    velocity -= (masses * velocity).sum(0) / masses.sum()
    position, rows = structure.positions.double(), []
    found = model(position, numbers, owner)
    for step in range(steps + 1):
        kinetic = float((masses * velocity.square()).sum() / 2 / AKMA)
        rows.append((step * timestep, float(found["energy"].detach()), kinetic))
        velocity = velocity + found["forces"].detach() / masses * (AKMA * timestep / 2)
        position = position + velocity * timestep
        found = model(position, numbers, owner)
        velocity = velocity + found["forces"].detach() / masses * (AKMA * timestep / 2)
    return dict(zip(("time", "potential", "kinetic"), np.array(rows).T, strict=True))


def _parity(predictions: dict[str, torch.Tensor], count: int) -> str:
    with plt.rc_context(STYLE):
        figure = plt.figure()
        draw_parity(predictions, figure)
    energy = float((predictions["predicted_energy"] - predictions["energy"]).abs().mean()) * 1000
    force = float((predictions["predicted_forces"] - predictions["forces"]).abs().mean()) * 1000
    alts = [f"True against predicted energies: mean error {energy:.2f} meV per atom."]
    alts += [f"True against predicted force components: mean error {force:.1f} meV/Å."]
    alts += ["Angle between true and predicted forces against the size of the force."]
    return (
        f"<p>{count} frames of six molecules at 300, 600 and 900 K, from trajectories that training never saw. "
        f"Mean absolute errors: {energy:.2f} meV per atom and {force:.1f} meV/Å. Last: by how much the predicted "
        f"force points elsewhere.</p>{panels(figure, alts, (3.2, 2.8), 3)}"
    )


def _molecules(model: Any, chosen: dict[str, Structure]) -> str:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(chosen), figsize=(9, 3.4))
        errors = []
        for axis, (name, structure) in zip(axes, chosen.items(), strict=True):
            owner = torch.zeros_like(structure.atomic_numbers)
            forces = model(structure.positions, structure.atomic_numbers, owner)["forces"].detach()
            errors.append(float((forces - structure.forces).norm(dim=-1).max()))
            _draw_molecule(axis, structure, forces)
            axis.set_title(name)
    pairs = zip(chosen, errors, strict=True)
    alts = [f"{name}, its atoms and the forces on them: largest error {error:.2f} eV/Å." for name, error in pairs]
    return (
        "<p>Test frames, seen along the direction in which they are thinnest. Arrows are forces: wide and orange by "
        f"GFN2-xTB, thin and blue by the model; 1 Å of arrow is 2 eV/Å.</p>{panels(figure, alts, columns=3)}"
    )


def _draw_molecule(axis: Any, structure: Structure, forces: torch.Tensor) -> None:
    """Atoms, bonds and forces, projected on the plane of the two widest directions."""
    centred = structure.positions - structure.positions.mean(0)
    plane = torch.linalg.svd(centred, full_matrices=False)[2][:2].T
    flat, numbers = (centred @ plane).numpy(), structure.atomic_numbers.tolist()
    distance = torch.cdist(structure.positions, structure.positions)
    for i in range(len(numbers)):
        for j in range(i):
            if distance[i, j] < 1.25 * (RADII[numbers[i]] + RADII[numbers[j]]):
                axis.plot(*flat[[i, j]].T, color="#999999", linewidth=4, zorder=1)
    for (x, y), number in zip(flat, numbers, strict=True):
        axis.add_patch(plt.Circle((x, y), 0.45 * RADII[number] + 0.1, fc=COLOURS[number][0], ec="#333333", zorder=2))
        axis.text(x, y, SYMBOLS[number], ha="center", va="center", fontsize=8, zorder=5, color=COLOURS[number][1])
    for values, colour, width in ((structure.forces, "#e08214", 0.014), (forces, "#0b62a4", 0.006)):
        arrows = (values @ plane).numpy() / 2
        axis.quiver(*flat.T, *arrows.T, color=colour, width=width, angles="xy", scale_units="xy", scale=1, zorder=3)
    axis.set_aspect("equal")
    axis.margins(0.25)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _trajectory(model: Any, structure: Structure, steps: int = 240) -> str:
    record = velocity_verlet(model, structure, steps)
    total = record["potential"] + record["kinetic"]
    count = len(structure.positions)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.8, 2.6))
        curves = {"potential": record["potential"], "kinetic": record["kinetic"], "total": total}
        for (name, values), colour in zip(curves.items(), ("#0072B2", "#D55E00", "#222222"), strict=True):
            axis.plot(record["time"], 1000 * (values - values[0]) / count, color=colour, label=name)
        axis.set(xlabel="time (fs)", ylabel="energy − first energy (meV/atom)")
        axis.legend(frameon=False, ncols=3)
        axis.grid(alpha=0.3)
    swing = 1000 * float(np.ptp(record["kinetic"])) / count
    off = 1000 * float(np.abs(total - total[0]).max()) / count
    text = (
        f"<p>{MOVED.capitalize()}, {steps} steps of 0.5 fs from a test frame with velocities of 300 K, without a "
        f"thermostat. Kinetic energy swings by {swing:.1f} meV per atom; the total energy stays within {off:.3f} meV "
        "per atom. Longer runs, with ASE: <code>blockzoo science md</code>.</p>"
    )
    return text + picture(figure, f"Energies over time; the total one stays within {off:.3f} meV per atom.")
