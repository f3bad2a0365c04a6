"""Runs that fail, are stopped, killed or resumed."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.core.checkpoint_io import AtomicCheckpointIO, _host
from blockzoo.tasks.core.guards import NonFiniteLossError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*ended before the epoch ended and your dataloader is not resumable"),
]
RUN = Path("runs/toy/version_0")
CHECKPOINTS = RUN / "checkpoints"


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)


# Writing checkpoints.


def test_failed_save_leaves_the_old_checkpoint_and_no_other_file(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"x": torch.ones(3)}, path)
    with pytest.raises(TypeError, match="pickle"):
        io.save_checkpoint({"x": torch.zeros(3), "lock": (n for n in [])}, path)
    assert io.load_checkpoint(path)["x"].sum() == 3
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_next_save_removes_what_a_killed_process_left(tmp_path):
    code = """
import os, torch
from blockzoo.tasks.core.checkpoint_io import AtomicCheckpointIO
torch.save = lambda *args: os._exit(9)
AtomicCheckpointIO().save_checkpoint({"x": 1}, "a.ckpt")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 9
    assert [name.endswith(".writing") for name in os.listdir(tmp_path)] == [True]
    AtomicCheckpointIO().save_checkpoint({"x": 1}, tmp_path / "b.ckpt")
    assert os.listdir(tmp_path) == ["b.ckpt"]


@pytest.mark.parametrize("process", ["{host}.{parent}", "{host}.{this}", "elsewhere.1", "notes"])
def test_a_save_leaves_the_files_of_others_that_may_be_writing(tmp_path, process):
    process = process.format(host=_host(), parent=os.getppid(), this=os.getpid())
    other = tmp_path / f"a.ckpt.{process}.0a1b2c3d.writing"
    other.write_bytes(b"half")
    AtomicCheckpointIO().save_checkpoint({"x": 1}, tmp_path / "a.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", other.name]


def test_threads_that_save_one_file_do_not_meet(tmp_path):
    io, states = AtomicCheckpointIO(), [{"x": torch.full((1000,), float(i))} for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda state: io.save_checkpoint(state, tmp_path / "a.ckpt"), states))
    assert io.load_checkpoint(tmp_path / "a.ckpt")["x"].unique().numel() == 1
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_checkpoint_with_code_is_refused_whatever_the_caller_asks(tmp_path):
    torch.save({"x": os.getcwd}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_every_trainer_saves_atomically_unless_the_config_has_a_plugin(zoo):
    fast = "--trainer.max_epochs=1"
    assert type(zoo.fit(fast).trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    plugin = "lightning.pytorch.plugins.io.AsyncCheckpointIO"
    assert type(zoo.fit(fast, f"--trainer.plugins={plugin}").trainer.strategy.checkpoint_io) is AsyncCheckpointIO


@pytest.mark.slow
def test_kill_during_a_write_leaves_the_earlier_checkpoint_loadable(zoo):
    zoo.variant("toy.yaml", lambda c: c["trainer"]["callbacks"].append({"class_path": "cli_toys.Heavy"}))
    process = zoo.start("fit", "--config", "toy.yaml")
    while True:
        assert process.poll() is None, process.communicate()[0]
        if list(CHECKPOINTS.glob("*.writing")) and (CHECKPOINTS / "last.ckpt").is_file():
            process.send_signal(signal.SIGSTOP)  # a write may end between a look and a kill
            if list(CHECKPOINTS.glob("*.writing")):
                break
            process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert list(CHECKPOINTS.glob("*.writing"))
    earlier = load(CHECKPOINTS / "last.ckpt")
    assert (earlier["epoch"], earlier["global_step"]) == (0, 4)
    zoo.variant("toy.yaml", lambda config: None)
    assert zoo.fit(f"--ckpt_path={CHECKPOINTS / 'last.ckpt'}").trainer.global_step == 8


# Losses that are not finite.


def test_nan_loss_stops_before_the_weights_and_names_step_rate_and_checkpoint(zoo):
    arguments = ("--model=cli_toys.Poisoned", "--model.poison_step=6")
    with pytest.raises(NonFiniteLossError) as caught:
        zoo.fit(*arguments)
    text = str(caught.value)
    assert "the loss is nan in epoch 1, step 6 (learning rate 0.00" in text
    assert f"{CHECKPOINTS / 'best.ckpt'}" in text or f"{CHECKPOINTS / 'last.ckpt'}" in text
    for name in ("best.ckpt", "last.ckpt"):
        state = load(CHECKPOINTS / name)
        assert state["global_step"] == 4
        assert all(value.isfinite().all() for value in state["state_dict"].values())
    assert not (RUN / "model.safetensors").exists()


def test_nan_loss_is_reported_without_a_traceback(zoo, capsys):
    assert zoo.main("fit", "--config", "toy.yaml", "--model=cli_toys.Poisoned", "--model.poison_step=0") == 1
    text = capsys.readouterr().err
    assert "blockzoo: the loss is nan in epoch 0, step 0" in text
    assert "No checkpoint was written before" in text
    assert "Traceback" not in text


# Resuming.


@pytest.mark.parametrize("averaging", [False, True])
def test_resumed_fit_equals_uninterrupted_fit(zoo, averaging):
    more = ["--trainer.max_epochs=4"]
    if averaging:
        more += ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    whole = zoo.fit(*more)
    stop = ["--trainer.callbacks+=cli_toys.Signalled", "--trainer.callbacks.epoch=2", "--trainer.callbacks.batch=0"]
    assert zoo.main("fit", "--config", "toy.yaml", *more, *stop) == 143
    rest = zoo.fit(*more, "--ckpt_path=runs/toy/version_1/checkpoints/last.ckpt")
    assert rest.model.losses == whole.model.losses[8:]
    for name in ("model.safetensors", "last.safetensors"):
        assert_same(load_state_dict(RUN / name), load_state_dict(f"runs/toy/version_2/{name}"))


# Signals.


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signal_saves_and_prints_the_command_that_goes_on(zoo, caplog, name, status):
    stop = ["--trainer.callbacks+=cli_toys.Signalled", f"--trainer.callbacks.name={name}"]
    with caplog.at_level("INFO"):
        assert zoo.main("fit", "--config", "toy.yaml", *stop) == status
    assert f"Stopped by {name} in epoch 1, step" in caplog.text
    command = shlex.split(re.search(r"blockzoo (fit .*)", caplog.text)[1])
    saved = load(command[-1])
    assert command[-2:] == ["--ckpt_path", str(CHECKPOINTS / "interrupted.ckpt")]
    assert saved["epoch"] == 1
    assert saved["global_step"] == 7  # the batch in which the signal came is finished
    assert not (RUN / "model.safetensors").exists()
    # The command as printed, without the callback that sends the signal.
    cli = zoo.run(*[word for word in command if not word.startswith("--trainer.callbacks")])
    assert cli.trainer.global_step == 8
    assert Path("runs/toy/version_1/model.safetensors").is_file()


def test_signal_during_validation_saves_weights_and_averages_in_their_places(zoo):
    more = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    stop = ["--trainer.callbacks+=cli_toys.Signalled", "--trainer.callbacks.stage=validation"]
    assert zoo.main("fit", "--config", "toy.yaml", *more, *stop, "--trainer.callbacks.batch=0") == 143
    saved = load(CHECKPOINTS / "interrupted.ckpt")
    zoo.fit(*more)
    whole = load("runs/toy/version_1/checkpoints/last.ckpt")
    assert saved["global_step"] == whole["global_step"] == 8
    assert_same(saved["current_model_state"], whole["current_model_state"])
    assert_same(
        {k: v for k, v in saved["state_dict"].items() if k.startswith("model.")},
        {k: v for k, v in whole["state_dict"].items() if k.startswith("model.")},
    )


def test_second_sigint_stops_at_once_and_names_the_last_checkpoint(zoo, caplog):
    stop = ["--trainer.callbacks+=cli_toys.Signalled", "--trainer.callbacks.name=SIGINT", "--trainer.callbacks.times=2"]
    with caplog.at_level("INFO"):
        assert zoo.main("fit", "--config", "toy.yaml", *stop) == 130
    assert re.search(r"Stopped by SIGINT in epoch 1, step 6; the last checkpoint is .*ckpt", caplog.text)
    assert not (CHECKPOINTS / "interrupted.ckpt").exists()


def test_sigterm_stops_a_prediction(zoo):
    stop = ["--trainer.callbacks+=cli_toys.Signalled", "--trainer.callbacks.stage=predict"]
    arguments = ["predict", "--config", "toy.yaml", *stop, "--trainer.callbacks.epoch=0"]
    assert zoo.main(*arguments) == 143


def test_handlers_of_the_caller_are_back_after_a_run(zoo):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    cli = zoo.fit("--trainer.max_epochs=1")
    cli.trainer.test(cli.model, datamodule=cli.datamodule)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# Two processes.

DDP = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.use_distributed_sampler=true")


@pytest.mark.slow
def test_two_processes_train_one_model_and_keep_one_record(zoo):
    process = zoo.start("fit", "--config", "toy.yaml", *DDP, "--trainer.callbacks+=EMAWeightAveraging")
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    assert os.listdir("runs/toy") == ["version_0"]
    for name in ("config.yaml", "model.safetensors", "metrics.csv", "checkpoints/last.ckpt"):
        assert (RUN / name).is_file(), output
    assert load(CHECKPOINTS / "last.ckpt")["global_step"] == 8


@pytest.mark.slow
def test_nan_loss_in_one_process_stops_both(zoo):
    poison = ("--model=cli_toys.Poisoned", "--model.poison_rank=1")
    process = zoo.start("fit", "--config", "toy.yaml", *DDP, *poison)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 1, output
    assert re.search(r"the loss is \d\.\d+, nan in epoch 1, step 5", output), output
    assert load(CHECKPOINTS / "last.ckpt")["global_step"] == 4


@pytest.mark.slow
def test_signal_to_one_process_stops_both_at_the_same_batch(zoo):
    stop = ["--trainer.callbacks+=cli_toys.Signalled", "--trainer.callbacks.rank=1", "--trainer.callbacks.name=SIGINT"]
    process = zoo.start("fit", "--config", "toy.yaml", *DDP, *stop)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    assert load(CHECKPOINTS / "interrupted.ckpt")["global_step"] == 7
