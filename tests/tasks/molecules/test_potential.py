"""Training a potential on the packaged molecules: it learns, and its metrics and references are what they claim."""

import functools
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

import blockzoo
from blockzoo.__main__ import main as blockzoo_main
from blockzoo.tasks.app.training import main, run
from blockzoo.tasks.molecules.potential import (
    InteratomicPotential,
    fit_references,
    force_angles,
    linear_baseline,
    per_structure_rmse,
)
from blockzoo.tasks.molecules.structures import XTBMolecules, composition

TINY = {"l_max": 1, "hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}
TINY |= {"cutoff": 3.5, "radial_basis": "bessel", "avg_degree": 8.0}
ADAM = functools.partial(torch.optim.AdamW, lr=2e-2)
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _seed_variables(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


def trainer(**options):
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(accelerator="cpu", **{**silent, **options})


def ethanol(**options):
    return XTBMolecules(molecules=["CH3CH2OH"], **{"batch_size": 8, "train_size": 64, **options})


def trained(forces="gradient", epochs=2, seed=0, **options):
    seed_everything(seed, verbose=False)
    task = InteratomicPotential("tdn", {**TINY, "forces": forces}, optimizer=ADAM, **options)
    with pytest.warns(UserWarning, match="have rank 1, fewer than their 3 elements"):
        trainer(max_epochs=epochs, limit_val_batches=0).fit(task, datamodule=ethanol())
    return task


@pytest.fixture(scope="module")
def task():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        return trained(epochs=12)


def evaluated(task, batch_size=40):
    data = ethanol(batch_size=batch_size)
    return trainer(limit_test_batches=None).test(task, datamodule=data, verbose=False)[0], data


def without_forces(data):
    return 1000 * float(torch.cat([s.forces for s in data.datasets["test"].structures]).abs().mean())


def test_a_few_epochs_beat_no_forces_by_far(task):
    result, data = evaluated(task)
    assert result["test/force_mae"] < 0.5 * without_forces(data)
    assert result["test/force_angle"] < 45  # at random: 90


def test_the_linear_baseline_fits_the_elements_and_has_no_forces(tmp_path):
    data = ready(XTBMolecules())
    train, test = data.train_sample(), data.datasets["test"].structures
    baseline = linear_baseline(train, test)
    elements, counts = composition(train)
    _, residuals = fit_references(counts, torch.stack([s.energy for s in train]))
    spread = float((residuals / counts.sum(1)).abs().mean()) * 1000
    assert baseline["energy_mae"] == pytest.approx(spread, rel=0.2)
    assert baseline["force_mae"] == pytest.approx(without_forces(data), rel=1e-6)
    words = ["--config", "molecules/tdn", "--metric", "test/energy_mae", "--out", str(tmp_path / "out")]
    assert blockzoo_main(["baselines", *words]) == 0
    report = json.loads((tmp_path / "out" / "linear.json").read_text())
    assert report["last"]["median"] == report["metrics"]["test/energy_mae"] == pytest.approx(baseline["energy_mae"])


@pytest.mark.parametrize("batch_size", [7, 120])
def test_metrics_are_those_of_all_frames_whatever_the_batches(task, batch_size):
    result, data = evaluated(task, batch_size)
    energy, force, rmse = [], [], []
    for s in data.datasets["test"].structures:
        found = task.model(s.positions, s.atomic_numbers)
        energy.append((found["energy"].detach().double() - s.energy)[0] / 9)
        force.append((found["forces"] - s.forces).detach())
        rmse.append(force[-1].square().sum(-1).mean().sqrt())
    force = torch.stack(force)
    expected = {
        "energy_mae": torch.stack(energy).abs().mean(),
        "energy_rmse": torch.stack(energy).square().mean().sqrt(),
        "force_mae": force.abs().mean(),
        "force_component_rmse": force.square().mean().sqrt(),
        "force_rmse": torch.stack(rmse).mean(),
    }
    for name, value in expected.items():
        assert result[f"test/{name}"] == pytest.approx(1000 * float(value), rel=2e-3), name
    truth = torch.cat([s.forces for s in data.datasets["test"].structures])
    angle = force_angles(truth + force.flatten(0, 1), truth).mean()
    assert result["test/force_angle"] == pytest.approx(float(angle), rel=1e-4)


def test_forces_are_trained_and_evaluated_as_gradients_under_inference_mode(task):
    batch = next(iter(ready(ethanol()).test_dataloader()))
    with torch.inference_mode():
        inside = task.predict(batch)
    outside = task.predict(batch)
    assert outside["forces"].requires_grad and not inside["forces"].requires_grad
    torch.testing.assert_close(inside["forces"], outside["forces"], rtol=1e-5, atol=1e-6)


def ready(data):
    data.setup("fit")
    return data


def test_direct_forces_train_as_well():
    result, data = evaluated(trained("direct", epochs=6))
    assert result["test/force_mae"] < 0.9 * without_forces(data)


def test_the_seed_decides_the_weights():
    first, again, other = (trained(seed=seed, epochs=1).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_references_are_the_elements_energies_where_compositions_tell_them_apart():
    true = torch.tensor([-13.0, -1030.0, -1485.0, -2043.0], dtype=torch.double)
    counts = torch.randint(0, 9, (40, 4)).double() + torch.eye(4).repeat(10, 1)
    references, residuals = fit_references(counts, counts @ true)
    torch.testing.assert_close(references, true, rtol=1e-9, atol=0)
    assert residuals.abs().max() < 1e-7


def test_references_of_one_formula_are_near_one_energy_per_atom_and_said_to_be():
    counts = torch.tensor([[6.0, 2.0, 1.0]]).repeat(5, 1)
    with pytest.warns(UserWarning, match="have rank 1, fewer than their 3 elements"):
        references, residuals = fit_references(counts, torch.full((5,), -310.0))
    assert references.isfinite().all() and references.std() < 5
    assert residuals.abs().max() < 1e-4


def test_references_reach_the_model_and_the_energies():
    task = InteratomicPotential("tdn", TINY, optimizer=ADAM)
    data = XTBMolecules(train_size=200)
    trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(task, datamodule=data)
    assert task.model.elements == [1, 6, 7, 8]
    result = trainer().test(task, datamodule=data, verbose=False)[0]
    assert result["test/energy_mae"] < 500  # meV per atom, of 35 eV per atom


def test_per_structure_rmse_has_a_finite_gradient_at_zero():
    error = torch.zeros(4, 3, requires_grad=True)
    found = per_structure_rmse(error, torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2]))
    found.sum().backward()
    assert found.tolist() == [0, 0] and error.grad.isfinite().all()
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    assert float(per_structure_rmse(vectors, torch.tensor([0, 0]), torch.tensor([2]))) == pytest.approx(12.5**0.5)


def test_angles_are_exact_for_small_and_opposite_forces():
    force = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0]], dtype=torch.double)
    other = torch.tensor([[2.0, 2e-9, 0], [-3.0, 0, 0], [0, 5.0, 0], [0.0, 0, 0]], dtype=torch.double)
    expected = torch.tensor([1e-9 * 180 / torch.pi, 180.0, 90.0, 0.0], dtype=torch.double)
    torch.testing.assert_close(force_angles(force, other), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_loss": "huber"}, "energy_loss='huber' must be one of l1, mse"),
        ({"force_loss": "cosine"}, "force_loss='cosine' must be one of rmse, l1, mse"),
        ({"force_weight": -1.0}, "force_weight=-1.0 must not be negative"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        InteratomicPotential("tdn", TINY, **options)


def test_a_plateau_lowers_the_rate_and_excludes_other_schedules():
    task = InteratomicPotential("tdn", TINY, optimizer=ADAM, plateau_patience=0, schedule="constant")
    task.lr = 0.0  # nothing can become better
    run_ = trainer(max_epochs=3, limit_train_batches=1, limit_val_batches=1)
    run_.fit(task, datamodule=XTBMolecules(train_size=16))
    assert run_.lr_scheduler_configs[0].scheduler.num_bad_epochs <= 1
    assert run_.lr_scheduler_configs[0].reduce_on_plateau
    with pytest.raises(ValueError, match="plateau_patience=2 needs schedule: constant, not cosine"):
        bad = InteratomicPotential("tdn", TINY, optimizer=ADAM, plateau_patience=2)
        trainer(max_epochs=1).fit(bad, datamodule=XTBMolecules(train_size=16))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_trains_tests_predicts_and_the_model_comes_back_by_name(folder):
    fitted = run(["fit", "--config", "smoke/tdn", *QUIET])
    log_dir = Path(fitted.trainer.log_dir)
    assert (log_dir / "parity.png").read_bytes()[:4] == b"\x89PNG"
    results = json.loads((log_dir / "results.json").read_text())["test"]
    assert {"test/energy_mae", "test/force_mae", "test/force_rmse", "test/force_angle"} <= set(results)
    again = run(["test", str(log_dir), *QUIET]).trainer.callback_metrics
    assert {key: float(again[key]) for key in results} == results
    assert main(["predict", str(log_dir), *QUIET]) == 0
    lines = Path("runs/predictions.csv").read_text().splitlines()
    assert lines[0] == "index,atomic_number,energy,forces_0,forces_1,forces_2"
    data = ready(XTBMolecules())
    assert len(lines) == 1 + sum(len(s.positions) for s in data.datasets["test"].structures)
    model = blockzoo.create_model(f"local-dir:{log_dir}", pretrained=True).eval()
    s = data.datasets["test"].structures[0]
    found = model(s.positions, s.atomic_numbers)
    row = [float(cell) for cell in lines[1].split(",")]
    assert row[2] == pytest.approx(found["energy"].item(), abs=1e-3)
    assert row[3:] == pytest.approx(found["forces"][0].tolist(), abs=1e-4)


def test_a_learning_curve_goes_on_where_it_stopped(folder, capsys):
    options = ["--config", "smoke/tdn", "--steps", "2", "--out", "curve.json", *QUIET]
    options += ["--trainer.limit_test_batches=2"]
    assert blockzoo_main(["learning-curve", *options, "--sizes", "16"]) == 0
    first = json.loads(Path("curve.json").read_text())
    assert blockzoo_main(["learning-curve", *options, "--sizes", "16", "48"]) == 0
    both = json.loads(Path("curve.json").read_text())
    assert [row["size"] for row in both["runs"]] == [16, 48] and both["runs"][0] == first["runs"][0]
    assert Path("curve.png").is_file()
    assert len(list(Path("runs/smoke_tdn").iterdir())) == 2
    assert blockzoo_main(["learning-curve", *options, "--sizes", "16", "--seed", "1"]) == 2
    assert "curve.json is of seed 0, not 1" in capsys.readouterr().err
