"""`blockzoo predict` on files of molecules and crystals."""

import json

import numpy as np
import pytest
import torch

from blockzoo.__main__ import main

pytest.importorskip("ase", reason="needs the extra molecules")
import ase
import ase.build
import ase.io
from ase.calculators.singlepoint import SinglePointCalculator

from blockzoo.tasks.molecules.ase_calculator import ZooCalculator


def test_energies_forces_and_stress_of_every_frame_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    water, ethanol = ase.build.molecule("H2O"), ase.build.molecule("CH3CH2OH")
    crystal = ase.build.molecule("CH4", cell=[5.0, 5.0, 5.0], pbc=True)
    water.calc = SinglePointCalculator(water, energy=-137.0, forces=np.full((3, 3), 0.5))
    ase.io.write("in.xyz", [water, ethanol, crystal], format="extxyz")
    assert main(["predict", "tdn.gfn2", "in.xyz", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    frames = ase.io.read(report["file"], index=":")
    assert [row["formula"] for row in report["frames"]] == ["H2O", "C2H6O", "CH4"]
    calculator = ZooCalculator("tdn.gfn2", dtype=torch.float64)
    for atoms, frame, row in zip((water, ethanol, crystal), frames, report["frames"], strict=True):
        bare = ase.Atoms(
            atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, calculator=calculator
        )
        assert row["energy"] == pytest.approx(bare.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(frame.get_forces(), bare.get_forces(), atol=1e-6)
    assert report["frames"][0]["energy error"] == pytest.approx(report["frames"][0]["energy"] + 137)
    assert "energy error" not in report["frames"][1] and frames[2].get_stress().shape == (6,)
    assert main(["predict", "tdn.gfn2", "in.xyz", "--out", "out.extxyz"]) == 0
    assert "energies and forces: out.extxyz" in capsys.readouterr().out


def test_one_refused_frame_leaves_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    water, gold = ase.build.molecule("H2O"), ase.Atoms("AuH", positions=[[0, 0, 0], [0, 0, 1.5]])
    ase.io.write("in.xyz", [water, gold, water], format="extxyz")
    assert main(["predict", "tdn.gfn2", "in.xyz", "--json"]) == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert [row["frame"] for row in report["frames"]] == [0, 2] and len(ase.io.read(report["file"], index=":")) == 2
    assert "in.xyz, frame 1: atomic_numbers has [79]" in said.err and "1 of 3 frames were left out" in said.err


def test_labels_of_any_name_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for key in ("REF", "dft"):
        water = ase.build.molecule("H2O")
        water.info[f"{key}_energy"], water.arrays[f"{key}_forces"] = -137.0, np.zeros((3, 3))
        ase.io.write(f"{key}.xyz", water, format="extxyz")
    options = ["--energy-key", "dft_energy", "--forces-key", "dft_forces"]
    for call in (["REF.xyz"], ["dft.xyz", *options]):
        assert main(["predict", "tdn.gfn2", *call, "--json"]) == 0
        row = json.loads(capsys.readouterr().out)["frames"][0]
        assert row["energy error"] == pytest.approx(row["energy"] + 137) and row["force MAE"] > 0
    assert main(["predict", "tdn.gfn2", "REF.xyz", *options]) == 2
    assert "REF.xyz, frame 0: no energy 'dft_energy'; there are REF_energy" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("in.xyz", ase.build.molecule("H2O"), format="extxyz")
    before = (tmp_path / "in.xyz").read_bytes()
    for out, message in (("gone/out.xyz", "there is no folder"), ("in.xyz", "in.xyz is an input too")):
        assert main(["predict", "tdn.gfn2", "in.xyz", "--out", out]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "in.xyz").read_bytes() == before


def test_wrong_files_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("gold.xyz", ase.Atoms("AuH", positions=[[0, 0, 0], [0, 0, 1.5]]), format="extxyz")
    (tmp_path / "broken.xyz").write_text("2\n\nH 0 0 0\n")
    for name, message in (
        ("gold.xyz", "gold.xyz, frame 0: atomic_numbers has [79], elements that this model does not know"),
        ("broken.xyz", "2 atoms are announced, the file ends after 1"),
        ("gone.xyz", "gone.xyz: no such file"),
    ):
        assert main(["predict", "tdn.gfn2", name]) != 0
        assert message in capsys.readouterr().err
    assert main(["predict", "tdn.gfn2", "gold.xyz", "--out", "a.csv"]) != 0
    assert "must end in .extxyz or .xyz" in capsys.readouterr().err
    assert not list(tmp_path.glob("*predicted*"))


def test_files_in_other_units_are_converted_as_the_models_own_data_were(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    water = ase.build.molecule("H2O")
    ase.io.write("plain.xyz", water, format="extxyz")
    assert main(["predict", "tdn.gfn2", "plain.xyz", "--json"]) == 0
    energy = json.loads(capsys.readouterr().out)["frames"][0]["energy"]
    water.positions /= 0.529177210903
    water.info["REF_energy"] = energy / 27.211386245988
    ase.io.write("bohr.xyz", water, format="extxyz")
    command = ["predict", "tdn.gfn2", "bohr.xyz", "--json"]
    assert main([*command, "--length-unit", "Bohr", "--energy-unit", "Hartree"]) == 0
    row = json.loads(capsys.readouterr().out)["frames"][0]
    assert row["energy"] == pytest.approx(energy, abs=1e-4) and abs(row["energy error"]) < 1e-4
    assert main([*command, "--length-unit", "feet"]) == 2
    assert "length_unit: 'feet' must be one of Angstrom, nm, Bohr" in capsys.readouterr().err


def test_a_run_reads_files_as_its_training_data(tmp_path, monkeypatch, capsys):
    from blockzoo.tasks.app.training import run

    monkeypatch.chdir(tmp_path)
    frames = []
    for i in range(8):
        atoms = ase.build.molecule(("H2O", "H2O2")[i % 2])  # two formulas tell the elements apart
        atoms.rattle(0.05, seed=i)
        atoms.positions /= 0.529177210903
        atoms.info["dft_energy"], atoms.arrays["dft_forces"] = -76.4 - 75 * (i % 2), np.zeros((len(atoms), 3))
        frames.append(atoms)
    ase.io.write("train.xyz", frames, format="extxyz")
    options = ["--data=StructureFiles", "--data.path=train.xyz", "--data.energy_key=dft_energy"]
    options += ["--data.forces_key=dft_forces", "--data.energy_unit=Hartree", "--data.length_unit=Bohr"]
    options += ["--data.check_units=false", "--data.test_path=train.xyz"]
    options += ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    fitted = run(["fit", "--config", "smoke/tdn", *options])
    capsys.readouterr()
    assert main(["predict", fitted.trainer.log_dir, "train.xyz", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["frames"][0]
    assert abs(row["energy error"]) < 5 and row["energy"] == pytest.approx(-76.4 * 27.2114, abs=5)
