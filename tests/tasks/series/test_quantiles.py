"""Models and tasks that forecast quantiles: order, loss, metrics over all values of a stage, files."""

import csv

import numpy as np
import pandas
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

import blockzoo
from blockzoo.tasks.series.calibrate import calibrate, forecasts_of
from blockzoo.tasks.series.competition import M3Monthly
from blockzoo.tasks.series.csv_files import CSVSeries
from blockzoo.tasks.series.forecasting import SeriesForecasting
from blockzoo.tasks.series.probabilistic import (
    crps_from_quantiles,
    interval_coverage,
    interval_width,
    weighted_quantile_loss,
)
from blockzoo.tasks.series.quantiles import QuantileScores
from blockzoo.tasks.series.short_term import SeriesShortTerm

LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]
TINY = {"d_model": 4, "d_ff": 4, "depth": 1, "num_kernels": 2, "top_k": 2, "period_scope": "sample", "time_freq": None}
SIZES = {"seq_len": 25, "pred_len": 7, "in_chans": 2}


@pytest.fixture(autouse=True)
def _seed_variables(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


def trainer(**options):
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(accelerator="cpu", **{**silent, **options})


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    t = np.arange(160)
    values = np.stack([10 + 3 * np.sin(t / 6 * np.pi), 5 + rng.normal(0, 1, len(t))], 1).round(4).astype(str)
    values[rng.random(values.shape) < 0.05] = ""
    file = tmp_path / "waves.csv"
    file.write_text("\n".join(["a,b", *(",".join(row) for row in values.tolist())]), encoding="utf-8")
    return file


def build(cls=SeriesForecasting, quantiles=LEVELS, sizes=SIZES, **kwargs):
    seed_everything(0, verbose=False)
    return cls("timesnet_forecast", {**TINY, **sizes, "quantiles": quantiles}, **{"loss": "quantile", **kwargs})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_quantiles_are_in_order_and_in_the_inputs_unit(dtype, batch):
    model = blockzoo.create_model("timesnet_forecast", **TINY, **SIZES, quantiles=LEVELS).to(dtype).eval()
    x = torch.randn(batch, 25, 2, dtype=dtype) + 3
    with torch.no_grad():
        found, scaled = model(x), model(100 * x - 7)
    assert found.shape == (batch, 5, 7, 2) and found.dtype == dtype
    assert (found.diff(dim=1) >= 0).all() and (found.diff(dim=1) > 0).any()
    assert torch.allclose(scaled, 100 * found - 7, atol=2e-2)


def test_without_quantiles_the_model_is_the_published_one():
    model = blockzoo.create_model("timesnet_forecast", **TINY, **SIZES)
    assert model.quantiles is None and model(torch.randn(2, 25, 2)).shape == (2, 7, 2)
    assert model.head.out_features == 2


def test_one_quantile_is_a_point_forecast_of_the_median():
    task = build(quantiles=[0.5])
    batch = {"x": torch.randn(3, 25, 2), "index": torch.arange(3)}
    assert task.predict_step(batch, 0)["forecast"].shape == (3, 7, 2)


@pytest.mark.parametrize("batch_size", [1, 9])
def test_metrics_of_quantiles_are_those_of_all_observed_values_in_units(path, batch_size):
    data = CSVSeries(
        str(path), date_column=None, seq_len=25, pred_len=7, time_freq=None, batch_size=batch_size, eval_stride=3
    )
    task = build()
    run = trainer()
    run.test(task, data, verbose=False)
    found = {key.removeprefix("test/"): float(value) for key, value in run.callback_metrics.items()}
    windows = data.datasets["test"]
    samples = [windows[i] for i in range(len(windows))]
    x, y, mask, seen = (torch.stack([sample[key] for sample in samples]) for key in ("x", "y", "y_mask", "mask"))
    std, mean = (torch.from_numpy(part) for part in (data.std, data.mean))
    with torch.no_grad():
        output = task.eval().model(x, mask=seen)
    quantiles, target = output.double() * std + mean, y.double() * std + mean
    assert found["wql"] == pytest.approx(
        float(weighted_quantile_loss(quantiles, target, LEVELS, mask).mean()), rel=1e-4
    )
    for name, low, high in (("90", 0, 4), ("50", 1, 3)):
        bounds = quantiles[:, low], quantiles[:, high]
        assert found[f"coverage_{name}"] == pytest.approx(float(interval_coverage(*bounds, target, mask)), rel=1e-5)
        assert found[f"width_{name}"] == pytest.approx(float(interval_width(*bounds, mask)), rel=1e-4)
    loss = (crps_from_quantiles(output, y, LEVELS) * mask).sum() / mask.sum()
    assert found["loss"] == pytest.approx(float(loss), rel=1e-4)
    mae = ((output[:, 2] - y).abs() * mask).sum() / mask.sum()
    assert found["mae"] == pytest.approx(float(mae), rel=1e-4)


def test_quantiles_of_many_series_are_in_the_units_of_each(path):
    data = CSVSeries(str(path), features="S", date_column=None, seq_len=25, pred_len=7, time_freq=None, batch_size=9)
    task, run = build(sizes={**SIZES, "in_chans": 1}), trainer()
    found = run.test(task, data, verbose=False)[0]
    parts = forecasts_of(task, data, "test")
    truth, forecast = (torch.from_numpy(parts[key]) for key in ("truth", "forecast"))
    mask = ~truth.isnan()
    target = torch.where(mask, truth, 0)
    assert found["test/wql"] == pytest.approx(
        float(weighted_quantile_loss(forecast, target, LEVELS, mask).mean()), rel=1e-4
    )
    rows = pandas.read_csv(path).to_numpy()
    known = rows[~np.isnan(rows)]
    assert all(np.abs(known - value).min() < 1e-4 for value in truth[mask].tolist())
    assert parts["scale"].shape == (len(truth), 1) and calibrate(task, data).scaled


def test_training_lowers_the_quantile_loss_and_the_report_is_written(path, tmp_path):
    data = CSVSeries(str(path), date_column=None, seq_len=25, pred_len=7, time_freq=None, batch_size=16)
    task, run = build(lr=1e-2), trainer(max_epochs=8)
    before = run.test(task, data, verbose=False)[0]["test/wql"]
    run.fit(task, data)
    after = run.test(task, data, verbose=False)[0]
    assert after["test/wql"] < 0.8 * before and after["test/coverage_90"] > 0.6
    task.write_report(tmp_path)
    rows = [line.split(",") for line in (tmp_path / "calibration.csv").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["level", "observed"] and [float(row[0]) for row in rows[1:]] == LEVELS
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    written = task.write_predictions(run.predict(task, data), tmp_path / "predictions")
    table = list(csv.DictReader(written.read_text(encoding="utf-8").splitlines()))
    assert list(table[0])[-5:] == ["q0.05", "q0.25", "q0.5", "q0.75", "q0.95"]
    assert all(row["q0.5"] == row["forecast"] and float(row["q0.05"]) <= float(row["q0.95"]) for row in table)


def test_short_term_quantiles_are_trained_free_of_units_and_scored(tmp_path):
    data = M3Monthly(seq_len=24, batch_size=512)
    task = build(SeriesShortTerm, sizes={"seq_len": 24, "pred_len": 18, "in_chans": 1})
    data.setup("test")
    batch = {key: torch.stack([data.datasets["test"][i][key] for i in range(4)]) for key in data.datasets["test"][0]}
    scaled = {**batch, "x": 1000 * batch["x"], "y": 1000 * batch["y"]}
    task.eval()
    with torch.no_grad():
        losses = [
            task._loss(task.call_model(b)[..., 0], b["y"][..., 0], b["y_mask"][..., 0], b) for b in (batch, scaled)
        ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-3)
    run = trainer(limit_test_batches=1)
    run.test(task, data, verbose=False)
    assert {"test/wql", "test/coverage_90", "test/width_50", "test/owa"} <= set(run.callback_metrics)
    written = task.write_predictions([task.predict_step(batch, 0)], tmp_path / "short")
    assert (
        written.read_text(encoding="utf-8").splitlines()[0] == "series,step,forecast,truth,q0.05,q0.25,q0.5,q0.75,q0.95"
    )


def test_scores_without_an_observed_value_are_nan():
    scores = QuantileScores([0.1, 0.5, 0.9])
    scores.update(torch.zeros(1, 3, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    assert all(value.isnan() for value in scores.compute().values())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"loss": "mse"}, "loss='mse' trains no quantiles"),
        ({"quantiles": None}, "needs a model that forecasts quantiles"),
        ({"quantiles": [0.9, 0.1]}, "quantiles=[0.9, 0.1] must be increasing"),
        ({"quantiles": [0.1, 0.9]}, "must hold 0.5"),
        ({"loss": "pinball"}, "loss='pinball' must be one of mse, mae, huber, quantile"),
    ],
)
def test_loss_and_levels_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError) as error:
        build(**options)
    assert said in str(error.value)
