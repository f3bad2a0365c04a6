"""A folder that is saved again holds the old model or the new one, wherever the save breaks."""

import os
import subprocess
import sys

import pytest
import torch

import blockzoo
from blockzoo.checkpoints import folder as folders
from blockzoo.checkpoints.folder import replace_files, whole_folder

NAMES = ("README.md", "model.safetensors", "config.json")
SMALL = {"seq_len": 8, "pred_len": 2, "in_chans": 1, "d_model": 4, "d_ff": 4, "num_kernels": 2}


def write(folder, text):
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / name).write_text(text)


def content(folder):
    return {name: (folder / name).read_text() for name in os.listdir(folder)}


@pytest.fixture
def saves(tmp_path):
    """A folder with an old model, and one beside it with the new."""
    write(tmp_path / "model", "old")
    write(tmp_path / "new", "new")
    return tmp_path / "new", tmp_path / "model"


def count_steps(monkeypatch, fail_at):
    """Count what touches the disk, and fail once, at one step; returns the counter."""
    steps = {"done": 0}

    def counted(function):
        def run(*args, **kwargs):
            steps["done"] += 1
            if steps["done"] == fail_at:
                raise OSError("the disk is full")
            return function(*args, **kwargs)

        return run

    for name in ("_sync", "_link"):
        monkeypatch.setattr(folders, name, counted(getattr(folders, name)))
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return steps


def test_new_files_replace_the_old_and_leave_nothing_else(saves):
    new, model = saves
    (model / "notes.txt").write_text("mine")
    replace_files(new, model, NAMES)
    assert content(model) == {**dict.fromkeys(NAMES, "new"), "notes.txt": "mine"}


STEPS = 3 + 3 + 1 + 1 + 1 + 3 + 1
"""Syncs of the new files, links to the old ones, sync, rename, sync, replacements, sync."""


@pytest.mark.parametrize("fail_at", range(1, STEPS + 1))
def test_a_save_that_breaks_at_any_step_leaves_the_old_model(saves, monkeypatch, fail_at):
    new, model = saves
    with monkeypatch.context() as patch:
        steps = count_steps(patch, fail_at)
        with pytest.raises(OSError, match="the disk is full"):
            replace_files(new, model, NAMES)
        assert steps["done"] >= fail_at
    whole = whole_folder(model)
    assert {name: (whole / name).read_text() for name in NAMES} == dict.fromkeys(NAMES, "old")
    write(new, "new")
    replace_files(new, model, NAMES)
    assert content(model) == dict.fromkeys(NAMES, "new")


def test_the_steps_are_all_there_are(saves, monkeypatch):
    new, model = saves
    with monkeypatch.context() as patch:
        steps = count_steps(patch, 0)
        replace_files(new, model, NAMES)
        assert steps["done"] == STEPS


def test_a_first_save_that_breaks_leaves_no_model(tmp_path, monkeypatch):
    write(tmp_path / "new", "new")
    (tmp_path / "model").mkdir()
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: replace(a, b) if "config" not in str(b) else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replace_files(tmp_path / "new", tmp_path / "model", NAMES)
    assert os.listdir(tmp_path / "model") == []


@pytest.mark.parametrize("name", NAMES)
def test_after_a_kill_between_two_files_the_old_model_is_read(tmp_path, name):
    torch.manual_seed(1)
    old = blockzoo.create_model("timesnet_forecast", **SMALL)
    blockzoo.save_pretrained(old, tmp_path / "model")
    code = f"""
import os, blockzoo
from blockzoo.checkpoints import folder
replace = os.replace
def killed(a, b):
    if str(b) == {str(tmp_path / "model" / name)!r}:
        os._exit(9)
    replace(a, b)
model = blockzoo.create_model("timesnet_forecast", **{ {**SMALL, "d_model": 8}!r})
folder.os.replace = killed
blockzoo.save_pretrained(model, {str(tmp_path / "model")!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    found = blockzoo.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(found.state_dict(), old.state_dict(), rtol=0, atol=0)
    blockzoo.save_pretrained(old, tmp_path / "model")
    assert not (tmp_path / "model" / ".replacing").exists()
