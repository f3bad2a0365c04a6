"""Training maps between fields, through the command line, on small real data."""

import copy
import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import blockzoo
from blockzoo.__main__ import main
from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.fields.darcy import read_darcy
from blockzoo.tasks.fields.learning import OperatorLearning, rollout
from blockzoo.tasks.fields.losses import LpLoss, isotropic_spectrum

CONFIG = {
    "seed_everything": 0,
    "model": {
        "class_path": "OperatorLearning",
        "init_args": {
            "model_name": "tfno2d",
            "model_kwargs": {"n_modes": [6, 6], "hidden_channels": 8, "depth": 2, "rank": 0.3},
            "periodic": False,
            "standardize": "output",
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        },
    },
    "data": {"class_path": "DarcyFlow", "init_args": {"val_size": 20, "batch_size": 20}},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "limit_train_batches": 6,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "toy"}},
        "callbacks": [
            {
                "class_path": "ModelCheckpoint",
                "init_args": {"monitor": "val/l2", "save_last": True, "filename": "best"},
            },
            {"class_path": "RunFolder"},
        ],
    },
}
RUN = Path("runs/toy/version_0")


@pytest.fixture
def field_zoo(zoo):
    zoo.write("toy.yaml", CONFIG)

    def files(size=(8, 8), chans=(1, 1), count=20, data=None, **model):
        """A config for files of waves, in which the target is the input moved by a point."""
        config = copy.deepcopy(CONFIG)
        arguments = config["model"]["init_args"]
        arguments |= {"periodic": True, "standardize": "both", "model_name": "fno2d", **model}
        arguments["model_kwargs"] = {
            "n_modes": [4] * len(size),
            "hidden_channels": 6,
            "depth": 1,
            "in_chans": chans[0],
            "out_chans": chans[1],
            **model.get("model_kwargs", {}),
        }
        x = torch.randn(count, chans[0], *size)
        y = x[:, : chans[1]].roll(1, -1)
        np.savez("train.npz", x=x.numpy(), y=y.numpy())
        np.savez("test.npz", x=x[:5].numpy(), y=y[:5].numpy())
        options = {"path": "train.npz", "test_paths": ["test.npz"], "batch_size": 5, **(data or {})}
        config["data"] = {"class_path": "FieldFiles", "init_args": options}
        return zoo.write("toy.yaml", config)

    zoo.files = files
    return zoo


def test_a_fit_learns_and_leaves_figures_and_exact_figures_behind(field_zoo):
    cli = field_zoo.fit("--trainer.max_epochs=4", "--trainer.limit_train_batches=12")
    metrics = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    assert metrics["test/l2"] < 0.48  # what the mean training field scores
    assert {path.name for path in RUN.iterdir()} >= {"fields.png", "spectrum.png", "spectrum.csv", "model.safetensors"}
    assert json.loads((RUN / "results.json").read_text())["test"]["test/l2_32"] == pytest.approx(metrics["test/l2_32"])
    # Once more without the task: the shipped folder alone, on both grids.
    model = blockzoo.create_model(f"local-dir:{RUN}", pretrained=True).eval()
    arrays = read_darcy()
    for size, name in ((16, "test/l2"), (32, "test/l2_32")):
        x, y = (arrays[f"test{size}_{key}"].unsqueeze(1) for key in "xy")
        with torch.no_grad():
            prediction = model(x)
        assert float(LpLoss()(prediction, y)) == pytest.approx(metrics[name], rel=1e-5)
    with (RUN / "spectrum.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["grid"] == "grid 32"]
    expected = [isotropic_spectrum(field).mean(0)[0] for field in (y, prediction, y - prediction)]
    for key, energy in zip(("truth", "prediction", "error"), expected, strict=True):
        assert torch.allclose(torch.tensor([float(row[key]) for row in rows]), energy, rtol=1e-3)
    assert abs(float(model.output_std) - float(arrays["train_y"][:980].std())) < 1e-6
    assert float(model.input_std) == 1  # standardize: output


def test_a_finished_run_is_tested_and_predicted_with(field_zoo):
    fitted = field_zoo.fit()
    found = {key: float(value) for key, value in fitted.trainer.callback_metrics.items() if key.startswith("test/")}
    tested = field_zoo.run("test", str(RUN)).trainer.callback_metrics
    assert {key: float(tested[key]) for key in found} == found
    field_zoo.run("predict", str(RUN))
    written = load_state_dict("runs/predictions.safetensors")
    assert written["index"].tolist() == list(range(50))
    errors = LpLoss()(written["prediction"], read_darcy()["test16_y"].unsqueeze(1))
    assert float(errors) == pytest.approx(found["test/l2"], rel=1e-5)


def test_a_stopped_fit_resumes_exactly(field_zoo):
    field_zoo.fit("--trainer.max_epochs=2", "--model.schedule=constant")
    field_zoo.fit("--trainer.max_epochs=1", "--model.schedule=constant")
    last = "runs/toy/version_1/checkpoints/last.ckpt"
    field_zoo.fit("--trainer.max_epochs=2", "--model.schedule=constant", f"--ckpt_path={last}")
    whole, resumed = (load_state_dict(f"runs/toy/version_{i}/last.safetensors") for i in (0, 2))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_fields_of_ones_own_with_names_and_three_grids(field_zoo):
    fine = {"x": torch.randn(3, 2, 16, 12), "y": torch.randn(3, 2, 16, 12)}
    np.savez("fine.npz", **{key: value.numpy() for key, value in fine.items()})
    data = {"test_paths": ["test.npz", "fine.npz"], "predict_path": "new.npz"}
    np.savez("new.npz", x=np.zeros((2, 2, 5, 7), np.float32))
    field_zoo.files(chans=(2, 2), data=data, field_names=["u", "v"])
    metrics = field_zoo.fit().trainer.callback_metrics
    assert {"test/l2", "test/l2_u", "test/h1_v", "test/l2_16x12", "test/l2_16x12_u"} <= set(metrics)
    assert float(metrics["test/l2"]) == pytest.approx(float(metrics["test/l2_u"] + metrics["test/l2_v"]) / 2, rel=1e-5)
    field_zoo.run("predict", str(RUN))
    assert load_state_dict("runs/predictions.safetensors")["prediction"].shape == (2, 2, 5, 7)


@pytest.mark.parametrize("size", [(12,), (6, 4, 8)])
def test_other_dimensions(field_zoo, size):
    field_zoo.files(size=size, model_name=f"fno{len(size)}d", loss="spectral_h1")
    assert math.isfinite(float(field_zoo.fit().trainer.callback_metrics["test/l2"]))
    assert (RUN / "fields.png").is_file()


def test_patches_are_trained_on_and_whole_fields_evaluated(field_zoo):
    kwargs = {"levels": 1, "padding_fraction": 0.125, "positional_embedding": None}
    field_zoo.files(size=(16, 16), model_name="mg_tfno2d", random_patches=True, model_kwargs=kwargs)
    cli = field_zoo.fit("--trainer.max_epochs=1")
    assert cli.model.test_examples[""]["prediction"].shape == (1, 1, 16, 16)
    # A patch does not close, and its points are as far apart as those of the field.
    task = cli.model
    x = torch.randn(2, 1, 16, 16)
    y = torch.randn(2, 1, 16, 16)
    task.model.set_statistics(torch.zeros(1), torch.ones(1), torch.zeros(1), torch.ones(1))
    task.log = lambda *args, **kwargs: None
    torch.manual_seed(3)
    loss = task.shared_step({"x": x, "y": y}, "train")
    torch.manual_seed(3)
    prediction, target = task.model.forward_random_patch(x, y)
    assert prediction.shape == (2, 1, 8, 8)
    assert torch.allclose(loss, task.patch_loss(prediction, target))
    assert task.patch_loss.measure == 0.5 and task.patch_loss.periodic is False


class Shift(torch.nn.Module):
    """Moves the state by a point and adds the second channel."""

    def forward(self, x):
        return x[:, :1].roll(1, -1) + x[:, 1:]


def test_a_rollout_feeds_states_back_and_keeps_the_rest():
    state, forcing = torch.randn(2, 1, 6), torch.randn(2, 1, 6)
    states = rollout(Shift(), torch.cat([state, forcing], 1), 3, 1)
    assert states.shape == (2, 3, 1, 6)
    expected = state
    for i in range(3):
        expected = expected.roll(1, -1) + forcing
        assert torch.equal(states[:, i], expected)


def test_rollouts_have_an_error_curve(field_zoo):
    x = torch.randn(4, 1, 8, 8)
    trajectory = torch.stack([x.roll(i, -1) for i in (1, 2, 3)], 1)
    np.savez("steps.npz", x=x.numpy(), y=trajectory[:, 0].numpy(), trajectory=trajectory.numpy())
    field_zoo.files(data={"test_paths": ["steps.npz"]})
    cli = field_zoo.fit()
    curve = cli.model.test_rollouts[""]
    states = rollout(cli.model.model, x, 3, 1)
    expected = [LpLoss()(states[:, i], trajectory[:, i]) for i in range(3)]
    assert torch.allclose(curve, torch.stack(expected), rtol=1e-4)
    metrics = cli.trainer.callback_metrics
    assert float(metrics["test/rollout_l2"]) == pytest.approx(float(curve.mean()), rel=1e-5)
    assert float(metrics["test/l2"]) == pytest.approx(float(curve[0]), rel=1e-5)
    with (RUN / "rollout.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3]
    assert (RUN / "rollout.png").is_file()


def test_statistics_are_those_of_the_training_part_only_for_fresh_weights(field_zoo):
    field_zoo.fit("--trainer.max_epochs=1")
    weights = RUN / "model.safetensors"
    before = load_state_dict(weights)["output_mean"]
    options = ["--data.val_size=900", "--trainer.max_epochs=1"]
    tuned = field_zoo.fit(*options, f"--model.checkpoint_path={weights}").model.model.output_mean
    fresh = field_zoo.fit(*options).model.model.output_mean
    assert torch.equal(tuned, before) and not torch.equal(fresh, before)


def test_the_learning_rate_falls_in_steps_and_goes_on_so_after_a_pause(field_zoo):
    steps = ["--model.step_epochs=2", "--model.step_factor=0.1", "--trainer.limit_train_batches=1"]
    field_zoo.files()
    cli = field_zoo.fit(*steps, "--trainer.max_epochs=3")
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)
    last = f"--ckpt_path={RUN / 'checkpoints' / 'last.ckpt'}"
    cli = field_zoo.fit(*steps, "--trainer.max_epochs=5", last)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0001)


WRONG = {
    "channels": (
        {"chans": (2, 1), "model_kwargs": {"in_chans": 1}},
        "in_chans=1 of fno2d does not fit the data: x has 2",
    ),
    "outputs": (
        {"chans": (2, 1), "model_kwargs": {"out_chans": 2}},
        "out_chans=2 of fno2d does not fit the data: y has 1",
    ),
    "axes": ({"size": (8,), "model_kwargs": {"n_modes": [4, 4]}}, "fno2d maps fields .* with 2 axes of space"),
    "names": ({"field_names": ["u", "v"]}, "must have 1 names, one for each output channel"),
    "patches": ({"random_patches": True}, "random_patches=True needs a multi-grid model, not fno2d"),
    "path": ({"data": {"path": "nowhere.npz"}}, "no file nowhere.npz"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_reported_in_one_line_with_status_2(field_zoo, capsys, case):
    options, message = WRONG[case]
    field_zoo.files(**options)
    assert field_zoo.main("fit", "--config", "toy.yaml") == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error), error


def test_values_that_are_not_finite_are_reported_with_their_place(field_zoo, capsys):
    field_zoo.files()
    arrays = dict(np.load("train.npz"))
    arrays["x"][7, 0, 1, 2] = np.nan
    np.savez("train.npz", **arrays)
    assert field_zoo.main("fit", "--config", "toy.yaml") == 2
    assert "train.npz: x[7, 0, 1, 2] is nan; all values must be finite" in capsys.readouterr().err
    assert not (RUN / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l3"}, "loss='l3' must be 'l2', 'h1' or 'spectral_h1'"),
        ({"standardize": "input"}, "standardize='input' must be 'both', 'output' or 'none'"),
        ({"random_patches": True, "loss": "spectral_h1"}, "needs periodic fields, which patches are not"),
        ({"step_epochs": 0}, "step_epochs=0 must be positive"),
        ({"step_epochs": 2, "warmup_fraction": 0.1}, "without warmup_fraction"),
    ],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OperatorLearning("mg_tfno2d", {"n_modes": (4, 4), "hidden_channels": 4}, **options)


def test_a_grid_too_small_for_derivatives_has_no_h1(field_zoo):
    field_zoo.files(size=(3, 3), loss="l2", periodic=False, model_kwargs={"n_modes": [2, 2]})
    metrics = field_zoo.fit("--trainer.max_epochs=1").trainer.callback_metrics
    assert "test/l2" in metrics and not any("h1" in name for name in metrics)


def test_targets_of_zeros_do_not_count_in_metrics(field_zoo):
    field_zoo.files(loss="l2")
    arrays = dict(np.load("test.npz"))
    arrays["x"], arrays["y"] = (np.concatenate([arrays[key], 0 * arrays[key]]) for key in "xy")
    np.savez("more.npz", **arrays)
    with_zeros = field_zoo.fit("--trainer.max_epochs=1", "--data.test_paths=[more.npz]").trainer.callback_metrics
    without = field_zoo.fit("--trainer.max_epochs=1").trainer.callback_metrics
    for name in ("test/l2", "test/h1"):
        assert float(with_zeros[name]) == pytest.approx(float(without[name]), rel=1e-5)


def test_neuraloperators_darcy_files_train_as_they_are(field_zoo):
    field_zoo.files(data={"path": "darcy.pt", "test_paths": []})
    torch.save({"x": torch.rand(20, 8, 8) > 0.5, "y": torch.rand(20, 8, 8)}, "darcy.pt")
    assert "val/l2" in field_zoo.fit("--trainer.max_epochs=1").trainer.callback_metrics


def trajectories(field_zoo, suffix=".nc", **data):
    """Config and file of waves that move by a point a step; two fields, land in a corner, a constant."""
    field_zoo.files()
    steps, x = np.arange(6)[:, None, None], np.arange(8)[:, None] + 0 * np.arange(6)
    phases = np.arange(4)[:, None, None, None]
    u = np.sin(2 * math.pi * (x - steps) / 8 + phases).astype("float32")
    u[..., :3, 3:] = np.nan
    variables = {"u": (("member", "time", "x", "y"), u), "v": (("member", "time", "x", "y"), 2 * u + 1)}
    xr.Dataset({**variables, "depth": (("x", "y"), np.ones((8, 6), "float32"))}).to_netcdf("sea.nc", engine="h5netcdf")
    config = copy.deepcopy(CONFIG)
    arguments = config["model"]["init_args"]
    arguments |= {"periodic": True, "standardize": "both", "model_name": "fno2d"}
    kwargs = {"n_modes": [4, 4], "hidden_channels": 6, "depth": 1, "in_chans": 6, "out_chans": 2}
    arguments["model_kwargs"] = kwargs
    options = {"path": "sea.nc", "test_paths": ["sea.nc"], "steps_in": 2, "mask": "nan", "val_fraction": 0.25}
    config["data"] = {"class_path": "FieldTrajectories", "init_args": {**options, "batch_size": 5, **data}}
    field_zoo.write("toy.yaml", config)
    return u


def test_fields_over_time_are_trained_on_tested_and_rolled_out(field_zoo, capsys):
    u = trajectories(field_zoo)
    cli = field_zoo.fit()
    metrics = cli.trainer.callback_metrics
    for name in ("l2", "l2_u", "l2_v", "vrmse", "rollout_l2", "rollout_vrmse", "rmse", "max_error", "conserved_rmse"):
        assert 0 < float(metrics[f"test/{name}"]) < 100, name
    assert "test/nrmse_low" not in metrics and "test/boundary_rmse" not in metrics  # not defined with a mask
    assert cli.model.test_rollouts[""].shape == (4,)
    assert all(torch.isfinite(parameter).all() for parameter in cli.model.model.parameters())
    batch = next(iter(cli.datamodule.predict_dataloader()))
    with torch.no_grad():
        found = cli.model.predict_step(batch, 0)["prediction"]
    assert torch.equal(found.isnan(), ~batch["mask"].expand_as(found)) and batch["mask"].any()
    capsys.readouterr()
    assert main(["predict", str(RUN), "sea.nc", "--steps", "3", "--mask", "nan", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["history"] == 2 and found["shape"] == [4, 3, 2, 8, 6]
    with xr.open_dataset("sea_predicted.nc", engine="h5netcdf") as file:
        assert np.array_equal(np.isnan(file["u"].values), np.isnan(u[:, 2:5]))
        first = found["steps"][0]["relative L2 error"]
    assert first == pytest.approx(float(cli.model.test_rollouts[""][0]), rel=1e-4)


def test_benchmark_measures_are_logged(field_zoo):
    field_zoo.files(size=(12, 10), chans=(2, 2), model_kwargs={"n_modes": [4, 4]})
    metrics = field_zoo.fit("--trainer.max_epochs=1").trainer.callback_metrics
    for name in ("rmse", "vrmse", "max_error", "boundary_rmse", "conserved_rmse", "nrmse_low", "nrmse_high"):
        assert float(metrics[f"test/{name}"]) > 0, name
    assert "test/fourier_rmse_low" in metrics and "test/fourier_rmse_high" not in metrics  # the grid has none so high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.steps_in=1"], "in_chans=6 of fno2d does not fit the data: x has 4 channels"),
        (["--data.mask=land"], "sea.nc has no variable 'land'; it has u, v, depth"),
        (["--model.loss=spectral_h1"], "with a mask use 'h1' or 'l2'"),
        (
            ["--data.mask=null", "--model.model_kwargs.in_chans=5"],
            "all values must be finite in float32; mask=nan leaves out",
        ),
    ],
)
def test_mistakes_with_fields_over_time_are_named(field_zoo, capsys, options, message):
    trajectories(field_zoo)
    assert field_zoo.main("fit", "--config", "toy.yaml", *options) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and message in error


def test_a_rollout_keeps_a_history_and_gives_several_states():
    class Newest(torch.nn.Module):
        def forward(self, x):  # two states of one channel and a constant
            return torch.cat([x[:, 1:2] + x[:, 2:], x[:, 1:2] + 2 * x[:, 2:]], 1)

    old, new, constant = torch.randn(3, 2, 1, 6)
    states = rollout(Newest(), torch.cat([old, new, constant], 1), 5, 1, history=2)
    expected = torch.stack([new + i * constant for i in range(1, 6)], 1)
    torch.testing.assert_close(states, expected)
    mask = torch.arange(6) < 4
    states = rollout(Newest(), torch.cat([old, new, constant], 1), 5, 1, 2, mask.view(1, 6))
    torch.testing.assert_close(states, torch.where(mask, expected, new.unsqueeze(1)))
