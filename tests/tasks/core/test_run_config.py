"""A run folder from anybody: it names classes of the zoo and of a short list, or it is not read."""

import copy
from pathlib import Path

import pytest
import yaml

from blockzoo.tasks.core.configs import config_path, list_configs
from blockzoo.tasks.core.run_config import check_run_config

LOAD = {"class_path": "torch.load", "init_args": {"f": "e.ckpt", "weights_only": False}}
HARMLESS = {
    "seed_everything": 0,
    "model": {"class_path": "SeriesClassification", "init_args": {"model_name": "timesnet_classifier.japanese_vowels"}},
    "data": {"class_path": "blockzoo.tasks.series.uea.JapaneseVowels", "init_args": {"batch_size": 16}},
    "trainer": {
        "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": None}}],
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
        "max_steps": "${data.init_args.batch_size}",
    },
}


def attack(where, value):
    config = copy.deepcopy(HARMLESS)
    place = config
    for key in where[:-1]:
        place = place.setdefault(key, {})
    place[where[-1]] = value
    return config


CALLBACK = {"class_path": "LambdaCallback", "init_args": {"setup": LOAD}}
ATTACKS = {
    "a callback that takes functions": (("trainer", "callbacks"), [CALLBACK]),
    "a callback by its bare name": (("trainer", "callbacks"), "LambdaCallback"),
    "a function below an allowed class": (("trainer", "logger", "init_args", "name"), LOAD),
    "a function as a text": (("model", "init_args", "optimizer"), "shutil.rmtree"),
    "a function in a dictionary": (("model", "init_args", "model_kwargs"), {"a": {"b": ["os.system"]}}),
    "a dictionary written as text": (("model", "init_args", "optimizer"), "{class_path: torch.hub.load}"),
    "a list that is appended to": (("trainer", "callbacks+"), [CALLBACK]),
    "a plugin": (("trainer", "plugins"), "some.Plugin"),
    "a strategy": (("trainer", "strategy"), {"class_path": "torch.hub.load"}),
    "a task from elsewhere": (("model", "class_path"), "evil.Task"),
    "a resolver": (("trainer", "max_steps"), "${oc.env:HOME}"),
    "a checkpoint": (("ckpt_path",), "e.ckpt"),
    "another config": (("config",), "other.yaml"),
    "a section in a file": (("model",), "model.yaml"),
    "a section in a file of another name": (("model", "init_args", "optimizer"), "notes.txt"),
    "an argument in a file": (("data", "init_args", "anything"), "notes.txt"),
    "a folder to write to": (("trainer", "default_root_dir"), "/srv/elsewhere"),
    "a way up": (("trainer", "logger", "init_args", "save_dir"), "../../elsewhere"),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_a_run_folder_runs_no_code_and_reaches_no_file(tmp_path, case):
    (tmp_path / "notes.txt").write_text("class_path: torch.load")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(attack(*ATTACKS[case])))
    with pytest.raises(ValueError, match="config.yaml") as caught:
        check_run_config(tmp_path / "config.yaml")
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("text", ["a: " * 3 + "[", "\x80", "- 1", "{a: " * 60 + "1" + "}" * 60])
def test_what_is_no_config_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="config.yaml"):
        check_run_config(tmp_path / "config.yaml")


def test_ordinary_run_folders_are_accepted(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(HARMLESS))
    check_run_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("name", list_configs())
def test_every_packaged_config_may_stand_in_a_run_folder(name):
    check_run_config(Path(config_path(name)))


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_commands_refuse_such_a_folder_before_they_read_it(tmp_path, command, capsys):
    from blockzoo.tasks.app.training import main

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(attack(*ATTACKS["a callback that takes functions"])))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert main([command, str(tmp_path)]) == 2
    assert "'LambdaCallback' is not among the classes that a run folder may name" in capsys.readouterr().err
