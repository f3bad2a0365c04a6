"""The series tasks on small data: metrics are those of all values at once, masks reach model and loss."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from blockzoo.tasks.core.optim import halving_schedule
from blockzoo.tasks.series.anomaly import SeriesAnomaly
from blockzoo.tasks.series.anomaly_files import InternalBleeding
from blockzoo.tasks.series.baselines import anomaly_baselines, forecast_baselines, imputation_baselines
from blockzoo.tasks.series.competition import M3Monthly
from blockzoo.tasks.series.csv_files import CSVSeries, Daphnet
from blockzoo.tasks.series.forecasting import SeriesForecasting
from blockzoo.tasks.series.imputation import SeriesImputation
from blockzoo.tasks.series.metrics import detection_scores, mase, mase_scale, owa, point_adjust, smape
from blockzoo.tasks.series.short_term import SeriesShortTerm
from blockzoo.tasks.series.windows import hide

TINY = {"d_model": 8, "d_ff": 8, "depth": 1, "num_kernels": 2, "top_k": 2, "period_scope": "sample"}
ADAM = functools.partial(torch.optim.AdamW, lr=5e-3)


@pytest.fixture(autouse=True)
def _seed_variables(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


def trainer(**options):
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(accelerator="cpu", **{**silent, **options})


def task(cls, name, seed=0, **kwargs):
    seed_everything(seed, verbose=False)
    model_kwargs = {**TINY, **kwargs.pop("model_kwargs", {})}
    return cls(name, model_kwargs, optimizer=ADAM, **kwargs)


def write_waves(path: Path, rows: int = 300, holes: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    t = np.arange(rows)
    values = np.stack([10 + 3 * np.sin(t / 12 * np.pi), 5 * np.cos(t / 12 * np.pi) + rng.normal(0, 0.3, rows)], 1)
    cells = np.where(rng.random(values.shape) < holes, "", values.round(4).astype(str))
    dates = np.datetime64("2024-01-01T00:00:00") + t * np.timedelta64(1, "h")
    lines = [",".join([str(date), *row]) for date, row in zip(dates, cells.tolist(), strict=True)]
    path.write_text("\n".join(["date,a,b", *lines]))
    return path


def forecasting(path, **options):
    data = CSVSeries(str(path), **{"seq_len": 48, "pred_len": 12, "batch_size": 32, **options})
    kwargs = {"seq_len": 48, "pred_len": 12, "in_chans": 2}
    return task(SeriesForecasting, "timesnet_forecast", model_kwargs=kwargs), data


@pytest.mark.parametrize("batch_size", [1, 17, 500])
def test_forecast_metrics_are_those_of_all_observed_values(tmp_path, batch_size):
    module, data = forecasting(write_waves(tmp_path / "s.csv", holes=0.1), batch_size=batch_size)
    result = trainer().test(module, datamodule=data, verbose=False)[0]
    windows = data.datasets["test"]
    samples = [windows[i] for i in range(len(windows))]
    x, y, mask, y_mask, times = (
        torch.stack([s[key] for s in samples]) for key in ("x", "y", "mask", "y_mask", "time_features")
    )
    with torch.no_grad():
        error = (module.model.eval()(x, times, mask) - y)[y_mask > 0]
    assert result["test/mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert result["test/mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
    unit = torch.from_numpy(data.std).float().expand_as(y)[y_mask > 0]
    assert result["test/mae_units"] == pytest.approx(float((error * unit).abs().mean()), rel=1e-5)
    assert result["test/mse_units"] == pytest.approx(float((error * unit).square().mean()), rel=1e-5)


def test_a_forecast_learns_and_beats_the_last_value(tmp_path):
    module, data = forecasting(write_waves(tmp_path / "s.csv"))
    before = trainer().test(module, datamodule=data, verbose=False)[0]["test/mse"]
    trainer(max_epochs=6).fit(module, datamodule=data)
    after = trainer().test(module, datamodule=data, verbose=False)[0]["test/mse"]
    naive = forecast_baselines(data.datasets["test"], 2, 24)
    assert after < 0.5 * before and after < 0.3 * naive["naive"]["test/mse"]
    assert naive["seasonal naive"]["test/mse"] < 0.05 < naive["naive"]["test/mse"]


def test_what_stands_in_missing_cells_changes_nothing(tmp_path):
    module, data = forecasting(write_waves(tmp_path / "s.csv", holes=0.2))
    data.setup("fit")
    batch = next(iter(data.test_dataloader()))
    garbage = {**batch, "x": torch.where(batch["mask"] > 0, batch["x"], 1e6)}
    garbage["y"] = torch.where(batch["y_mask"] > 0, batch["y"], -1e6)
    module.eval().log = lambda *args, **kwargs: None
    assert module.shared_step(garbage, "val") == module.shared_step(batch, "val")
    hidden = hide((48, 2), 0.5, 0, 0)
    other = task(SeriesImputation, "timesnet_imputation", model_kwargs={"seq_len": 48, "in_chans": 2}).eval()
    outputs = [other._reconstruct(b, hidden.expand_as(b["x"]), "val") for b in (batch, garbage)]
    assert torch.equal(outputs[0][0], outputs[1][0]) and torch.equal(outputs[0][3], outputs[1][3])


def test_hidden_values_do_not_reach_the_model():
    module = task(SeriesImputation, "timesnet_imputation", model_kwargs={"seq_len": 48, "in_chans": 9}).eval()
    x, hidden = torch.randn(3, 48, 9), torch.rand(3, 48, 9) < 0.3
    outputs = [module._reconstruct({"x": torch.where(hidden, x + shift, x)}, hidden, "val")[3] for shift in (0, 100)]
    assert torch.equal(*outputs)


def test_a_multivariate_target_alone_counts(tmp_path):
    module, data = forecasting(write_waves(tmp_path / "s.csv"), features="MS", target="a")
    result = trainer().test(module, datamodule=data, verbose=False)[0]
    parts = trainer().predict(module, datamodule=data)
    forecast = torch.cat([part["forecast"] for part in parts])
    windows = data.datasets["test"]
    y = torch.stack([windows[i]["y"] for i in range(len(windows))])[..., 1:]
    assert forecast.shape == (len(windows), 12, 1)
    error = (forecast - data.mean[1]) / data.std[1] - y
    assert result["test/mse"] == pytest.approx(float(error.square().mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seq_len": 24}, "the data has seq_len=24, but the model has seq_len=48"),
        ({"pred_len": 6}, "pred_len=6, but the model has pred_len=12"),
        ({"features": "S", "target": "b"}, r"in_chans=1 \(b\), but the model has in_chans=2; .*in_chans=1"),
        ({"time_freq": "d"}, "time_freq=d, but the model has time_freq=h"),
        ({"time_freq": None}, "--model.init_args.model_kwargs.time_freq=null"),
    ],
)
def test_data_and_model_that_do_not_fit_say_which_option(tmp_path, options, said):
    module, data = forecasting(write_waves(tmp_path / "s.csv"), **options)
    with pytest.raises(ValueError, match=said):
        trainer().test(module, datamodule=data, verbose=False)


def test_imputation_metrics_are_over_hidden_cells_at_each_rate():
    module = task(SeriesImputation, "timesnet_imputation",
                  model_kwargs={"seq_len": 48, "in_chans": 9, "time_freq": None}, mask_rates=[0.125, 0.5])  # fmt: skip
    data = Daphnet(seq_len=48, eval_stride=48, batch_size=7)
    result = trainer().test(module, datamodule=data, verbose=False)[0]
    windows = data.datasets["test"]
    x = torch.stack([windows[i]["x"] for i in range(len(windows))])
    errors = []
    for rate in (0.125, 0.5):
        hidden = torch.stack([hide((48, 9), rate, 0, int(start)) for start in windows.starts])
        with torch.no_grad():
            error = (module.model.eval()(x, (~hidden).float()) - x)[hidden]
        assert result[f"test/mse_{rate:g}"] == pytest.approx(float(error.square().mean()), rel=1e-5)
        assert result[f"test/mae_{rate:g}"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
        errors.append(error)
    assert result["test/mse"] == pytest.approx(float(torch.cat(errors).square().mean()), rel=1e-5)
    found = imputation_baselines(windows, 9, [0.125, 0.5], 0, 33)
    mean = torch.cat([torch.zeros(0), *errors]).numel()
    assert found["linear interpolation"]["test/mse"] < found["mean"]["test/mse"] and mean > 5000


@pytest.mark.parametrize("rates", [[], [0.0], [0.2, 1.0]])
def test_rates_outside_of_0_to_1_are_refused(rates):
    with pytest.raises(ValueError, match="must be numbers between 0 and 1"):
        task(SeriesImputation, "timesnet_imputation", mask_rates=rates)


def test_short_term_scores_are_those_of_all_series():
    kwargs = {"seq_len": 36, "pred_len": 18, "in_chans": 1, "time_freq": None}
    module = task(SeriesShortTerm, "timesnet_forecast", model_kwargs=kwargs)
    data = M3Monthly(seq_len=36, batch_size=100)
    result = trainer().test(module, datamodule=data, verbose=False)[0]
    forecasts = torch.cat([part["forecast"] for part in trainer().predict(module, datamodule=data)])
    scores = []
    for item, forecast in zip(data.read(), forecasts.double(), strict=True):
        future, history = torch.from_numpy(item.future), torch.from_numpy(item.history)
        scores.append((float(smape(forecast, future)), float(mase(forecast, future, mase_scale(history, 12)))))
    means = np.array(scores).mean(0)
    assert [result["test/smape"], result["test/mase"]] == pytest.approx(means, rel=1e-4)
    naive2 = [
        float(np.mean([facts[f"naive2_{k}"] for facts in data.datasets["test"].facts])) for k in ("smape", "mase")
    ]
    assert result["test/owa"] == pytest.approx(owa(*means, *naive2), rel=1e-4)


@pytest.mark.parametrize("loss", ["smape", "mase", "mse"])
def test_short_term_losses_are_free_of_units(loss):
    kwargs = {"seq_len": 36, "pred_len": 18, "in_chans": 1, "time_freq": None}
    module = task(SeriesShortTerm, "timesnet_forecast", model_kwargs=kwargs, loss=loss).eval()
    data = M3Monthly(seq_len=36, batch_size=50)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    forecast, mask = batch["y"][..., 0] * 1.1, batch["y_mask"][..., 0]
    small = module._loss(forecast, batch["y"][..., 0], mask, batch)
    scaled = {key: value * 1000 if key in ("x", "y") else value for key, value in batch.items()}
    assert module._loss(forecast * 1000, scaled["y"][..., 0], mask, scaled).item() == pytest.approx(
        small.item(), rel=1e-4
    )
    assert small > 0


def test_anomaly_thresholds_and_scores_are_those_of_all_steps():
    kwargs = {"seq_len": 64, "in_chans": 1}
    module = task(SeriesAnomaly, "timesnet_anomaly", model_kwargs=kwargs, anomaly_ratio=2.0, val_quantile=0.9)
    data = InternalBleeding(seq_len=64, batch_size=13)
    result = trainer().test(module, datamodule=data, verbose=False)[0]

    def scores(part, first, last):
        values = data.datasets[part].values[first:last]
        starts = [*range(0, len(values) - 63, 64), len(values) - 64]
        total, count = torch.zeros(len(values), dtype=torch.float64), torch.zeros(len(values))
        with torch.no_grad():
            for start in dict.fromkeys(starts):
                window = values[start : start + 64]
                total[start : start + 64] += (module.model.eval()(window[None])[0] - window)[:, 0].square().double()
                count[start : start + 64] += 1
        return total / count

    train, val, test = scores("train", 0, 960), scores("val", 960, 1200), scores("test", 0, 7501)
    for ending, limit in (("", np.percentile(torch.cat([train, val, test]), 98)), ("_val", np.quantile(val, 0.9))):
        predicted = test > limit
        assert result[f"test/f1{ending}"] == pytest.approx(detection_scores(predicted, data.label)["f1"], abs=1e-6)
        adjusted = detection_scores(point_adjust(predicted, data.label), data.label)
        assert result[f"test/recall{ending}_adjusted"] == pytest.approx(adjusted["recall"], abs=1e-6)
        assert result[f"test/precision{ending}_adjusted"] == pytest.approx(adjusted["precision"], abs=1e-6)
    assert torch.equal(module.test_result["step"], torch.arange(7501))
    torch.testing.assert_close(module.test_result["score"], test, rtol=1e-4, atol=1e-6)
    found = anomaly_baselines(data, 2.0, 0.9, 33)
    assert found["naive"]["test/auroc"] > 0.9 and set(found["naive"]) <= set(result)


@pytest.mark.parametrize("options", [{"anomaly_ratio": 0.0}, {"anomaly_ratio": 100.0}, {"val_quantile": 1.5}])
def test_thresholds_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        task(SeriesAnomaly, "timesnet_anomaly", **options)


@pytest.mark.parametrize("size", [1, 5])
def test_a_prediction_does_not_depend_on_its_batch_companions(tmp_path, size):
    module, data = forecasting(write_waves(tmp_path / "s.csv", holes=0.1))
    data.setup("fit")
    batch = next(iter(data.test_dataloader()))
    whole = module.eval().predict_step(batch, 0)["forecast"]
    part = module.predict_step({key: value[2 : 2 + size] for key, value in batch.items()}, 0)["forecast"]
    torch.testing.assert_close(part, whole[2 : 2 + size], rtol=1e-5, atol=1e-5)


def test_the_rate_halves_from_the_third_epoch_on(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    scheduler, rates = halving_schedule(optimizer), []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.8, 0.8, 0.4, 0.2, 0.1]
    _, data = forecasting(write_waves(tmp_path / "s.csv"))
    kwargs = {"seq_len": 48, "pred_len": 12, "in_chans": 2}
    module = task(SeriesForecasting, "timesnet_forecast", model_kwargs=kwargs, schedule="halving")
    run = trainer(max_epochs=3, limit_train_batches=1, limit_val_batches=1)
    run.fit(module, datamodule=data)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(5e-3 / 4)
