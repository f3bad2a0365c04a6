"""Making molecular dynamics with GFN2-xTB: resumable, deterministic, and what the packaged frames were labelled by."""

import json

import numpy as np
import pytest
import torch

from blockzoo.__main__ import main
from blockzoo.checkpoints import load_state_dict, read_metadata
from blockzoo.tasks.molecules import xtb
from blockzoo.tasks.molecules.structures import XTBMolecules

pytest.importorskip("tblite", reason="of the extra 'molecules'")
SHORT = {"train": (2, 2), "val": (1, 1), "test": (1, 1), "interval": 2, "equilibration": 4}


def test_packaged_labels_are_those_of_gfn2_xtb():
    from ase import Atoms

    data = XTBMolecules()
    data.setup("test")
    for structure in data.datasets["test"].structures[::120]:
        atoms = Atoms(structure.atomic_numbers.numpy(), structure.positions.numpy(), calculator=xtb._calculator())
        assert atoms.get_potential_energy() == pytest.approx(float(structure.energy), abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), structure.forces.numpy(), atol=1e-4)


def test_an_interrupted_set_goes_on_where_it_stopped_and_seeds_decide(tmp_path, monkeypatch):
    settings = xtb.XTBSettings(("H2O",), (300.0,), **SHORT)
    real, calls = xtb._run, []

    def limited(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args[2:])
        return real(*args)

    monkeypatch.setattr(xtb, "_run", limited)
    with pytest.raises(KeyboardInterrupt):
        xtb.generate(settings, tmp_path, progress=False)
    assert sorted(path.name for path in (tmp_path / settings.name).iterdir()) == [
        "H2O_300_train_0.safetensors",
        "H2O_300_train_1.safetensors",
    ]
    monkeypatch.setattr(xtb, "_run", lambda *args: calls.append(args[2:]) or real(*args))
    found = xtb.generate(settings, tmp_path, progress=False)
    assert len(calls) == 4  # two before, two after
    assert found["part"].tolist() == [0] * 4 + [1, 2] and found["num_atoms"].tolist() == [3] * 6
    fresh = xtb.generate(settings, tmp_path / "again", progress=False)
    assert all(torch.equal(value, fresh[key]) for key, value in found.items())
    assert len({tuple(frame.flatten().tolist()) for frame in found["positions"].split(3)}) == 6
    other = xtb.generate(xtb.XTBSettings(("H2O",), (300.0,), seed=1, **SHORT), tmp_path, progress=False)
    assert not torch.equal(other["positions"], found["positions"])


def test_the_command_writes_a_file_that_the_data_module_reads(tmp_path):
    arguments = ["--molecules", "H2O", "CH4", "NH3", "--temperatures", "300", "--cache-dir", str(tmp_path / "cache")]
    arguments += ["--equilibration", "2", "--interval", "1"]
    parts = [word for part in xtb.PARTS for word in (f"--{part}", "1", "1")]
    assert main(["package", "xtb", *arguments, *parts, "--out", str(tmp_path / "set.safetensors")]) == 0
    assert json.loads(read_metadata(tmp_path / "set.safetensors")["settings"])["molecules"] == ["H2O", "CH4", "NH3"]
    assert load_state_dict(tmp_path / "set.safetensors")["energy"].dtype == torch.double
    data = XTBMolecules(path=str(tmp_path / "set.safetensors"), molecules=["CH4"])
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 1, "val": 1, "test": 1}
    assert data.datasets["val"].structures[0].atomic_numbers.tolist() == [6, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--molecules", "H2O", "Foo"], "--molecules Foo: not a molecule of ASE's G2 set"),
        (["--temperatures", "300", "-1"], "--temperatures -1 must be positive and finite"),
        (["--interval", "0"], "--interval 0 must be positive"),
        (["--equilibration", "-1"], "--equilibration -1 must be at least 0"),
        (["--train", "1", "0"], "--train 1 0 must be trajectories and at least 1 frame in each"),
        (["--train", "0", "1", "--val", "0", "1", "--test", "0", "1"], "ask for no trajectory"),
    ],
)
def test_wrong_settings_are_one_line_before_any_work(options, message, tmp_path, capsys):
    command = ["package", "xtb", "--out", str(tmp_path / "x.safetensors"), "--cache-dir", str(tmp_path / "cache")]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
