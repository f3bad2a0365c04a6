"""Structures of one's own: the files that ASE reads, LMDB, HDF5 and NPZ (`pip install 'blockzoo[molecules]'`)."""

import random
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blockzoo.tasks.molecules.elements import SYMBOLS
from blockzoo.tasks.molecules.formats import frames_of, need_ase
from blockzoo.tasks.molecules.labels import Labels, to_structure
from blockzoo.tasks.molecules.structures import MoleculeData, Structure
from blockzoo.tasks.molecules.unit_checks import check_units

__all__ = ["StructureFiles", "read_frames", "read_structures", "to_structure"]


def read_structures(
    path: str | Path,
    energy_key: str = "energy",
    forces_key: str = "forces",
    labels: Labels | None = None,
    type_key: str = "config_type",
    type_weights: Mapping[str, float] | None = None,
) -> list[Structure]:
    """All structures of a file, checked.

    Args:
        path: See `blockzoo.tasks.molecules.formats`.
        energy_key: Name of the energy in eV, a property of the frame.
        forces_key: Name of the forces in eV/Å, a property of the atoms.
        labels: Names, units and signs of all labels, instead of the two names.
        type_key: Name of the frames' type, which decides their weight.
        type_weights: Weight of each type in the loss; "default" is for all others. A frame's own `config_weight`
            multiplies it.

    Raises:
        ImportError: ase is not installed.
        FileNotFoundError: There is no such file.
        ValueError: A frame is broken, has an unknown element, lacks energy or forces, or holds a number that is not
            finite; the message names file, frame (from 0), and line or property. Or a type of `type_weights` is in no
            frame.
    """
    labels = Labels(energy_key, forces_key) if labels is None else labels
    weights, found, types = dict(type_weights or {}), [], set()
    for where, atoms in read_frames(path):
        if atoms.pbc.any() and np.linalg.matrix_rank(atoms.cell.array[atoms.pbc]) < atoms.pbc.sum():
            raise ValueError(f"{where}: the cell vectors of periodic directions are zero or depend on each other")
        kind = str(atoms.info.get(type_key, "default"))
        types.add(kind)
        own = atoms.info.get("config_weight", 1.0)
        try:
            weight = weights.get(kind, weights.get("default", 1.0)) * float(own)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: config_weight is {own!r}, not a number") from error
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{where}: the weight {weight:g} of type {kind!r} must not be negative")
        found.append(to_structure(atoms, where, labels, weight))
    absent = sorted(set(weights) - types - {"default"})
    if absent:
        raise ValueError(
            f"type_weights: no frame of {path} is of type {absent[0]!r}; {type_key} has {', '.join(sorted(types))}"
        )
    return found


def read_frames(path: str | Path) -> list[tuple[str, Any]]:
    """Each structure of a file as ASE's `Atoms`, with or without energies, and how to name it in a message.

    A frame without atoms is left out, with a warning.

    Raises:
        ImportError: ase is not installed.
        FileNotFoundError: There is no such file.
        ValueError: A frame is broken or has an unknown element, see `read_structures`; or there is none.
    """
    need_ase()
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    found = []
    for where, atoms in frames_of(path):
        if len(atoms):
            found.append((where, atoms))
        else:
            warnings.warn(f"{where}: a frame without atoms is left out", stacklevel=2)
    if not found:
        raise ValueError(f"{path} holds no structure")
    return found


class StructureFiles(MoleculeData):
    """Structures of one's own, from any file that `blockzoo.tasks.molecules.formats` reads.

    Names, units and signs of the labels are stated here once; before training they are compared with what the data say
    about themselves (`blockzoo.tasks.molecules.unit_checks`).

    Args:
        path: The training file, see `read_structures`.
        val_path: The validation file; by default a share of the training file.
        test_path: The test file; none by default.
        val_fraction: That share; it is taken from the end, since neighbouring frames of a trajectory resemble each
            other.
        energy_key: Name of the total energy.
        forces_key: Name of the forces.
        stress_key: Name of the stress, see `Labels`; read where a frame has it.
        virial_key: Name of the virial, minus the stress times the volume; read where a frame has it.
        energy_unit: "eV", "meV", "Hartree", "Rydberg", "kcal/mol" or "kJ/mol".
        length_unit: "Angstrom", "nm" or "Bohr", of positions and cells.
        forces_unit: For example "eV/Angstrom"; by default the units above.
        stress_unit: "GPa", "kbar", "bar", or for example "eV/Angstrom^3"; by default the units above.
        forces_are_gradients: The file holds gradients of the energy, which are minus the forces.
        stress_is_pressure: The file's stress is positive under compression.
        check_units: Refuse data whose numbers contradict the units.
        partial: Accept frames that lack energy or forces, as long as they have some label.
        type_key: Name of the frames' type.
        type_weights: Weight of each type in the loss, for example `{surface: 2.0, default: 1.0}`; a frame's own
            `config_weight` multiplies it.
        keep_isolated_atoms: Train on frames of a single atom, which otherwise only tell the energies of elements.
        replay_path: Structures of earlier training, in eV and eV/Å under the names `energy` and `forces`; some join the
            training part, so that the model does not forget them.
        replay_share: How many: this share of the other training structures.
        cutoff: See `MoleculeData`.
        batch_size: Structures in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: A file is wrong, see `read_structures`; the units are; or nothing is left to train on.
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        test_path: str | None = None,
        val_fraction: float = 0.1,
        energy_key: str = "energy",
        forces_key: str = "forces",
        stress_key: str = "stress",
        virial_key: str = "virial",
        energy_unit: str = "eV",
        length_unit: str = "Angstrom",
        forces_unit: str | None = None,
        stress_unit: str | None = None,
        forces_are_gradients: bool = False,
        stress_is_pressure: bool = False,
        check_units: bool = True,
        partial: bool = False,
        type_key: str = "config_type",
        type_weights: dict[str, float] | None = None,
        keep_isolated_atoms: bool = False,
        replay_path: str | None = None,
        replay_share: float = 0.5,
        cutoff: float | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(cutoff, batch_size, num_workers)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be in [0, 1)")
        if not replay_share > 0:
            raise ValueError(f"replay_share={replay_share} must be positive")
        self.path, self.val_path, self.test_path = path, val_path, test_path
        self.val_fraction = 0.0 if val_path else val_fraction
        self.labels = Labels(
            energy_key=energy_key,
            forces_key=forces_key,
            stress_key=stress_key,
            virial_key=virial_key,
            energy_unit=energy_unit,
            length_unit=length_unit,
            forces_unit=forces_unit,
            stress_unit=stress_unit,
            forces_are_gradients=forces_are_gradients,
            stress_is_pressure=stress_is_pressure,
            partial=partial,
        )
        self.check_units = check_units
        self.type_key, self.type_weights = type_key, type_weights
        self.keep_isolated_atoms = keep_isolated_atoms
        self.replay_path, self.replay_share = replay_path, replay_share

    def setup(self, stage: str) -> None:
        """Read and check the files, for every stage."""
        if self.datasets:
            return
        frames = self._read(self.path, self.type_weights)
        if self.check_units:
            check_units(frames, self.path)
        frames = self._without_isolated_atoms(frames)
        cut = len(frames) - round(self.val_fraction * len(frames))
        train = frames[:cut]
        if not train:
            raise ValueError(f"{self.path}: no structure is left to train on")
        parts = {"train": [*train, *self._replay(len(train))]}
        if self.val_path:
            parts["val"] = self._read(self.val_path)
        elif cut < len(frames):
            parts["val"] = frames[cut:]
        if self.test_path:
            parts["test"] = self._read(self.test_path)
        self.datasets = {name: self._set(part) for name, part in parts.items()}

    def _read(self, path: str, weights: dict[str, float] | None = None) -> list[Structure]:
        found = read_structures(path, labels=self.labels, type_key=self.type_key, type_weights=weights)
        known = [structure for structure in found if not structure.energy.isnan()]
        if not known and not any(structure.forces.isfinite().any() for structure in found):
            raise ValueError(
                f"{path}: no frame has an energy {self.labels.energy_key!r} or forces {self.labels.forces_key!r}"
            )
        return found

    def _without_isolated_atoms(self, frames: list[Structure]) -> list[Structure]:
        alone = [frame for frame in frames if len(frame.positions) == 1 and frame.cell is None]
        for frame in alone:
            if not frame.energy.isnan():
                number, energy = int(frame.atomic_numbers[0]), float(frame.energy)
                if abs(self.isolated_atoms.setdefault(number, energy) - energy) > 1e-3:
                    raise ValueError(
                        f"{self.path}: two isolated atoms of {SYMBOLS[number]} have the energies "
                        f"{self.isolated_atoms[number]:.6f} and {energy:.6f} eV"
                    )
        dropped = set() if self.keep_isolated_atoms else {id(frame) for frame in alone}
        return [frame for frame in frames if id(frame) not in dropped]

    def _replay(self, count: int) -> list[Structure]:
        """Structures of earlier training, chosen at random but the same in every run."""
        if self.replay_path is None:
            return []
        old = read_structures(self.replay_path)
        wanted = min(len(old), max(1, round(self.replay_share * count)))
        chosen = sorted(random.Random(0).sample(range(len(old)), wanted))
        self.replayed = [replace(old[i]) for i in chosen]
        return self.replayed

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How the files were read, so that `blockzoo predict` reads others the same way."""
        plain = vars(Labels())
        changed = {name: value for name, value in vars(self.labels).items() if value != plain[name]}
        return {"structures": {"labels": changed}} if changed else {}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        sizes = ", ".join(f"{len(part)} {name}" for name, part in self.datasets.items())  # type: ignore[arg-type]
        held = "a validation file" if self.val_path else f"the last {self.val_fraction:.0%} held out for validation"
        if self.replayed:
            held += f"; {len(self.replayed)} training frames are replayed from {Path(str(self.replay_path)).name}"
        return {"dataset": Path(self.path).name, "license": "not known", "split": f"{sizes}; {held}"}
