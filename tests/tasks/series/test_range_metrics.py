"""Range-aware metrics of anomaly detection: values of the authors' code, and what must hold for any data."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from blockzoo.tasks.series.range_metrics import affiliation_scores, range_scores, stretches, volume_scores

CASES = json.loads(Path(__file__).with_name("range_metrics.json").read_text(encoding="utf-8"))["cases"]
VOLUMES = {"vus_roc", "vus_pr"}


def flags(text):
    return torch.tensor([letter == "1" for letter in text])


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_reference_implementations(case):
    label, predicted = flags(case["label"]), flags(case["predicted"])
    score = torch.tensor(case["score"], dtype=torch.float64)
    found = {
        **volume_scores(score, label, case["window"], case["thresholds"]),
        **affiliation_scores(predicted, label),
        **range_scores(predicted, label),
    }
    for name, value in case["expected"].items():
        assert found[name] == pytest.approx(math.nan if value is None else value, abs=1e-12, nan_ok=True), name


def test_volumes_do_not_depend_on_the_scale_of_scores_and_float32_is_enough():
    label = flags(CASES[0]["label"])
    score = torch.tensor(CASES[0]["score"])
    base = volume_scores(score, label, 8)
    assert volume_scores(3 * score - 7, label, 8) == base
    assert volume_scores(score.double(), label, 8) == base


def test_perfect_and_reversed_scores_bound_the_volume():
    label = flags("0" * 40 + "1" * 10 + "0" * 50)
    best = volume_scores(label.float(), label, 0)
    assert best == {"vus_roc": pytest.approx(1.0), "vus_pr": pytest.approx(1.0)}
    assert volume_scores(-label.float(), label, 0)["vus_roc"] < 0.5


def test_a_near_miss_is_better_than_a_far_one():
    label = flags("0" * 40 + "1" * 10 + "0" * 50)
    near, far = (flags("0" * at + "1" * 5 + "0" * (95 - at)) for at in (35, 5))
    for metric, name in ((affiliation_scores, "affiliation_precision"), (affiliation_scores, "affiliation_recall")):
        assert metric(near, label)[name] > metric(far, label)[name]
    assert volume_scores(near.float(), label, 20)["vus_pr"] > volume_scores(far.float(), label, 20)["vus_pr"]
    assert range_scores(near, label)["range_recall"] == range_scores(far, label)["range_recall"] == 0


def test_affiliation_is_the_plain_integral_over_moments():
    """The definition with moments sampled densely instead of integrated exactly."""
    label, predicted = flags(CASES[1]["label"]), flags(CASES[1]["predicted"])
    events, found = stretches(label), stretches(predicted)
    fine = (np.arange(61 * 200) + 0.5) / 200
    distances = np.stack([np.maximum(0, np.maximum(a - fine, fine - b)) for a, b in events])
    owner = distances.argmin(0)
    precision, recall = [], []
    for i, (a, b) in enumerate(events):
        zone = fine[owner == i]
        detected = zone[np.any([(zone >= p) & (zone < q) for p, q in found], 0)]
        far = np.sort(distances[i][owner == i])
        own = np.maximum(0, np.maximum(a - detected, detected - b))
        precision += [(1 - np.searchsorted(far, own) / len(zone)).mean()] if len(detected) else []
        inside = zone[(zone >= a) & (zone < b)]
        reach = np.abs(inside[:, None] - detected[None]).min(1) if len(detected) else np.full(len(inside), np.inf)
        recall.append(np.mean([(np.abs(zone - y) >= d).mean() for y, d in zip(inside, reach, strict=True)]))
    scores = affiliation_scores(predicted, label)
    assert scores["affiliation_precision"] == pytest.approx(np.mean(precision), abs=5e-3)
    assert scores["affiliation_recall"] == pytest.approx(np.mean(recall), abs=5e-3)


def test_undefined_cases_say_nan_and_nothing_found_is_zero():
    none, all_ = torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    one = flags("0" * 10 + "1" + "0" * 9)
    for label in (none, all_):
        assert all(math.isnan(value) for value in volume_scores(torch.rand(20), label).values())
    assert all(math.isnan(value) for value in affiliation_scores(one, none).values())
    missed = affiliation_scores(none, one)
    assert math.isnan(missed["affiliation_precision"]) and missed["affiliation_f1"] == 0
    assert range_scores(none, one) == {"range_precision": 0.0, "range_recall": 0.0, "range_f1": 0.0}
    assert affiliation_scores(one, one)["affiliation_f1"] == pytest.approx(1.0)
    assert range_scores(one, one)["range_f1"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: volume_scores(torch.rand(5), torch.zeros(6, dtype=torch.bool)), "score (5,) and label (6,)"),
        (lambda: volume_scores(torch.rand(5), torch.zeros(5, dtype=torch.bool), window=-1), "window=-1"),
        (lambda: volume_scores(torch.tensor([0.0, math.nan]), torch.tensor([True, False])), "NaN at step 1"),
        (lambda: range_scores(torch.ones(3) > 0, torch.ones(3) > 0, alpha=2.0), "alpha=2.0"),
        (lambda: affiliation_scores(torch.ones(3) > 0, torch.ones(4) > 0), "predicted (3,) and label (4,)"),
    ],
)
def test_wrong_arguments_are_named(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)
