"""Readers of structures: nothing is followed, guessed from a name, unpacked without bound or silently left out."""

import gzip
import io
import zipfile

import numpy as np
import pytest

from blockzoo.tasks.core import stored
from blockzoo.tasks.molecules.files import read_frames, read_structures

pytest.importorskip("ase", reason="of the extra 'molecules'")
import ase.db
import ase.io
from ase.build import bulk, molecule

WATER = molecule("H2O")
PLAIN = {"numbers": WATER.numbers, "positions": WATER.positions}


def hdf5(path, **arrays):
    h5py = pytest.importorskip("h5py", reason="of the extra 'fields'")
    file = h5py.File(path, "w")
    for name, values in arrays.items():
        file[name] = values
    return h5py, file


def test_groups_that_hold_each_other_are_read_once(tmp_path):
    h5py, file = hdf5(tmp_path / "x.h5", **PLAIN)
    with file:
        file["again"] = file["/"]
        file["soft"] = h5py.SoftLink("/")
        file["nowhere"] = h5py.SoftLink("/gone")
        other = file.create_group("other")
        other["numbers"], other["positions"] = h5py.SoftLink("/numbers"), WATER.positions + 1
        file["alias"] = other
    (_, first), (where, second) = read_frames(tmp_path / "x.h5")
    np.testing.assert_array_equal(first.positions, WATER.positions)
    np.testing.assert_array_equal(second.positions, WATER.positions + 1)
    assert second.numbers.tolist() == [8, 1, 1] and where == f"{tmp_path / 'x.h5'}, group alias, frame 1"


def test_hdf5_does_not_lead_to_other_files(tmp_path):
    h5py, file = hdf5(tmp_path / "link.h5")
    with file:
        file["x"] = h5py.ExternalLink("other.h5", "/")
    with pytest.raises(ValueError, match="link.h5 cannot be .*: x takes its values from another file, other.h5"):
        read_frames(tmp_path / "link.h5")
    (tmp_path / "secret").write_bytes(bytes(24))
    _, file = hdf5(tmp_path / "raw.h5", **PLAIN)
    with file:
        file.create_dataset("note", (24,), "u1", external=[(str(tmp_path / "secret"), 0, 24)])
    with pytest.raises(ValueError, match="raw.h5 cannot be .*: note takes its values from another file, .*secret"):
        read_frames(tmp_path / "raw.h5")


def test_arrays_take_no_more_memory_than_their_file_can_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_SMALL", 2**20)
    _, file = hdf5(tmp_path / "x.h5", numbers=WATER.numbers)
    with file:
        file.create_dataset("positions", (10**6, 3, 3), "f8", chunks=(1000, 3, 3), compression="gzip")
    np.savez_compressed(tmp_path / "x.npz", numbers=WATER.numbers, positions=np.zeros((10**5, 3, 3)))
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**15, 3, 3)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("positions.npy", header.getvalue())
    for name in ("x.h5", "x.npz", "claims.npz"):
        with pytest.raises(ValueError, match=f"{name}.* would unpack from .* bytes"):
            read_frames(tmp_path / name)
    many = {f"x{i}": np.zeros(10**5) for i in range(4)}  # each within the bound
    np.savez_compressed(tmp_path / "many.npz", **PLAIN, **many)
    with pytest.raises(ValueError, match="it would unpack"):
        read_frames(tmp_path / "many.npz")


def test_compressed_files_unpack_within_a_bound(tmp_path, monkeypatch):
    ase.io.write(tmp_path / "x.cif.gz", bulk("Cu"))
    ((_, atoms),) = read_frames(tmp_path / "x.cif.gz")
    assert atoms.get_chemical_formula() == "Cu"
    monkeypatch.setattr(stored, "_SMALL", 2**20)
    (tmp_path / "bomb.cif.gz").write_bytes(gzip.compress(bytes(2**23)))
    with pytest.raises(ValueError, match="bomb.cif.gz could not be read .* would unpack"):
        read_frames(tmp_path / "bomb.cif.gz")


@pytest.mark.parametrize("name", ["cu@300K.cif", "postgres_cu.cif", "mysql.cif"])
def test_the_name_of_a_file_is_only_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ase.io.write("x.cif", bulk("Cu"))
    (tmp_path / "x.cif").rename(name)
    ase.io.write("cu.cif", bulk("Ag"))
    ((where, atoms),) = read_frames(name)
    assert atoms.get_chemical_formula() == "Cu" and where == f"{name}, frame 0"


ARRAYS = [
    ({"charges": [-0.8, 0.4, 0.4], "coords": WATER.positions}, "x.npz: charges has -0.8, which is no atomic number"),
    ({"numbers": [8, 1, 200], "positions": WATER.positions}, "x.npz: numbers has 200, which is no atomic number"),
    ({"numbers": 8, "positions": WATER.positions}, r"x.npz: numbers has shape \(\)"),
    ({"species": ["O", "Q", "H"], "positions": WATER.positions}, "x.npz: species: 'Q' is not a chemical element"),
    ({"numbers": [8, 1, 1], "positions": [["a"] * 3] * 3}, "x.npz: positions holds <U1, not numbers"),
    ({"numbers": [[8, 1, 1]] * 2, "positions": [WATER.positions] * 5}, "numbers has 2 rows for the 5 of positions"),
    ({**PLAIN, "cell": [9, 9, 9, 90, 90, 90]}, r"cell has shape \(6,\), expected \(3, 3\)"),
]


@pytest.mark.parametrize(("arrays", "message"), ARRAYS)
def test_arrays_that_are_no_structures_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **{name: np.array(value) for name, value in arrays.items()})
    with pytest.raises(ValueError, match=message):
        read_frames(tmp_path / "x.npz")


def test_a_common_cell_belongs_to_each_of_three_frames(tmp_path):
    cell, pbc = np.diag([7.0, 8, 9]), np.array([True, True, False])
    np.savez(tmp_path / "x.npz", numbers=WATER.numbers, positions=[WATER.positions] * 3, cell=cell, pbc=pbc)
    for _, atoms in read_frames(tmp_path / "x.npz"):
        np.testing.assert_array_equal(atoms.cell.array, cell)
        assert atoms.pbc.tolist() == pbc.tolist()
    own = np.stack([cell, cell + np.eye(3), cell])
    np.savez(tmp_path / "y.npz", numbers=WATER.numbers, positions=[WATER.positions] * 3, cell=own)
    np.testing.assert_array_equal([atoms.cell.array for _, atoms in read_frames(tmp_path / "y.npz")], own)


def test_frames_without_atoms_are_left_out_of_every_format_with_a_warning(tmp_path):
    ase.io.write(tmp_path / "x.traj", [ase.Atoms(), WATER])
    with ase.db.connect(tmp_path / "x.db") as database:
        database.write(ase.Atoms())
        database.write(WATER)
    np.savez(tmp_path / "x.npz", numbers=[[0, 0, 0], WATER.numbers], positions=[WATER.positions] * 2)
    for name in ("x.traj", "x.db", "x.npz"):
        with pytest.warns(UserWarning, match=f"{name}, frame 0.*: a frame without atoms is left out"):
            ((where, atoms),) = read_frames(tmp_path / name)
        assert len(atoms) == 3 and f"{name}, frame 1" in where


def test_a_weight_that_is_no_number_is_named(tmp_path):
    atoms = WATER.copy()
    atoms.info["config_weight"], atoms.info["energy"], atoms.arrays["forces"] = "high", 1.0, np.zeros((3, 3))
    ase.io.write(tmp_path / "x.extxyz", atoms)
    with pytest.raises(ValueError, match="x.extxyz, frame 0: config_weight is 'high', not a number"):
        read_structures(tmp_path / "x.extxyz")
