"""Thresholds and flags of anomaly scores: where they come from, what is printed, the metrics of stretches in a test."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from blockzoo.__main__ import main
from blockzoo.tasks.series.alarms import alarms, choose_threshold, flagged, read_threshold, write_threshold
from blockzoo.tasks.series.anomaly import SeriesAnomaly
from blockzoo.tasks.series.anomaly_files import InternalBleeding
from blockzoo.tasks.series.range_metrics import affiliation_scores, range_scores, volume_scores

MODEL = "timesnet_anomaly.internal_bleeding"
SCORES = np.array([[0.1, 5.0], [0.9, np.nan], [0.8, 1.0], [0.2, 9.0]])


def test_a_threshold_is_the_users_or_a_share_of_the_rows_or_the_runs(tmp_path):
    assert choose_threshold(SCORES, "x", threshold=0.5)[0].tolist() == [0.5, 0.5]
    limits, source = choose_threshold(SCORES, "x", anomaly_ratio=50)
    assert limits.tolist() == [0.5, 5.0] and source == "50 % of these rows"
    assert choose_threshold(SCORES, str(tmp_path))[1] == ""
    write_threshold(tmp_path, 0.99, 0.85)
    limits, source = choose_threshold(SCORES, f"local-dir:{tmp_path}")
    assert limits.tolist() == [0.85, 0.85] and "validation" in source
    assert read_threshold(str(tmp_path)) == 0.85


def test_flags_stand_beside_scores_and_what_has_none_is_not_flagged():
    names, values, told = flagged(["score_a", "score_b"], SCORES, np.array([0.5, 2.0]), "as given")
    assert names == ["score_a", "threshold_a", "flag_a", "score_b", "threshold_b", "flag_b"]
    assert values[:, 2].tolist() == [0, 1, 1, 0]
    assert np.isnan(values[1, 5]) and values[[0, 2, 3], 5].tolist() == [1, 0, 1]
    assert (
        told
        == "score_a above 0.5 (as given): 2 steps in 1 stretches; score_b above 2 (as given): 2 steps in 2 stretches"
    )
    assert flagged(["score"], SCORES[:, :1], np.array([np.nan]), "")[1].shape == (4, 1)
    assert alarms(np.array([True, False, True, True])) == [(0, 0), (2, 3)]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"threshold": 1.0, "anomaly_ratio": 1.0}, "give one of them"),
        ({"threshold": float("nan")}, "must be a finite number"),
        ({"anomaly_ratio": 0.0}, "between 0 and 100"),
    ],
)
def test_wrong_thresholds_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        choose_threshold(SCORES, "x", **options)


def test_other_files_are_named(tmp_path):
    (tmp_path / "calibration.json").write_text('{"forecast": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"calibration\.json holds no threshold"):
        read_threshold(str(tmp_path))


def test_predict_prints_scores_thresholds_and_flags(tmp_path, capsys):
    rng = np.random.default_rng(0)
    wave = 50 + 10 * np.sin(np.arange(260) / 8) + rng.normal(0, 0.1, 260)
    wave[120:125] += 40
    path = tmp_path / "pulse.csv"
    path.write_text("\n".join(["pressure", *map(str, wave.round(4))]), encoding="utf-8")
    assert main(["predict", MODEL, str(path), "--json"]) == 0
    plain, err = capsys.readouterr()
    assert list(json.loads(plain)[0]) == ["step", "score"] and "no threshold" in err
    assert main(["predict", MODEL, str(path), "--json", "--anomaly-ratio", "2"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert list(rows[0]) == ["step", "score", "threshold", "flag"]
    assert all(row["flag"] is (row["score"] > row["threshold"]) for row in rows)
    assert 1 <= sum(row["flag"] for row in rows) <= 6 and "2 % of these rows" in err
    assert main(["predict", MODEL, str(path), "--threshold", "0", "--out", str(tmp_path / "out.csv")]) == 0
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "step,score,threshold,flag" and lines[1].endswith(",0.0,True")
    assert main(["predict", MODEL, str(path), "--threshold", "0", "--anomaly-ratio", "1"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_test_scores_stretches_and_leaves_its_threshold(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    seed_everything(0, verbose=False)
    sizes = {"seq_len": 50, "in_chans": 1, "d_model": 4, "d_ff": 4, "depth": 1, "num_kernels": 2, "top_k": 2}
    task = SeriesAnomaly("timesnet_anomaly", {**sizes, "period_scope": "sample"}, vus_window=20)
    data = InternalBleeding(seq_len=50)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    run = Trainer(accelerator="cpu", **silent)
    found = run.test(task, data, verbose=False)[0]
    score, label, limits = (task.test_result[key] for key in ("score", "label", "threshold"))
    wanted = volume_scores(score, label, 20)
    for ending, limit in zip(("", "_val"), limits, strict=True):
        both = {**affiliation_scores(score > limit, label), **range_scores(score > limit, label)}
        wanted |= {f"{key}{ending}": value for key, value in both.items() if np.isfinite(value)}
    for key, value in wanted.items():
        assert found[f"test/{key}"] == pytest.approx(value, abs=1e-6), key
    task.write_report(tmp_path)
    assert read_threshold(str(tmp_path)) == pytest.approx(float(limits[1]))
    data.setup("test")
    assert task.calm_threshold(data, task.val_quantile) == pytest.approx(float(limits[1]), rel=1e-5)
    with pytest.raises(ValueError, match="vus_window=-1"):
        SeriesAnomaly("timesnet_anomaly", sizes, vus_window=-1)
    assert torch.isfinite(score).all()
