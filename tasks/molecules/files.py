"""Structures of one's own: extended XYZ files and the databases of ASE, read with ASE (`pip install
'blockzoo[molecules]'`).
"""

import contextlib
import io
import re
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.molecules.structures import MoleculeData, Structure

__all__ = ["StructureFiles", "read_frames", "read_structures", "to_structure"]

XYZ_SUFFIXES = (".xyz", ".extxyz")
DATABASE_SUFFIXES = (".db", ".json", ".lmdb", ".aselmdb")


def _ase() -> Any:
    try:
        import ase.io
    except ImportError as error:
        raise ImportError("structure files are read with ase: pip install 'blockzoo[molecules]'") from error
    return ase


def read_structures(path: str | Path, energy_key: str = "energy", forces_key: str = "forces") -> list[Structure]:
    """All structures of a file, checked.

    Args:
        path: Extended XYZ (`.xyz`, `.extxyz`), an ASE database (`.db`, `.json`), or anything else that ASE reads
            energies and forces from, such as `.traj`.
        energy_key: Name of the energy in eV, a property of the frame.
        forces_key: Name of the forces in eV/Å, a property of the atoms.

    Raises:
        ImportError: ase is not installed.
        FileNotFoundError: There is no such file.
        ValueError: A frame is broken, has an unknown element, lacks energy or forces, or holds a number that is not
            finite; the message names file, frame (from 0), and line or property.
    """
    return [to_structure(atoms, where, energy_key, forces_key) for where, atoms in read_frames(path)]


def read_frames(path: str | Path) -> list[tuple[str, Any]]:
    """Each structure of a file as ASE's `Atoms`, with or without energies, and how to name it in a message.

    Raises:
        ImportError: ase is not installed.
        FileNotFoundError: There is no such file.
        ValueError: A frame is broken or has an unknown element, see `read_structures`; or there is none.
    """
    _ase()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    found = list(_frames(path))
    if not found:
        raise ValueError(f"{path} holds no structure")
    return found


def _frames(path: Path) -> Iterator[tuple[str, Any]]:
    """Each structure of a file as ASE's `Atoms`, and how to name it in a message."""
    ase = _ase()
    if path.suffix in XYZ_SUFFIXES:
        yield from _xyz_frames(path)
    elif path.suffix in DATABASE_SUFFIXES:
        with _database(path) as database:
            for number, row in enumerate(_rows(database, path)):
                atoms = row.toatoms()
                atoms.info.update(row.key_value_pairs)
                for key, value in row.data.items():  # arrays by atom, such as forces; anything else is of the frame
                    shape = np.shape(value)
                    by_atom = len(shape) == 2 and shape[0] == len(atoms)
                    (atoms.arrays if by_atom else atoms.info).setdefault(key, np.asarray(value) if by_atom else value)
                yield f"{path}, frame {number} (id {row.id})", atoms
    else:
        try:
            frames = ase.io.read(str(path), index=":")
        except Exception as error:  # every format of ASE fails in its own way
            raise ValueError(f"{path} could not be read ({type(error).__name__}: {error})") from error
        yield from ((f"{path}, frame {number}", atoms) for number, atoms in enumerate(frames))


def _database(path: Path) -> Any:
    """An ASE database in SQLite or JSON.

    Raises:
        ValueError: The file is something else.
    """
    import ase.db

    if path.suffix == ".db" and not _has_systems(path):  # ASE would write its tables into such a file
        raise ValueError(f"{path} is not a database of ASE's: it is no SQLite file with a table of systems")
    try:
        return ase.db.connect(str(path))
    except Exception as error:  # each kind of ASE's databases fails in its own way
        raise ValueError(f"{path} is not a database of ASE's ({type(error).__name__}: {error})") from error


def _has_systems(path: Path) -> bool:
    """Whether a file is a database in SQLite that has ASE's table."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return bool(database.execute("select 1 from sqlite_master where name = 'systems'").fetchall())
    except sqlite3.DatabaseError:
        return False


def _rows(database: Any, path: Path) -> Iterator[Any]:
    """The rows of an ASE database; of another SQLite file it turns out only now what it is."""
    try:
        yield from database.select()
    except Exception as error:  # SQLite's errors, and those of ASE's decoding of a row
        raise ValueError(
            f"{path} is not a database of ASE's, or is damaged ({type(error).__name__}: {error})"
        ) from error


def _xyz_frames(path: Path) -> Iterator[tuple[str, Any]]:
    ase = _ase()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    start = number = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        where = f"{path}, frame {number}"
        if not re.fullmatch(r"\s*\d+\s*", lines[start]):
            raise ValueError(f"{where}, line {start + 1}: expected a number of atoms, found {lines[start].strip()!r}")
        count = int(lines[start])
        frame = lines[start : start + 2 + count]
        if len(frame) < 2 + count:
            raise ValueError(
                f"{where}, line {start + 1}: {count} atoms are announced, the file ends after {max(len(frame) - 2, 0)}"
            )
        if not count:
            warnings.warn(f"{where}, line {start + 1}: a frame without atoms is left out", stacklevel=2)
            start, number = start + len(frame), number + 1
            continue
        _check_atom_lines(frame, where, start)
        after = start + len(frame)
        while after < len(lines) and re.match(r"\s*VEC[123]\s", lines[after]):  # cell vectors, below the atoms
            frame.append(lines[after])
            after += 1
        try:
            atoms = ase.io.read(io.StringIO("\n".join(frame) + "\n"), format="extxyz")
        except Exception as error:  # ASE's reader fails in many ways
            lines_of_it = f"lines {start + 1} to {start + len(frame)}"
            raise ValueError(f"{where}, {lines_of_it}: not extended XYZ ({type(error).__name__}: {error})") from error
        yield where, atoms
        start, number = start + len(frame), number + 1


def _check_atom_lines(frame: list[str], where: str, start: int) -> None:
    """Columns and elements, since a reader's own message would not say where."""
    from ase.data import atomic_numbers

    named = re.search(r"Properties=(\"[^\"]+\"|\S+)", frame[1])
    fields = (named.group(1).strip('"') if named else "species:S:1:pos:R:3").split(":")
    if len(fields) % 3 or not all(width.isdigit() for width in fields[2::3]):
        raise ValueError(f"{where}, line {start + 2}: Properties={':'.join(fields)} is not a list of name:type:width")
    widths = dict(zip(fields[::3], map(int, fields[2::3]), strict=True))
    expected = sum(widths.values())
    before = (
        sum(width for name, width in list(widths.items())[: list(widths).index("species")])
        if ("species" in widths)
        else None
    )
    for offset, line in enumerate(frame[2:], start=start + 3):
        cells = line.split()
        if len(cells) < expected or (named and len(cells) != expected):
            raise ValueError(
                f"{where}, line {offset}: expected {expected} columns, found {len(cells)}: {line.strip()!r}"
            )
        if before is not None and atomic_numbers.get(cells[before].capitalize(), 0) == 0:
            raise ValueError(f"{where}, line {offset}: {cells[before]!r} is not a chemical element")


def to_structure(atoms: Any, where: str, energy_key: str = "energy", forces_key: str = "forces") -> Structure:
    """One checked structure of ASE's `Atoms`; `where` names it in messages."""
    results = atoms.calc.results if atoms.calc is not None else {}
    info, arrays = {**atoms.info, **results}, {**atoms.arrays, **results}
    if energy_key not in info:
        names = ", ".join(sorted(map(str, info))) or "none"
        raise ValueError(f"{where}: no energy {energy_key!r}; properties of the frame: {names} (set energy_key)")
    if forces_key not in arrays:
        names = ", ".join(sorted(map(str, arrays)))
        raise ValueError(f"{where}: no forces {forces_key!r}; properties of the atoms: {names} (set forces_key)")
    energy, forces = np.asarray(info[energy_key], dtype=float), np.asarray(arrays[forces_key], dtype=float)
    if energy.size != 1 or forces.shape != (len(atoms), 3):
        raise ValueError(
            f"{where}: {energy_key} has shape {energy.shape} and {forces_key} {forces.shape}, "
            f"they must be () and ({len(atoms)}, 3)"
        )
    for name, values in (("positions", atoms.positions), (energy_key, energy), (forces_key, forces)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            atom = f" of atom {bad[0][0]}" if values.ndim else ""
            raise ValueError(f"{where}: {name}{atom} is {values[tuple(bad[0])]}; all numbers must be finite")
    if (atoms.numbers < 1).any():
        raise ValueError(f"{where}: atom {int(np.argmax(atoms.numbers < 1))} is not a chemical element")
    periodic = bool(np.any(atoms.pbc))
    return Structure(
        torch.tensor(atoms.positions, dtype=torch.get_default_dtype()),
        torch.tensor(atoms.numbers, dtype=torch.long),
        torch.tensor(float(energy.reshape(())), dtype=torch.float64),
        torch.tensor(forces, dtype=torch.get_default_dtype()),
        torch.tensor(np.array(atoms.cell), dtype=torch.get_default_dtype()) if periodic else None,
        torch.tensor(atoms.pbc, dtype=torch.bool) if periodic else None,
    )


class StructureFiles(MoleculeData):
    """Structures of one's own, from extended XYZ files or ASE databases.

    Args:
        path: The training file, see `read_structures`.
        val_path: The validation file; by default a share of the training file.
        test_path: The test file; none by default.
        val_fraction: That share, the last frames: those of a trajectory resemble their neighbours in time.
        energy_key: Name of the energy in eV.
        forces_key: Name of the forces in eV/Å.
        cutoff: See `MoleculeData`.
        batch_size: Structures in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: A file is wrong, see `read_structures`; or nothing is left to train on.
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        test_path: str | None = None,
        val_fraction: float = 0.1,
        energy_key: str = "energy",
        forces_key: str = "forces",
        cutoff: float | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(cutoff, batch_size, num_workers)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be in [0, 1)")
        self.path, self.val_path, self.test_path = path, val_path, test_path
        self.val_fraction = 0.0 if val_path else val_fraction
        self.keys = (energy_key, forces_key)

    def setup(self, stage: str) -> None:
        """Read and check the files; the same whatever the stage."""
        if self.datasets:
            return
        frames = read_structures(self.path, *self.keys)
        cut = len(frames) - round(self.val_fraction * len(frames))
        self.datasets = {"train": self._set(frames[:cut])}
        if self.val_path:
            self.datasets["val"] = self._set(read_structures(self.val_path, *self.keys))
        elif cut < len(frames):
            self.datasets["val"] = self._set(frames[cut:])
        if self.test_path:
            self.datasets["test"] = self._set(read_structures(self.test_path, *self.keys))

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        sizes = ", ".join(f"{len(part)} {name}" for name, part in self.datasets.items())  # type: ignore[arg-type]
        held = "a validation file" if self.val_path else f"the last {self.val_fraction:.0%} held out for validation"
        return {"dataset": Path(self.path).name, "license": "not known", "split": f"{sizes}; {held}"}
