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
    "vars": {"a": "LambdaCallback", "b": "os", "c": "system", "d": "/srv"},
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
    "a class by interpolation": (("model", "class_path"), "${vars.a}"),
    "a class in two parts": (("trainer", "callbacks"), [{"class_path": "${vars.b}.${vars.c}"}]),
    "a function by interpolation": (("model", "init_args", "optimizer"), "${vars.b}.${vars.c}"),
    "an interpolation of nothing": (("model", "init_args", "optimizer"), "${vars.none}"),
    "an interpolation as a key": (("vars2",), {"${oc.env:HOME}": 1}),
    "a resolver in parts": (("trainer", "max_steps"), "${oc.${vars.b}:HOME}"),
    "another protocol": (("trainer", "default_root_dir"), "memory://x"),
    "the root": (("trainer", "default_root_dir"), "/"),
    "a link": (("trainer", "default_root_dir"), "link"),
    "a place by interpolation": (("trainer", "default_root_dir"), "${vars.d}"),
    "a name that leads up": (("trainer", "logger", "init_args", "name"), "../../x"),
    "a version elsewhere": (("trainer", "logger", "init_args", "version"), "/tmp/x"),
    "a file elsewhere": (
        ("trainer", "profiler"),
        {"class_path": "AdvancedProfiler", "init_args": {"filename": "../x"}},
    ),
    "a checkpoint elsewhere": (
        ("trainer", "callbacks"),
        [{"class_path": "ModelCheckpoint", "init_args": {"filename": "/tmp/x"}}],
    ),
    "a way up": (("trainer", "logger", "init_args", "save_dir"), "../../elsewhere"),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_a_run_folder_runs_no_code_and_reaches_no_file(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/srv", target_is_directory=True)
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


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "holds more than 20,000 values"),
        ("a: &a [*a]", "holds more than 20,000 values"),
        ("a: &a {b: *a}", "holds more than 20,000 values"),
        ("a: " + "x" * (1 << 20), "bytes; the config of a run has at most"),
        ("a: " + "[" * 5000 + "]" * 5000, "not readable as YAML: RecursionError"),
        ("a: " + "9" * 10_000, "not readable as YAML: Exceeds the limit"),
        ("a: 2020-99-99", "not readable as YAML: month must be"),
    ],
)
def test_configs_that_would_fill_the_memory_are_refused_unread(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        check_run_config(tmp_path / "config.yaml")
    assert str(tmp_path / "config.yaml") in str(caught.value)


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
