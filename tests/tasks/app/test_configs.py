"""Packaged configs: complete in one file, described at their top, and the smoke ones really run."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from blockzoo.tasks.app.training import main, run
from blockzoo.tasks.core.configs import config_path, list_configs

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMOKE = [name for name in list_configs() if name.startswith("smoke/")]


@pytest.mark.parametrize("name", list_configs())
def test_the_header_says_where_from_what_to_expect_and_how_long(name):
    header = re.match(r"(#.*\n)+", Path(config_path(name)).read_text()).group()
    for entry in ("# Source: ", "# Expected: ", "# Time: "):
        assert entry in header
    assert all(len(line) <= 120 for line in header.splitlines())


@pytest.mark.parametrize("name", list_configs())
def test_sections_come_in_reading_order_and_lengths_are_written_once(name):
    text = Path(config_path(name)).read_text()
    assert list(yaml.safe_load(text)) == ["seed_everything", "model", "data", "trainer"]
    assert len(re.findall(r"seq_len: \d+", text)) == ("seq_len" in text)
    assert len(re.findall(r"lr: [\d.e-]+", text)) == 1


@pytest.mark.parametrize("name", list_configs())
def test_what_is_printed_is_a_config_without_references(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", name, "--print_config"]) == 0
    printed = capsys.readouterr().out
    content = yaml.safe_load(printed)
    assert "${" not in printed
    arguments = content["model"]["init_args"]["model_kwargs"] or {}
    assert content["data"]["init_args"].get("seq_len") == arguments.get("seq_len")


@pytest.mark.parametrize("name", SMOKE)
def test_a_smoke_config_is_fitted_tested_and_predicted_with(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted = run(["fit", "--config", name, *QUIET])
    folder = str(fitted.trainer.log_dir)
    found = {key: float(value) for key, value in fitted.trainer.callback_metrics.items() if key.startswith("test/")}
    tested = run(["test", folder, *QUIET]).trainer.callback_metrics
    assert found and {key: float(tested[key]) for key in found} == found
    batches = run(["predict", folder, *QUIET]).trainer.predict_loop.predictions
    assert all(torch.isfinite(value).all() for batch in batches for value in batch.values())
    assert len(torch.cat([batch["index"] for batch in batches]).unique()) == len(fitted.datamodule.datasets["test"])
