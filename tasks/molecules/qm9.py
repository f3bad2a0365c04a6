"""QM9's polarizability tensors, from the package qm9pack (`pip install 'blockzoo[qm9]'`, 104 MB).

Its geometries and its tensors do not belong to one frame: coordinates are those of the published files, tensors those
of the quantum-chemistry program's standard orientation, whose axes are the principal axes of the nuclear charges. An
equivariant model cannot learn such pairs beyond the trace. Here geometries are turned into that frame, axes by
increasing moment. The sign of each axis stays open. There are four proper choices, and
`blockzoo.tasks.molecules.tensors` allows for them. Where a molecule is symmetric, the program orders axes by other
rules, and components of the tensor vanish; such molecules are left out by default. (Found by comparing with tensors of
interacting induced dipoles, "Molecular polarizabilities calculated with a modified dipole interaction", 1981: over 150
molecules without symmetry the median difference of the traceless parts is 140 % of their norm in the files' frame, that
of unrelated tensors, and 27 % in this one, at the best signs.)

Source: "Quantum chemistry structures and properties of 134 kilo molecules" (2014); qm9pack (MIT licence).
"""

import csv
import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from blockzoo.checkpoints import cache_root, load_state_dict, save_state_dict
from blockzoo.layers.equivariant.cartesian_tensor import to_irreps
from blockzoo.tasks.molecules.elements import atomic_number
from blockzoo.tasks.molecules.structures import MoleculeData

__all__ = ["QM9Polarizability", "principal_axes", "read_qm9"]

TENSOR_FILE = "qm9_polarizability.csv"
COMPONENTS = ("A_xx", "A_xy", "A_yy", "A_xz", "A_yz", "A_zz")
ZERO = 5e-4
"""Components below this, in bohr³, are zero: half of the last digit in the files."""


def qm9_folder(root: str | Path | None = None) -> Path:
    """Folder of the CSV files: `root`, or else that of the installed package.

    Raises:
        ImportError: No folder is given, and qm9pack is not installed.
        FileNotFoundError: The folder does not have the files.
    """
    if root is None:
        found = importlib.util.find_spec("qm9pack")  # not imported: it would want pandas and an old setuptools
        if found is None or found.origin is None:
            raise ImportError("QM9's polarizabilities are in qm9pack: pip install 'blockzoo[qm9]' (104 MB)")
        root = Path(found.origin).parent / "data"
    root = Path(root)
    if not (root / TENSOR_FILE).is_file() or not list(root.glob("qm9_part*.csv")):
        raise FileNotFoundError(f"{root} must hold qm9_part1.csv, ... and {TENSOR_FILE}")
    return root


def principal_axes(positions: torch.Tensor, atomic_numbers: torch.Tensor) -> torch.Tensor:
    """Positions (n, 3) from the centre of nuclear charge, along its principal axes by increasing moment of inertia."""
    charge = atomic_numbers.to(positions.dtype)
    centred = positions - (charge.unsqueeze(1) * positions).sum(0) / charge.sum()
    second = torch.einsum("n,ni,nj->ij", charge, centred, centred)
    axes = torch.linalg.eigh(torch.eye(3, dtype=positions.dtype) * second.trace() - second).eigenvectors
    if torch.linalg.det(axes) < 0:
        axes = axes * axes.new_tensor([-1.0, 1.0, 1.0])
    return centred @ axes


def _numbers(text: str) -> Any:
    return json.loads(re.sub(r"(\d)\.(?=[,\]])", r"\1.0", text))  # "1." is no number in JSON


def read_qm9(root: str | Path | None = None, count: int | None = None) -> dict[str, torch.Tensor]:
    """Molecules and tensors, in the frame described above.

    Args:
        root: Folder of qm9pack's CSV files; by default that of the installed package.
        count: Molecules to read, the first ones; all by default.

    Returns:
        "positions" (A, 3) float32 in Å, "numbers" (A,) uint8, "num_atoms" (M,), "tensor" (M, 3, 3) float32 in bohr³.

    Raises:
        ImportError: qm9pack is not installed, and no folder is given.
        FileNotFoundError: The folder lacks the files.
        ValueError: A row is wrong; the message names file and row.
    """
    folder = qm9_folder(root)
    tensors: dict[str, list[float]] = {}
    with (folder / TENSOR_FILE).open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                tensors[row["XYZ_file"]] = [float(row[name]) for name in COMPONENTS]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{folder / TENSOR_FILE}, row {number}: {type(error).__name__}: {error}") from error
    rows: list[tuple[torch.Tensor, torch.Tensor, list[float]]] = []
    total = min(len(tensors), count or len(tensors))
    with tqdm(total=total, desc="QM9", unit="molecule") as bar:
        for path in sorted(folder.glob("qm9_part*.csv")):
            with path.open(newline="") as file:
                for number, row in enumerate(csv.DictReader(file), start=2):
                    if len(rows) == total:
                        break
                    rows.append(_molecule(row, tensors, f"{path}, row {number}"))
                    bar.update()
    order = torch.tensor([[0, 1, 3], [1, 2, 4], [3, 4, 5]])
    return {
        "positions": torch.cat([positions for positions, _, _ in rows]).float(),
        "numbers": torch.cat([numbers for _, numbers, _ in rows]).to(torch.uint8),
        "num_atoms": torch.tensor([len(numbers) for _, numbers, _ in rows]),
        "tensor": torch.tensor([values for _, _, values in rows])[:, order],
    }


def _molecule(
    row: dict[str, str], tensors: dict[str, list[float]], where: str
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    try:
        numbers = torch.tensor([atomic_number(name.strip("' ")) for name in row["Elements"].strip("[]").split(",")])
        positions = torch.tensor(_numbers(row["XYZ_Ang"]), dtype=torch.double)
        tensor = tensors[row["XYZ_file"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    if positions.shape != (len(numbers), 3):
        raise ValueError(f"{where}: {len(numbers)} elements and coordinates of shape {tuple(positions.shape)}")
    return principal_axes(positions, numbers), numbers, tensor


class _Tensors(Dataset[dict[str, torch.Tensor]]):
    """Molecules in memory with a target that belongs to each as a whole."""

    def __init__(self, rows: list[dict[str, torch.Tensor]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**self.rows[index], "index": torch.tensor(index)}


class QM9Polarizability(MoleculeData):
    """Polarizability tensors of QM9's molecules, B3LYP/6-31G(2df,p), in bohr³, as irreducible parts `target` (6,).

    Args:
        root: Folder of qm9pack's CSV files; by default that of the installed package.
        count: Molecules to read, the first ones; all by default.
        symmetric: Keep molecules with a vanishing off-diagonal component, whose axes are not known.
        val_fraction: Share held out for validation.
        test_fraction: Share held out for the test.
        split_seed: Seed of that split.
        batch_size: Molecules in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ImportError: qm9pack is not installed, and no folder is given.
        ValueError: Shares are out of range, or a file is wrong.
    """

    def __init__(
        self,
        root: str | None = None,
        count: int | None = None,
        symmetric: bool = False,
        val_fraction: float = 0.05,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(None, batch_size, num_workers)
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise ValueError(
                f"val_fraction={val_fraction} and test_fraction={test_fraction} must not be negative and leave a rest"
            )
        self.root, self.count, self.symmetric = root, count, symmetric
        self.fractions, self.split_seed = (val_fraction, test_fraction), split_seed

    def prepare_data(self) -> None:
        """Read the CSV files once; in one process per machine."""
        self._read()

    def _read(self) -> dict[str, torch.Tensor]:
        folder = qm9_folder(self.root)
        about = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.csv"))]
        digest = hashlib.sha256(json.dumps([str(folder.resolve()), about, self.count, 1]).encode()).hexdigest()
        cache = cache_root() / "qm9" / f"{digest[:16]}.safetensors"
        if not cache.is_file():
            cache.parent.mkdir(parents=True, exist_ok=True)
            save_state_dict(read_qm9(folder, self.count), cache)
        return load_state_dict(cache)

    def setup(self, stage: str) -> None:
        """Read and divide, for every stage."""
        if self.datasets:
            return
        found = self._read()
        sizes = found["num_atoms"].tolist()
        parts = zip(found["positions"].split(sizes), found["numbers"].split(sizes), found["tensor"], strict=True)
        rows = [
            {"positions": positions, "atomic_numbers": numbers.long(), "target": to_irreps(tensor)}
            for positions, numbers, tensor in parts
            if self.symmetric or float(tensor[[0, 0, 1], [1, 2, 2]].abs().min()) > ZERO
        ]
        if not rows:
            raise ValueError("no molecule is left; symmetric=True keeps those with vanishing components")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.split_seed)).tolist()
        val, test = (round(fraction * len(rows)) for fraction in self.fractions)
        chosen = {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}
        self.datasets = {name: _Tensors([rows[i] for i in sorted(part)]) for name, part in chosen.items() if part}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        sizes = ", ".join(f"{len(part)} {name}" for name, part in self.datasets.items())  # type: ignore[arg-type]
        return {"dataset": "QM9 polarizability tensors (qm9pack)", "license": "MIT", "split": f"{sizes}, by lot"}
