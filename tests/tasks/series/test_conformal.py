"""Conformal intervals: exact ranks, coverage on exchangeable data, files."""

import json
from itertools import permutations

import numpy as np
import pytest

from blockzoo.tasks.series.conformal import Conformal, bounds_of, check_coverages, conformal_radius, conformal_rank


@pytest.mark.parametrize(
    "count, coverage, rank", [(9, 0.9, 9), (8, 0.9, 9), (99, 0.55, 55), (99, 0.95, 95), (19, 0.95, 19), (1, 0.5, 1)]
)
def test_ranks_are_exact_and_not_those_of_rounded_products(count, coverage, rank):
    assert conformal_rank(count, coverage) == rank


def test_coverage_is_exact_over_all_orders_of_errors():
    """The last of n + 1 exchangeable errors lies within the others' radius in ceil((n + 1) c) of n + 1 orders."""
    errors = [0.3, 1.0, 2.5, 4.0, 7.0]
    for coverage, share in ((0.6, 3 / 5), (0.61, 4 / 5), (0.8, 4 / 5)):
        orders = list(permutations(errors))
        hits = [order[-1] <= conformal_radius(np.array(order[:-1]), coverage) for order in orders]
        assert np.mean(hits) == pytest.approx(share)


def test_radii_are_infinite_where_errors_are_too_few_and_missing_ones_do_not_count():
    errors = np.array([[1.0, np.nan], [3.0, 5.0], [2.0, np.nan], [4.0, np.nan]])
    assert conformal_radius(errors, 0.8).tolist() == [4.0, np.inf]
    assert conformal_radius(errors, 0.5).tolist() == [3.0, 5.0]
    assert conformal_radius(np.empty((0, 2)), 0.5).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("levels", [(), (0.25, 0.5, 0.75)])
@pytest.mark.parametrize("scaled", [False, True])
def test_intervals_cover_what_comes_at_each_step_and_channel(levels, scaled):
    rng = np.random.default_rng(0)
    shape, spread = (400, 3, 2), np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    unit = rng.uniform(1, 5, (800, 2)) if scaled else None
    size = spread * (1 if unit is None else unit[:, None])
    truth = rng.normal(size=(800, *shape[1:])) * size
    base = (
        np.zeros((800, 1, *shape[1:]))
        if not levels
        else np.stack([-size * 0.2, size * 0, size * 0.2], 1) * np.ones((800, 1, 1, 1))
    )
    found = Conformal.fit(base[:400], truth[:400], [80, 0.95], levels, None if unit is None else unit[:400])
    assert found.coverages == (0.8, 0.95) and found.count.tolist() == [[400, 400]] * 3
    bounds = found.intervals(base[400:], None if unit is None else unit[400:])
    assert bounds.shape == (400, 2, 2, 3, 2)
    inside = ((bounds[:, :, 0] <= truth[400:, None]) & (truth[400:, None] <= bounds[:, :, 1])).mean(0)
    assert np.abs(inside[0] - 0.8).max() < 0.08 and np.abs(inside[1] - 0.95).max() < 0.05
    assert (found.radius[1] > found.radius[0]).all()


def test_intervals_that_are_too_wide_are_narrowed_but_never_crossed():
    levels, truth = (0.1, 0.5, 0.9), np.zeros((50, 1, 1))
    wide = np.broadcast_to(np.array([-5.0, 0.0, 5.0])[None, :, None, None], (50, 3, 1, 1))
    found = Conformal.fit(wide, truth, [0.8], levels)
    assert found.radius.item() == -5.0
    narrow = np.array([-1.0, 0.5, 3.0])[None, :, None, None]
    assert found.intervals(narrow)[0, 0, :, 0, 0].tolist() == [1.0, 1.0]


def test_files_keep_everything(tmp_path):
    rng = np.random.default_rng(0)
    found = Conformal.fit(np.zeros((7, 1, 2, 1)), rng.normal(size=(7, 2, 1)), [0.5, 0.95], columns=["load"])
    found.write(tmp_path / "calibration.json")
    again = Conformal.read(tmp_path / "calibration.json")
    assert np.isinf(again.radius[1]).all() and np.array_equal(again.radius, found.radius)
    assert (again.coverages, again.columns, again.scaled, again.levels) == ((0.5, 0.95), ("load",), False, ())
    json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"forecast": {"radius": [1]}}', '{"forecast": 3}'])
def test_other_files_are_named(tmp_path, text):
    (tmp_path / "odd.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"odd\.json holds no calibrated intervals"):
        Conformal.read(tmp_path / "odd.json")


def test_bounds_are_the_levels_of_central_intervals():
    assert bounds_of(0.9) == (0.05, 0.95) and bounds_of(0.8) == (0.1, 0.9)
    assert check_coverages([95, 0.8]) == (0.8, 0.95)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: check_coverages([]), "coverage=[]"),
        (lambda: check_coverages([100]), "below 100"),
        (lambda: check_coverages([-5]), "between 0 and 1"),
        (lambda: Conformal.fit(np.zeros((3, 2, 4, 1)), np.zeros((3, 4, 1))), "(N, 1, steps, channels)"),
        (lambda: Conformal.fit(np.zeros((1, 1, 1, 1)), np.full((1, 1, 1), np.nan)), "no truth is known"),
        (
            lambda: Conformal.fit(np.zeros((3, 1, 2, 1)), np.zeros((3, 2, 1))).intervals(np.zeros((1, 1, 3, 1))),
            "calibrated for 2 steps",
        ),
    ],
)
def test_wrong_arguments_are_named(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)
