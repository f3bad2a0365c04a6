"""Where Lightning's command line is known to surprise: one test for each property that the zoo guarantees instead."""

import ast
import os
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.cli import LightningCLI
from omegaconf import OmegaConf

from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.core.configs import list_configs
from blockzoo.tasks.core.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
RUN = Path("runs/toy/version_0")
CHECKPOINT = RUN / "checkpoints" / "last.ckpt"


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


STEPS = {"trainer": {"max_steps": "${data.init_args.batch_size}"}}


VARS = ({"vars": {"n": 3}}, {"trainer": {"max_steps": "${vars.n}"}})
ENVIRONMENT = {"trainer": {"max_steps": "${oc.env:STEPS_OF_THIS_TEST,12}"}}
DOUBLE = {"trainer": {"max_steps": "${double:${data.init_args.batch_size}}"}}
INTERPOLATIONS = {
    "into another file": ([STEPS], [], 16),
    "in the same file": ([{**STEPS, "data": {"init_args": {"batch_size": 2}}}], [], 2),
    "source overridden by a later file": ([STEPS, {"data": {"init_args": {"batch_size": 4}}}], [], 4),
    "source overridden by an option": ([STEPS], ["--data.batch_size=8"], 8),
    "source overridden by a full option": ([STEPS], ["--data.init_args.batch_size=8"], 8),
    "relative, in an option": ([], ["--trainer.max_steps=${..data.init_args.batch_size}"], 16),
    "environment": ([ENVIRONMENT], [], 12),
    "nested in a resolver": ([DOUBLE], [], 32),
    "nested in a resolver, overridden": ([DOUBLE], ["--data.batch_size=5"], 10),
    "free variable": (VARS, [], 3),
    "free variable overridden": (VARS, ["--vars.n=7"], 7),
}


@pytest.mark.filterwarnings("ignore:register_new_resolver:UserWarning")
@pytest.mark.parametrize("case", INTERPOLATIONS)
def test_interpolation_follows_every_override(zoo, case):
    OmegaConf.register_new_resolver("double", lambda x: 2 * int(x), replace=True)
    contents, options, value = INTERPOLATIONS[case]
    names = [zoo.write(f"{number}.yaml", content) for number, content in enumerate(contents)]
    config = zoo.printed("--config", "toy.yaml", *(word for name in names for word in ("--config", name)), *options)
    assert config["trainer"]["max_steps"] == value


@pytest.mark.parametrize(("option", "value"), [([], 29), (["--model.model_kwargs.seq_len=50"], 50)])
def test_interpolation_between_model_and_data_follows_an_option(zoo, option, value):
    more = zoo.write("more.yaml", {"data": {"init_args": {"seq_len": "${model.init_args.model_kwargs.seq_len}"}}})
    printed = zoo.printed("--config", "toy.yaml", "--config", more, *option)
    assert printed["data"]["init_args"]["seq_len"] == value


@pytest.mark.parametrize("name", ["SeriesClassification", "blockzoo.tasks.series.classification.SeriesClassification"])
def test_class_is_one_class_however_it_is_named(zoo, name):
    printed = zoo.printed("--config", "toy.yaml", f"--model={name}")
    assert printed["model"]["class_path"] == "blockzoo.tasks.series.classification.SeriesClassification"


def test_loaders_take_keywords_only_so_that_lightning_can_rebuild_them():
    for path in Path(str(files("blockzoo.tasks"))).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DataLoader":
                assert not node.args, f"{path}:{node.lineno}"


def test_prediction_visits_every_test_series_once_in_order(zoo):
    cli = zoo.run("predict", "--config", "toy.yaml")
    index = torch.cat([batch["index"] for batch in cli.trainer.predict_loop.predictions])
    assert index.tolist() == list(range(370))


def test_resumed_fit_obeys_the_config_and_says_where_the_checkpoint_differs(zoo, caplog):
    assert hasattr(LightningCLI, "_parse_ckpt_path")
    zoo.fit("--trainer.max_epochs=1")
    with caplog.at_level("INFO"):
        cli = zoo.fit("--model.label_smoothing=0.3", f"--ckpt_path={CHECKPOINT}")
    assert cli.model.label_smoothing == 0.3
    assert "label_smoothing: config 0.3, checkpoint 0.0; the config's value is used" in caplog.text


def test_evaluation_obeys_the_checkpoint_and_says_where_the_config_differs(zoo, caplog):
    zoo.fit("--trainer.max_epochs=1", "--model.label_smoothing=0.3")
    with caplog.at_level("INFO"):
        cli = zoo.run("test", "--config", "toy.yaml", f"--ckpt_path={CHECKPOINT}")
    assert cli.model.label_smoothing == 0.3
    assert "label_smoothing: config 0.0, checkpoint 0.3; the checkpoint's value is used" in caplog.text


def test_saved_config_is_the_fit_and_every_command_accepts_it(zoo):
    zoo.fit("--trainer.max_epochs=1")
    zoo.fit("--trainer.max_epochs=2", f"--ckpt_path={CHECKPOINT}")
    saved = Path("runs/toy/version_1/config.yaml")
    text = saved.read_text()
    assert not {"ckpt_path", "weights_only", "verbose", "return_predictions"} & yaml.safe_load(text).keys()
    for command in ("validate", "test", "predict"):
        zoo.run(command, "--config", str(saved), "--trainer.fast_dev_run=true")
        assert saved.read_text() == text
    assert zoo.printed("--config", str(saved))["trainer"]["max_epochs"] == 2


@pytest.mark.parametrize("option", ["optimizer", "lr_scheduler"])
def test_optimiser_of_the_task_cannot_be_replaced_behind_its_back(zoo, capsys, option):
    assert zoo.main("fit", "--config", "toy.yaml", f"--{option}=SGD") == 2
    assert f"unknown key '{option}'" in capsys.readouterr().err


def test_recipes_state_the_learning_rate_because_defaults_survive_a_change_of_class(zoo):
    switched = zoo.printed("--config", "toy.yaml", "--model.optimizer=torch.optim.SGD")["model"]["init_args"]
    assert switched["optimizer"]["init_args"]["weight_decay"] == 0.01  # AdamW's default; SGD's own is 0
    for name in list_configs():
        config = yaml.safe_load((files("blockzoo.configs") / f"{name}.yaml").read_text())
        assert "lr" in config["model"]["init_args"]["optimizer"]["init_args"], name


def test_arguments_of_the_model_are_merged_from_files_and_options(zoo):
    zoo.write("more.yaml", {"model": {"init_args": {"model_kwargs": {"d_model": 6, "time_freq": None}}}})
    by_option = zoo.printed("--config", "toy.yaml", "--model.model_kwargs.d_model=6")["model"]["init_args"]
    by_file = zoo.printed("--config", "toy.yaml", "--config", "more.yaml")["model"]["init_args"]
    assert (by_option["model_kwargs"]["d_model"], by_option["model_kwargs"]["top_k"]) == (6, 1)
    assert by_file["model_kwargs"] == {**by_option["model_kwargs"], "time_freq": None}


def test_arguments_of_another_model_are_not_kept(zoo):
    other = {"model_name": "timesnet_forecast", "model_kwargs": {"seq_len": 8}}
    zoo.write("more.yaml", {"model": {"init_args": other}})
    assert zoo.printed("--config", "toy.yaml", "--config", "more.yaml")["model"]["init_args"]["model_kwargs"] == {
        "seq_len": 8
    }


SPELLINGS = [
    ["--model.model_kwargs.time_freq=null"],
    ["--model.init_args.model_kwargs.time_freq=null"],
    ["--model.model_kwargs.time_freq", "null"],
    ['--model.model_kwargs={"time_freq": null}'],
    ["--model.model_kwargs={time_freq: null}"],
]


@pytest.mark.parametrize("words", SPELLINGS)
def test_null_is_null_in_every_spelling_and_interpolation_goes_on(zoo, words):
    printed = zoo.printed("--config", "timesnet/traffic", *words, "--model.model_kwargs.seq_len=50")
    kwargs = printed["model"]["init_args"]["model_kwargs"]
    assert kwargs["time_freq"] is None and kwargs["seq_len"] == 50 and len(kwargs) > 4
    assert printed["data"]["init_args"]["seq_len"] == 50
    assert printed["data"]["init_args"]["time_freq"] is None


def test_without_a_logger_everything_still_lands_below_runs(zoo):
    zoo.fit("--trainer.max_epochs=1", "--trainer.logger=false")
    assert sorted(os.listdir()) == ["runs", "toy.yaml"]
    assert {"checkpoints", "config.yaml"} <= set(os.listdir("runs"))


def test_learning_rate_finder_runs_and_sets_the_rate(zoo):
    finder = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=30"]
    cli = zoo.fit("--trainer.max_epochs=1", "--model.lr=0.002", "--trainer.limit_train_batches=null", *finder)
    found = [callback for callback in cli.trainer.callbacks if isinstance(callback, LearningRateFinder)]
    rate = found[0].optimal_lr.suggestion()
    assert cli.model.lr == rate != 0.002
    assert set(cli.trainer.lr_scheduler_configs[0].scheduler.base_lrs) == {rate}


def test_run_folder_holds_the_averages_and_checkpoints_hold_both(zoo):
    zoo.fit("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")
    best = load(RUN / "checkpoints" / "best.ckpt")
    for name, value in load_state_dict(RUN / "model.safetensors").items():
        assert torch.equal(value, best["state_dict"][f"model.{name}"])
    assert any(not torch.equal(best["state_dict"][name], raw) for name, raw in best["current_model_state"].items())


def test_run_checkpoint_file_is_accepted_where_weights_are(zoo):
    zoo.fit("--model=SeriesClassification")
    weights = f"--model.checkpoint_path={RUN / 'checkpoints' / 'best.ckpt'}"
    by_file = zoo.run("test", "--config", "toy.yaml", "--trainer.logger=false", weights).trainer.callback_metrics
    by_folder = zoo.run("test", str(RUN)).trainer.callback_metrics
    assert by_file == by_folder


def test_fit_can_be_resumed_beyond_its_first_end(zoo):
    zoo.fit("--model.warmup_fraction=0.2")
    cli = zoo.fit("--model.warmup_fraction=0.2", "--trainer.max_epochs=4", f"--ckpt_path={CHECKPOINT}")
    assert cli.trainer.global_step == 16


def test_tasks_bring_no_callbacks_that_would_replace_those_of_the_user():
    tasks = [Task]
    for task in tasks:
        assert task.configure_callbacks is LightningModule.configure_callbacks
        tasks += task.__subclasses__()


@pytest.mark.parametrize("option", ["verbose", "return_predictions"])
def test_option_of_another_command_is_refused_with_its_name(zoo, capsys, option):
    zoo.variant("bad.yaml", lambda config: config.update({option: True}))
    assert zoo.main("fit", "--config", "bad.yaml") == 2
    assert f"unknown key '{option}' in bad.yaml" in capsys.readouterr().err


def test_environment_variables_do_not_change_a_run(zoo, monkeypatch):
    monkeypatch.setenv("PL_FIT__TRAINER__MAX_EPOCHS", "77")
    assert zoo.printed("--config", "toy.yaml")["trainer"]["max_epochs"] == 2


def test_checkpoint_holds_plain_values_and_tensors_only(zoo):
    zoo.fit("--trainer.max_epochs=1", "--trainer.callbacks+=EMAWeightAveraging")
    stack = [load(CHECKPOINT)["hyper_parameters"]]
    while stack:
        value = stack.pop()
        assert isinstance(value, dict | list | tuple | str | int | float | bool | None), type(value)
        stack += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def test_warnings_are_errors_unless_named(pytestconfig):
    first, *rest = pytestconfig.getini("filterwarnings")
    assert first == "error"
    assert all(len(line.split(":")) >= 2 and line.split(":")[0] == "ignore" for line in rest)
