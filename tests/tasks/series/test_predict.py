"""The command line on tables of series: fit, figures, reports, and predictions for a file of one's own."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import blockzoo
from blockzoo.__main__ import main
from blockzoo.tasks.app.training import run
from blockzoo.tasks.series.inputs import model_inputs
from blockzoo.tasks.series.predict import score
from blockzoo.tasks.series.table import read_table

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = ["d_model=4", "d_ff=4", "depth=1", "num_kernels=2", "top_k=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file with holes and a missing hour, and a fit, a test and a report on it for each task."""
    folder = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(0)
    with (folder / "load.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "load", "temp", "station"])
        for i in range(500):
            row = [round(50 + 20 * np.sin(i / 12 * np.pi) + rng.normal(), 3), round(rng.normal(), 3), "north"]
            if i in (100, 101, 495):
                row[0] = ""
            if i != 200:
                writer.writerow([np.datetime64("2024-01-01T00:00:00") + np.timedelta64(i, "h"), *row])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        small = [f"--model.model_kwargs.{pair}" for pair in SMALL]
        common = ["--trainer.max_epochs=1", "--trainer.log_every_n_steps=1", "--data.path=load.csv", *QUIET, *small]
        run(["fit", "--config", "timesnet/forecast", "--data.target=load", "--model.model_kwargs.seq_len=48", *common])
        run(["fit", "--config", "timesnet/imputation", "--data.columns=[load,temp]", *common,
             "--model.model_kwargs.in_chans=2", "--model.model_kwargs.seq_len=48"])  # fmt: skip
    return folder


def test_a_fit_leaves_figures_and_says_what_is_missing(folder):
    for name, figure in (("forecast", "forecast.png"), ("imputation", "imputation.png")):
        run_folder = folder / "runs" / f"timesnet_{name}" / "version_0"
        for path in (run_folder / figure, run_folder / "periods.png", run_folder / "curves.png"):
            assert path.read_bytes().startswith(b"\x89PNG")
        assert "4 missing values (load 4)" in (run_folder / "README.md").read_text() or name == "imputation"
        assert not list(run_folder.glob(".*.tmp"))
    assert "5 missing values (load 4, temp 1)" in (run_folder / "README.md").read_text()


def test_options_that_a_model_has_no_use_for_are_refused(call):
    status, _, err = call("predict", "runs/timesnet_imputation/version_0", "load.csv", "--horizon", "5")
    assert status == 2 and "--horizon is for a model with task 'forecast'" in err
    status, _, err = call("predict", "runs/timesnet_forecast/version_0", "load.csv", "--anomaly-ratio", "5")
    assert status == 2 and "--anomaly-ratio is for a model with task 'anomaly'" in err


def test_a_forecast_continues_the_dates_and_is_the_models(call, folder):
    name = "local-dir:runs/timesnet_forecast/version_0"
    status, out, _ = call("predict", name, "load.csv", "--json")
    rows = json.loads(out)
    assert status == 0 and len(rows) == 24 and list(rows[0]) == ["date", "load"]
    assert rows[0]["date"] == "2024-01-21 20:00:00" and rows[-1]["date"] == "2024-01-22 19:00:00"
    model = blockzoo.create_model(f"local-dir:{folder}/runs/timesnet_forecast/version_0", pretrained=True).eval()
    table = read_table(folder / "load.csv", ["load"])
    mean, std = (model.pretrained_cfg[key][0] for key in ("mean", "std"))
    x = torch.from_numpy((table.values[-48:] - mean) / std).float()
    mask = (~x.isnan()).float()
    assert mask.sum() == 47
    inputs, _, _ = model_inputs(model, table.values, table.dates, [452])
    with torch.no_grad():
        expected = model(x.nan_to_num()[None], inputs["time_features"], mask[None])[0, :, 0] * std + mean
    np.testing.assert_allclose([row["load"] for row in rows], expected.numpy(), rtol=1e-5)


def test_filled_gaps_leave_known_values_alone(call, folder):
    status, out, _ = call("predict", "local-dir:runs/timesnet_imputation/version_0", "load.csv", "--out", "filled.csv")
    assert status == 0 and "filled.csv: 500 rows; read load.csv: 500 steps" in out and "1 steps without a row" in out
    filled, before = read_table(folder / "filled.csv"), read_table(folder / "load.csv", ["load", "temp"])
    seen = ~np.isnan(before.values)
    assert not filled.missing and seen.sum() == 995
    np.testing.assert_array_equal(filled.values[seen], before.values[seen])
    assert 0 < filled.values[100, 0] < 100


def test_rows_before_a_short_file_count_as_missing(call, folder):
    lines = (folder / "load.csv").read_text().splitlines()
    (folder / "short.csv").write_text("\n".join(lines[:21]))
    status, out, _ = call("predict", "local-dir:runs/timesnet_forecast/version_0", "short.csv", "--json")
    assert status == 0 and json.loads(out)[0]["date"] == "2024-01-01 20:00:00"
    assert all(np.isfinite(row["load"]) for row in json.loads(out))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("forecast", ("49.", "cold"), "column 'load': "),
        ("forecast", ("date,load", "day,load"), "the model uses calendar features ('h'); name a --date-column"),
        ("imputation", ("load,temp,station", "load,damp,station"), "'north' is not a finite number"),
    ],
)
def test_files_that_do_not_fit_are_named(call, folder, name, change, said):
    (folder / "bad.csv").write_text((folder / "load.csv").read_text().replace(*change))
    status, _, error = call("predict", f"local-dir:runs/timesnet_{name}/version_0", "bad.csv")
    assert status == 2 and said in error


def test_a_wrong_number_of_channels_is_said(call):
    where = ("predict", "local-dir:runs/timesnet_imputation/version_0", "load.csv", "--columns", "load")
    status, _, error = call(*where)
    assert status == 2 and "1 channels (load), the model expects 2: load, temp; --columns chooses" in error


def test_a_finished_run_is_tested_and_predicted_with_as_any_other(call, folder):
    fitted = json.loads((folder / "runs/timesnet_forecast/version_0/results.json").read_text())["test"]
    tested = run(["test", "runs/timesnet_forecast/version_0", *QUIET]).trainer.callback_metrics
    assert {key: float(tested[key]) for key in fitted} == fitted
    status, out, _ = call("predict", "runs/timesnet_forecast/version_0", *QUIET)
    assert status == 0 and "predictions: runs/predictions.csv" in out
    with (folder / "runs" / "predictions.csv").open() as file:
        header, first, *rest = csv.reader(file)
    assert header == ["series", "window", "date", "channel", "forecast", "truth"]
    table = read_table(folder / "load.csv", ["load"])
    row = int(first[1]) + 48
    assert [first[0], first[2], first[3]] == ["load.csv", table.date_texts()[row], "load"]
    assert float(first[5]) == table.values[row, 0] and float(first[4]) > 1  # in the file's units
    assert any(line[5] == "" for line in rest)  # a missing truth stays empty


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--data.path=none.csv", "--data.target=load"], "none.csv"),
        (["--data.path=load.csv", "--data.target=lead"], "no column 'lead'; there are 'date', 'load'"),
        (["--data.path=load.csv", "--data.features=M"], "column 'station': 'north' is not a finite number"),
        (["--data.path=load.csv", "--data.target=load", "--data.ratios=[0.99,0.0,0.01]"], "too few for one window"),
    ],
)
def test_mistakes_in_a_fit_are_one_line(call, args, said):
    status, _, error = call("fit", "--config", "timesnet/forecast", *args, *QUIET)
    assert status == 2 and said in error and "Traceback" not in error


def test_an_anomaly_model_scores_every_row(folder, call, monkeypatch):
    model = blockzoo.create_model("timesnet_anomaly", seq_len=48, in_chans=1, d_model=4, d_ff=4, num_kernels=2).eval()
    monkeypatch.setattr(blockzoo, "create_model", lambda *args, **kwargs: model)
    status, out, _ = call("predict", "any.tag", "load.csv", "--columns", "load", "temp", "--json")
    rows = json.loads(out)
    assert status == 0 and len(rows) == 500 and list(rows[0]) == ["date", "score_load", "score_temp"]
    assert rows[100]["score_load"] == 0 < rows[100]["score_temp"]  # a missing value has no error
    assert rows[200]["score_load"] is None and rows[201]["score_load"] > 0  # a step without a row has no score
    table = read_table(folder / "load.csv", ["load"])
    before = score(model, replace(table, values=table.values + np.where(np.arange(500) < 200, 1e3, 0)[:, None]))
    np.testing.assert_array_equal(before[201:], score(model, table)[201:])  # no window looks across the gap


def test_reports_and_baselines_of_packaged_sets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    run(["fit", "--config", "smoke/timesnet_short_term", *QUIET])
    one = "runs/smoke_timesnet_short_term/version_0"
    assert main(["series", "report", one, one, "--out", "figures"]) == 0
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert [row[0] for row in printed] == ["forecasts", "run 0", "run 1", "median of 2"]
    assert printed[1][1] == printed[3][1]  # of one and the same run
    written = sorted(Path("figures").iterdir())
    assert [path.name for path in written] == ["forecasts.png", "periods.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert main(["baselines", "--config", "smoke/timesnet_imputation", "--out", "base"]) == 0
    reports = {path.stem: json.loads(path.read_text()) for path in Path("base").glob("*.json")}
    assert reports["linear_interpolation"]["last"]["median"] < reports["mean"]["last"]["median"]
    report = reports["seasonal_naive"]
    assert report["last"]["median"] == report["metrics"]["test/mse"] and report["metric"] == "test/mse"
    capsys.readouterr()
    for words, said in (
        (["smoke/timesnet_imputation", "--metric", "test/mae_9"], "--metric test/mae_9: must be one of test/mse"),
        (["smoke/timesnet_imputation", "--period", "0"], "--period 0 must be at least 1"),
        (["timesnet/japanese_vowels"], "SeriesClassification has no baselines; these have: InteratomicPotential"),
    ):
        assert main(["baselines", "--config", *words]) == 2
        assert said in capsys.readouterr().err


def test_short_term_forecasts_of_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    months = np.datetime64("2000-01") + np.arange(72)
    wave = 100 + 30 * np.sin(np.arange(72) / 6 * np.pi) + np.arange(72) / 20
    rows = [f"{month};{'' if i < 12 else wave[i].round(2)};{(5 * wave[i]).round(2)}" for i, month in enumerate(months)]
    (tmp_path / "my.csv").write_text("\n".join(["Month;shoes;hats", *rows]))
    small = [f"--model.model_kwargs.{pair}" for pair in SMALL]
    fit = ["fit", "--config", "timesnet/short_term", "--data.path=my.csv", "--data.pred_len=6", "--data.delimiter=;",
           "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", *small, *QUIET]  # fmt: skip
    found = run(fit).trainer.callback_metrics
    assert 0 < float(found["test/smape"]) < 200 and float(found["test/owa"]) > 0
    folder = "runs/timesnet_short_term/version_0"
    assert (tmp_path / folder / "forecast.png").exists()
    capsys.readouterr()
    assert main(["predict", f"local-dir:{folder}", "my.csv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["date"][:7] for row in rows] == [f"2006-{month:02}" for month in range(1, 7)]
    assert list(rows[0]) == ["date", "shoes", "hats"] and all(np.isfinite(row["hats"]) for row in rows)
    assert (
        main(
            [
                "baselines",
                "--config",
                "timesnet/short_term",
                "--data.path=my.csv",
                "--data.delimiter=;",
                "--data.pred_len=6",
            ]
        )
        == 0
    )
    table = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert float(table["seasonal naive"].split("\t")[0]) < 2 < float(table["naive"].split("\t")[0])


def test_frequencies_of_m4_are_combined_as_in_the_competition(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    rng, rows = np.random.default_rng(0), {}
    for frequency, count, horizon in (("Yearly", 3, 6), ("Weekly", 2, 13)):
        series = (50 + rng.normal(0, 1, (count, 40)).cumsum(1)).round(2)
        for part, values in (("train", series[:, :-horizon]), ("test", series[:, -horizon:])):
            lines = [",".join([f"{frequency[0]}{i}", *map(str, row)]) for i, row in enumerate(values.tolist())]
            header = ",".join(f"V{i + 1}" for i in range(values.shape[1] + 1))
            (tmp_path / f"{frequency}-{part}.csv").write_text("\n".join([header, *lines]))
        small = [f"--model.model_kwargs.{pair}" for pair in SMALL]
        config = f"timesnet/m4_{frequency.lower()}"
        fitted = run(["fit", "--config", config, "--data.path=.", "--trainer.max_epochs=1",
                      "--trainer.log_every_n_steps=1", *QUIET, *small])  # fmt: skip
        rows[frequency] = {key: float(value) for key, value in fitted.trainer.callback_metrics.items()}
    assert main(["series", "report", *map(str, sorted(tmp_path.glob("runs/timesnet_m4_*/version_0")))]) == 0
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    average = next(line for line in printed if line[0] == "Average")
    for place, name in ((1, "smape"), (2, "mase")):
        expected = (3 * rows["Yearly"][f"test/{name}"] + 2 * rows["Weekly"][f"test/{name}"]) / 5
        assert float(average[place]) == pytest.approx(expected, abs=2e-3)


def _forecaster(monkeypatch, cfg, **kwargs):
    """An untrained model of fixed weights under any name, with facts about its data."""
    torch.manual_seed(0)
    small = {"seq_len": 24, "pred_len": 4, "d_model": 4, "d_ff": 4, "depth": 1, "num_kernels": 2, "top_k": 2}
    model = blockzoo.create_model("timesnet_forecast", **{**small, "in_chans": 1, "time_freq": None, **kwargs}).eval()
    model.pretrained_cfg = {**dict(model.pretrained_cfg), **cfg}
    for name, value in (("resolve", "any"), ("has_weights", True), ("build", model)):
        monkeypatch.setattr(f"blockzoo.tasks.core.names.{name}", lambda *args, value=value, **kwargs: value)


def _hours(count, start="2024-04-02T00:00", step=1):
    return np.datetime64(start) + np.arange(count) * np.timedelta64(step, "h")


def test_a_file_is_read_as_the_models_own_was(tmp_path, call, monkeypatch):
    rows = [f"{date};{'-9999' if i == 3 else f'{i % 5},5'}" for i, date in enumerate(_hours(30))]
    path = tmp_path / "s.csv"
    path.write_text("\n".join(["when;a", *rows]))
    reading = {"date_column": "when", "delimiter": ";", "decimal": ",", "missing_values": ["-9999"]}
    _forecaster(monkeypatch, {"series": {"columns": ["a"], "reading": reading}})
    status, out, error = call("predict", "any", str(path), "--json")
    assert status == 0, error
    assert json.loads(out)[0]["date"] == "2024-04-03 06:00:00"
    path.write_text(path.read_text().replace(";", "|"))
    status, out, _ = call("predict", "any", str(path), "--json", "--delimiter", "|")
    assert status == 0 and len(json.loads(out)) == 4


def test_only_the_target_is_forecast(tmp_path, call, monkeypatch):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(["date,a,b", *(f"{date}-04:00,{i % 5},{i % 3}" for i, date in enumerate(_hours(30)))]))
    _forecaster(monkeypatch, {"series": {"columns": ["b", "a"], "features": "MS", "target": "a"}}, in_chans=2)
    status, out, error = call("predict", "any", str(path), "--json")
    assert status == 0, error
    assert list(json.loads(out)[0]) == ["date", "a"]
    assert json.loads(out)[0]["date"] == "2024-04-03 06:00:00-04:00"


def test_another_frequency_and_empty_columns_are_said(tmp_path, call, monkeypatch):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(["date,a,b", *(f"{date},{i % 5}," for i, date in enumerate(_hours(30, step=24)))]))
    _forecaster(monkeypatch, {}, time_freq="h")
    status, _, error = call("predict", "any", str(path), "--columns", "a")
    assert status == 0 and "the dates look like 'd', but the model has time_freq='h'" in error
    status, _, error = call("predict", "any", str(path))
    assert status == 2 and "s.csv: no value of 'b'; --columns chooses" in error
    status, _, error = call("predict", "any", str(path), "--columns", "a", "--out", str(path))
    assert status == 2 and "is an input too" in error and path.read_text().startswith("date,a,b")
    pytest.importorskip("pyarrow")
    assert call("predict", "any", str(path), "--columns", "a", "--out", str(tmp_path / "o.parquet"))[0] == 0
    assert len(read_table(tmp_path / "o.parquet").values) == 4


def test_a_season_is_taken_out_and_put_back(tmp_path, call, monkeypatch):
    months = np.datetime64("2020-01") + np.arange(48)
    wave = np.tile(np.r_[np.full(6, 50.0), np.full(6, 150.0)], 4)
    (tmp_path / "s.csv").write_text("\n".join(["Month,a", *(f"{m},{v}" for m, v in zip(months, wave, strict=True))]))
    _forecaster(monkeypatch, {"series": {"seasonal": 12}}, pred_len=12)
    status, out, _ = call("predict", "any", str(tmp_path / "s.csv"), "--json")
    values = np.array([row["a"] for row in json.loads(out)])
    assert status == 0 and values[:6].std() < 1e-3 * values[:6].mean() and values[6:].std() < 1e-3 * values[6:].mean()
    assert values[6:].mean() / values[:6].mean() == pytest.approx(3, rel=1e-3)
