"""What structures say about the units of their labels: wrong ones are noticed before training.

Three things are compared, each only where the data allow it:

- the change of the energy between similar structures, with the work of their forces (and stresses, where cells change):
  the two have ratio 1 in consistent units, -1 where a sign is wrong, 27.2 where one is in hartree and so on;
- total energies with those of free atoms, electrons of the core included: a ratio of 1/27.2, 23.06 or 96.5 for all
  formulas is no accident, while programs that leave out the core give no fixed ratio;
- the shortest distances with the sizes of atoms: bohr taken for Å.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from blockzoo.tasks.molecules.structures import Structure
from blockzoo.tasks.molecules.units import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS

__all__ = ["check_units", "distant_ratio", "energy_ratio", "work_ratios"]

_ATOMS = (
    "-0.5 -2.862 -7.433 -14.573 -24.529 -37.689 -54.401 -74.809 -99.409 -128.547 -161.859 -199.615 -241.877 -288.854 "
    "-340.719 -397.505 -459.482 -526.818 -599.165 -676.758 -759.736 -848.406 -942.884 -1043.356 -1149.866 -1262.444 "
    "-1381.415 -1506.871 -1638.964 -1777.848 -1923.261 -2075.360 -2234.239 -2399.868 -2572.441 -2752.055"
)
ATOMIC_ENERGIES = torch.tensor([0.0, *map(float, _ATOMS.split())], dtype=torch.double) * ENERGY_UNITS["Hartree"]
"""Energies of free atoms from H to Kr in the Hartree-Fock limit, in eV; density functionals differ by less than 2 %."""

_PAIRS = 200
_NEAR = 0.3
"""Pairs of structures that are compared, and how far an atom may be moved between them, in Å."""


def check_units(structures: Sequence[Structure], name: str | Path) -> None:
    """Refuse structures whose labels contradict each other or the units that they are said to have.

    Args:
        structures: With labels in eV, Å, as they were read.
        name: Names them in messages.

    Raises:
        ValueError: A unit or a sign is wrong; the message says which option to set.
    """
    where = f"{name}: "
    off = "; or set check_units=false if the data are right"
    by_forces, by_stress = work_ratios(structures)
    wide = by_forces is None
    if by_forces is None:
        by_forces = distant_ratio(structures)
    if by_forces is not None and not (0.25 < by_forces < 4 if wide else 0.8 < by_forces < 1.25):
        raise ValueError(
            f"{where}energies change {by_forces:.3g} times as much as their forces tell; "
            f"{_energy_advice(by_forces, 0.6 if wide else 0.1)}{off}"
        )
    if by_stress is not None and not 0.7 < by_stress < 1.4:
        raise ValueError(
            f"{where}energies change {by_stress:.3g} times as much with the cell as their stresses tell; "
            f"{_stress_advice(by_stress)}{off}"
        )
    ratio = energy_ratio(structures)
    if ratio is not None:
        for unit in ("Hartree", "kcal/mol", "kJ/mol"):
            if abs(ratio * ENERGY_UNITS[unit] - 1) < 0.02:
                raise ValueError(
                    f"{where}total energies are {ratio:.4g} times those of all-electron atoms in eV, as in {unit}; set "
                    f"energy_unit={unit}{off}"
                )
    spread = _shortest_distance(structures)
    if spread is not None and not 0.6 < spread < 1.5:
        unit = min(LENGTH_UNITS, key=lambda unit: abs(np.log(spread * LENGTH_UNITS[unit])))
        if unit != "Angstrom":
            raise ValueError(
                f"{where}atoms are {spread:.2g} times as far apart as their sizes in Å tell; "
                f"set length_unit={unit}{off}"
            )


def _energy_advice(ratio: float, spread: float) -> str:
    """What would bring the ratio of energies to forces to 1; `spread` is the uncertainty of its logarithm."""
    if ratio < 0:
        return "they go up along the forces: set forces_are_gradients=true"
    units = ENERGY_UNITS
    unit = min(units, key=lambda unit: abs(np.log(ratio * units[unit])))
    if unit != "eV" and abs(np.log(ratio * units[unit])) < spread:
        return f"if the forces are in eV/Å, set energy_unit={unit} and forces_unit=eV/Angstrom"
    inverse = min(units, key=lambda unit: abs(np.log(ratio / units[unit])))
    if inverse != "eV" and abs(np.log(ratio / units[inverse])) < spread:
        return f"if the energies are in eV, set forces_unit={inverse}/Angstrom"
    bohr = LENGTH_UNITS["Bohr"]
    if abs(np.log(ratio * bohr)) < 0.1 or abs(np.log(ratio / bohr)) < 0.1:
        return "that is bohr against Å: set forces_unit or length_unit"
    return "set energy_unit, forces_unit or length_unit"


def _stress_advice(ratio: float) -> str:
    for sign, also in ((1, ""), (-1, " and stress_is_pressure=true")):
        for unit in ("GPa", "kbar"):
            if ratio * sign > 0 and abs(np.log(abs(ratio) / STRESS_UNITS[unit])) < 0.3:
                return f"set stress_unit={unit}{also}"
    if -1.4 < ratio < -0.7:
        return "set stress_is_pressure=true"
    return "set stress_unit, stress_is_pressure or virial_key"


def work_ratios(structures: Sequence[Structure]) -> tuple[float | None, float | None]:
    """Changes of energies over the work of forces; where cells differ, what is left of them over that of stresses.

    Pairs are structures of the same atoms in the same order, in sequence, none of whose atoms is moved by more than
    0.3 Å; the work is that of the mean of both structures' forces.

    Returns:
        The two slopes; each None if there are fewer than five such pairs, or they do not lie on a line.
    """
    groups: dict[tuple[int, ...], list[Structure]] = defaultdict(list)
    for structure in structures[:5000]:
        if structure.energy.isfinite() and structure.forces.isfinite().all() and len(structure.positions) > 1:
            groups[tuple(structure.atomic_numbers.tolist())].append(structure)
    fixed: list[tuple[float, float, float | None]] = []
    strained: list[tuple[float, float, float | None]] = []
    for group in groups.values():
        for first, second in zip(group[:-1], group[1:], strict=True):
            row = _work(first, second)
            if row is None:
                continue
            (strained if row[2] is not None else fixed).append(row)
    by_forces = _slope([(energy, work) for energy, work, _ in fixed[:_PAIRS]])
    rest = [(energy - work, stress) for energy, work, stress in strained[:_PAIRS] if stress is not None]
    return by_forces, _slope(rest)


def distant_ratio(structures: Sequence[Structure]) -> float | None:
    """As the first of `work_ratios`, for molecules that are far from each other, such as frames in random order.

    Molecules of the same atoms are turned onto each other, and each is compared with its nearest one. The work of the
    mean force is exact where the energy is quadratic, and right to some 30 % for vibrations.

    Returns:
        The slope; None if there are fewer than ten pairs within half an Å, or they do not lie near a line.
    """
    groups: dict[tuple[int, ...], list[Structure]] = defaultdict(list)
    for structure in structures[:5000]:
        group = groups[tuple(structure.atomic_numbers.tolist())]
        labelled = bool(structure.energy.isfinite() and structure.forces.isfinite().all())
        if labelled and structure.cell is None and len(structure.positions) > 1 and len(group) < 60:
            group.append(structure)
    rows: list[tuple[float, float]] = []
    for group in list(groups.values())[:20]:
        if len(group) < 2:
            continue
        positions = torch.stack([structure.positions for structure in group]).double()
        forces = torch.stack([structure.forces for structure in group]).double()
        energies = torch.stack([structure.energy for structure in group])
        positions = positions - positions.mean(1, keepdim=True)
        # Rotations that bring each structure j closest to each i, by Kabsch's algorithm.
        u, _, v = torch.linalg.svd(torch.einsum("jna,inb->ijab", positions, positions))
        proper = torch.ones(*u.shape[:2], 3, dtype=torch.double)
        proper[..., 2] = torch.linalg.det(u @ v).sign()
        turns = u * proper.unsqueeze(-2) @ v
        moved = torch.einsum("jna,ijab->ijnb", positions, turns) - positions.unsqueeze(1)
        apart = moved.square().sum(-1).mean(-1).sqrt()
        apart.fill_diagonal_(torch.inf)
        for i, j in enumerate(apart.argmin(1).tolist()):
            if 1e-6 < float(apart[i, j]) < 0.5:
                mean = (forces[i] + forces[j] @ turns[i, j]) / 2
                rows.append((float(energies[j] - energies[i]), -float((mean * moved[i, j]).sum())))
    return _slope(rows, least=10, correlated=0.7)


def _work(first: Structure, second: Structure) -> tuple[float, float, float | None] | None:
    """Change of the energy, work of the forces, and work of the stresses where the cells differ; None if too far."""
    if (first.cell is None) != (second.cell is None):
        return None
    start, end, of_stress = first.positions.double(), second.positions.double(), None
    moved = end - start
    if first.cell is not None and second.cell is not None:
        old, new = first.cell.double(), second.cell.double()
        if not bool(first.pbc.all() and second.pbc.all()):  # type: ignore[union-attr]
            return None
        strain = torch.linalg.solve(old, new) - torch.eye(3, dtype=torch.double)
        if float(strain.abs().max()) > 1e-6:
            if first.stress is None or second.stress is None or float(strain.abs().max()) > 0.05:
                return None
            stress = (first.stress + second.stress).double() / 2
            volume = float(torch.linalg.det((old + new) / 2).abs())
            of_stress = volume * float((stress * (strain + strain.T) / 2).sum())
            start = start @ torch.linalg.inv(old) @ new  # where the strain alone takes the atoms
        moved = end - start
        moved = moved - (moved @ torch.linalg.inv(new)).round() @ new  # to the nearest image
    largest = float(moved.norm(dim=1).max())
    if largest > _NEAR or (largest < 1e-6 and of_stress is None):
        return None
    work = -float(((first.forces + second.forces).double() / 2 * moved).sum())
    return float(second.energy - first.energy), work, of_stress


def _slope(rows: Sequence[tuple[float, float]], least: int = 5, correlated: float = 0.95) -> float | None:
    """Slope of a line through the origin, (change, work) in each row; None if the rows do not lie on one."""
    if len(rows) < least:
        return None
    change, work = np.array(rows, dtype=float).T
    size = np.sqrt((work**2).sum() * (change**2).sum())
    if size == 0:
        return None
    correlation = (work * change).sum() / size
    if abs(correlation) < correlated:
        return None
    return float((work * change).sum() / (work**2).sum())


def energy_ratio(structures: Sequence[Structure]) -> float | None:
    """Total energies over those of free atoms with all electrons.

    Returns:
        The median ratio; None if formulas are fewer than two or the ratios differ by more than 2 % between them.
    """
    ratios: dict[tuple[int, ...], float] = {}
    for structure in structures[:5000]:
        numbers = structure.atomic_numbers
        if not structure.energy.isfinite() or int(numbers.max()) >= len(ATOMIC_ENERGIES):
            continue
        formula = tuple(sorted(numbers.tolist()))
        ratios.setdefault(formula, float(structure.energy) / float(ATOMIC_ENERGIES[numbers].sum()))
    if len(ratios) < 2:
        return None
    values = np.array(list(ratios.values()))
    middle = float(np.median(values))
    return middle if middle != 0 and abs(values / middle - 1).max() < 0.02 else None


def _shortest_distance(structures: Sequence[Structure]) -> float | None:
    """Median over structures of the least distance of two atoms over the sum of their radii, periodic images left out.

    None if fewer than five structures have a pair.
    """
    from ase.data import covalent_radii

    radii = torch.tensor(covalent_radii)
    found = []
    for structure in structures[:200]:
        if 1 < len(structure.positions) <= 500 and structure.cell is None:
            apart = torch.cdist(structure.positions.double(), structure.positions.double())
            sizes = radii[structure.atomic_numbers]
            relative = apart / (sizes.unsqueeze(0) + sizes.unsqueeze(1))
            relative.fill_diagonal_(torch.inf)
            found.append(float(relative.min()))
    return float(np.median(found)) if len(found) >= 5 else None
