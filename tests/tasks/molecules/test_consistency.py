"""Data, weights and models that don't belong together are refused, and fine-tuning fits what trained weights miss."""

import types

import pytest
import torch

import blockzoo
from blockzoo.checkpoints import save_state_dict
from blockzoo.layers.equivariant.cartesian_tensor import to_irreps
from blockzoo.tasks.molecules.potential import InteratomicPotential
from blockzoo.tasks.molecules.structures import Structure
from blockzoo.tasks.molecules.tensors import TensorProperty

SIZES = {"hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}


def ready(task, structures=(), cutoff=None):
    data = types.SimpleNamespace(cutoff=cutoff, train_sample=lambda: list(structures))
    task._trainer = types.SimpleNamespace(datamodule=data)
    return task


def small(**kwargs):
    return InteratomicPotential("tdn", model_kwargs={**SIZES, **kwargs})


def labelled(per_atom):
    """Structures with the energies of tdn.gfn2, but other energies of the elements."""
    model = blockzoo.create_model("tdn.gfn2", pretrained=True)
    found = []
    for seed in range(8):
        inputs = model.example_inputs(1, torch.Generator().manual_seed(seed))
        del inputs["cell"]
        numbers = inputs["atomic_numbers"]
        shift = sum(per_atom[number] for number in numbers.tolist())
        energy = model(**inputs)["energy"][0].detach().double() + shift
        found.append(Structure(inputs["positions"], numbers, energy, torch.zeros(len(numbers), 3)))
    return found


def test_data_with_another_cutoff_is_refused():
    with pytest.raises(ValueError, match=r"data.cutoff=3 Å differs from the model's 4.5 Å"):
        ready(small(), cutoff=3.0).setup("test")
    tensors = TensorProperty("tdn_tensor", model_kwargs=SIZES)
    with pytest.raises(ValueError, match=r"data.cutoff=3 Å differs from the model's 4.5 Å"):
        ready(tensors, cutoff=3.0).setup("test")
    ready(small(), cutoff=4.5).setup("test")


def test_a_checkpoint_of_another_cutoff_is_refused():
    checkpoint = {}
    small(cutoff=3.0).on_save_checkpoint(checkpoint)
    small(cutoff=3.0).on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=r"trained with cutoff=3 Å, the model has 4.5 Å; set model_kwargs.cutoff to 3"):
        small().on_load_checkpoint(checkpoint)


def test_fine_tuning_fits_the_energies_that_trained_weights_miss():
    structures = labelled({1: -2000.0, 6: -1500.0, 7: -1800.0, 8: -900.0})
    task = ready(InteratomicPotential("tdn.gfn2", pretrained=True), structures)
    before = task.model.references.clone()
    task.setup("fit")
    expected = torch.stack([structure.energy for structure in structures])
    torch.testing.assert_close(task._energies(structures), expected, rtol=0, atol=1e-2)
    assert task.model.references[1] - before[1] == pytest.approx(-2000, abs=1e-2)
    kept = ready(InteratomicPotential("tdn.gfn2", pretrained=True, references="model"), structures)
    kept.setup("fit")
    assert torch.equal(kept.model.references, before)


def test_fine_tuning_accepts_elements_that_the_weights_do_not_know():
    silicon = Structure(
        torch.tensor([[0.0, 0, 0], [0, 0, 1.5]]),
        torch.tensor([14, 1]),
        torch.tensor(-7900.0, dtype=torch.double),
        torch.zeros(2, 3),
    )
    structures = [*labelled(dict.fromkeys((1, 6, 7, 8), 0.0)), silicon]
    task = ready(InteratomicPotential("tdn.gfn2", pretrained=True), structures)
    task.setup("fit")
    assert task.model.elements == [1, 6, 7, 8, 14]
    expected = torch.stack([structure.energy for structure in structures])
    torch.testing.assert_close(task._energies(structures), expected, rtol=0, atol=1e-2)


class _Rows(list):
    """Molecules with tensors, as `QM9Polarizability` holds them."""

    @property
    def rows(self):
        return self


def tensors(model, unit, per_atom):
    """Molecules with a model's own tensors in another unit, and another trace of each element."""
    found = _Rows()
    for seed in range(8):
        inputs = model.example_inputs(1, torch.Generator().manual_seed(seed))
        numbers = inputs["atomic_numbers"]
        target = to_irreps(model(**inputs)["tensor"][0].detach().double()) * unit
        target[0] += sum(per_atom[number] for number in numbers.tolist())
        row = {"positions": inputs["positions"], "atomic_numbers": numbers, "target": target}
        found.append({**row, "index": torch.tensor(seed)})
    return found


@pytest.mark.parametrize("references", ["fit", "model"])
def test_fine_tuning_on_tensors_fits_the_unit_and_the_elements(references, tmp_path):
    torch.manual_seed(0)
    old = blockzoo.create_model("tdn_tensor", **SIZES).eval()
    old.set_references({1: 2.0, 6: 5.0, 7: 4.0, 8: 3.0})
    save_state_dict(old.state_dict(), tmp_path / "old.safetensors", {"format": "pt"})
    rows = tensors(old, 0.148, {1: -1.0, 6: 3.0, 7: 2.5, 8: 0.5})
    task = TensorProperty("tdn_tensor", SIZES, checkpoint_path=str(tmp_path / "old.safetensors"), references=references)
    task._trainer = types.SimpleNamespace(datamodule=types.SimpleNamespace(cutoff=None, datasets={"train": rows}))
    task.setup("fit")
    expected = torch.stack([row["target"] for row in rows])
    error = (task._parts(rows) - expected).abs().max()
    assert error < 1e-4 if references == "fit" else error > 1
