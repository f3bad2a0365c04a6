"""Seasons are the true ones, found as a plain definition finds them; forecasts by seasons are what they say."""

import numpy as np
import pytest

from blockzoo.tasks.series.baselines import autocorrelation, forecast_baselines, strongest_period
from blockzoo.tasks.series.windows import Windows


def test_autocorrelation_is_the_plain_sum():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 2)).cumsum(0)
    values[7, 0] = values[20, 1] = np.nan
    changes = np.diff(values, axis=0)
    for lag in (0, 1, 5):
        parts = []
        for c in range(2):
            d = changes[:, c] - np.nanmean(changes[:, c])
            pairs = [d[t] * d[t + lag] for t in range(len(d) - lag) if not np.isnan(d[t] * d[t + lag])]
            parts.append(np.mean(pairs) / np.nanmean(d**2))
        assert autocorrelation(values, 10)[lag] == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("period", [7, 12, 24])
def test_a_trend_hides_no_season(period, noise):
    t = np.arange(60 * period)
    wave = np.sin(2 * np.pi * t / period) + 0.5 * np.cos(4 * np.pi * t / period)
    values = wave + 0.02 * t + np.random.default_rng(0).normal(0, noise, len(t))
    assert strongest_period(values[:, None]) == period
    values[::11] = np.nan
    assert strongest_period(values[:, None]) == period


def test_growing_seasons_and_noise():
    t, rng = np.arange(144), np.random.default_rng(0)
    air = 100 * np.exp(0.01 * t) * (1 + 0.2 * np.sin(t / 6 * np.pi) + 0.1 * np.cos(t / 3 * np.pi))
    assert strongest_period((air + rng.normal(0, 5, 144))[:, None]) == 12
    assert strongest_period(rng.normal(size=(2000, 1))) == 1
    assert strongest_period(rng.normal(size=(2000, 1)).cumsum(0)) == 1
    assert strongest_period(np.ones((100, 1))) == strongest_period(np.ones((3, 1))) == 1


def test_the_calendars_season_is_preferred():
    t = np.arange(1500)
    dates = np.datetime64("1970-01-03") + 7 * t
    values = 315 + 0.03 * t + 3 * np.sin(2 * np.pi * t / 52.18) + np.random.default_rng(0).normal(0, 0.3, len(t))
    assert strongest_period(values[:, None], dates) == 52


def test_baselines_repeat_what_was_observed_last():
    values = np.array([0.0, 10, 1, 11, np.nan, 12, 3, 13])[:, None]
    found = forecast_baselines(Windows(values, None, range(8), 6, 2), 1, 2)
    assert found["naive"]["test/mae"] == pytest.approx((9 + 1) / 2)
    assert found["seasonal naive"]["test/mae"] == pytest.approx((2 + 1) / 2)  # 1 stands for the missing value
    with pytest.raises(ValueError, match="no target of the test part is observed"):
        forecast_baselines(Windows(np.r_[values[:6], [[np.nan]] * 2], None, range(8), 6, 2), 1, 2)
