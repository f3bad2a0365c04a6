"""Backtests, calibration and forecasts beyond `pred_len`, from the command line on a file of one's own."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

import blockzoo
from blockzoo.tasks.app.training import run
from blockzoo.tasks.series.backtest_methods import earlier_windows, origins, seasonal_forecasts
from blockzoo.tasks.series.backtest_table import Backtest, unit_of
from blockzoo.tasks.series.forecaster import forecast_columns, forecast_rows, with_intervals
from blockzoo.tasks.series.table import read_table

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = [f"--model.model_kwargs.{p}" for p in ("d_model=4", "d_ff=4", "depth=1", "num_kernels=2", "top_k=2",
                                               "seq_len=24", "time_freq=d")]  # fmt: skip
POINT, QUANTILE = (f"runs/{name}/version_0" for name in ("point", "quantile"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A daily file with a gap, and runs with and without quantiles on it."""
    folder = tmp_path_factory.mktemp("backtest")
    rng = np.random.default_rng(0)
    dates = np.datetime64("2023-01-01") + np.arange(300)
    values = np.stack([50 + 20 * np.sin(np.arange(300) / 3.5 * np.pi) + rng.normal(size=300), rng.normal(size=300)], 1)
    texts = values.round(3).astype(str)
    texts[100, 0] = ""
    rows = [["date", "load [MW]", "temp"], *([date, *row] for date, row in zip(dates, texts.tolist(), strict=True))]
    (folder / "load.csv").write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        common = ["fit", "--config", "timesnet/forecast", "--data.path=load.csv", "--data.target=load [MW]",
                  "--data.pred_len=7", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]  # fmt: skip
        common += [*QUIET, *SMALL]
        run([*common, "--trainer.logger.init_args.name=point"])
        run([*common, "--trainer.logger.init_args.name=quantile", "--model.loss=quantile",
             "--model.model_kwargs.quantiles=[0.05,0.25,0.5,0.75,0.95]"])  # fmt: skip
    return folder


def model_of(folder, name):
    return blockzoo.create_model(f"local-dir:{folder}/{name}", pretrained=True).eval()


@pytest.mark.parametrize("name", [POINT, QUANTILE])
@pytest.mark.parametrize("horizon", [3, 7, 17])
def test_no_forecast_sees_what_lies_behind_its_origin(folder, name, horizon):
    model, table = model_of(folder, name), read_table(folder / "load.csv", ["load [MW]"])
    ends = [2, 60, 150]
    found = forecast_rows(model, table, ends, horizon)
    assert found.shape == (3, 5 if name == QUANTILE else 1, horizon, 1) and np.isfinite(found).all()
    assert (np.diff(found, axis=1) >= -1e-9).all()
    table.values[150:] = 1e6
    assert np.allclose(forecast_rows(model, table, ends, horizon), found, atol=1e-3)
    table.values[149] += 100
    assert not np.allclose(forecast_rows(model, table, ends, horizon)[2], found[2], atol=1e-3)


def test_a_rolled_forecast_goes_on_from_its_own_values(folder):
    model, table = model_of(folder, POINT), read_table(folder / "load.csv", ["load [MW]"])
    rolled = forecast_rows(model, table, [200], 17)[0, 0]
    for start in (7, 14):
        table.values[200 : 200 + start] = rolled[:start]
        steps = min(7, 17 - start)
        expected = forecast_rows(model, table, [200 + start])[0, 0, :steps]
        assert np.allclose(rolled[start : start + steps], expected, atol=1e-3)


def test_rolled_quantiles_are_repeatable_and_their_first_block_is_the_models(folder):
    model, table = model_of(folder, QUANTILE), read_table(folder / "load.csv", ["load [MW]"])
    first, twice = (forecast_rows(model, table, [200], 20, seed=3) for _ in range(2))
    assert np.array_equal(first, twice) and np.allclose(first[:, :, :7], forecast_rows(model, table, [200]))
    assert not np.array_equal(first, forecast_rows(model, table, [200], 20, seed=4))


def test_a_calibrated_run_predicts_intervals_that_are_conformal(call, folder):
    status, out, _ = call("series", "calibrate", POINT, "--coverage", "80", "90")
    assert status == 0 and "80 %" in out
    content = json.loads((folder / POINT / "calibration.json").read_text(encoding="utf-8"))["forecast"]
    # the errors of the validation part by hand: rows 210 to 239, with a history that may reach back
    model, table = model_of(folder, POINT), read_table(folder / "load.csv", ["load [MW]"])
    ends = list(range(210, 240 - 7 + 1))
    truth = np.stack([table.values[end : end + 7] for end in ends])
    errors = np.sort(np.abs(forecast_rows(model, table, ends)[:, 0] - truth), 0)
    assert content["coverages"] == [0.8, 0.9] and content["count"] == [[24]] * 7
    assert np.allclose(content["radius"], errors[[19, 22]], rtol=1e-3)  # ranks ceil(25 * 0.8) and ceil(25 * 0.9)
    status, out, _ = call("predict", POINT, "load.csv", "--coverage", "80", "--horizon", "5", "--json")
    rows = json.loads(out)
    assert status == 0 and len(rows) == 5 and rows[0]["date"] == "2023-10-28 00:00:00"
    assert list(rows[0])[1:] == [f"load [MW]{end}" for end in ("", "_q0.1", "_q0.5", "_q0.9")]
    width = rows[2]["load [MW]_q0.9"] - rows[2]["load [MW]_q0.1"]
    assert width == pytest.approx(2 * content["radius"][0][2][0], rel=1e-4)


def test_a_model_with_quantiles_predicts_them(call):
    status, out, _ = call("predict", QUANTILE, "load.csv", "--json", "--horizon", "9")
    rows = json.loads(out)
    assert status == 0 and len(rows) == 9
    assert rows[8]["load [MW]_q0.05"] <= rows[8]["load [MW]"] <= rows[8]["load [MW]_q0.95"]
    status, out, _ = call("predict", QUANTILE, "load.csv", "--json", "--coverage", "50")
    assert list(json.loads(out)[0])[1:] == [f"load [MW]{end}" for end in ("", "_q0.25", "_q0.5", "_q0.75")]


def test_a_backtest_writes_a_table_scores_and_a_figure(call, folder):
    status, out, err = call("backtest", QUANTILE, "--data", "load.csv", "--windows", "4", "--step", "3", "--methods",
                            "--horizon", "9", "--out", "table.csv", "--plot", "fig.png", "--json")  # fmt: skip
    assert status == 0, err
    result = json.loads(out)
    assert set(result["scores"]) == {QUANTILE, "seasonal naive"} and result["season"] == 7
    rows = list(csv.DictReader((folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * 4 * 9 == len(result["forecasts"])
    assert rows[0]["series"] == "load" and rows[0]["unit"] == "MW" and rows[0]["method"] == QUANTILE
    assert [row["ahead"] for row in rows[:9]] == [str(i) for i in range(1, 10)]
    table = read_table(folder / "load.csv", ["load [MW]"])
    texts = table.date_texts()
    for row in rows:
        place = texts.index(row["date"])
        assert float(row["truth"]) == table.values[place, 0]
        assert texts.index(row["origin"]) == place - int(row["ahead"])
    own = [row for row in rows if row["method"] == QUANTILE]
    inside = [float(row["q0.05"]) <= float(row["truth"]) <= float(row["q0.95"]) for row in own]
    errors = [abs(float(row["forecast"]) - float(row["truth"])) for row in own]
    assert result["scores"][QUANTILE]["coverage_90"] == pytest.approx(np.mean(inside))
    assert result["scores"][QUANTILE]["mae"] == pytest.approx(np.mean(errors))
    naive = [row for row in rows if row["method"] == "seasonal naive"]
    assert float(naive[0]["forecast"]) == table.values[texts.index(naive[0]["date"]) - 7, 0]
    assert (folder / "fig.png").read_bytes().startswith(b"\x89PNG")


def test_a_backtest_gives_the_calibrated_intervals_that_predict_gives(call, folder):
    file = folder / QUANTILE / "calibration.json"
    words = [
        "backtest",
        QUANTILE,
        "--data",
        "load.csv",
        "--windows",
        "1",
        "--methods",
        "--json",
        "--coverage",
        "50",
        "90",
    ]
    own = json.loads(call(*words)[1])["forecasts"]
    assert call("series", "calibrate", QUANTILE, "--coverage", "50", "90")[0] == 0
    calibrated = json.loads(call(*words)[1])["forecasts"]
    (folder / "known.csv").write_text("\n".join((folder / "load.csv").read_text("utf-8").splitlines()[:294]), "utf-8")
    predicted = json.loads(call("predict", QUANTILE, "known.csv", "--json", "--coverage", "50", "90")[1])
    content = json.loads(file.read_text(encoding="utf-8"))
    content["forecast"]["levels"] = [0.1, 0.5, 0.9]
    file.write_text(json.dumps(content), encoding="utf-8")
    status, _, err = call(*words)
    file.unlink()
    assert status == 2 and "calibration.json is of another model, with quantiles [0.1, 0.5, 0.9]" in err
    for level in ("q0.05", "q0.25", "q0.75", "q0.95"):
        found = [row[level] for row in calibrated[:7]]
        assert np.allclose(found, [row[f"load [MW]_{level}"] for row in predicted], rtol=1e-5)
        assert not np.allclose(found, [row[level] for row in own[:7]], rtol=1e-3)


def test_refitting_learns_from_nothing_behind_an_origin(call, folder):
    text = (folder / "load.csv").read_text(encoding="utf-8").splitlines()
    (folder / "other.csv").write_text("\n".join([*text[:288], *(line[:10] + ",999,0" for line in text[288:])]), "utf-8")
    found = {}
    for file in ("load.csv", "other.csv"):
        status, out, err = call("backtest", POINT, "--data", file, "--windows", "2", "--methods", "--refit", "--json",
                                "--coverage", "50")  # fmt: skip
        assert status == 0, err
        rows = json.loads(out)["forecasts"]
        found[file] = [row for row in rows if row["method"].endswith("refitted")]
    first, other = (rows[0] for rows in found.values())
    assert first["origin"] == "2023-10-13 00:00:00" and other["truth"] == first["truth"]
    assert [row["forecast"] for row in found["load.csv"][:7]] == [row["forecast"] for row in found["other.csv"][:7]]
    assert [row["forecast"] for row in found["load.csv"][7:]] != [row["forecast"] for row in found["other.csv"][7:]]
    assert all(row["q0.25"] <= row["forecast"] <= row["q0.75"] for row in found["load.csv"])


def test_refitting_takes_its_table_as_it_writes_it_whatever_the_runs_own_was_like(call, folder):
    config = folder / POINT / "config.yaml"
    kept = config.read_text(encoding="utf-8")
    own = yaml.safe_load(kept)
    own["data"]["init_args"] |= {"id_column": "shop", "split": "ett_hour", "delimiter": ";"}
    config.write_text(yaml.safe_dump(own), encoding="utf-8")
    words = ["backtest", POINT, "--data", "load.csv", "--windows", "1", "--methods", "--refit", "--json"]
    status, out, err = call(*words, "--coverage", "50")
    config.write_text(kept, encoding="utf-8")
    assert status == 0, err
    assert json.loads(out)["scores"][f"{POINT} refitted"]["mae"] > 0


def test_statistical_methods_are_statsforecasts(folder, call):
    models = pytest.importorskip("statsforecast.models")
    status, out, err = call("backtest", POINT, "--data", "load.csv", "--windows", "2", "--season", "7", "--json",
                            "--methods", "AutoTheta", "SeasonalNaive", "--coverage", "80", "95")  # fmt: skip
    assert status == 0, err
    result = json.loads(out)
    rows = {name: [row for row in result["forecasts"] if row["method"] == name] for name in result["scores"]}
    past = read_table(folder / "load.csv", ["load [MW]"]).values[:286, 0]
    past[100] = (past[99] + past[101]) / 2
    wanted = models.AutoTheta(season_length=7).forecast(y=past, h=7, level=[80, 95])
    assert np.allclose([row["forecast"] for row in rows["AutoTheta"][:7]], wanted["mean"])
    assert np.allclose([row["q0.1"] for row in rows["AutoTheta"][:7]], wanted["lo-80"])
    assert np.allclose([row["q0.975"] for row in rows["AutoTheta"][:7]], wanted["hi-95"])
    same = [row["forecast"] for row in rows["seasonal naive"]]
    assert np.allclose(same, [row["forecast"] for row in rows["SeasonalNaive"]])


def test_scores_are_over_what_all_methods_forecast_and_missing_truth_counts_nowhere():
    truth = np.arange(12, dtype=np.float64)[:, None] % 3
    truth[10] = np.nan
    exact = np.stack([truth[end : end + 3] for end in (6, 9)])[:, None]
    off = np.where(np.isnan(exact), 0.0, exact + 2)
    off[0, 0, 0] = np.nan
    result = Backtest(("a",), truth, [6, 9], (0.5,), {"exact": np.nan_to_num(exact), "off": off}, 1)
    scores = result.scores()
    assert scores["exact"]["mae"] == 0 and scores["off"]["mae"] == scores["off"]["rmse"] == 2
    assert scores["off"]["mase"] == pytest.approx(2 / (6 / 5))  # steps of 1, 1, 2, 1, 1 before the first origin
    assert "wql" not in scores["exact"] and len(result.rows(range(12))) == 1 + 2 * 2 * 3


def test_origins_end_with_the_series():
    assert origins(20, 4, 3) == [8, 12, 16] and origins(20, 4, 3, 1) == [14, 15, 16]
    assert earlier_windows(10, 4, 5) == [5, 6] and earlier_windows(10, 6, 5) == []
    assert seasonal_forecasts(np.array([[np.nan], [1.0], [np.nan], [3.0]]), [1, 4], 2, 2)[:, 0, :, 0].tolist()[1] == [
        2,
        3,
    ]
    assert np.isnan(seasonal_forecasts(np.array([[np.nan], [1.0]]), [1], 2, 2)).all()
    assert (
        unit_of("load [MW]") == ("load", "MW")
        and unit_of("wind (m/s)") == ("wind", "m/s")
        and unit_of("x") == ("x", "")
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["--windows", "0"], "--windows 0 must be at least 1"),
        (["--windows", "500"], "300 rows are too few"),
        (["--horizon", "-1"], "--horizon -1"),
        (["--season", "0"], "--season 0"),
        (["--season", "1000"], "--season 1000 is longer than the 265 rows before the first origin"),
        (["--coverage", "120"], "below 100"),
        (["--coverage", "nan"], "--coverage=[nan] must be shares"),
        (["--out", "same.csv", "--plot", "same.csv"], "--out and --plot name one file"),
        (["--refit", "--horizon", "9"], "--horizon 9 is beyond pred_len=7, for which --refit has no intervals"),
        (
            ["--threshold", "3"],
            "--threshold is for a model with task 'anomaly'; that of runs/point/version_0 is 'forecast'",
        ),
        (["--methods", "Prophet"], "--methods Prophet: must be of AutoETS"),
        (["--out", "table.txt"], "must end in .csv or .parquet"),
        (["--series", "wind", "--windows", "1", "--methods"], "--series wind is not among load [MW]"),
        (["--data", "none.csv"], "none.csv: no such file"),
    ],
)
def test_a_mistake_is_one_line(call, words, said):
    status, _, err = call("backtest", POINT, "--data", "load.csv", *words)
    assert status == 2 and said in err and err.strip().splitlines()[-1].startswith("blockzoo backtest:")


def test_what_cannot_be_forecast_says_why(call, folder):
    status, _, err = call("backtest", "timesnet_anomaly.internal_bleeding", "--data", "load.csv")
    assert status == 2 and "a backtest needs a forecaster" in err
    status, _, err = call("backtest", "timesnet_forecast.m3_monthly", "--data", "load.csv", "--refit")
    assert status == 2 and "--refit needs the folder of a finished run" in err
    model, table = model_of(folder, POINT), read_table(folder / "load.csv", ["load [MW]"])
    with pytest.raises(ValueError, match="forecasts no intervals"):
        forecast_columns(model, table, "elsewhere", None, [0.8])
    with pytest.raises(ValueError, match="coverage 80 % is not among those of the forecast, 50, 90"):
        with_intervals(np.zeros((1, 5, 2, 1)), [0.05, 0.25, 0.5, 0.75, 0.95], [0.8])
    model.in_chans, model.pretrained_cfg["series"]["features"] = 2, "MS"
    with pytest.raises(ValueError, match="horizon=8 is beyond the model's pred_len=7"):
        forecast_rows(model, table, [100], 8)
    assert torch.is_tensor(model.head.weight)


def test_tables_and_models_that_a_backtest_cannot_take_are_named(call, folder):
    lines = [f"{name},2023-01-{day:02d},{day}" for name in "ab" for day in range(1, 31)]
    (folder / "long.csv").write_text("\n".join(["unique_id,ds,load [MW]", *lines]), encoding="utf-8")
    words = ["--id-column", "unique_id", "--date-column", "ds", "--methods"]
    status, _, err = call("backtest", POINT, "--data", "long.csv", *words)
    assert status == 2 and "2 series one below the other" in err
    config = folder / POINT / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    kept = config.read_text(encoding="utf-8")
    content["pretrained_cfg"]["series"]["seasonal"] = 7
    config.write_text(json.dumps(content), encoding="utf-8")
    status, _, err = call("backtest", POINT, "--data", "load.csv", "--methods")
    config.write_text(kept, encoding="utf-8")
    assert status == 2 and "seasonally adjusted" in err
