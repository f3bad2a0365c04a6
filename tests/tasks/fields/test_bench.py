"""`blockzoo bench fno` and `multigrid` on small fields."""

import json

import pytest

from blockzoo.__main__ import main
from blockzoo.tasks.fields import bench as bench_fno


def test_layers_and_models_are_measured_against_the_plain_formulation(monkeypatch, capsys):
    monkeypatch.setattr(bench_fno, "LAYERS", [(16, 8)])
    monkeypatch.setattr(bench_fno, "MODELS", [(16, 8)])
    assert main(["bench", "fno", "--runs", "1", "--batch-size", "2", "--arg", "hidden_channels=4", "--json",
                 "--only", "layer", "model", "memory"]) == 0  # fmt: skip
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["what"] for row in rows} == {"layer", "model"}  # memory is of MODELS[1:]
    variants = {row["variant"] for row in rows}
    assert {"plain", "blockzoo", "blockzoo, dft", "blockzoo, fft", "blockzoo, channels last"} <= variants
    assert all(row["ms"] > 0 for row in rows)


def test_both_orders_of_factors_are_measured_alone(monkeypatch, capsys):
    monkeypatch.setattr(bench_fno, "RANKS", (0.3,))
    monkeypatch.setattr(bench_fno, "FACTORS", [(6, 4)])
    monkeypatch.setattr(bench_fno, "BATCHES", (2,))
    assert main(["bench", "fno", "--only", "factors", "--runs", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["form"] for row in rows] == ["tucker", "cp", "tt"]
    assert all(min(row["reconstructed"], row["factorized"], row["auto"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("suite", "table", "known"),
    [
        ("fno", "edge", ("layer", "model")),
        ("equivariant", "layer", ("edge", "uuu")),
        ("timesnet", "layer", ("--only",)),
    ],
)
def test_tables_of_another_suite_are_refused(suite, table, known, capsys):
    assert main(["bench", suite, "--only", table]) != 0
    error = capsys.readouterr().err
    assert table in error and all(name in error for name in known)


@pytest.mark.parametrize("variant", ["plain", "blockzoo", "multigrid, 1 patch at a time"])
def test_memory_at_its_peak(variant):
    job = {"n": 64, "modes": 4, "width": 4, "batch": 1, "phase": "training", "variant": variant}
    assert 0 <= bench_fno.peak_megabytes({**job, "options": {}}) < 1000
