"""Equation of state, elastic constants and phonons: consistent with each other, and with what theory demands."""

import json

import numpy as np
import pytest

from blockzoo.__main__ import main

pytest.importorskip("ase", reason="of the extra 'molecules'")
import ase.io
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from blockzoo.tasks.molecules.elastic import averages, elastic_constants
from blockzoo.tasks.molecules.eos import equation_of_state
from blockzoo.tasks.molecules.phonons import phonons
from blockzoo.tasks.molecules.science import relax_crystal


@pytest.fixture
def copper():
    """Copper at the minimum of effective-medium theory, which needs no potential of ours."""
    atoms = bulk("Cu", a=3.6)
    atoms.calc = EMT()
    assert relax_crystal(atoms, 1e-4)
    return atoms


@pytest.fixture
def by_emt(monkeypatch):
    monkeypatch.setattr("blockzoo.tasks.molecules.ase_calculator.ZooCalculator", lambda *args, **kwargs: EMT())


def test_bulk_moduli_of_volumes_and_of_strains_agree(copper):
    state = equation_of_state(copper, 0.03)
    matrix = elastic_constants(copper, 0.003)
    c11, c12, c44 = matrix[0, 0], matrix[0, 1], matrix[3, 3]
    expected = np.zeros((6, 6))
    expected[:3, :3], expected[3:, 3:] = c12, c44 * np.eye(3)
    expected[range(3), range(3)] = c11
    np.testing.assert_allclose(matrix, expected, atol=0.02 * c11)  # cubic
    assert state["bulk_modulus"] == pytest.approx((c11 + 2 * c12) / 3, rel=0.02)
    assert state["volume"] == pytest.approx(copper.get_volume(), rel=1e-3) and state["error"] < 0.1
    assert 125 < state["bulk_modulus"] < 145  # published for this method: 135 GPa
    found = averages(matrix)
    assert found["bulk_modulus"] == pytest.approx((c11 + 2 * c12) / 3, rel=1e-3) and found["anisotropy"] > 0


def test_averages_of_an_isotropic_material_are_its_moduli():
    bulk_modulus, shear = 90.0, 40.0
    matrix = np.zeros((6, 6))
    matrix[:3, :3] = bulk_modulus - 2 * shear / 3
    matrix[range(3), range(3)] += 2 * shear
    matrix[range(3, 6), range(3, 6)] = shear
    found = averages(matrix)
    assert found["bulk_modulus"] == pytest.approx(90) and found["shear_modulus"] == pytest.approx(40)
    assert found["young_modulus"] == pytest.approx(9 * 90 * 40 / (3 * 90 + 40))
    assert found["poisson_ratio"] == pytest.approx((270 - 80) / (540 + 80)) and abs(found["anisotropy"]) < 1e-12
    assert np.isnan(averages(-matrix)["shear_modulus"])


def test_a_curve_without_a_minimum_is_refused():
    stretched = bulk("Cu", a=4.2)
    stretched.calc = EMT()
    with pytest.raises(ValueError, match="the energy has no minimum between .* relax the crystal first, by --fmax"):
        equation_of_state(stretched, 0.02)


def test_phonons_obey_the_laws_of_crystals(copper):
    pytest.importorskip("phonopy", reason="of the extra 'phonons'")
    found = phonons(copper, supercell=4, mesh=12, temperature=3000)
    assert np.abs(found["gamma"]).max() < 1e-2 and found["stable"]  # moving the whole crystal costs nothing
    assert found["heat_capacity"] == pytest.approx(3 * 8.314, rel=2e-3)  # Dulong and Petit
    assert 6 < found["highest"] < 9  # experiment: 7.4 THz
    area = np.trapezoid(found["dos"]["density"], found["dos"]["frequencies"])
    assert area == pytest.approx(3, rel=0.03)  # three branches
    # The slowest branch from Γ to X has the speed of a transverse wave, √(C44 / density).
    path = found["bands"][0]
    assert path["labels"] == ["G", "X"]
    speed = path["frequencies"][3][0] * 1e12 / (path["distances"][3] * 1e10)
    density = 63.546 * 1.66054e-27 / (copper.get_volume() * 1e-30)
    assert speed == pytest.approx(np.sqrt(elastic_constants(copper)[3, 3] * 1e9 / density), rel=0.05)


@pytest.mark.parametrize("tool", ["eos", "elastic", "phonons"])
def test_tools_print_json_and_draw(tool, by_emt, capsys, tmp_path):
    if tool == "phonons":
        pytest.importorskip("phonopy", reason="of the extra 'phonons'")
    out = tmp_path / "x.png"
    options = ["--supercell", "2", "--mesh", "4"] if tool == "phonons" else []
    command = ["science", tool, "tdn.gfn2", "--bulk", "Cu:fcc:3.6", "--fmax", "0.001", "--out", str(out)]
    assert main([*command, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = {"eos": "bulk_modulus", "elastic": "constants", "phonons": "bands"}[tool]
    assert found["formula"] == "Cu" and wanted in found and "units" in found
    assert out.read_bytes()[:4] == b"\x89PNG"
    assert main([*command, *options]) == 0
    assert "tdn.gfn2, Cu: " in capsys.readouterr().out


@pytest.mark.parametrize("tool", ["eos", "elastic", "phonons", "md", "relax"])
def test_every_tool_takes_a_folder_of_a_run_and_refuses_unknown_devices(tool, monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    ase.io.write("copper.xyz", bulk("Cu"), format="extxyz")
    structure = ["copper.xyz"] if tool == "relax" else ["--structure", "copper.xyz"]

    def potential(name, **options):
        asked.append((name, options["device"]))
        raise ValueError("enough")

    monkeypatch.setattr("blockzoo.tasks.molecules.ase_calculator.ZooCalculator", potential)
    assert main(["science", tool, "run", *structure]) == 2
    assert asked == [("local-dir:run", "cpu")] and "enough" in capsys.readouterr().err
    assert main(["science", tool, "run", *structure, "--device", "tpu"]) == 2
    assert len(asked) == 1 and "--device 'tpu' must be cpu or cuda" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bulk", "Xx"], "--bulk Xx: "),
        (["--bulk", "Cu:fcc:-3.6"], "--bulk Cu:fcc:-3.6: A is '-3.6', not a length in Å; give SYMBOL:LATTICE:A"),
        (["--bulk", "Cu:fcc:nan"], "--bulk Cu:fcc:nan: A is 'nan', not a length"),
        (["--bulk", "Cu:fcc:3.6:4"], "--bulk Cu:fcc:3.6:4: A is '3.6:4', not a length"),
        (["--bulk", "Cu:fcc:3.6", "--device", "tpu"], "--device 'tpu' must be cpu or cuda"),
        (["--bulk", "Cu:fcc:3.6", "--fmax", "-1"], "--fmax -1 must be at least 0"),
        (["--bulk", "Cu:fcc:3.6", "--out", "x.docx"], "--out x.docx must end in one of .png"),
        (["--bulk", "Cu:fcc:3.6", "--out", "gone/x.png"], "there is no folder"),
        (["--bulk", "Cu:fcc:3.6", "--strain", "0"], "--strain 0 must be positive"),
        (["--structure", "water.xyz"], "--structure water.xyz: the structure must be periodic in all directions"),
        (["--structure", "gone.xyz"], "no file gone.xyz"),
    ],
)
def test_wrong_options_are_one_line(options, message, by_emt, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("water.xyz", molecule("H2O"), format="extxyz")
    assert main(["science", "elastic", "tdn.gfn2", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
