"""Energies, forces and stresses of structures as files hold them: under which name, in which unit, of which sign."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.molecules.structures import Structure
from blockzoo.tasks.molecules.units import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS

__all__ = ["Labels", "to_structure"]


@dataclass(frozen=True)
class Labels:
    """How the labels of a file are called and what they mean; what models learn is in eV, eV/Å and eV/Å³.

    Attributes:
        energy_key: Name of the total energy, a property of the frame.
        forces_key: Name of the forces, a property of the atoms.
        stress_key: Name of the stress, a property of the frame, read where a frame has it: the derivative of the energy
            by the strain over the volume, as in ASE; 3 x 3, 9 numbers, or 6 in the order xx, yy, zz, yz, xz, xy.
        virial_key: Name of the virial, read where a frame has it: minus the stress times the volume.
        energy_unit: One of `ENERGY_UNITS`.
        length_unit: One of `LENGTH_UNITS`, of positions and cells.
        forces_unit: "ENERGY/LENGTH", such as "eV/Angstrom"; by default the units above.
        stress_unit: One of `STRESS_UNITS`, or "ENERGY/LENGTH^3"; by default the units above.
        forces_are_gradients: The file holds gradients of the energy, which are minus the forces.
        stress_is_pressure: The file's stress is of the opposite sign, positive under compression, as in VASP's output.
        partial: A frame may lack its energy or forces (NaN is the same as lacking), but not all labels.

    Raises:
        ValueError: A unit is unknown.
    """

    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: str = "stress"
    virial_key: str = "virial"
    energy_unit: str = "eV"
    length_unit: str = "Angstrom"
    forces_unit: str | None = None
    stress_unit: str | None = None
    forces_are_gradients: bool = False
    stress_is_pressure: bool = False
    partial: bool = False

    def __post_init__(self) -> None:
        _factor("energy_unit", self.energy_unit, ENERGY_UNITS)
        _factor("length_unit", self.length_unit, LENGTH_UNITS)
        self.forces_factor()
        self.stress_factor()

    def forces_factor(self) -> float:
        """eV/Å in the file's unit of forces, with the sign."""
        energy, _, length = (self.forces_unit or f"{self.energy_unit}/{self.length_unit}").rpartition("/")
        size = _factor("forces_unit", energy, ENERGY_UNITS) / _factor("forces_unit", length, LENGTH_UNITS)
        return -size if self.forces_are_gradients else size

    def stress_factor(self) -> float:
        """eV/Å³ in the file's unit of stress, with the sign."""
        unit = self.stress_unit or f"{self.energy_unit}/{self.length_unit}^3"
        sign = -1.0 if self.stress_is_pressure else 1.0
        if unit in STRESS_UNITS:
            return sign * STRESS_UNITS[unit]
        energy, _, length = unit.removesuffix("^3").rpartition("/")
        if not unit.endswith("^3") or energy not in ENERGY_UNITS or length not in LENGTH_UNITS:
            known = ", ".join(STRESS_UNITS)
            raise ValueError(f"stress_unit={unit!r} must be one of {known}, or like 'eV/Angstrom^3'")
        return sign * ENERGY_UNITS[energy] / LENGTH_UNITS[length] ** 3


def _factor(name: str, unit: str, known: dict[str, float]) -> float:
    if unit not in known:
        like = ", like 'eV/Angstrom'" if name == "forces_unit" else ""
        raise ValueError(f"{name}: {unit!r} must be one of {', '.join(known)}{like}")
    return known[unit]


def to_structure(
    atoms: Any, where: str, labels: Labels | None = None, weight: float = 1.0, labelled: bool = True
) -> Structure:
    """One checked structure of ASE's `Atoms`.

    Args:
        atoms: The frame, labels in `info`, `arrays` or the results of its calculator.
        where: Names it in messages.
        labels: Names, units and signs.
        weight: Weight of the structure in the loss.
        labelled: Refuse a frame without any label.

    Raises:
        ValueError: A label is missing, of the wrong shape or not finite, or an atom is of no element.
    """
    labels = Labels() if labels is None else labels
    results = atoms.calc.results if atoms.calc is not None else {}
    info, arrays = {**atoms.info, **results}, {**atoms.arrays, **results}
    length = LENGTH_UNITS[labels.length_unit]
    energy = _label(info, "energy", labels.energy_key, "the frame", where, labels.partial)
    forces = _label(arrays, "forces", labels.forces_key, "the atoms", where, labels.partial)
    if energy.size != 1 or forces.shape not in ((len(atoms), 3), ()):
        raise ValueError(
            f"{where}: {labels.energy_key} has shape {energy.shape} and {labels.forces_key} {forces.shape}, "
            f"they must be () and ({len(atoms)}, 3)"
        )
    if forces.shape == ():
        forces = np.full((len(atoms), 3), np.nan)
    stress = _stress(atoms, info, labels, where)
    if (
        labelled
        and labels.partial
        and not (np.isfinite(energy).any() or np.isfinite(forces).any() or stress is not None)
    ):
        raise ValueError(f"{where}: neither {labels.energy_key} nor {labels.forces_key} nor a stress is known")
    checked = [("positions", atoms.positions)]
    if not labels.partial:
        checked += [(labels.energy_key, energy), (labels.forces_key, forces)]
    for name, values in checked:
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            atom = f" of atom {bad[0][0]}" if values.ndim else ""
            raise ValueError(f"{where}: {name}{atom} is {values[tuple(bad[0])]}; all numbers must be finite")
    if (atoms.numbers < 1).any():
        raise ValueError(f"{where}: atom {int(np.argmax(atoms.numbers < 1))} is not a chemical element")
    periodic, dtype = bool(np.any(atoms.pbc)), torch.get_default_dtype()
    return Structure(
        torch.tensor(atoms.positions * length, dtype=dtype),
        torch.tensor(atoms.numbers, dtype=torch.long),
        torch.tensor(float(energy.reshape(())) * ENERGY_UNITS[labels.energy_unit], dtype=torch.float64),
        torch.tensor(forces * labels.forces_factor(), dtype=dtype),
        torch.tensor(np.array(atoms.cell) * length, dtype=dtype) if periodic else None,
        torch.tensor(atoms.pbc, dtype=torch.bool) if periodic else None,
        None if stress is None else torch.tensor(stress, dtype=dtype),
        weight,
    )


def _label(found: dict[Any, Any], name: str, key: str, owner: str, where: str, partial: bool) -> np.ndarray:
    if key not in found or found[key] is None:
        if partial:
            return np.asarray(np.nan)
        names = ", ".join(sorted(map(str, found))) or "none"
        raise ValueError(f"{where}: no {name} {key!r}; properties of {owner}: {names} (set {name}_key)")
    try:
        return np.asarray(found[key], dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {key} is {found[key]!r}, not numbers") from error


def _stress(atoms: Any, info: dict[Any, Any], labels: Labels, where: str) -> np.ndarray | None:
    """The stress in eV/Å³, (3, 3), from a frame's stress or virial; None if it has neither."""
    from ase.stress import voigt_6_to_full_3x3_stress

    found = {}
    for name, key in (("stress", labels.stress_key), ("virial", labels.virial_key)):
        if info.get(key) is None:
            continue
        value = _label(info, name, key, "the frame", where, True)
        if value.size == 6:
            value = voigt_6_to_full_3x3_stress(value.reshape(6))
        if value.size != 9:
            raise ValueError(f"{where}: {key} has shape {value.shape}, expected 3 x 3, 9 or 6 numbers")
        value = value.reshape(3, 3)
        if not np.isfinite(value).all():
            if labels.partial:
                continue
            raise ValueError(f"{where}: {key} is not finite; all numbers must be finite")
        if abs(value - value.T).max() > 1e-3 * max(abs(value).max(), 1e-12):
            raise ValueError(f"{where}: {key} is not symmetric")
        found[name] = (value + value.T) / 2
    if not found:
        return None
    volume = abs(np.linalg.det(np.array(atoms.cell))) * LENGTH_UNITS[labels.length_unit] ** 3
    if not np.any(atoms.pbc) or volume == 0:
        raise ValueError(f"{where}: a {' and '.join(found)} of a structure that is not periodic")
    stresses = {}
    if "stress" in found:
        stresses["stress"] = found["stress"] * labels.stress_factor()
    if "virial" in found:
        stresses["virial"] = -found["virial"] * ENERGY_UNITS[labels.energy_unit] / volume
    if len(stresses) == 2:
        apart = abs(stresses["stress"] - stresses["virial"]).max()
        if apart > 0.02 * abs(stresses["stress"]).max() + 1e-5:
            raise ValueError(
                f"{where}: {labels.stress_key} and -{labels.virial_key} / volume differ by {apart:.3g} eV/Å³; set "
                "stress_unit or stress_is_pressure, or name another key"
            )
    return next(iter(stresses.values()))
