"""Structures out of files of any kind, as ASE's `Atoms`: what a frame is called in messages, and its labels as named.

| file | read by |
| --- | --- |
| `.xyz`, `.extxyz` | ASE, a frame at a time, so that a broken line is named |
| `.db`, `.json` | `ase.db` |
| `.lmdb`, `.aselmdb` | lmdb: rows of `ase.db` (OMat24, OMol25); pickled graphs (OC20) are refused |
| `.h5`, `.hdf5`, `.npz` | h5py or NumPy: every group with elements and positions (SPICE, ANI-1x, QM7-X, MD17) |
| all others | `ase.io`: OUTCAR, vasprun.xml, `.traj`, `.cif` and some 80 more |
"""

import contextlib
import io
import json
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.stored import check_unpacked, open_hdf5, read_dataset, read_npz
from blockzoo.tasks.molecules.elements import SYMBOLS, atomic_number

__all__ = ["frames_of", "need_ase"]

XYZ_SUFFIXES = (".xyz", ".extxyz")
DATABASE_SUFFIXES = (".db", ".json")
LMDB_SUFFIXES = (".lmdb", ".aselmdb")
ARRAY_SUFFIXES = (".h5", ".hdf5", ".npz")

NUMBERS = ("atomic_numbers", "numbers", "species", "nuclear_charges", "charges", "elements", "atNUM", "z", "Z")
POSITIONS = ("positions", "coordinates", "conformations", "coords", "geometry", "atXYZ", "R")
"""What sets in HDF5 and NPZ call elements and positions."""

MAX_ROW = 1 << 28
"""The most bytes that a row of an LMDB file may unpack to."""

Frame = tuple[str, Any]


def need_ase() -> Any:
    """The module ase, with its readers.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    needs("ase.io", "molecules", "reading structures")
    return needs("ase", "molecules", "reading structures")


def frames_of(path: Path) -> Iterator[Frame]:
    """Each structure of a file as ASE's `Atoms`, and how to name it in a message.

    Raises:
        ImportError: A package is not installed.
        ValueError: The file is broken; the message names it, and the frame and line where they are known.
    """
    ase, suffix = need_ase(), path.suffix.lower()
    if suffix in XYZ_SUFFIXES:
        yield from _xyz_frames(path)
    elif suffix in DATABASE_SUFFIXES:
        yield from _database_frames(path)
    elif suffix in LMDB_SUFFIXES:
        yield from _lmdb_frames(path)
    elif suffix in ARRAY_SUFFIXES:
        yield from _array_frames(path)
    else:
        try:
            _check_packed(path)
            # ASE takes names that begin with "postgres" for addresses, and what follows an "@" for a choice of frames.
            frames = ase.io.read(str(path.absolute()), index=":", do_not_split_by_at_sign=True)
        except Exception as error:  # every format of ASE fails in its own way
            raise ValueError(f"{path} could not be read ({type(error).__name__}: {error})") from error
        yield from ((f"{path}, frame {number}", atoms) for number, atoms in enumerate(frames))


def _check_packed(path: Path) -> None:
    """Refuse a compressed file, which ASE unpacks as it reads, if it unpacks to far more than its size."""
    from ase.io.formats import get_compression, open_with_compression

    if get_compression(str(path))[1] is None:
        return
    size, stored = 0, path.stat().st_size
    with open_with_compression(str(path), "rb") as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            check_unpacked("it", size, stored)


def _database_frames(path: Path) -> Iterator[Frame]:
    with _database(path) as database:
        for number, row in enumerate(_rows(database, path)):
            yield f"{path}, frame {number} (id {row.id})", _atoms_of_row(row)


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


def _atoms_of_row(row: Any) -> Any:
    atoms = row.toatoms()
    atoms.info.update(row.key_value_pairs)
    for key, value in row.data.items():  # arrays by atom, such as forces; anything else is of the frame
        shape = np.shape(value)
        by_atom = len(shape) == 2 and shape[0] == len(atoms)
        (atoms.arrays if by_atom else atoms.info).setdefault(key, np.asarray(value) if by_atom else value)
    return atoms


def _xyz_frames(path: Path) -> Iterator[Frame]:
    ase = need_ase()
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
            yield f"{where}, line {start + 1}", ase.Atoms()
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


def _lmdb_frames(path: Path) -> Iterator[Frame]:
    lmdb = needs("lmdb", "molecules", str(path))
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise ValueError(f"{path} is not an LMDB file ({error})") from error
    try:
        with environment.begin() as transaction:
            keys = [key for key in transaction.cursor().iternext(values=False) if key.isdigit()]
            for number, key in enumerate(sorted(keys, key=int)):
                where = f"{path}, frame {number} (key {key.decode()})"
                value = transaction.get(key)
                assert value is not None, where  # the key was listed by this transaction
                yield where, _lmdb_atoms(value, where)
    finally:
        environment.close()


def _lmdb_atoms(payload: bytes, where: str) -> Any:
    from ase.db.row import AtomsRow

    if payload[:1] == b"\x80":
        raise ValueError(
            f"{where} is a pickle, which could run any code; write the structures with ASE, as .aselmdb or .extxyz"
        )
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(payload, MAX_ROW)
        if not unpacker.eof:
            raise ValueError(f"it is cut off or unpacks to more than {MAX_ROW:,} bytes")
        row = json.loads(text)
        for key, value in row.items():
            row[key] = np.asarray(value) if isinstance(value, list) else value
        data = row.get("data")
        row["data"] = data if isinstance(data, dict) else {}
        row.setdefault("key_value_pairs", {})
        return _atoms_of_row(AtomsRow(row))
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where} is not a row of ASE's LMDB ({type(error).__name__}: {error}); for PubChemQCR use its data module"
        ) from error


def _array_frames(path: Path) -> Iterator[Frame]:
    """Structures of every group of arrays that has elements and positions."""
    number = 0
    for name, arrays in _array_groups(path):
        for atoms in _group_atoms(arrays, f"{path}{name and f', group {name}'}"):
            yield f"{path}, {name and f'group {name}, '}frame {number}", atoms
            number += 1
    if not number:
        raise ValueError(
            f"{path}: no group has both elements ({', '.join(NUMBERS)}) and positions ({', '.join(POSITIONS)})"
        )


def _array_groups(path: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    if path.suffix.lower() == ".npz":
        try:
            arrays, _ = read_npz(path)
        except (ValueError, OSError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not an .npz of plain arrays ({error})".splitlines()[0]) from error
        yield "", arrays
        return
    try:
        file = open_hdf5(path, "molecules")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5: {error}".splitlines()[0]) from error
    with file:
        yield from _hdf5_groups(file, path)


def _hdf5_groups(file: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arrays of each group that has elements and positions; a group under two names is read once."""
    import h5py

    total, seen = 0, {file["/"]}
    groups: list[Any] = [file["/"]]
    while groups:
        group = groups.pop()
        where = f"{path}, group {group.name}"
        try:
            members = {name: group.get(name) for name in sorted(group)}  # None for a link that leads nowhere
            below = [item for item in members.values() if isinstance(item, h5py.Group) and item not in seen]
            sets = {name: item for name, item in members.items() if isinstance(item, h5py.Dataset)}
            arrays = {name: item for name, item in sets.items() if item.shape is not None}
            wanted = bool(_first(arrays, NUMBERS) and _first(arrays, POSITIONS))
            if wanted:
                total += sum(item.size * item.dtype.itemsize for item in arrays.values())
                check_unpacked(str(path), total, path.stat().st_size)
                arrays = {name: read_dataset(item, f"{where}: {name}") for name, item in arrays.items()}
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(f"{where} is damaged ({error})".splitlines()[0]) from error
        seen.update(below)
        groups += reversed(list(dict.fromkeys(below)))
        if wanted:
            yield group.name.strip("/"), arrays


def _first(arrays: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in arrays), None)


def _group_atoms(arrays: dict[str, Any], where: str) -> Iterator[Any]:
    """The structures of one group: (atoms, 3) positions are one structure, (frames, atoms, 3) many of one kind."""
    import ase

    numbers_name, positions_name = _first(arrays, NUMBERS), _first(arrays, POSITIONS)
    if numbers_name is None or positions_name is None:
        return
    numbers = _elements(np.asarray(arrays[numbers_name]), f"{where}: {numbers_name}")
    positions = np.asarray(arrays[positions_name])
    if positions.dtype.kind not in "fiu":
        raise ValueError(f"{where}: {positions_name} holds {positions.dtype}, not numbers")
    positions = positions.astype(float)
    if positions.ndim == 2:
        positions = positions[None]
        arrays = {name: np.asarray(value)[None] for name, value in arrays.items()}
    if positions.ndim != 3 or positions.shape[2] != 3 or numbers.shape[-1:] != positions.shape[1:2]:
        raise ValueError(
            f"{where}: {numbers_name} has shape {numbers.shape} and {positions_name} {positions.shape}, expected "
            "(atoms,) and (frames, atoms, 3)"
        )
    count, size = positions.shape[:2]
    if numbers.ndim > 2 or (numbers.ndim == 2 and len(numbers) not in (1, count)):
        raise ValueError(f"{where}: {numbers_name} has {len(numbers)} rows for the {count} of {positions_name}")
    rest = {name: np.asarray(value) for name, value in arrays.items() if name not in (numbers_name, positions_name)}
    for frame in range(count):
        own = numbers if numbers.ndim == 1 else numbers[frame if len(numbers) == count else 0]
        kept = own > 0  # files pad structures with element 0
        atoms = ase.Atoms(own[kept], positions=positions[frame][kept])
        values = {name: _of_frame(name, value, frame, count) for name, value in rest.items()}
        _set_cell(atoms, values, where)
        for name, value in values.items():
            if value.dtype.kind not in "fiub":
                value = value.item() if value.ndim == 0 else value
                atoms.info[name] = value.decode() if isinstance(value, bytes) else value
            elif value.ndim and value.shape[0] == size:
                atoms.arrays[name] = value[kept]
            else:
                atoms.info[name] = value
        yield atoms


def _elements(values: np.ndarray, where: str) -> np.ndarray:
    """Atomic numbers, from numbers or symbols."""
    if values.dtype.kind in "SUO":
        names = [text.decode() if isinstance(text, bytes) else str(text) for text in values.ravel()]
        try:
            return np.array([atomic_number(text) for text in names]).reshape(values.shape)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    numbers = values.astype(float)
    wrong = numbers[~np.isin(numbers, np.arange(len(SYMBOLS)))]
    if wrong.size:
        raise ValueError(f"{where} has {wrong[0]:g}, which is no atomic number")
    return numbers.astype(int)


_CELL_SHAPES = {"cell": (3, 3), "lattice": (3, 3), "pbc": (3,)}


def _of_frame(name: str, value: np.ndarray, frame: int, count: int) -> np.ndarray:
    """A frame's own part of what a group has, or all of it if it is the same for all frames."""
    common = not value.ndim or len(value) != count or value.shape == _CELL_SHAPES.get(name)
    return value if common else np.asarray(value[frame])


def _set_cell(atoms: Any, values: dict[str, np.ndarray], where: str) -> None:
    """Take cell and periodicity out of the values of a frame, and give them to it."""
    for name in ("cell", "lattice"):
        if name in values and values[name].dtype.kind in "fiu":
            cell = values.pop(name)
            if cell.size != 9:
                raise ValueError(f"{where}: {name} has shape {cell.shape}, expected (3, 3) or (frames, 3, 3)")
            atoms.set_cell(cell.reshape(3, 3))
            atoms.set_pbc(True)
    if "pbc" in values and atoms.cell.rank:
        atoms.set_pbc(values.pop("pbc").reshape(-1)[:3])
