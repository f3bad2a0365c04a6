"""The training commands: configs by name, run folders, errors, and what is switched on by configuration alone."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from blockzoo.__main__ import main as blockzoo_main
from blockzoo.tasks.app.training import build
from blockzoo.tasks.core.configs import config_path, list_configs

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
RUN = Path("runs/toy/version_0")


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# Configs.


def test_packaged_config_is_found_with_and_without_its_suffix():
    expected = str(files("blockzoo.configs") / "timesnet" / "japanese_vowels.yaml")
    assert config_path("timesnet/japanese_vowels") == config_path("timesnet/japanese_vowels.yaml") == expected


def test_file_comes_before_packaged_config_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timesnet").mkdir()
    (tmp_path / "timesnet" / "japanese_vowels.yaml").touch()
    assert config_path("timesnet/japanese_vowels.yaml") == "timesnet/japanese_vowels.yaml"


def test_unknown_config_is_answered_in_one_line_with_near_names_and_where_the_list_is(capsys):
    with pytest.raises(FileNotFoundError, match="did you mean timesnet/japanese_vowels") as caught:
        config_path("timesnet/japanese_vowel")
    assert "\n" not in str(caught.value) and str(caught.value).endswith("(see blockzoo list --configs)")
    assert blockzoo_main(["list", "--configs"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[1:]] == list_configs()


def test_a_missing_file_of_data_is_named_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        blockzoo_main(["fit", "--config", "timesnet/forecast", "--data.path=gone.csv", "--trainer.accelerator=cpu"])
        == 2
    )
    assert capsys.readouterr().err.splitlines()[-1] == "blockzoo: gone.csv: No such file or directory"


@pytest.mark.parametrize("name", list_configs())
def test_packaged_config_is_accepted_and_names_its_own_run_folder(zoo, name):
    config = zoo.printed("--config", name)
    logger = config["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"]) == ("runs", name.replace("/", "_"))


def test_help_needs_nothing_else(zoo, capsys):
    assert zoo.main("fit", "--help") == 0
    assert "usage: blockzoo" in capsys.readouterr().out


# Run folders.


def test_finished_run_is_reproduced_from_its_folder_which_stays_as_it_was(zoo):
    fitted = zoo.fit("--model=SeriesClassification")
    results = json.loads((RUN / "results.json").read_text())
    before = contents("runs")
    tested = zoo.run("test", str(RUN)).trainer.callback_metrics
    validated = zoo.run("validate", str(RUN)).trainer.callback_metrics
    assert blockzoo_main(["predict", str(RUN)]) == 0
    assert {key: float(value) for key, value in tested.items()} == results["test"]
    assert float(validated["val/loss"]) == results["best"]
    assert results["test"]["test/acc"] == float(fitted.trainer.callback_metrics["test/acc"])
    after = contents("runs")
    assert after.pop(Path("runs/predictions.csv")).startswith(b"index,label,probabilities_0")
    assert after == before


def test_each_fit_gets_the_next_version_folder_with_its_config_and_metrics(zoo):
    for version in range(2):
        zoo.fit("--trainer.max_epochs=1")
        folder = Path(f"runs/toy/version_{version}")
        assert {"config.yaml", "metrics.csv", "model.safetensors", "checkpoints"} <= {p.name for p in folder.iterdir()}
    assert {path.name for path in Path().iterdir()} == {"toy.yaml", "runs"}


def test_the_end_of_a_fit_says_where_it_is_and_what_to_type(zoo, capsys):
    zoo.fit("--trainer.max_epochs=1")
    text = capsys.readouterr().out
    assert f"the run is in {RUN}; next:" in text
    for line in (
        f"blockzoo test {RUN}",
        f"blockzoo predict {RUN}",
        f"blockzoo export {RUN} --format torch-export --out model.pt2",
    ):
        assert line in text
    assert f"blockzoo fit --config toy.yaml --trainer.max_epochs=1 --ckpt_path {RUN}/checkpoints/" in text


def test_task_and_data_are_built_without_a_run(zoo):
    task, data = build(["--config", "toy.yaml", "--data.batch_size=4"])
    assert task.model_name == "timesnet_classifier" and data.batch_size == 4
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("content", [b"", b"random bytes", b"PK\x03\x04 broken", b"\x80\x02."])
def test_file_that_is_no_checkpoint_is_named(zoo, capsys, command, content):
    Path("x.ckpt").write_bytes(content)
    assert zoo.main(command, "--config", "toy.yaml", "--ckpt_path=x.ckpt") == 2
    assert "blockzoo: --ckpt_path x.ckpt is not a checkpoint of a run" in capsys.readouterr().err


# Errors.


@pytest.mark.parametrize(
    ("change", "first_line"),
    [
        (lambda c: c.update(modle=1), r"unknown key 'modle' in bad.yaml, line \d+; did you mean model\?"),
        (
            lambda c: c["trainer"].update(max_epoch=3),
            r"unknown key 'trainer.max_epoch' in bad.yaml, line \d+; did you mean trainer.max_epochs",
        ),
        (
            lambda c: c["model"]["init_args"].update(label_smothing=0.1),
            r"unknown key 'label_smothing' of Recording in bad.yaml, line \d+; did you mean label_smoothing\?",
        ),
        (
            lambda c: c["data"]["init_args"].update(bach_size=3),
            r"unknown key 'bach_size' of JapaneseVowels in bad.yaml, line \d+; did you mean batch_size\?",
        ),
        (
            lambda c: c["trainer"]["callbacks"][0]["init_args"].update(monitr="x"),
            r"unknown key 'monitr' of ModelCheckpoint in bad.yaml, line \d+; did you mean monitor\?",
        ),
        (
            lambda c: c["data"].update(class_path="JapaneseVowel"),
            r"unknown class 'JapaneseVowel' in bad.yaml, line \d+; did you mean JapaneseVowels\?",
        ),
        (
            lambda c: c["model"]["init_args"].update(schedule="cosin"),
            r"model.schedule: .*'cosine', 'constant'.*cosin",
        ),
        (
            lambda c: c["model"]["init_args"]["model_kwargs"].update(d_modle=8),
            r"timesnet_classifier has no argument 'd_modle'; did you mean 'd_model'\?",
        ),
        (
            lambda c: c["model"]["init_args"].update(checkpoint_path="gone.safetensors"),
            r".*No such file.*gone.safetensors",
        ),
        (
            lambda c: c["trainer"]["callbacks"].append({"class_path": "cli_toys.NeedsMissing"}),
            r"a Python package that the config needs is missing: No module named 'a_package_that_nobody_has'",
        ),
        (
            lambda c: c["trainer"]["callbacks"].append({"class_path": "a_package_that_nobody_has.Callback"}),
            r"a Python package that the config needs is missing: No module named 'a_package_that_nobody_has'",
        ),
    ],
)
def test_mistake_in_a_config_is_named_first_and_without_a_traceback(zoo, capsys, change, first_line):
    assert zoo.main("fit", "--config", zoo.variant("bad.yaml", change)) == 2
    text = capsys.readouterr().err
    reported = next(line for line in text.splitlines() if line.startswith("blockzoo: "))
    assert re.match("blockzoo: " + first_line, reported), text
    assert "Traceback" not in text
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["fit"], "required: "),
        (["fit", "--config"], "expected one argument"),
        (["fit", "runs/toy"], "give a config: blockzoo fit --config runs/toy"),
        (["fit", "--config", "gone"], "no such file, and no packaged config"),
        (
            ["fit", "--config", "toy.yaml", "--trainer.max_epoch=3"],
            "unknown key 'trainer.max_epoch' in --tra",
        ),
        (
            ["fit", "--config", "toy.yaml", "--model.label_smothing=1"],
            "of Recording in --model.label_smothing",
        ),
        (["fit", "--config", "toy.yaml", "--data.batch_size=many"], "data.batch_size: Expected a <class 'int'>"),
        (["fit", "--config", "toy.yaml", "--ckpt_path=gone.ckpt"], "Checkpoint file not found: gone.ckpt"),
        (
            ["fit", "--config", "toy.yaml", "--trainer.devices=9999"],
            "trainer.devices=9999 asks for 9999 processes on the CPU, which has",
        ),
        (["test", "gone"], "gone is not the folder of a finished fit: it has no config.yaml"),
        (["test", "--ckpt_path=gone.ckpt"], "required: "),
    ],
)
def test_mistake_in_a_call_is_named_first_and_without_a_traceback(zoo, capsys, args, expected):
    assert zoo.main(*args) == 2
    text = capsys.readouterr().err
    assert expected in next(line for line in text.splitlines() if line.startswith("blockzoo: "))
    assert "Traceback" not in text


def test_file_that_is_not_yaml_is_named(zoo, capsys):
    Path("bad.yaml").write_text("trainer:\n  max_epochs: [1,\n")
    assert zoo.main("fit", "--config", "toy.yaml", "--config", "bad.yaml") == 2
    assert capsys.readouterr().err.startswith("blockzoo: bad.yaml, line 3: not valid YAML")


def test_bug_in_a_task_keeps_its_traceback(zoo):
    with pytest.raises(RuntimeError, match="a bug in a task"):
        zoo.main("fit", "--config", "toy.yaml", "--model=cli_toys.Broken")


def test_traceback_of_a_mistake_can_be_asked_for(zoo, monkeypatch):
    monkeypatch.setenv("BLOCKZOO_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown key"):
        zoo.main("fit", "--config", "toy.yaml", "--trainer.max_epoch=3")


# What configuration alone switches on.


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision=bf16-mixed"],
        ["--trainer.gradient_clip_val=0.1", "--trainer.accumulate_grad_batches=2"],
        ["--trainer.enable_progress_bar=true", "--trainer.callbacks+=TQDMProgressBar"],
        ["--trainer.callbacks+=LearningRateMonitor"],
        ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"],
    ],
)
def test_option_works_without_code(zoo, options):
    assert zoo.main("fit", "--config", "toy.yaml", "--trainer.max_epochs=1", *options) == 0
    assert (RUN / "model.safetensors").is_file()


def test_appended_callback_stops_early_and_those_of_the_config_stay(zoo):
    options = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    more = ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100", "--trainer.max_epochs=9"]
    cli = zoo.fit(*options, *more)
    assert cli.trainer.current_epoch == 2
    assert (RUN / "checkpoints" / "best.ckpt").is_file()


def test_tensorboard_logs_beside_csv(zoo):
    tensorboard = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "toy"}}
    zoo.variant("toy.yaml", lambda c: c["trainer"].update(logger=[c["trainer"]["logger"], tensorboard]))
    zoo.fit("--trainer.max_epochs=1")
    assert list(Path("runs/toy").rglob("events.out.*"))
    assert (RUN / "metrics.csv").is_file()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trainer.devices=99", "trainer.devices=99 asks for 99 processes"),
        ("--trainer.devices=-5", "devices"),
        ("--trainer.num_nodes=3", "trainer.num_nodes=3 needs a launcher"),
        ("--seed_everything=-1", "--seed_everything -1 must be between 0 and 4294967295"),
        ("--ckpt_path=folder", "--ckpt_path folder is a folder"),
        ("--ckpt_path=junk", "--ckpt_path junk is not a checkpoint of a run"),
        ("--trainer.default_root_dir=junk", "junk is a file; a folder is written there"),
        ("--trainer.accelerator=abacus", "abacus"),
        ("--trainer.strategy=hope", "hope"),
        ("--trainer.max_steps=many", "trainer.max_steps: Expected a <class 'int'>"),
    ],
)
def test_a_call_that_cannot_run_ends_by_itself_with_one_line(zoo, capsys, monkeypatch, option, said):
    for name in ("MASTER_ADDR", "SLURM_NTASKS", "KUBERNETES_PORT"):
        monkeypatch.delenv(name, raising=False)
    Path("folder").mkdir()
    Path("junk").write_bytes(b"\x00\x91junk" * 99)
    assert zoo.main("fit", "--config", "toy.yaml", option) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blockzoo")]
    assert len(lines) == 1 and said in lines[0]


def test_a_config_nested_too_deeply_is_one_line(zoo, capsys):
    Path("deep.yaml").write_text("a: " + "[" * 3000 + "]" * 3000)
    assert zoo.main("fit", "--config", "deep.yaml") == 2
    assert "nested too deeply" in capsys.readouterr().err
