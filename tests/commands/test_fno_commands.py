"""`blockzoo bench fno` and `multigrid` on small fields."""

import json

import pytest

from blockzoo.__main__ import main
from blockzoo.tasks.commands import bench_fno


def test_layers_and_models_are_measured_against_the_plain_formulation(monkeypatch, capsys):
    monkeypatch.setattr(bench_fno, "LAYERS", [(16, 8)])
    monkeypatch.setattr(bench_fno, "MODELS", [(16, 8)])
    assert main(["bench", "fno", "--runs", "1", "--batch-size", "2", "--arg", "hidden_channels=4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["what"] for row in rows} == {"layer", "model"}
    variants = {row["variant"] for row in rows}
    assert {"plain", "blockzoo", "blockzoo, dft", "blockzoo, fft", "blockzoo, channels last"} <= variants
    assert all(row["ms"] > 0 for row in rows)


@pytest.mark.parametrize("variant", ["plain", "blockzoo", "multigrid, 1 patch at a time"])
def test_memory_at_its_peak(variant):
    job = {"n": 64, "modes": 4, "width": 4, "batch": 1, "phase": "training", "variant": variant}
    assert 0 <= bench_fno.peak_megabytes({**job, "options": {}}) < 1000
