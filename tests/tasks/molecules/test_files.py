"""Structure files of one's own: read exactly, and what is wrong in them is named."""

import numpy as np
import pytest
import torch

from blockzoo.tasks.molecules.files import StructureFiles, read_frames, read_structures

pytest.importorskip("ase", reason="of the extra 'molecules'")
import ase.db
import ase.io
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

GOOD = """3
Properties=species:S:1:pos:R:3:forces:R:3 energy=-76.4 pbc="F F F"
O 0.0 0.0 0.1 0.1 0.2 0.3
H 0.0 0.8 -0.5 0.0 -0.1 -0.1
H 0.0 -0.8 -0.5 -0.1 -0.1 -0.2
"""


def labelled(atoms, energy, seed=0):
    forces = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def written(tmp_path, text, name="x.xyz"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_extended_xyz_is_read_as_written_with_cells_where_there_are_any(tmp_path):
    water, copper = labelled(molecule("H2O"), -76.4), labelled(bulk("Cu", cubic=True), -3.5, 1)
    ase.io.write(tmp_path / "x.xyz", [water, copper], format="extxyz")
    first, second = read_structures(tmp_path / "x.xyz")
    for found, atoms in ((first, water), (second, copper)):
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-6)
        np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-6)
        assert found.atomic_numbers.tolist() == atoms.numbers.tolist()
        assert float(found.energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    assert first.cell is None and second.pbc.all()
    np.testing.assert_allclose(second.cell, copper.cell.array, atol=1e-6)


def test_databases_are_read(tmp_path):
    with ase.db.connect(tmp_path / "x.db") as database:
        for i in range(3):
            database.write(labelled(molecule("CH3OH"), -100.0 - i, i))
    found = read_structures(tmp_path / "x.db")
    assert [float(s.energy) for s in found] == [-100.0, -101.0, -102.0]


def test_labels_in_the_data_of_a_database_row_are_read(tmp_path):
    forces = np.random.default_rng(0).normal(size=(3, 3))
    with ase.db.connect(tmp_path / "x.db") as database:
        database.write(molecule("H2O"), data={"energy": np.array([-76.4]), "forces": forces})
    (found,) = read_structures(tmp_path / "x.db")
    assert float(found.energy) == -76.4 and found.energy.shape == ()
    np.testing.assert_allclose(found.forces, forces, atol=1e-6)


def test_cell_vectors_below_the_atoms_are_read_and_frames_without_atoms_left_out(tmp_path):
    atoms = "2\nCO\nC 0.0 0.0 0.0\nO 0.0 0.0 1.1\n"
    vectors = "VEC1 4.0 0.0 0.0\nVEC2 0.0 5.0 0.0\nVEC3 0.0 0.0 6.0\n"
    path = written(tmp_path, atoms + vectors + "0\n\n" + GOOD)
    with pytest.warns(UserWarning, match=r"x.xyz, frame 1, line 8: a frame without atoms is left out"):
        (_, first), (_, second) = read_frames(path)
    np.testing.assert_allclose(first.cell.lengths(), [4, 5, 6])
    assert first.pbc.all() and not second.pbc.any()


def test_other_names_of_energy_and_forces_are_taken(tmp_path):
    text = GOOD.replace("forces:R:3", "REF_forces:R:3").replace(" energy=", " REF_energy=")
    path = written(tmp_path, text)
    assert float(read_structures(path, "REF_energy", "REF_forces")[0].energy) == -76.4
    with pytest.raises(ValueError, match=r"frame 0: no energy 'energy'; .*REF_energy.*\(set energy_key\)"):
        read_structures(path)
    with pytest.raises(ValueError, match=r"frame 0: no forces 'forces'; .*REF_forces.*\(set forces_key\)"):
        read_structures(path, "REF_energy")


BROKEN = [
    (GOOD + GOOD.replace("3\n", "three\n", 1), r"x.xyz, frame 1, line 6: expected a number of atoms, found 'three'"),
    (GOOD + GOOD.replace("3\n", "5\n", 1), r"frame 1, line 6: 5 atoms are announced, the file ends after 3"),
    (GOOD.replace("O 0.0", "Xx 0.0"), r"frame 0, line 3: 'Xx' is not a chemical element"),
    (GOOD.replace("0.8 -0.5 0.0", "0.8 -0.5"), r"frame 0, line 4: expected 7 columns, found 6"),
    (GOOD.replace("0.8 -0.5", "0.8 abc"), r"frame 0, lines 1 to 5: not extended XYZ"),
    (GOOD.replace("0.1 0.2 0.3", "0.1 nan 0.3"), r"frame 0: forces of atom 0 is nan; all numbers must be finite"),
    (GOOD.replace("-76.4", "inf"), r"frame 0: energy is inf; all numbers must be finite"),
    (GOOD + GOOD.replace("forces:R:3", "other:R:3"), r"frame 1: no forces 'forces'"),
    (GOOD.replace("forces:R:3", "forces:R:x"), r"frame 0, line 2: Properties=.* is not a list of name:type:width"),
    ("\n\n", r"x.xyz holds no structure"),
    (GOOD + GOOD.replace('"F F F"', '"T F F"'), r"frame 1: the cell vectors of periodic directions are zero"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_broken_file_is_refused_by_file_frame_and_line(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        read_structures(path)


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*nothing.xyz"):
        read_structures(tmp_path / "nothing.xyz")
    with pytest.raises(ValueError, match="is not a text file"):
        (tmp_path / "b.xyz").write_bytes(b"\xff\xfe\x00\x01")
        read_structures(tmp_path / "b.xyz")
    with pytest.raises(ValueError, match="x.traj could not be read"):
        read_structures(written(tmp_path, "nonsense", "x.traj"))


def test_the_last_frames_are_held_out_and_files_can_be_given_for_each_part(tmp_path):
    frames = [labelled(molecule("H2O"), -float(i)) for i in range(10)]
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    data = StructureFiles(str(tmp_path / "a.xyz"), val_fraction=0.2, test_path=str(tmp_path / "a.xyz"))
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 8, "val": 2, "test": 10}
    assert [float(s.energy) for s in data.datasets["val"].structures] == [-8.0, -9.0]
    batch = next(iter(data.val_dataloader()))
    assert batch["positions"].dtype == torch.float32 and batch["energy"].tolist() == [-8.0, -9.0]
    other = StructureFiles(str(tmp_path / "a.xyz"), val_path=str(tmp_path / "a.xyz"))
    other.setup("fit")
    assert len(other.datasets["train"]) == 10
    with pytest.raises(ValueError, match=r"val_fraction=1.5 must be in \[0, 1\)"):
        StructureFiles("x", val_fraction=1.5)
