"""Many series in one table, and covariates: what reaches a model, what must not, and what a forecast needs."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from blockzoo.__main__ import main
from blockzoo.tasks.app.training import run
from blockzoo.tasks.series.baselines import forecast_baselines, season_of
from blockzoo.tasks.series.calendar import calendar_covariates
from blockzoo.tasks.series.competition import CSVShortSeries
from blockzoo.tasks.series.covariates import Covariates
from blockzoo.tasks.series.csv_files import CSVSeries
from blockzoo.tasks.series.table import Reading, read_series, read_table

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def long_frame(shuffle=False):
    """Three stores: of other lengths and starts, with prices known 10 days ahead, and sales that follow them."""
    rng, parts = np.random.default_rng(0), []
    for i, (store, days, region) in enumerate(
        (("north", 120, "hill"), ("south", 90, "coast"), ("kiosk", 100, "coast"))
    ):
        frame = pd.DataFrame({"ds": pd.date_range(f"2024-0{i + 1}-01", periods=days + 10), "unique_id": store})
        frame["price"] = rng.choice([1.0, 2.0], days + 10)
        frame["y"] = (100 * (i + 1) - 30 * frame["price"] + rng.normal(0, 1, days + 10)).where(frame.index < days)
        frame["visitors"] = (frame["y"] + rng.normal(0, 5, days + 10)).where(frame.index < days)
        parts.append(frame.assign(region=region, size=str(10 * i)))
    whole = pd.concat(parts, ignore_index=True)
    return whole.sort_values("ds", kind="stable", ignore_index=True) if shuffle else whole


@pytest.mark.parametrize("shuffle", [False, True])
def test_series_are_told_apart_each_with_its_own_steps(tmp_path, shuffle):
    long_frame(shuffle).to_csv(tmp_path / "s.csv", index=False)
    for source in (str(tmp_path / "s.csv"), long_frame(shuffle)):
        found = read_series(source, Reading(), ["y", "price"], ["region"])
        assert list(found) == ["north", "south", "kiosk"]
        assert [len(table.values) for table in found.values()] == [130, 100, 110]
        assert [table.date_texts()[0][:10] for table in found.values()] == ["2024-01-01", "2024-02-01", "2024-03-01"]
        frame = long_frame()
        for name, table in found.items():
            own = frame[frame["unique_id"] == name]
            np.testing.assert_allclose(table.values, own[["y", "price"]], rtol=1e-12)
            assert dict(table.labels) == {"region": own["region"].iloc[0]}


def test_names_of_series_are_free_and_mistakes_have_a_place(tmp_path):
    frame = long_frame().rename(columns={"unique_id": "shop", "ds": "day"})[["shop", "day", "y"]].dropna()
    reading = Reading(id_column="shop", date_column="day")
    assert list(read_series(frame, reading)) == ["north", "south", "kiosk"]
    with pytest.raises(ValueError, match="line 1: no column 'store'; there are shop, day, y"):
        read_series(frame, Reading(id_column="store", date_column="day"))
    with pytest.raises(ValueError, match=r"DataFrame, line 121, column 'shop': no name of a series"):
        read_series(frame.assign(shop=frame["shop"].replace("south", "")), reading)
    twice = pd.concat([frame, frame.iloc[[130]]])
    with pytest.raises(ValueError, match="DataFrame, series 'south', line 311, column 'day': the date 2024-02-11"):
        read_series(twice.reset_index(drop=True), reading)
    with pytest.raises(ValueError, match="series 'north' and 2 more by column 'shop', where one series is expected"):
        read_table(frame, id_column="shop", date_column="day")
    with pytest.raises(ValueError, match="series 'north', column 'y': 120 values .* where a static column has one"):
        read_series(frame.assign(z=1.0), reading, ["z"], ["y"])


def data_of(frame=None, **options):
    sizes = {"seq_len": 14, "pred_len": 7, "time_freq": "d", "batch_size": 8}
    kinds = {"features": "MS", "target": "y", "known": ["price"], "static": ["region", "size"]}
    options = {**sizes, **kinds, "calendar": ["weekday", "business_day"], **options}
    data = CSVSeries.from_frame(long_frame() if frame is None else frame, **options)
    data.setup("fit")
    return data


def test_windows_hold_what_is_known_and_nothing_else():
    data = data_of()
    assert (data.num_known, data.num_static, data.num_targets) == (3, 3, 1)
    assert data.table.columns == ("visitors", "y") and len(data.table.values) == 120  # without the known future
    windows = data.datasets["train"]
    seen = {}
    for i in range(len(windows)):
        sample = windows[i]
        name, start = windows.names[int(sample["series"])], int(sample["index"])
        own = long_frame()[lambda frame, name=name: frame["unique_id"] == name].reset_index(drop=True)
        back = sample["y"] * sample["unit"] + sample["offset"]
        np.testing.assert_allclose(back[:, 1], own["y"][start + 14 : start + 21], rtol=1e-4)
        prices = sample["known"][:, 0] * data.covariates.std[0] + data.covariates.mean[0]
        np.testing.assert_allclose(prices, own["price"][start : start + 21], rtol=1e-5)
        weekdays = own["ds"][start : start + 21].dt.day_of_week
        np.testing.assert_allclose(sample["known"][:, 1], weekdays / 6 - 0.5, rtol=1e-5)
        assert sample["known"][:, 2].tolist() == (weekdays < 5).astype(float).tolist()
        seen[name] = sample["static"].tolist()
    assert [one[:2] for one in seen.values()] == [[0, 1], [1, 0], [1, 0]]  # coast, hill
    np.testing.assert_allclose([one[2] for one in seen.values()], [-1.2247, 0, 1.2247], atol=1e-4)


def test_no_past_covariate_or_target_of_the_future_reaches_a_sample():
    frame = long_frame()
    data, cut = data_of(frame), 90 + 14
    north = (frame["unique_id"] == "north") & (frame.index >= cut)
    changed = frame.copy()
    changed.loc[north & frame["y"].notna(), ["y", "visitors"]] += 1000
    other = data_of(changed)
    first = next(i for i in range(len(data.datasets["test"])) if int(data.datasets["test"][i]["index"]) == 90)
    one, two = data.datasets["test"][first], other.datasets["test"][first]
    for key in ("x", "known", "static", "unit", "offset", "time_features"):
        assert torch.equal(one[key], two[key]), key
    assert not torch.equal(one["y"], two["y"])
    for part in ("train", "val"):  # scales come from the training part
        for i in (0, len(data.datasets[part]) - 1):
            assert all(torch.equal(data.datasets[part][i][key], other.datasets[part][i][key]) for key in ("x", "y"))
    prices = frame.copy()
    prices.loc[frame.index >= 84, "price"] *= 100  # behind the training part of north; south and kiosk change
    means = [
        data_of(one[one["unique_id"] == "north"], static=[], columns=["y", "visitors"]).covariates.mean
        for one in (prices, frame)
    ]
    np.testing.assert_array_equal(*means)


def test_covariates_that_have_gaps_or_are_new_are_named():
    frame = long_frame()
    frame.loc[5, "price"] = np.nan
    with pytest.raises(ValueError, match="series 'north', line 6, column 'price': a covariate that is known ahead has"):
        data_of(frame)
    covariates = Covariates(static=["region"])
    covariates.fit(np.zeros((1, 0)), [{"region": "hill"}, {"region": "coast"}])
    with pytest.raises(
        ValueError, match="column 'region': 'moon' is not among the kinds that training saw, coast, hill"
    ):
        covariates.static_of("s.csv", {"region": "moon"})
    restored = Covariates.restored(json.loads(json.dumps(covariates.options())))
    assert restored.static_of("s.csv", {"region": "hill"}).tolist() == [0, 1] and restored.num_static == 2
    with pytest.raises(ValueError, match="name 'price' twice"):
        Covariates(["price"], static=["price"])
    with pytest.raises(ValueError, match="calendar: 'holidays' is unknown; there are second, minute"):
        Covariates(calendar=["holidays"])
    with pytest.raises(ValueError, match="pred_len=0: known, calendar and static are covariates of forecasts"):
        CSVSeries("s.csv", pred_len=0, known=["a"])


def test_columns_are_series_by_themselves_and_short_ones_are_said():
    index = pd.date_range("2024-01-01", periods=60)
    frame = pd.DataFrame({"a": np.arange(60.0), "b": np.arange(60.0) * 2}, index=index)
    frame["c"] = frame["a"].where(frame["a"] < 20)
    data = CSVSeries.from_frame(frame, features="S", seq_len=14, pred_len=7, time_freq=None)
    data.setup("fit")
    assert list(data.tables) == ["a", "b"] and len(data.mean) == 1
    sample = data.datasets["train"][0]
    np.testing.assert_allclose(sample["x"][:, 0] * sample["unit"] + sample["offset"], np.arange(14), atol=1e-5)
    with pytest.raises(ValueError, match="the training part of none of 3 series has the 50 [+] 7 steps"):
        CSVSeries.from_frame(frame, features="S", seq_len=50, pred_len=7, time_freq=None).setup("fit")


def test_short_series_one_below_the_other_are_those_of_columns():
    frame = long_frame().dropna()[["unique_id", "ds", "y"]]
    data = CSVShortSeries.from_frame(frame, pred_len=7)
    data.setup("fit")
    assert data.period == 7 and {part: len(found) for part, found in data.datasets.items()} == dict.fromkeys(
        ("train", "val", "test"), 3
    )
    wide = frame.pivot(index="ds", columns="unique_id", values="y")
    for item in CSVShortSeries.from_frame(wide, pred_len=7).read():
        twin = next(one for one in data.read() if one.name == item.name)
        np.testing.assert_array_equal(item.history, twin.history)
        np.testing.assert_array_equal(item.future, twin.future)
    with pytest.raises(ValueError, match="DataFrame, series 'south', column 'y': 90 steps, but pred_len=50 needs 102"):
        CSVShortSeries.from_frame(frame, pred_len=50).read()


def test_baselines_of_many_series_are_over_all_their_windows():
    data = data_of(long_frame().dropna(), known=None, calendar=None, static=None, columns=["y", "visitors"])
    assert season_of(data) == 1
    found = forecast_baselines(data.datasets["test"], 1, 7)
    errors = [
        float((sample["y"][:, 1] - sample["x"][-1, 1]).square().mean())
        for sample in map(data.datasets["test"].__getitem__, range(len(data.datasets["test"])))
    ]
    assert found["naive"]["test/mse"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_calendars_know_holidays_and_days_of_ones_own(tmp_path):
    dates = np.array(["2024-12-24T10:00", "2024-12-25T23:00", "2024-12-26", "2025-01-01"], "datetime64[ms]")
    (tmp_path / "closed.txt").write_text("# ours\n2024-12-24\n\n2025-01-01\n")
    found = calendar_covariates(dates, [f"dates:{tmp_path}/closed.txt", "business_day", "month"])
    assert found[:, 0].tolist() == [1, 0, 0, 1] and found[:, 1].tolist() == [1, 1, 1, 1]
    assert found[:, 2].tolist() == [0.5, 0.5, 0.5, -0.5]
    (tmp_path / "closed.txt").write_text("24.12.2024\n")
    with pytest.raises(ValueError, match="closed.txt, line 1: '24.12.2024' is not a date"):
        calendar_covariates(dates, [f"dates:{tmp_path}/closed.txt"])
    pytest.importorskip("holidays")
    found = calendar_covariates(dates, ["holiday:DE", "holiday:US", "holiday:NYSE"])
    assert found.T.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1]]
    with pytest.raises(ValueError, match="'Atlantis' is neither a file of dates nor a country"):
        calendar_covariates(dates, ["holiday:Atlantis"])


def test_a_model_with_covariates_is_fitted_and_forecasts_the_known_future(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    long_frame().to_csv("s.csv", index=False)
    small = ["d_model=8", "d_ff=8", "depth=1", "num_kernels=2", "top_k=2", "seq_len=14", "time_freq=null",
             "in_chans=2", "num_known=2", "num_static=2"]  # fmt: skip
    fit = ["fit", "--config", "timesnet/forecast", "--data.path=s.csv", "--data.target=y", "--data.features=MS",
           "--data.columns=[y,visitors]", "--data.known=[price]", "--data.calendar=[business_day]",
           "--data.static=[region]", "--data.pred_len=7",
           "--trainer.max_epochs=40", "--trainer.log_every_n_steps=1", "--data.stride=2",
           "--model.init_args.lr=0.01", *[f"--model.model_kwargs.{pair}" for pair in small], *QUIET]  # fmt: skip
    run(fit)
    folder = "runs/timesnet_forecast/version_0"
    capsys.readouterr()
    call = ["predict", f"local-dir:{folder}", "s.csv", "--json"]
    assert main(call) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 21 and list(rows[0]) == ["unique_id", "date", "y"]
    assert [rows[i]["date"][:10] for i in (0, 6, 7)] == ["2024-04-30", "2024-05-06", "2024-05-01"]
    found = pd.DataFrame(rows)
    frame = long_frame()
    ahead = frame[frame["y"].isna()].groupby("unique_id", sort=False).head(7)["price"].to_numpy()
    levels = found.groupby("unique_id")["y"].transform("mean")
    assert np.corrcoef(found["y"] - levels, ahead)[0, 1] < -0.8  # dearer days sell less, and the model knows which
    assert main(["predict", folder, *QUIET]) == 0
    written = pd.read_csv("runs/predictions.csv")
    assert set(written["series"]) == {"north", "south", "kiosk"} and set(written["channel"]) == {"y"}
    frame[frame["y"].notna()].to_csv("past.csv", index=False)
    capsys.readouterr()
    assert main(["predict", f"local-dir:{folder}", "past.csv"]) == 2
    assert "the model needs price for 7 steps behind the last value of the channels" in capsys.readouterr().err
