"""What a finished fit leaves behind, and that it can be used."""

import csv
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import blockzoo
from blockzoo.checkpoints import load_state_dict, read_metadata
from blockzoo.tasks.app.training import main, run
from blockzoo.tasks.core.run_folder import draw_curves


def width(path):
    with Image.open(path) as image:
        return image.size[0]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """The current folder of a test, in which nothing but `runs/` should appear."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished fit of the smoke config, which the tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        patch.setattr(sys, "argv", ["blockzoo", "fit", "--config", "smoke/timesnet_classifier"])
        config = ["fit", "--config", "smoke/timesnet_classifier", "--trainer.enable_progress_bar=false"]
        ema = '[{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}]'
        line = run([*config, "--trainer.accelerator=cpu", f"--trainer.callbacks+={ema}", "--trainer.max_epochs=3"])
        return Path(line.trainer.log_dir).resolve()


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())


def test_the_folder_is_complete(finished):
    names = {path.name for path in finished.iterdir()}
    expected = {"model.safetensors", "last.safetensors", "config.yaml", "config.json", "metrics.csv", "curves.png"}
    assert expected | {"results.json", "README.md", "checkpoints"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert width(finished / "curves.png") > 800
    card = (finished / "README.md").read_text()
    for fact in ("parameters", "JapaneseVowels", "CC-BY-4.0", "test/acc", "seed: 0", "blockzoo fit --config", "Limits"):
        assert fact in card
    rows = list(csv.DictReader((finished / "metrics.csv").read_text().splitlines()))
    assert {"train/loss", "val/acc", "val/loss"} <= set(rows[0])


@pytest.mark.parametrize(("command", "stage"), [("test", "test"), ("validate", "val")])
def test_evaluating_the_folder_gives_the_fits_metric_to_the_last_digit(finished, results, workdir, command, stage):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    line = run([command, str(finished), "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    found = {key: float(value) for key, value in line.trainer.callback_metrics.items()}
    if stage == "test":
        assert {key: found[key] for key in results["test"]} == results["test"]
    else:
        assert found["val/loss"] == pytest.approx(results["best"], abs=1e-6)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert list(workdir.iterdir()) == []


def test_the_metric_does_not_depend_on_the_batch_size(workdir, finished, results):
    command = ["test", str(finished), "--trainer.accelerator=cpu", "--data.init_args.batch_size=370"]
    command += ["--model.init_args.model_kwargs.period_scope=sample"]
    first = run([*command, "--trainer.enable_progress_bar=false"]).trainer.callback_metrics
    command[3] = "--data.init_args.batch_size=7"
    second = run([*command, "--trainer.enable_progress_bar=false"]).trainer.callback_metrics
    assert first["test/acc"] == second["test/acc"] and first["test/f1"] == second["test/f1"]


def test_the_folder_is_a_model(finished, results):
    model = blockzoo.create_model(f"local-dir:{finished}", pretrained=True).eval()
    for name, value in load_state_dict(finished / "model.safetensors").items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert len(model.pretrained_cfg["mean"]) == 12 and model.pretrained_cfg["label_names"][0] == "1"
    config = json.loads(read_metadata(finished / "model.safetensors")["config"])
    assert config["architecture"] == "timesnet_classifier"


def test_exported_weights_are_the_averaged_ones_of_the_best_epoch(finished):
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    assert "current_model_state" in checkpoint
    exported = load_state_dict(finished / "model.safetensors")
    for name, value in exported.items():
        torch.testing.assert_close(checkpoint["state_dict"][f"model.{name}"], value, rtol=0, atol=0)
    raw = checkpoint["current_model_state"]
    assert any(not torch.equal(raw[f"model.{name}"], value) for name, value in exported.items())


def test_prediction_returns_every_series_once(finished, workdir):
    line = run(["predict", str(finished), "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    batches = line.trainer.predict_loop.predictions
    index = torch.cat([batch["index"] for batch in batches])
    assert index.tolist() == list(range(370))
    assert torch.cat([batch["probabilities"] for batch in batches]).sum(1).allclose(torch.ones(370))


def test_a_folder_that_is_not_a_run_is_explained(workdir, capsys):
    (workdir / "empty").mkdir()
    assert main(["test", "empty"]) == 2
    assert "empty is not the folder of a finished fit: it has no config.yaml" in capsys.readouterr().err


def test_curves_mark_the_best_epoch(tmp_path):
    rows = ["epoch,train/loss,val/loss"] + [f"{i},{3 - i},{abs(i - 1) + 0.5}" for i in range(3)]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", "val/loss")
    assert width(tmp_path / "curves.png") > 300


def test_the_best_is_that_of_the_monitors_direction(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    labels = []
    monkeypatch.setattr(Axes, "legend", lambda axis, **_: labels.extend(axis.get_legend_handles_labels()[1]))
    (tmp_path / "metrics.csv").write_text("epoch,val/acc\n0,0.25\n1,0.75\n2,0.5\n")
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", "val/acc", "max")
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", "val/acc", "min")
    assert [label for label in labels if "best" in label] == ["best: 0.75, epoch 1", "best: 0.25, epoch 0"]


def test_the_confusion_matrix_counts_every_test_series(finished, results):
    header, *rows = list(csv.reader((finished / "confusion.csv").read_text().splitlines()))
    assert header[1:] == [row[0] for row in rows] == [str(i) for i in range(1, 10)]
    counts = torch.tensor([[int(cell) for cell in row[1:]] for row in rows])
    assert counts.sum(1).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert results["test"]["test/acc"] == pytest.approx(counts.diag().sum().item() / 370)


def test_weights_know_their_config_and_which_epoch_they_are_of(finished, results):
    best, last = (read_metadata(finished / f"{name}.safetensors") for name in ("model", "last"))
    assert json.loads(best["results"])["weights"] == "best" and json.loads(last["results"])["weights"] == "last"
    assert best["config_sha256"] == hashlib.sha256((finished / "config.yaml").read_bytes()).hexdigest()
    rows = list(csv.DictReader((finished / "metrics.csv").read_text().splitlines()))
    losses = {int(row["epoch"]): float(row["val/loss"]) for row in rows if row["val/loss"]}
    assert results["best_epoch"] == min(losses, key=losses.get)
    assert results["best"] == pytest.approx(min(losses.values()), rel=1e-6)
    assert f"in epoch {results['best_epoch']} (from 0)" in (finished / "README.md").read_text()


def quick(*args):
    options = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    options += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return run(["fit", "--config", "smoke/timesnet_classifier", *options, *args])


def test_a_fine_tuned_model_keeps_the_arguments_of_its_tag_but_not_its_claims(workdir):
    tag = "timesnet_classifier.japanese_vowels"
    line = quick(f"--model.model_name={tag}", "--model.pretrained=true", "--model.model_kwargs={drop_rate: 0.3}",
                 "--data.seq_len=29")  # fmt: skip
    loaded = blockzoo.create_model(f"local-dir:{line.trainer.log_dir}", pretrained=True).eval()
    inputs = loaded.example_inputs(8)
    assert torch.equal(loaded(**inputs), line.model.model.eval()(**inputs))
    expected = {**blockzoo.get_pretrained_cfg(tag).model_args, "drop_rate": 0.3}
    assert loaded.pretrained_cfg["model_args"] == expected
    assert not {"description", "license", "tag", "checkpoint"} & set(loaded.pretrained_cfg)


def test_arguments_left_out_are_the_familys_not_those_of_its_default_tag(workdir):
    line = quick("--model.model_kwargs={d_model: 4, d_ff: 4, depth: 1}", "--data.seq_len=29")
    loaded = blockzoo.create_model(f"local-dir:{line.trainer.log_dir}", pretrained=True).eval()
    inputs = loaded.example_inputs(8)
    assert torch.equal(loaded(**inputs), line.model.model.eval()(**inputs))


@pytest.mark.parametrize(("keep", "said"), [("", "the last (nothing was monitored)"), ("x", "best by `val/acc`")])
def test_without_a_monitor_the_last_weights_are_taken_and_the_card_says_so(workdir, keep, said):
    plain = '{"class_path": "ModelCheckpoint", "init_args": {"monitor": null, "filename": "plain"}}'
    best = '{"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/acc", "mode": "max"}}'
    folder = Path(quick(f"--trainer.callbacks=[{plain}, {best + ', ' if keep else ''}RunFolder]").trainer.log_dir)
    assert said in (folder / "README.md").read_text()
    assert ("best_by" in json.loads((folder / "results.json").read_text())) == bool(keep)


def test_a_later_test_of_other_weights_is_not_taken_for_that_of_the_best(workdir):
    line = quick()
    folder = Path(line.trainer.log_dir)
    names = ("results.json", "README.md", "confusion.csv")
    before = [(folder / name).read_bytes() for name in names]
    with torch.no_grad():
        line.model.model.head.bias += 10 * torch.randn(9)
    line.trainer.test(line.model, datamodule=line.datamodule, verbose=False)
    metrics = line.trainer.callback_metrics
    assert float(metrics["test/loss"]) != json.loads(before[0])["test"]["test/loss"]
    assert [(folder / name).read_bytes() for name in names] == before


def test_predictions_are_written_as_a_table(finished, workdir):
    run(["predict", str(finished), "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    rows = list(csv.DictReader((workdir / "runs" / "predictions.csv").read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == list(range(370))
    for row in rows:
        shares = [float(row[f"probabilities_{i}"]) for i in range(9)]
        assert max(shares) == shares[int(row["label"])] and sum(shares) == pytest.approx(1, abs=1e-5)
