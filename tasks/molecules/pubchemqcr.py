"""PubChemQCR: relaxation trajectories of small molecules, from the published LMDB files.

An entry's key is the molecule's number in PubChem, its value a gzipped pickle of a dictionary: for each stage of the
computation ("pm3", "hf", "DFT_1st", "DFT_2nd") a list of steps, each with `coordinates` (a list of `atom`, `x`, `y`,
`z`, in Å), `energy` (in hartree) and `gradient` (a list of `dx`, `dy`, `dz`, in hartree/bohr), or None.

A pickle can run any code when it is read. These hold only dictionaries, lists, texts and numbers, so the reader here
refuses anything else: it cannot import anything, and so cannot run anything. Reading needs lmdb (`pip install
'blockzoo[molecules]'`).

Source: "A Benchmark for Quantum Chemistry Relaxations via Machine Learning Interatomic Potentials" (2025), and the
data's use in "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations" (2025).
"""

import hashlib
import io
import math
import pickle
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm.auto import tqdm

from blockzoo.checkpoints import cache_root, load_state_dict, save_state_dict
from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import unzipped
from blockzoo.tasks.molecules.elements import atomic_number
from blockzoo.tasks.molecules.structures import MoleculeData, Structure

__all__ = ["PubChemQCR", "read_record", "structures_of"]

HARTREE = 27.2114
PER_BOHR = 1.8897
"""eV in a hartree and bohr in an Å, as rounded where the published figures come from."""

STAGES = ("pm3", "hf", "DFT_1st", "DFT_2nd")


MAX_RECORD = 256 << 20
"""Most bytes of one entry; those of the data set have less than one hundredth of it."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, texts and numbers; refuses everything that would import something."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to import {module}.{name}")


def read_record(payload: bytes, where: str) -> dict[str, Any]:
    """One entry of the database; `where` names it in messages.

    Raises:
        ValueError: It is damaged, is something else, or would run code.
    """
    try:
        record = _PlainUnpickler(io.BytesIO(unzipped(payload, MAX_RECORD, where))).load()
    except (pickle.UnpicklingError, OSError, EOFError, zlib.error, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{where} is not a gzipped pickle of plain values ({type(error).__name__}: {error}); only dictionaries, "
            "lists, texts and numbers are read, since anything else could run code"
        ) from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} holds a {type(record).__name__}, not a dictionary of stages")
    return record


def structures_of(record: dict[str, Any], stage: str, where: str) -> list[Structure]:
    """The usable steps of a stage: with energy and gradient, as many atoms as at the end, and only finite numbers.

    Energies are the total ones, in eV.

    Raises:
        ValueError: The stage is not a list of dictionaries, or a step lacks an entry or has an unknown element.
    """
    listed = record.get(stage) or []
    if not isinstance(listed, list | tuple) or not all(isinstance(step, dict) for step in listed if step):
        raise ValueError(f"{where}, stage {stage}: expected a list of dictionaries, one for each step")
    steps = [step for step in listed if step]
    with_energy = [step for step in steps if step.get("energy") is not None]
    if not with_energy or not with_energy[-1].get("coordinates"):
        return []
    count, found = len(with_energy[-1]["coordinates"]), []
    for number, step in enumerate(steps):
        atoms, energy, gradient = step.get("coordinates"), step.get("energy"), step.get("gradient")
        if not atoms or energy is None or not gradient or len(atoms) != count or len(gradient) != count:
            continue
        try:
            numbers = [atomic_number(atom["atom"]) for atom in atoms]
            positions = [[float(atom[axis]) for axis in "xyz"] for atom in atoms]
            slope = [[float(atom[axis]) for axis in ("dx", "dy", "dz")] for atom in gradient]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}, stage {stage}, step {number}: {type(error).__name__}: {error}") from error
        if all(map(math.isfinite, (float(energy), *sum(positions, []), *sum(slope, [])))):
            found.append(
                Structure(
                    torch.tensor(positions),
                    torch.tensor(numbers),
                    torch.tensor(float(energy) * HARTREE, dtype=torch.float64),
                    -torch.tensor(slope) * (HARTREE * PER_BOHR),
                )
            )
    return found


class _LMDB(Sequence[Structure]):
    """Structures, each read when it is requested."""

    def __init__(self, files: Sequence[Path], stage: str, entries: Sequence[tuple[int, bytes, int]]) -> None:
        self.files, self.stage, self.entries = files, stage, entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        file, key, step = self.entries[index]
        # Opened for every read: LMDB allows one environment in a process, and none that was opened before a fork.
        with _connect(self.files[file]) as environment, environment.begin() as transaction:
            payload = transaction.get(key)
        where = f"{self.files[file]}, entry {key!r}"
        return structures_of(read_record(payload, where), self.stage, where)[step]


def _connect(path: Path) -> Any:
    lmdb = needs("lmdb", "molecules", "PubChemQCR")
    try:
        return lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise ValueError(f"{path} is not an LMDB file ({error})") from error


class PubChemQCR(MoleculeData):
    """Trajectories of PubChemQCR with energies and forces, split by molecule.

    The parts are those of the published code: molecules without a usable step are left out, the others are shuffled
    with Python's generator and seed 42, and divided. Energies stay total ones: the task fits the elements' energies
    instead of taking a table of atoms, which shifts all energies of a molecule by the same amount and does not change
    errors.

    The first use reads every entry once to count its steps; the counts are kept in the cache folder.

    Args:
        root: Folder with the `.lmdb` files.
        stage: "pm3", "hf", "DFT_1st" or "DFT_2nd".
        subset: Take only `Data06.lmdb`, PubChemQCR-S, divided 60:20:20, instead of all files, divided 80:10:10.
        cutoff: See `MoleculeData`.
        batch_size: Structures in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ImportError: lmdb is not installed.
        FileNotFoundError: There are no such files.
        ValueError: The stage is unknown, or a file is something else.
    """

    def __init__(
        self,
        root: str,
        stage: str = "DFT_1st",
        subset: bool = True,
        cutoff: float | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(cutoff, batch_size, num_workers)
        if stage not in STAGES:
            raise ValueError(f"stage={stage!r} must be one of {', '.join(STAGES)}")
        self.root, self.stage, self.subset = Path(root), stage, subset

    def _files(self) -> list[Path]:
        found = sorted(self.root.glob("Data06.lmdb" if self.subset else "*.lmdb"))
        if not found:
            what = "Data06.lmdb" if self.subset else "any .lmdb file"
            raise FileNotFoundError(
                f"{self.root} does not have {what}; get PubChemQCR from its publisher (divelab/PubChemQCR)"
            )
        return found

    def prepare_data(self) -> None:
        """Count the steps of files that have not been counted; in one process per machine."""
        for path in self._files():
            _count_steps(path, self.stage)

    def setup(self, stage: str) -> None:
        """Divide the molecules; the same whatever the stage."""
        if self.datasets:
            return
        files = self._files()
        molecules = [(i, key, steps) for i, path in enumerate(files) for key, steps in _count_steps(path, self.stage)]
        if not molecules:
            names = ", ".join(map(str, files))
            raise ValueError(f"{names}: no entry has a usable step of stage {self.stage!r} (of {', '.join(STAGES)})")
        order = list(range(len(molecules)))
        random.Random(42).shuffle(order)
        shares = (0.6, 0.2) if self.subset else (0.8, 0.1)
        cuts = [int(shares[0] * len(order)), int(shares[0] * len(order)) + int(shares[1] * len(order))]
        parts = {"train": order[: cuts[0]], "val": order[cuts[0] : cuts[1]], "test": order[cuts[1] :]}
        self.datasets = {}
        for name, chosen in parts.items():
            entries = [(molecules[i][0], molecules[i][1], step) for i in chosen for step in range(molecules[i][2])]
            if entries:
                self.datasets[name] = self._set(_LMDB(files, self.stage, entries))

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        which = "PubChemQCR-S (Data06.lmdb)" if self.subset else "PubChemQCR"
        share = "60:20:20" if self.subset else "80:10:10"
        return {
            "dataset": f"{which}, stage {self.stage}",
            "license": "see its publisher",
            "split": f"{share}, by molecule",
        }


def _count_steps(path: Path, stage: str) -> list[tuple[bytes, int]]:
    """Entries with usable steps, and how many, in the order of the file; kept in the cache."""
    about = path.stat()
    digest = hashlib.sha256(f"{path.resolve()} {about.st_size} {about.st_mtime_ns} {stage} 1".encode()).hexdigest()
    cache = cache_root() / "pubchemqcr" / f"{path.stem}_{stage}_{digest[:12]}.safetensors"
    if not cache.is_file():
        keys, counts = [], []
        with _connect(path) as environment, environment.begin() as transaction:
            for key, payload in tqdm(transaction.cursor(), total=environment.stat()["entries"], desc=path.name):
                where = f"{path}, entry {key!r}"
                steps = len(structures_of(read_record(payload, where), stage, where))
                if steps:
                    keys.append(key)
                    counts.append(steps)
        cache.parent.mkdir(parents=True, exist_ok=True)
        flat = torch.tensor(list(b"".join(keys)), dtype=torch.uint8)
        sizes = torch.tensor([len(key) for key in keys])
        save_state_dict({"keys": flat, "sizes": sizes, "counts": torch.tensor(counts)}, cache)
    stored = load_state_dict(cache)
    whole, found, start = bytes(stored["keys"].tolist()), [], 0
    for size, count in zip(stored["sizes"].tolist(), stored["counts"].tolist(), strict=True):
        found.append((whole[start : start + size], count))
        start += size
    return found
