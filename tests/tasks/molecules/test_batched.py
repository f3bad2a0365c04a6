"""Relaxations and dynamics of many structures at once: each as if it were alone."""

import json

import numpy as np
import pytest
import torch

import blockzoo
from blockzoo.__main__ import main

pytest.importorskip("ase", reason="of the extra 'molecules'")
import ase.io
from ase.build import bulk, molecule

from blockzoo.tasks.molecules.batched import Batch, dynamics, relax_batch

SMALL = {"l_max": 1, "hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}


def model():
    torch.manual_seed(0)
    return blockzoo.create_model("tdn", **SMALL, cutoff=4.0, dtype=torch.float64).eval()


@pytest.fixture(scope="module")
def shipped():
    return blockzoo.create_model("tdn.gfn2", pretrained=True).double().eval()


def molecules():
    return [molecule("CH3CH2OH"), molecule("CH3COCH3"), molecule("CH3CONH2")]


def test_structures_relax_as_if_each_were_alone(shipped):
    together = Batch(shipped, molecules())
    found = relax_batch(together, fmax=0.1)
    assert bool(found["converged"].all()) and len(set(found["steps"].tolist())) > 1
    energies, forces = together.evaluate()
    torch.testing.assert_close(found["energy"], energies)
    assert together.largest(forces.norm(dim=1)).max() <= 0.1
    start = 0
    for i, atoms in enumerate(molecules()):
        alone = Batch(shipped, [atoms])
        before, _ = alone.evaluate()
        one = relax_batch(alone, fmax=0.1)
        assert one["steps"].item() == found["steps"][i].item() and one["energy"].item() < before.item()
        mine = together.positions[start : start + len(atoms)]
        torch.testing.assert_close(mine, alone.positions, rtol=0, atol=1e-6)
        start += len(atoms)


def test_too_few_steps_are_not_called_converged(shipped):
    found = relax_batch(Batch(shipped, molecules()), fmax=1e-4, steps=3)
    assert not found["converged"].any() and found["steps"].tolist() == [3, 3, 3]


def test_dynamics_conserves_energy_and_leaves_structures_at_rest():
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    deviations = []
    for timestep in (0.5, 0.25):
        batch = Batch(model(), [molecule("CH3OH"), crystal])
        centres = batch.sums(batch.masses * batch.positions)
        record = dynamics(batch, int(10 / timestep), timestep, 300, interval=1)
        torch.testing.assert_close(batch.sums(batch.masses * batch.positions), centres, rtol=0, atol=1e-7)
        total = record["potential"] + record["kinetic"]
        deviations.append((total - total[0]).abs().amax(0))
        assert record["time"][-1] == pytest.approx(0.01) and total.shape == (int(10 / timestep) + 1, 2)
    assert 3 < float(deviations[0][0] / deviations[1][0]) < 5  # Verlet is of second order


def test_the_thermostat_brings_a_gas_to_its_temperature():
    atoms = [ase.Atoms("Ar", positions=[[0.0, 0, 0]]) for _ in range(400)]  # alone, without forces
    batch = Batch(model(), atoms)
    record = dynamics(batch, 160, 1.0, 500.0, friction=0.05, interval=40)
    kelvin = record["kinetic"][3:].mean() * 2 / 3 / 8.617333262e-5
    assert float(kelvin) == pytest.approx(500, rel=0.05)


def test_the_command_relaxes_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("in.xyz", molecules(), format="extxyz")
    assert main(["science", "relax", "tdn.gfn2", "in.xyz", "--fmax", "0.1", "--batch-size", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    relaxed = ase.io.read("in_relaxed.extxyz", index=":")
    assert [row["formula"] for row in report["frames"]] == [a.get_chemical_formula() for a in relaxed]
    for row, atoms in zip(report["frames"], relaxed, strict=True):
        assert row["converged"] and np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.1
        assert row["energy"] == pytest.approx(atoms.get_potential_energy())
    assert main(["science", "relax", "tdn.gfn2", "in.xyz", "--steps", "1"]) == 1
    capsys.readouterr()
    ase.io.write("si.xyz", [molecule("SiH4")], format="extxyz")
    for options, message in (
        (["si.xyz"], "si.xyz, frame 0: atomic numbers [14], elements that tdn.gfn2 does not know"),
        (["in.xyz", "--out", "in.xyz"], "in.xyz is an input too"),
        (["in.xyz", "--fmax", "0"], "--fmax 0 must be positive"),
    ):
        assert main(["science", "relax", "tdn.gfn2", *options]) == 2
        assert message in capsys.readouterr().err
