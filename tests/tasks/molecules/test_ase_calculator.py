"""Potentials in ASE: what the calculator gives is consistent, and dynamics conserves energy."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import blockzoo
from blockzoo.__main__ import main

pytest.importorskip("ase", reason="of the extra 'molecules'")
import ase
import ase.db
import ase.io
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from blockzoo.tasks.molecules.ase_calculator import ZooCalculator
from blockzoo.tasks.molecules.md import draw, nve, relax, summarize

SMALL = {"l_max": 1, "hidden_channels": 8, "depth": 2, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}


def calculator(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return ZooCalculator(blockzoo.create_model("tdn", **{**SMALL, "cutoff": 4.0, **options}), dtype=dtype)


def rattled(atoms, seed=0):
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_forces_are_the_numerical_gradient_of_the_energy():
    atoms = rattled(molecule("CH3CH2OH"))
    atoms.calc = calculator()
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-7 * np.abs(numerical).max() + 1e-8)
    assert np.abs(numerical).max() > 1e-2


def test_stress_is_the_numerical_one_and_only_for_periodic_structures():
    atoms = rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    atoms.calc = calculator()
    numerical = calculate_numerical_stress(atoms, eps=1e-5, voigt=True)
    np.testing.assert_allclose(atoms.get_stress(), numerical, rtol=1e-5, atol=1e-9)
    assert np.abs(numerical).max() > 1e-5
    alone = molecule("H2O")
    alone.calc = calculator()
    with pytest.raises(PropertyNotImplementedError, match="stress needs a periodic structure"):
        alone.get_stress()


def test_results_follow_the_atoms_and_not_their_order():
    atoms = rattled(molecule("CH3COOH"))
    order = np.random.default_rng(0).permutation(len(atoms))
    atoms.calc = calculator()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    shuffled = atoms[order]
    shuffled.calc = atoms.calc
    assert shuffled.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(shuffled.get_forces(), forces[order], atol=1e-10)


def test_small_moves_in_a_large_box_change_the_energy_as_in_float64():
    rng = np.random.default_rng(0)
    places = 3.1 * np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    water = molecule("H2O").positions
    positions = np.concatenate([place + water + rng.normal(0, 0.05, (3, 3)) for place in places])
    atoms = ase.Atoms("OHH" * 125, positions=positions, cell=[15.5] * 3, pbc=True)
    torch.manual_seed(0)
    model = blockzoo.create_model("tdn", **{**SMALL, "cutoff": 4.0})
    model.set_references({1: -13.6, 8: -2041.3})
    changes = {}
    for dtype in (torch.float32, torch.float64):
        moved = atoms.copy()
        moved.calc = ZooCalculator(model, dtype=dtype)
        energies = [moved.get_potential_energy()]
        direction = moved.get_forces() / np.linalg.norm(moved.get_forces(), axis=1, keepdims=True)
        for _ in range(5):
            moved.positions += 1e-4 * direction
            energies.append(moved.get_potential_energy())
        changes[dtype] = np.diff(energies)
    assert np.abs(changes[torch.float64]).min() > 1e-6  # eV, of -259,000 in all
    np.testing.assert_allclose(changes[torch.float32], changes[torch.float64], rtol=0.1)


def test_a_given_model_stays_as_it_is():
    model = blockzoo.create_model("tdn", **SMALL).train()
    single, double = ZooCalculator(model), ZooCalculator(model, dtype=torch.float64)
    assert model.training and next(model.parameters()).dtype == torch.float32
    assert next(single.model.parameters()).dtype == torch.float32
    assert next(double.model.parameters()).dtype == torch.float64


def counted(calc, monkeypatch):
    """The calls of a calculator's model."""
    calls, forward = [], calc.model.forward
    monkeypatch.setattr(calc.model, "forward", lambda **inputs: calls.append(1) or forward(**inputs))
    return calls


def test_only_what_matters_is_computed_again(monkeypatch):
    atoms = rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    atoms.calc = calculator()
    calls = counted(atoms.calc, monkeypatch)
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energy(True)
    atoms.set_initial_charges([0.5] * len(atoms))
    atoms.set_initial_magnetic_moments([1.0] * len(atoms))
    atoms.get_forces()
    assert len(calls) == 1
    for number, change in enumerate(
        (
            lambda: atoms.positions.__iadd__(0.01 * np.eye(8, 3)),
            lambda: atoms.set_cell(1.01 * atoms.cell.array),
            lambda: atoms.set_pbc([True, True, False]),
            lambda: atoms.numbers.__setitem__(0, 3),
        ),
        start=2,
    ):
        before = atoms.get_potential_energy()
        change()
        assert atoms.get_potential_energy() != before and len(calls) == number
    assert atoms.calc.get_property("energies", atoms, allow_calculation=False) is None


def test_energies_of_atoms_sum_to_the_energy_and_move_with_them():
    atoms = rattled(molecule("CH3COOH"))
    atoms.calc = calculator()
    atoms.calc.model.set_references(torch.arange(119.0), scale=2.0)
    energies = atoms.get_potential_energies()
    assert energies.shape == (8,) and energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    published = ZooCalculator(blockzoo.create_model("tdn", **SMALL, extensive=False), dtype=torch.float64)
    atoms.calc = published
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_direct_forces_offer_no_stress():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.calc = calculator(forces="direct")
    assert "stress" not in atoms.calc.implemented_properties and "stress" in ZooCalculator.implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_calculators_are_copied_pickled_and_written(tmp_path):
    atoms = rattled(molecule("CH3OH"))
    atoms.calc = calculator()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    for other in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):
        again = atoms.copy()
        assert again.calc is None
        again.calc = other
        assert again.get_potential_energy() == energy
        np.testing.assert_array_equal(again.get_forces(), forces)
    ase.io.write(tmp_path / "x.traj", atoms)
    back = ase.io.read(tmp_path / "x.traj")
    assert back.get_potential_energy() == energy and back.calc.name == "zoocalculator"
    assert atoms.calc.todict() == {"model": "tdn", "dtype": "float64"}
    with ase.db.connect(tmp_path / "x.db") as database:
        row = database.get(database.write(atoms))
    assert row.energy == energy and row.calculator_parameters["model"] == "tdn"


def test_an_unknown_element_is_named():
    model = blockzoo.create_model("tdn", **SMALL)
    model.set_references({1: -10.0, 6: -100.0})
    atoms = molecule("H2O")
    atoms.calc = ZooCalculator(model)
    with pytest.raises(ValueError, match=r"\[8\], elements that this model does not know"):
        atoms.get_potential_energy()


def test_a_model_for_another_task_is_refused():
    with pytest.raises(ValueError, match="is for the task 'classification', not 'potential'"):
        ZooCalculator(blockzoo.create_model("nasnet_cifar"))


def test_a_drifting_record_is_told_from_a_quiet_one(tmp_path):
    time = np.linspace(0, 2, 101)
    kinetic = 0.1 + 0.02 * np.sin(50 * time)
    quiet = {"time": time, "kinetic": kinetic, "potential": -kinetic, "total": np.zeros(101)}
    drifting = {**quiet, "total": 0.009 * time}
    assert summarize(quiet, 9)["drift"] == pytest.approx(0, abs=1e-12)
    found = summarize(drifting, 9)
    assert found["drift"] == pytest.approx(1.0) and found["deviation"] == pytest.approx(2.0)
    assert found["length"] == 2 and found["fluctuation"] == pytest.approx(1000 * kinetic.std() / 9)
    draw(drifting, 9, tmp_path / "nve.png")
    assert (tmp_path / "nve.png").read_bytes()[:4] == b"\x89PNG"


def test_a_smaller_step_conserves_energy_better_by_its_square():
    deviations = []
    for timestep in (0.5, 0.25):
        atoms = molecule("CH3OH")
        atoms.calc = calculator()
        record = nve(atoms, int(20 / timestep), timestep, 300, 1, progress=False)
        assert record["time"][-1] == pytest.approx(0.02)
        np.testing.assert_allclose(record["total"], record["potential"] + record["kinetic"])
        deviations.append(summarize(record, len(atoms))["deviation"])
    assert 3 < deviations[0] / deviations[1] < 5  # Verlet is of second order


@pytest.mark.parametrize("progress", [False, True])
def test_all_steps_are_run_though_records_do_not_divide_them(progress):
    atoms = molecule("H2O")
    atoms.calc = calculator()
    other = atoms.copy()
    other.calc = atoms.calc
    record = nve(atoms, 7, 0.5, 300, 3, progress=progress)
    np.testing.assert_allclose(record["time"], [0, 0.0015, 0.003, 0.0035])
    nve(other, 7, 0.5, 300, 1, progress=False)
    np.testing.assert_allclose(atoms.positions, other.positions, rtol=0, atol=1e-12)


def test_forces_that_are_no_gradient_do_not_conserve_energy():
    changes = []
    for forces in ("gradient", "direct"):
        atoms = molecule("CH3OH")
        atoms.calc = calculator(forces=forces)
        changes.append(summarize(nve(atoms, 40, 0.5, 300, 10, progress=False), len(atoms))["deviation"])
    assert changes[1] > 20 * changes[0]


def test_the_shipped_model_relaxes_and_conserves_energy_by_name(capsys, tmp_path):
    options = ["science", "md", "tdn.gfn2", "--molecule", "CH3CH2OH", "--fmax", "0.1", "--steps", "60", "--json"]
    assert main([*options, "--limit", "1", "--out", str(tmp_path / "nve.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["relaxed"] and found["formula"] == "C2H6O" and found["length"] == pytest.approx(0.03)
    assert found["deviation"] < 0.5 and found["fluctuation"] > 5 * found["deviation"]
    assert (tmp_path / "nve.png").is_file()
    assert main([*options, "--limit", "0"]) == 1
    assert main(["science", "md", "tdn.gfn2", "--molecule", "unobtainium"]) == 2
    assert "--molecule unobtainium: not a molecule of ASE's G2 set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps 0 must be at least 1"),
        (["--timestep", "-1"], "--timestep -1 must be positive"),
        (["--structure", "gone.xyz"], "no file gone.xyz"),
        (["--out", "gone/nve.png"], "there is no folder"),
        (["--out", "nve.docx"], "--out nve.docx must end in one of .png"),
    ],
)
def test_wrong_options_of_md_are_one_line(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["science", "md", "tdn.gfn2", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_relaxation_reaches_a_minimum_near_that_of_the_labels():
    atoms = molecule("CH3COCH3")
    atoms.calc = ZooCalculator("tdn.gfn2", dtype=torch.float64)
    before, start = atoms.get_potential_energy(), atoms.get_all_distances()
    assert relax(atoms, 0.05)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.05
    assert atoms.get_potential_energy() < before
    assert np.abs(atoms.get_all_distances() - start).max() < 0.3  # Å, from the G2 geometry
