"""Atomic structures with energies and forces: batches, the packaged GFN2-xTB set, and what all such sets share."""

import abc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from blockzoo.checkpoints import load_state_dict, read_metadata
from blockzoo.layers.equivariant.neighbors import neighbor_list
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.molecules.xtb import PARTS

__all__ = [
    "MoleculeData",
    "Structure",
    "StructureSet",
    "XTBMolecules",
    "check_cutoff",
    "collate",
    "composition",
    "count_elements",
    "read_frames",
]


@dataclass
class Structure:
    """One structure: its atoms, energy and forces.

    Attributes:
        positions: (n, 3), in Å.
        atomic_numbers: (n,), int64.
        energy: (), float64, in eV; NaN where it is not known.
        forces: (n, 3), in eV/Å; NaN for atoms whose force is not known.
        cell: Lattice vectors as rows (3, 3), in Å; None where nothing is periodic.
        pbc: Which of them repeat, (3,), bool.
        stress: (3, 3), in eV/Å³; None where it is not known.
        weight: Weight in the loss, relative to other structures.
    """

    positions: torch.Tensor
    atomic_numbers: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    cell: torch.Tensor | None = None
    pbc: torch.Tensor | None = None
    stress: torch.Tensor | None = None
    weight: float = 1.0


class StructureSet(Dataset[dict[str, torch.Tensor]]):
    """Structures as samples.

    Args:
        structures: The structures, each read when its sample is requested.
        cutoff: Find the neighbours within this distance, in Å, when a sample is first requested, and keep them. None
            leaves this to the model.
    """

    def __init__(self, structures: Sequence[Structure], cutoff: float | None = None) -> None:
        self.structures = structures
        self.cutoff = cutoff
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        structure = self.structures[index]
        sample = {key: value for key, value in vars(structure).items() if isinstance(value, torch.Tensor)}
        sample["weight"] = torch.tensor(structure.weight)
        if self.cutoff is not None:
            if index not in self._kept:
                self._kept[index] = _neighbours(structure, self.cutoff)
            sample["edge_index"], shifts = self._kept[index]
            if shifts is not None:
                sample["shifts"] = shifts
        return {**sample, "index": torch.tensor(index)}


def check_cutoff(data: Any, model: Any) -> None:
    """Refuse data whose neighbours were searched with another cutoff than the model's.

    Args:
        data: A data module; None, or one without a cutoff, leaves the search to the model.
        model: A model with a `cutoff`.

    Raises:
        ValueError: The two differ.
    """
    cutoff = getattr(data, "cutoff", None)
    if cutoff is not None and float(cutoff) != float(model.cutoff):
        raise ValueError(
            f"data.cutoff={cutoff:g} Å differs from the model's {model.cutoff:g} Å; give both the same value, or leave "
            "out data.cutoff"
        )


def _neighbours(structure: Structure, cutoff: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    if structure.cell is None or structure.pbc is None:
        return neighbor_list(structure.positions, cutoff)
    return neighbor_list(structure.positions, cutoff, cell=structure.cell[None], pbc=structure.pbc[None])


_ATOM_KEYS = ("positions", "atomic_numbers", "forces")
_OWN_RULES = ("cell", "pbc", "edge_index", "shifts", "stress")


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join samples of any number of atoms into one batch.

    Returns:
        `positions` (N, 3), `atomic_numbers` (N,), `forces` (N, 3); `batch` (N,), the structure each atom belongs to;
        `num_atoms` (B,); whatever else belongs to a structure, stacked, such as `energy` (B,) and `index` (B,); `cell`
        (B, 3, 3) and `pbc` (B, 3) if any structure has them, zeros for those that do not; `stress` (B, 3, 3) if any
        has one, NaN for those that do not; `edge_index` (2, E), into all atoms, if samples have it, and `shifts`
        (E, 3) if any is periodic.
    """
    num_atoms = torch.tensor([len(sample["positions"]) for sample in samples])
    joined = {"batch": torch.repeat_interleave(torch.arange(len(samples)), num_atoms), "num_atoms": num_atoms}
    for key in samples[0].keys() - set(_OWN_RULES):
        join = torch.cat if key in _ATOM_KEYS else torch.stack
        joined[key] = join([sample[key] for sample in samples])
    if any("cell" in sample for sample in samples):
        none = {"cell": samples[0]["positions"].new_zeros(3, 3), "pbc": torch.zeros(3, dtype=torch.bool)}
        for key, value in none.items():
            joined[key] = torch.stack([sample.get(key, value) for sample in samples])
    if any("stress" in sample for sample in samples):
        unknown = samples[0]["positions"].new_full((3, 3), torch.nan)
        joined["stress"] = torch.stack([sample.get("stress", unknown) for sample in samples])
    if "edge_index" in samples[0]:
        first = torch.cumsum(num_atoms, 0) - num_atoms
        edges = [sample["edge_index"] for sample in samples]
        joined["edge_index"] = torch.cat([e + start for e, start in zip(edges, first, strict=True)], 1)
        if any("shifts" in sample for sample in samples):
            pairs = zip(samples, edges, strict=True)
            joined["shifts"] = torch.cat([s.get("shifts", s["positions"].new_zeros(e.shape[1], 3)) for s, e in pairs])
    return joined


def composition(structures: Sequence[Structure]) -> tuple[torch.Tensor, torch.Tensor]:
    """Atomic numbers that occur, sorted, (Z,), and how many atoms of each every structure has (B, Z), float64."""
    return count_elements([structure.atomic_numbers for structure in structures])


def count_elements(numbers: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """As `composition`, from the atomic numbers (n,) of each structure."""
    elements = torch.cat(list(numbers)).unique()
    counts = torch.stack([(row.unsqueeze(1) == elements).sum(0) for row in numbers])
    return elements, counts.double()


class MoleculeData(ZooData, abc.ABC):
    """Structures with energies in eV and forces in eV/Å.

    Attributes:
        isolated_atoms: Energies of single atoms by atomic number, in eV, where the data have them.
        replayed: Structures of earlier training in the training part, whose energies belong to the references that the
            model has before it is fitted to the others; see `InteratomicPotential`.

    Args:
        cutoff: Find the neighbours of each structure within this distance in Å once, and keep them; it must be the
            model's cutoff. None leaves the search to the model, which finds them in every step.
        batch_size: Structures in a batch, on each device.
        num_workers: Processes that prepare batches.
    """

    def __init__(self, cutoff: float | None = None, batch_size: int = 16, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.cutoff = cutoff
        self.isolated_atoms: dict[int, float] = {}
        self.replayed: list[Structure] = []

    def _set(self, structures: Sequence[Structure]) -> StructureSet:
        return StructureSet(structures, self.cutoff)

    def train_sample(self, count: int = 20_000) -> Sequence[Structure]:
        """Training structures for statistics, without replayed ones: all of them, or the first so many."""
        train: Any = self.datasets["train"]
        new = len(train) - len(self.replayed)
        return [train.structures[i] for i in range(min(count, new))]

    def _loader(self, name: str) -> Any:
        if name not in self.datasets:
            return []
        return DataLoader(
            dataset=self.datasets[name],
            batch_size=self.batch_size,
            shuffle=name == "train",
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=collate,
        )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """None: models keep the references of the elements themselves."""
        return {}


def read_frames(path: str | Path | None = None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Frames as `blockzoo.tasks.molecules.xtb.generate` returns them, and the molecules' names.

    Args:
        path: A file that `blockzoo.tasks.molecules.xtb` wrote; the packaged one by default.
    """
    if path is None:
        path = str(files("blockzoo.tasks.molecules") / "xtb_molecules.safetensors")
    return load_state_dict(path), json.loads(read_metadata(path)["settings"])["molecules"]


class XTBMolecules(MoleculeData):
    """Molecular dynamics of six organic molecules at 300, 600 and 900 K with GFN2-xTB energies and forces; packaged.

    Ethanol, acetone, benzene, acetamide, acetic acid and furan: 2880 training, 360 validation and 720 test frames of
    9 to 12 atoms (H, C, N, O), from separate trajectories. `blockzoo.tasks.molecules.xtb` says how they were made.

    Args:
        molecules: Names of the molecules to take; all by default.
        train_size: Training frames to take, by a fixed random order, so that smaller sets are part of larger ones; all
            by default.
        path: A file that `blockzoo.tasks.molecules.xtb` wrote, instead of the packaged one.
        cutoff: See `MoleculeData`.
        batch_size: Structures in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: A molecule is not in the set, or there are fewer training frames than asked for.
    """

    def __init__(
        self,
        molecules: list[str] | None = None,
        train_size: int | None = None,
        path: str | None = None,
        cutoff: float | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(cutoff, batch_size, num_workers)
        self.molecules, self.train_size, self.path = molecules, train_size, path

    def setup(self, stage: str) -> None:
        """Read the file, for every stage."""
        if self.datasets:
            return
        frames, names = read_frames(self.path)
        for name in self.molecules or []:
            if name not in names:
                raise ValueError(f"molecules: {name!r} is not in the set, which has {', '.join(names)}")
        kept = torch.tensor([self.molecules is None or name in self.molecules for name in names])
        chosen = {part: kept[frames["molecule"].long()] & (frames["part"] == i) for i, part in enumerate(PARTS)}
        rows = {part: mask.nonzero().squeeze(1) for part, mask in chosen.items()}
        if self.train_size is not None:
            found = len(rows["train"])
            if not 1 <= self.train_size <= found:
                raise ValueError(f"train_size={self.train_size} must be from 1 to the {found} training frames")
            order = torch.randperm(found, generator=torch.Generator().manual_seed(0))
            rows["train"] = rows["train"][order[: self.train_size]]
        structures = _split(frames)
        self.datasets = {part: self._set([structures[int(i)] for i in found]) for part, found in rows.items()}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        sizes = ", ".join(f"{len(part)} {name}" for name, part in self.datasets.items())  # type: ignore[arg-type]
        origin = "packaged" if self.path is None else Path(self.path).name
        return {
            "dataset": f"molecular dynamics with GFN2-xTB ({origin})",
            "license": "Apache-2.0",
            "split": f"{sizes} frames, from separate trajectories",
        }


def _split(frames: dict[str, torch.Tensor]) -> list[Structure]:
    sizes = frames["num_atoms"].tolist()
    parts = zip(*(frames[key].split(sizes) for key in ("positions", "numbers", "forces")), strict=True)
    return [
        Structure(positions, numbers.long(), energy, forces)
        for (positions, numbers, forces), energy in zip(parts, frames["energy"], strict=True)
    ]
