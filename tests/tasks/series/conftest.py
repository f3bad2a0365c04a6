"""What the tests of series share."""

import pytest
from lightning.pytorch import Trainer

from blockzoo.__main__ import main


@pytest.fixture
def call(folder, capsys, monkeypatch):
    """Runs a command in the module's `folder`; returns status, output and errors."""
    monkeypatch.chdir(folder)

    def command(*args):
        status = main(args)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def quiet_trainer(monkeypatch):
    """Makes trainers on the CPU that print and write nothing."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return lambda **options: Trainer(accelerator="cpu", **{**silent, **options})
