"""A small run of the command line in a folder of its own, and the demo, run once for all tests below this folder."""

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from blockzoo.__main__ import main

HERE = Path(__file__).parent / "app"

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "model": {
        "class_path": "cli_toys.Recording",
        "init_args": {
            "model_name": "timesnet_classifier",
            "model_kwargs": {
                "seq_len": 29,
                "in_chans": 12,
                "num_classes": 9,
                "d_model": 4,
                "d_ff": 4,
                "depth": 1,
                "num_kernels": 2,
                "top_k": 1,
                "drop_rate": 0.1,
                "period_scope": "batch",
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
            "jitter": 0.1,
        },
    },
    "data": {"class_path": "JapaneseVowels", "init_args": {"batch_size": 16}},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "limit_train_batches": 4,
        "limit_val_batches": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "toy"}},
        "callbacks": [
            {
                "class_path": "ModelCheckpoint",
                "init_args": {"monitor": "val/loss", "save_last": True, "filename": "best"},
            },
            {"class_path": "RunFolder"},
        ],
    },
}


class Workspace:
    """A current folder with a config `toy.yaml`, and ways to run commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("toy.yaml", CONFIG)

    def write(self, name: str, content: dict[str, Any]) -> str:
        """Write a YAML file."""
        (self.folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return name

    def variant(self, name: str, change: Any) -> str:
        """Write the config after `change` was applied to it."""
        config = copy.deepcopy(CONFIG)
        change(config)
        return self.write(name, config)

    def run(self, *args: str) -> Any:
        """Run in this process; errors are raised. Returns the command line object."""
        from blockzoo.tasks.app.training import run

        return run(list(args))

    def fit(self, *args: str) -> Any:
        """Fit the config."""
        return self.run("fit", "--config", "toy.yaml", *args)

    def main(self, *args: str) -> int:
        """Run in this process; returns the exit status."""
        from blockzoo.tasks.app.training import main

        return main(list(args))

    def printed(self, *args: str) -> dict[str, Any]:
        """The config of `fit` that the command line resolves these arguments to."""
        text = io.StringIO()
        with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(text):
            self.run("fit", *args, "--print_config")
        assert stopped.value.code == 0
        return yaml.safe_load(text.getvalue())

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """Run in a process of its own."""
        command = [sys.executable, "-m", "blockzoo", *args]
        environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A workspace; what Lightning and OpenMP keep between runs is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(sys, "argv", ["blockzoo"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Workspace(tmp_path)
    torch.set_num_threads(threads)


@dataclass
class Demo:
    """What `blockzoo demo` left: exit status, rows of its output, and the page."""

    status: int
    rows: list[dict[str, Any]]
    file: Path

    @property
    def page(self) -> str:
        return self.file.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """One complete run, with the comparison of speed."""
    folder = tmp_path_factory.mktemp("demo")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKZOO_CACHE", str(folder / "cache"))
        status = main(["demo", "--json", "--out", str(folder / "page with spaces.html")])
    return Demo(status, json.loads(out.getvalue()), folder / "page with spaces.html")
