"""What the tests of series share."""

import pytest
from lightning.pytorch import Trainer


@pytest.fixture
def quiet_trainer(monkeypatch):
    """Makes trainers on the CPU that print and write nothing."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return lambda **options: Trainer(accelerator="cpu", **{**silent, **options})
