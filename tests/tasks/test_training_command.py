"""The training command: interpolation, precedence, configs by name, errors, and Lightning's pitfalls."""

import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from blockzoo.tasks.base import Task
from blockzoo.tasks.cli import ZooCLI, config_path, list_configs, main, run
from blockzoo.tasks.data.base import ZooData

BASE = """
model:
  class_path: SeriesClassification
  init_args:
    model_name: timesnet_classifier
    model_kwargs: {d_model: 4, d_ff: 4, depth: 1, num_kernels: 2}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1e-3}}
data:
  class_path: JapaneseVowels
  init_args: {batch_size: 90}
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
"""


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """The current folder of a test, in which nothing but `runs/` should appear."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(workdir):
    """Runs a subcommand of the smoke config with overrides; returns Lightning's command line object."""

    def call(command: str, *args: str, config: str = "smoke/timesnet_classifier"):
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        return run([command, "--config", config, *quiet, "--trainer.accelerator=cpu", *args])

    return call


@pytest.fixture
def config(workdir):
    """Writes a config file made from `BASE` and dotted changes; returns its name."""

    def write(name="base.yaml", /, base=BASE, **changes):
        content = yaml.safe_load(base) if base else {}
        for key, value in changes.items():
            *path, last = key.split("__")
            place = content
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        Path(name).write_text(yaml.safe_dump(content))
        return name

    return write


@pytest.fixture
def parse(workdir, monkeypatch):
    """Parses and builds a `fit` without running it; returns the command line object."""
    monkeypatch.setattr(ZooCLI, "_run_subcommand", lambda self, subcommand: None)
    return lambda *args: run(["fit", *args])


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        ([], 90),
        (["--data.init_args.batch_size=16"], 16),
        (["--data.batch_size=17"], 17),
        (["--config", "later.yaml"], 33),
        (["--config", "later.yaml", "--data.batch_size=18"], 18),
        (["--trainer.max_steps=5"], 5),
    ],
)
def test_interpolation_follows_later_files_and_the_command_line(config, parse, args, steps):
    config(trainer__max_steps="${data.init_args.batch_size}")
    config("later.yaml", base="", data__init_args__batch_size=33)
    assert parse("--config", "base.yaml", *args).trainer.max_steps == steps


def test_interpolation_reaches_other_files_variables_and_the_environment(config, parse, monkeypatch):
    monkeypatch.setenv("BLOCKZOO_TEST_RATE", "0.25")
    config()
    config(
        "more.yaml",
        base="",
        trainer__max_steps="${data.init_args.batch_size}",
        trainer__gradient_clip_val="${vars.clip}",
        vars={"clip": 2.5},
        model__init_args__weight_decay="${oc.env:BLOCKZOO_TEST_RATE,0.1}",
    )
    line = parse("--config", "base.yaml", "--config", "more.yaml")
    assert (line.trainer.max_steps, line.trainer.gradient_clip_val, line.model.weight_decay) == (90, 2.5, 0.25)
    assert parse("--config", "base.yaml", "--config", "more.yaml", "--vars.clip=7").trainer.gradient_clip_val == 7


def test_numbers_in_exponent_form_are_numbers(config, parse):
    config(model__init_args__weight_decay="1e-3")
    assert parse("--config", "base.yaml").model.weight_decay == 1e-3


def test_callbacks_are_replaced_or_appended(config, parse):
    ema = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}
    config(trainer__callbacks=[ema])
    config("more.yaml", base="", **{"trainer__callbacks+": [{"class_path": "LearningRateMonitor"}]})
    config(trainer__callbacks=[ema], trainer__logger=True)
    names = [type(c).__name__ for c in parse("--config", "base.yaml", "--config", "more.yaml").trainer.callbacks]
    assert {"EMAWeightAveraging", "LearningRateMonitor"} <= set(names)


def test_packaged_configs_are_found_by_name():
    assert "timesnet/japanese_vowels" in list_configs()
    for name in ("timesnet/japanese_vowels", "timesnet/japanese_vowels.yaml"):
        assert Path(config_path(name)).is_file()
    with pytest.raises(FileNotFoundError, match="did you mean timesnet/japanese_vowels"):
        config_path("timesnet/japanese_vowel")


@pytest.mark.parametrize("name", list_configs())
def test_every_packaged_config_builds(parse, name):
    line = parse("--config", name, "--trainer.accelerator=cpu")
    assert isinstance(line.model, Task) and isinstance(line.datamodule, ZooData)
    keepers = [c for c in line.trainer.callbacks if isinstance(c, ModelCheckpoint)]
    assert keepers and keepers[0].monitor and keepers[0].save_last


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config", "base.yaml", "--model.learning_rat=1"], "learning_rat"),
        (["--config", "base.yaml", "--trainer.max_epoch=1"], "max_epoch"),
        (["--config", "wrong.yaml"], "batchsize"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
        (
            ["--config", "package.yaml"],
            "a Python package that the config needs is missing: No module named 'blockzoo_no_such_package'",
        ),
        (["--config", "base.yaml", "--data.batch_size=0"], "batch_size=0 must be at least 1"),
        (["--config", "base.yaml", "--model.model_name=timesnet_clasifier"], "did you mean timesnet_classifier"),
        (["--config", "base.yaml", "--model.freeze=[nothing]"], "freeze='nothing' matches no parameter"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(config, capsys, args, said):
    config()
    config("wrong.yaml", data__init_args__batchsize=3)
    Path("broken_module.py").write_text("import blockzoo_no_such_package\nclass Logger: pass\n")
    sys.path.insert(0, os.getcwd())
    config("package.yaml", trainer__logger={"class_path": "broken_module.Logger"})
    try:
        assert main(["fit", *args]) == 2
    finally:
        sys.path.remove(os.getcwd())
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert error.startswith("blockzoo: ")


def test_the_config_wins_over_the_checkpoint_in_fit(cli, workdir):
    line = cli("fit", "--trainer.max_epochs=1", "--model.label_smoothing=0.0")
    checkpoint = Path(line.trainer.log_dir) / "checkpoints" / "last.ckpt"
    line = cli("fit", "--trainer.max_epochs=2", "--model.label_smoothing=0.3", f"--ckpt_path={checkpoint}")
    assert line.model.label_smoothing == 0.3 and line.trainer.current_epoch == 2
    assert hasattr(LightningCLI, "_parse_ckpt_path")  # what this overrides


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_an_evaluation_leaves_the_fits_config_alone(cli, workdir):
    first = Path(cli("fit").trainer.log_dir)
    before = (first / "config.yaml").read_text()
    assert "ckpt_path" not in before and "${" not in before
    cli("test", f"--ckpt_path={first}/checkpoints/last.ckpt")
    assert (first / "config.yaml").read_text() == before
    cli("predict", f"--ckpt_path={first}/checkpoints/last.ckpt", config=str(first / "config.yaml"))


def test_nothing_is_written_beside_runs(cli, workdir):
    cli("fit")
    assert [path.name for path in workdir.iterdir()] == ["runs"]


def test_checkpoints_load_without_code(cli, workdir):
    folder = Path(cli("fit").trainer.log_dir)
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(name.startswith("model.") for name in content["state_dict"] if "metrics" not in name)


def test_training_switches_are_configuration(cli, workdir):
    ema = '{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}'
    stop = '{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 0, "min_delta": 9}}'
    board = '{"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs"}}'
    line = cli(
        "fit",
        f"--trainer.callbacks+=[{ema}, {stop}]",
        f"--trainer.logger={board}",
        "--trainer.precision=bf16-mixed",
        "--trainer.gradient_clip_val=0.5",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.max_epochs=9",
    )
    assert line.trainer.current_epoch == 2  # stopped early
    assert any(isinstance(callback, EMAWeightAveraging) for callback in line.trainer.callbacks)
    assert list(Path(line.trainer.log_dir).glob("events.out.tfevents*"))


def test_resuming_past_the_end_of_a_schedule_works(cli, workdir):
    folder = Path(cli("fit", "--trainer.max_epochs=1", "--model.schedule=cosine").trainer.log_dir)
    last = folder / "checkpoints" / "last.ckpt"
    line = cli("fit", "--trainer.max_epochs=3", "--model.schedule=cosine", f"--ckpt_path={last}")
    assert line.trainer.current_epoch == 3
