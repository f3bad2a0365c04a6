"""Labels under other names, in other units and signs, partly known; and what contradicts its units is noticed."""

import functools
import json
import pickle
import types
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

import blockzoo
from blockzoo.tasks.molecules.files import StructureFiles, read_structures
from blockzoo.tasks.molecules.labels import Labels, to_structure
from blockzoo.tasks.molecules.potential import InteratomicPotential
from blockzoo.tasks.molecules.structures import Structure, StructureSet, XTBMolecules, collate
from blockzoo.tasks.molecules.unit_checks import check_units, distant_ratio, work_ratios
from blockzoo.tasks.molecules.units import ENERGY_UNITS

pytest.importorskip("ase", reason="of the extra 'molecules'")
import ase
import ase.io
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

SIZES = {"hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}


@functools.cache
def trajectory(count=12):
    """Copper that moves and whose cell changes, with EMT's energies, forces and stresses."""
    rng, frames = np.random.default_rng(0), []
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    for _ in range(count):
        for strained in (False, True):
            atoms = atoms.copy()
            atoms.positions += rng.normal(0, 0.02, (len(atoms), 3))
            if strained:
                atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.004, (3, 3))), scale_atoms=True)
            atoms.calc = EMT()
            frame = atoms.copy()
            values = {
                "energy": atoms.get_potential_energy(),
                "forces": atoms.get_forces(),
                "stress": atoms.get_stress(),
            }
            frame.calc = SinglePointCalculator(frame, **values)
            frames.append(frame)
    return frames


def plain(frames, energy=1.0, forces=1.0, stress=1.0, length=1.0, virial=False):
    """Frames with labels as properties, in other units."""
    found = []
    for atoms in frames:
        other = ase.Atoms(atoms.symbols, positions=atoms.positions / length, cell=atoms.cell / length, pbc=atoms.pbc)
        other.info["REF_energy"] = atoms.get_potential_energy() / energy
        other.arrays["REF_forces"] = atoms.get_forces() / forces
        if virial:
            other.info["REF_virial"] = -atoms.get_stress(voigt=False) * atoms.get_volume() / energy
        else:
            other.info["REF_stress"] = atoms.get_stress(voigt=False) / stress
        found.append(other)
    return found


def written(tmp_path, frames, name="x.xyz"):
    ase.io.write(tmp_path / name, frames, format="extxyz")
    return str(tmp_path / name)


KEYS = {"energy_key": "REF_energy", "forces_key": "REF_forces", "stress_key": "REF_stress", "virial_key": "REF_virial"}
HARTREE, BOHR = ENERGY_UNITS["Hartree"], 0.529177210903
UNITS = [
    ({}, {}),
    ({"energy": HARTREE, "forces": HARTREE / BOHR, "length": BOHR, "stress": HARTREE / BOHR**3},
     {"energy_unit": "Hartree", "length_unit": "Bohr"}),
    ({"energy": ENERGY_UNITS["kcal/mol"], "forces": -ENERGY_UNITS["kcal/mol"], "stress": -1 / 1602.1766208},
     {"energy_unit": "kcal/mol", "forces_are_gradients": True, "stress_unit": "kbar", "stress_is_pressure": True}),
    ({"energy": HARTREE, "virial": True}, {"energy_unit": "Hartree", "forces_unit": "eV/Angstrom"}),
]  # fmt: skip


@pytest.mark.parametrize(("how", "options"), UNITS, ids=["eV", "atomic units", "kcal and kbar", "virial"])
def test_any_unit_and_sign_is_read_as_ev_and_angstrom(tmp_path, how, options):
    frames = trajectory()
    data = StructureFiles(written(tmp_path, plain(frames, **how)), **KEYS, **options)
    data.setup("fit")
    found = [*data.datasets["train"].structures, *data.datasets["val"].structures]
    for structure, atoms in zip(found, frames, strict=True):
        assert float(structure.energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(structure.positions, atoms.positions, atol=1e-6)
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=1e-6)
        np.testing.assert_allclose(structure.stress, atoms.get_stress(voigt=False), atol=1e-7)


WRONG = [
    ({"energy": HARTREE}, "energies change 0.0366 times .* set energy_unit=Hartree and forces_unit=eV/Angstrom"),
    ({"energy": ENERGY_UNITS["kcal/mol"]}, "energies change 23 times .* set energy_unit=kcal/mol"),
    ({"forces": HARTREE}, "energies change 27.1 times .* set forces_unit=Hartree/Angstrom"),
    ({"forces": -1.0}, "set forces_are_gradients=true"),
    ({"stress": 1 / 160.21766208}, "set stress_unit=GPa"),
    ({"stress": -1.0}, "set stress_is_pressure=true"),
    ({"stress": -1 / 1602.1766208}, "set stress_unit=kbar and stress_is_pressure=true"),
]


@pytest.mark.parametrize(("how", "message"), WRONG)
def test_labels_that_contradict_each_other_are_noticed(tmp_path, how, message):
    path = written(tmp_path, plain(trajectory(), **how))
    with pytest.raises(ValueError, match=f"x.xyz: .*{message}"):
        StructureFiles(path, **KEYS).setup("fit")
    StructureFiles(path, **KEYS, check_units=False).setup("fit")


def molecules_in(unit, length=1.0):
    """Molecules with energies near those of all-electron atoms, and nothing that the forces could tell."""
    rng, found = np.random.default_rng(0), []
    for name in ("H2O", "CH4", "CH3OH", "NH3", "C2H6", "CO2"):
        atoms = molecule(name)
        table = {1: -0.5, 6: -37.8, 7: -54.5, 8: -75.0}
        energy = sum(table[number] for number in atoms.numbers) * 1.003 * HARTREE / ENERGY_UNITS[unit]
        positions = torch.tensor(atoms.positions / length, dtype=torch.float32)
        forces = torch.tensor(rng.normal(size=positions.shape), dtype=torch.float32)
        found.append(Structure(positions, torch.tensor(atoms.numbers), torch.tensor(energy).double(), forces))
    return found


@pytest.mark.parametrize("unit", ["Hartree", "kcal/mol", "kJ/mol"])
def test_total_energies_in_another_unit_are_noticed(unit):
    with pytest.raises(ValueError, match=f"as in {unit}; set energy_unit={unit}; or set check_units=false"):
        check_units(molecules_in(unit), "x")
    check_units(molecules_in("eV"), "x")


def test_distances_in_bohr_are_noticed():
    with pytest.raises(ValueError, match="times as far apart .* set length_unit=Bohr"):
        check_units(molecules_in("eV", BOHR), "x")


@pytest.mark.parametrize("factor", [HARTREE, ENERGY_UNITS["kcal/mol"], 1 / HARTREE])
def test_wrong_units_are_noticed_among_frames_in_random_order(factor):
    data = XTBMolecules(train_size=200)
    data.setup("fit")
    frames = data.train_sample()
    assert distant_ratio(frames) == pytest.approx(1, abs=0.3)
    check_units(frames, "x")
    wrong = [replace(frame, energy=frame.energy / factor - 2000 * len(frame.positions)) for frame in frames]
    with pytest.raises(ValueError, match="energies change .* times as much as their forces tell; if the .* set"):
        check_units(wrong, "x")


def test_consistent_data_pass_with_ratios_of_one():
    data = XTBMolecules(train_size=400)
    data.setup("fit")
    check_units(data.train_sample(), "xtb")
    frames = [structure_of(atoms) for atoms in trajectory()]
    by_forces, by_stress = work_ratios(frames)
    assert by_stress == pytest.approx(1, abs=0.05) and by_forces == pytest.approx(1, abs=0.05)


def structure_of(atoms):
    return to_structure(atoms, "frame")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_unit": "hartrees"}, "energy_unit: 'hartrees' must be one of eV, meV, Hartree"),
        ({"forces_unit": "eV"}, "forces_unit: '' must be one of .*like 'eV/Angstrom'"),
        ({"stress_unit": "eV/Angstrom"}, "stress_unit='eV/Angstrom' must be one of GPa, kbar, bar, or like"),
    ],
)
def test_unknown_units_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Labels(**options)


def test_stress_and_virial_must_agree(tmp_path):
    frames = plain(trajectory()[:2])
    for atoms, other in zip(frames, plain(trajectory()[:2], virial=True), strict=True):
        atoms.info["REF_virial"] = -other.info["REF_virial"]
    with pytest.raises(ValueError, match=r"frame 0: REF_stress and -REF_virial / volume differ by .* eV/Å³"):
        read_structures(written(tmp_path, frames), labels=Labels(**KEYS))


def partial_file(tmp_path):
    """One frame with all labels, one with its energy, one with forces, isolated atoms, and types."""
    frames = [molecule(name) for name in ("H2O", "H2O", "H2O2", "H2O2")]
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = "bulk" if i % 2 else "surface"
        atoms.info["note"] = i
        if i != 2:
            atoms.info["energy"] = -2075.0 - i
        if i != 1:
            atoms.arrays["forces"] = np.full((len(atoms), 3), 0.1 * i)
    for symbol, energy in (("H", -13.5), ("O", -2041.0)):
        alone = ase.Atoms(symbol, info={"energy": energy, "config_type": "IsolatedAtom"})
        frames.append(alone)
    return written(tmp_path, frames)


def test_partial_labels_weights_and_isolated_atoms_are_read(tmp_path):
    path = partial_file(tmp_path)
    with pytest.raises(ValueError, match="no forces 'forces'"):
        StructureFiles(path).setup("fit")
    data = StructureFiles(path, partial=True, val_fraction=0, type_weights={"surface": 3.0})
    data.setup("fit")
    found = data.datasets["train"].structures
    assert [s.weight for s in found] == [3.0, 1.0, 3.0, 1.0]
    assert [bool(s.energy.isnan()) for s in found] == [False, False, True, False]
    assert [bool(s.forces.isnan().all()) for s in found] == [False, True, False, False]
    assert data.isolated_atoms == {1: -13.5, 8: -2041.0}
    with pytest.raises(ValueError, match="no frame of .* is of type 'slab'; config_type has .*bulk, surface"):
        StructureFiles(path, partial=True, type_weights={"slab": 1.0}).setup("fit")
    empty = [molecule("H2O")]
    with pytest.raises(ValueError, match="frame 0: neither energy nor forces nor a stress is known"):
        read_structures(written(tmp_path, empty, "e.xyz"), labels=Labels(partial=True))


def losses(structures, **options):
    torch.manual_seed(0)
    task = InteratomicPotential("tdn", SIZES, references="model", **options).eval()
    task.log = lambda *args, **kwargs: None
    samples = StructureSet(structures)
    return task, lambda rows: task.shared_step(collate([samples[i] for i in rows]), "train")


@pytest.mark.parametrize("force_loss", ["rmse", "l1", "mse"])
def test_unknown_labels_have_no_part_in_the_loss(tmp_path, force_loss):
    structures = read_structures(partial_file(tmp_path), labels=Labels(partial=True))[:4]
    _, of_energy = losses(structures, force_weight=0.0, force_loss=force_loss)
    _, of_forces = losses(structures, energy_weight=0.0, force_loss=force_loss)
    torch.testing.assert_close(of_energy([0, 1, 2]), of_energy([0, 1]))
    torch.testing.assert_close(of_forces([0, 1, 2]), of_forces([0, 2]))
    assert of_energy([2]).item() == 0 and of_forces([1]).item() == 0
    task, both = losses(structures, force_loss=force_loss)
    both([0, 1, 2, 3]).backward()
    assert all(p.grad.isfinite().all() for p in task.model.parameters() if p.grad is not None)


def test_weights_are_those_of_the_structures(tmp_path):
    structures = read_structures(partial_file(tmp_path), labels=Labels(partial=True))[:2]
    structures[0].weight = 3.0
    _, loss = losses(structures, force_weight=0.0)
    expected = (3 * loss([0]) + loss([1])) / 4
    torch.testing.assert_close(loss([0, 1]), expected)


def test_stresses_are_learned_where_they_are_known():
    frames = [structure_of(atoms) for atoms in trajectory()[:3]]
    frames[2].stress = None
    task, loss = losses(frames, energy_weight=0.0, force_weight=1e-9, stress_weight=1.0)
    inputs = collate([StructureSet(frames)[i] for i in range(2)])
    found = task.predict(inputs)["stress"]
    torch.testing.assert_close(loss([0, 1, 2]), (found - inputs["stress"]).abs().mean(), rtol=1e-4, atol=1e-7)
    loss([0, 1]).backward()
    assert task.model.embed.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="needs forces='gradient'"):
        InteratomicPotential("tdn", {**SIZES, "forces": "direct"}, stress_weight=1.0)


def test_references_may_be_given_or_those_of_isolated_atoms(tmp_path):
    data = StructureFiles(partial_file(tmp_path), partial=True, val_fraction=0)
    data.setup("fit")
    for references, expected in (("isolated", [-13.5, -2041.0]), ({"H": -1.5, "O": -3.0}, [-1.5, -3.0])):
        task = InteratomicPotential("tdn", SIZES, references=references)
        task._trainer = types.SimpleNamespace(datamodule=data)
        task.setup("fit")
        assert task.model.references[[1, 8]].tolist() == expected and task.model.elements == [1, 8]
    data.isolated_atoms.pop(8)
    task = InteratomicPotential("tdn", SIZES, references="isolated")
    task._trainer = types.SimpleNamespace(datamodule=data)
    with pytest.raises(ValueError, match="references: no isolated atom of the training file for O"):
        task.setup("fit")


def test_a_partly_labelled_file_trains_and_is_tested(tmp_path):
    path = partial_file(tmp_path)
    data = StructureFiles(path, partial=True, val_path=path, test_path=path, batch_size=2)
    task = InteratomicPotential("tdn", SIZES, references="isolated", optimizer=torch.optim.Adam)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, **silent)
    trainer.fit(task, datamodule=data)
    result = trainer.test(task, datamodule=data, verbose=False)[0]
    assert all(np.isfinite(value) for value in result.values()) and "test/force_mae" in result


def test_replayed_structures_join_in_at_the_new_zero_of_energy(tmp_path):
    model = blockzoo.create_model("tdn.gfn2", pretrained=True)
    frames = []
    for name in ("CH3OH", "CH3CH2OH", "H2O", "CH4", "CH3CONH2", "CO2"):
        atoms = molecule(name)
        with torch.no_grad():
            out = model(torch.tensor(atoms.positions).float(), torch.tensor(atoms.numbers))
        values = {"energy": float(out["energy"][0]), "forces": out["forces"].numpy()}
        atoms.calc = SinglePointCalculator(atoms, **values)
        frames.append(atoms)
    old = written(tmp_path, frames, "old.xyz")
    shift = {1: -100.0, 6: -200.0, 7: -300.0, 8: -50.0}
    for atoms in frames:
        atoms.calc.results["energy"] += sum(shift[number] for number in atoms.numbers)
    new = written(tmp_path, frames * 2, "new.xyz")
    data = StructureFiles(new, val_fraction=0, replay_path=old, replay_share=0.5, check_units=False)
    task = InteratomicPotential("tdn.gfn2", pretrained=True)
    task._trainer = types.SimpleNamespace(datamodule=data)
    data.setup("fit")
    assert len(data.datasets["train"]) == 18 and len(data.train_sample()) == 12
    task.setup("fit")
    everything = data.datasets["train"].structures
    expected = torch.stack([structure.energy for structure in everything])
    torch.testing.assert_close(task._energies(everything), expected, rtol=0, atol=1e-2)


def test_arrays_of_big_sets_are_read(tmp_path):
    h5py = pytest.importorskip("h5py", reason="of the extra 'fields'")
    rng = np.random.default_rng(0)
    water, positions = molecule("H2O"), rng.normal(size=(4, 3, 3))
    with h5py.File(tmp_path / "spice.hdf5", "w") as file:  # SPICE: one group a molecule, hartree and bohr, gradients
        for name in ("a", "b"):
            group = file.create_group(name)
            group["atomic_numbers"] = water.numbers
            group["conformations"] = positions / BOHR
            group["dft_total_energy"] = np.arange(4.0)
            group["dft_total_gradient"] = positions
            group["smiles"] = ["O"]
    labels = Labels("dft_total_energy", "dft_total_gradient", energy_unit="Hartree", length_unit="Bohr",
                    forces_are_gradients=True)  # fmt: skip
    found = read_structures(tmp_path / "spice.hdf5", labels=labels)
    assert len(found) == 8 and float(found[5].energy) == pytest.approx(HARTREE)
    np.testing.assert_allclose(found[5].positions, positions[1], atol=1e-5)
    np.testing.assert_allclose(found[5].forces, -positions[1] * HARTREE / BOHR, rtol=1e-5)
    with h5py.File(tmp_path / "qm7x.hdf5", "w") as file:  # QM7-X: one group a structure, nested
        group = file.create_group("1/Geom-m1-i1-c1-1")
        group["atNUM"], group["atXYZ"] = water.numbers, water.positions
        group["ePBE0+MBD"], group["totFOR"] = [-2080.5], positions[0]
    (one,) = read_structures(tmp_path / "qm7x.hdf5", "ePBE0+MBD", "totFOR")
    assert float(one.energy) == -2080.5 and one.cell is None
    np.savez(tmp_path / "md17.npz", z=water.numbers, R=positions, E=np.arange(4.0)[:, None], F=2 * positions, name="w")
    found = read_structures(tmp_path / "md17.npz", "E", "F")
    assert [float(s.energy) for s in found] == [0, 1, 2, 3]
    np.testing.assert_allclose(found[3].forces, 2 * positions[3], rtol=1e-6)
    np.savez(tmp_path / "other.npz", a=[1])
    with pytest.raises(ValueError, match="other.npz: no group has both elements .* and positions"):
        read_structures(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", z=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="objects.npz is not an .npz of plain arrays"):
        read_structures(tmp_path / "objects.npz")


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_lmdb_files_are_read_and_run_nothing(tmp_path, capsys, monkeypatch):
    lmdb = pytest.importorskip("lmdb", reason="of the extra 'molecules'")
    copper = trajectory()[0]
    row = {"numbers": copper.numbers, "positions": copper.positions, "cell": copper.cell.array, "pbc": copper.pbc}
    row |= {"energy": copper.get_potential_energy(), "forces": copper.get_forces(), "stress": copper.get_stress()}
    row = {key: np.asarray(value).tolist() for key, value in row.items()}
    row |= {"unique_id": "u", "ctime": 1.0, "mtime": 1.0, "user": "me", "key_value_pairs": {}, "data": {"source": "x"}}
    payloads = {
        "ase.aselmdb": zlib.compress(json.dumps(row).encode()),
        "pickle.lmdb": pickle.dumps({"pos": Harmful()}),
        "cut.lmdb": zlib.compress(json.dumps(row).encode())[:-20],
    }
    for name, payload in payloads.items():
        with lmdb.open(str(tmp_path / name), subdir=False, map_size=2**20) as file, file.begin(write=True) as out:
            out.put(b"1", payload)
            out.put(b"length", pickle.dumps(1))
    (first,) = read_structures(tmp_path / "ase.aselmdb")
    assert float(first.energy) == pytest.approx(copper.get_potential_energy())
    np.testing.assert_allclose(first.stress, copper.get_stress(voigt=False), atol=1e-7)
    with pytest.raises(ValueError, match=r"pickle.lmdb, frame 0 \(key 1\) is a pickle, which could run any code"):
        read_structures(tmp_path / "pickle.lmdb")
    with pytest.raises(ValueError, match=r"cut.lmdb, frame 0 \(key 1\) is not a row of ASE's LMDB .* cut off"):
        read_structures(tmp_path / "cut.lmdb")
    monkeypatch.setattr("blockzoo.tasks.molecules.formats.MAX_ROW", 100)
    with pytest.raises(ValueError, match="unpacks to more than 100 bytes"):
        read_structures(tmp_path / "ase.aselmdb")
    assert "must not run" not in capsys.readouterr().out
