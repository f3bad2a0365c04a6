"""Exported potentials: the same energies, forces and stresses for any number of atoms, edges and graphs."""

import pytest
import torch

import blockzoo
from blockzoo.tasks.deploy import export as model_export
from blockzoo.tasks.molecules.export import export_program, package_inputs

SMALL = {"hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2, "dtype": torch.double}


@pytest.mark.parametrize(("forces", "periodic"), [("gradient", True), ("direct", False)])
def test_program_takes_any_sizes_and_returns_forces(forces, periodic):
    model = blockzoo.create_model("tdn", forces=forces, **SMALL)
    program = export_program(model, package_inputs(model, periodic=periodic)).module()
    for graphs in (2, 4, 7):
        fresh = package_inputs(model, graphs, periodic)
        expected, found = model(**fresh), program(*fresh.values())
        assert found.keys() == expected.keys() == {"energy", "forces"} | ({"stress"} if periodic else set())
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-12)
            assert forces == "direct" or not found[key].requires_grad


def test_program_for_one_graph():
    model = blockzoo.create_model("tdn", **SMALL)
    inputs = model.example_inputs(3)  # taken as one graph
    wanted = ("positions", "atomic_numbers", "edge_index")
    program = export_program(model, {name: inputs[name] for name in wanted}).module()
    fresh = {name: value for name, value in model.example_inputs(1).items() if name in wanted}
    torch.testing.assert_close(program(*fresh.values())["forces"], model(**fresh)["forces"].detach())


def test_sizes_that_tracing_would_mix_up_are_refused():
    model = blockzoo.create_model("tdn", **SMALL)
    with pytest.raises(ValueError, match="atoms, edges and graphs; give numbers other than 2 and 3"):
        export_program(model, package_inputs(model, 2))


def test_a_model_of_tensors_exports_as_well():
    model = blockzoo.create_model("tdn_tensor", l_max=2, **SMALL)
    program = export_program(model).module()
    fresh = package_inputs(model, 4)
    torch.testing.assert_close(program(*fresh.values())["tensor"], model(**fresh)["tensor"])


def test_potentials_run_in_onnxruntime_with_their_forces(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra export")
    model = blockzoo.create_model("tdn", **{**SMALL, "dtype": torch.float32}).eval()
    model_export.export_model(model, "onnx", tmp_path / "tdn.onnx")
    run = model_export.load_exported(tmp_path / "tdn.onnx", "onnx")
    assert model_export.difference(model, run, model_export.fresh_examples(model)) < 1e-4
