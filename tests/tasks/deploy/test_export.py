"""Exported files: run and compared, free batch and size, int8, refusals; and the page's table of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import blockzoo
from blockzoo.__main__ import main
from blockzoo.tasks.app import export, export_table
from blockzoo.tasks.deploy import export as model_export
from blockzoo.tasks.deploy import quantize

ROOT = Path(__file__).parents[3]
SERIES = ["--arg", "d_model=4", "--arg", "d_ff=4", "--arg", "num_kernels=2", "--arg", "depth=1"]
RAPTOR = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 28, "num_classes": 10}
GRAPH = {"hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        status = main(["export", *args])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def need_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs blockzoo[export]")


@pytest.mark.parametrize("deployed", [False, True])
def test_a_program_with_free_size_takes_other_sizes_and_batches(tmp_path, deployed):
    model = blockzoo.create_model("raptor", **RAPTOR).eval()
    if deployed:
        model.deploy()
    assert model.size_steps() == (14, 14)
    model_export.export_model(model, "torch-export", tmp_path / "m.pt2", dynamic_size=True)
    run = model_export.load_exported(tmp_path / "m.pt2", "torch-export")
    for batch, size in ((1, (28, 28)), (2, (28, 70)), (7, (98, 42))):
        assert model_export.difference(model, run, [model.export_inputs(batch, size)]) < 1e-5


def test_onnx_with_free_size_runs_elsewhere(tmp_path):
    need_onnx()
    model = blockzoo.create_model("raptor", **RAPTOR).eval()
    model_export.export_model(model, "onnx", tmp_path / "m.onnx", dynamic_size=True)
    run = model_export.load_exported(tmp_path / "m.onnx", "onnx")
    examples = [model.export_inputs(batch, size) for batch, size in ((1, (28, 42)), (3, (70, 28)))]
    assert model_export.difference(model, run, examples) < 1e-4


def test_another_fixed_size(call, tmp_path):
    args = [
        "fno2d",
        "--format",
        "torch-export",
        "--arg",
        "depth=1",
        "--arg",
        "hidden_channels=4",
        "--arg",
        "n_modes=(4, 4)",
    ]
    status, out, err = call(*args, "--size", "12,15", "--out", "m.pt2")
    assert status == 0 and "on 5x1x12x15, 1x1x12x15" in out, err
    run = model_export.load_exported("m.pt2", "torch-export")
    assert run({"x": torch.randn(4, 1, 12, 15)})[0].shape == (4, 1, 12, 15)


def test_files_hold_no_example_inputs(tmp_path):
    model = blockzoo.create_model("raptor", **RAPTOR).eval()
    model_export.export_model(model, "torch-export", tmp_path / "m.pt2", size=(280, 280))
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert (tmp_path / "m.pt2").stat().st_size < weights + 400_000 < weights + 3 * 3 * 280 * 280 * 4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["timesnet_forecast", "--dynamic-size"], "has layers for one length of series"),
        (["fno1d", "--dynamic-size"], "one file for each grid, by --size"),
        (["emov2_cifar", "--dynamic-size"], "one file for each size, by --size"),
        (["tdn_l1", "--static-batch", "4"], "TDN always has free sizes; leave --static-batch out"),
        (["tdn_l1", "--dynamic-size"], "always has free numbers"),
        (["tdn_l1", "--size", "3,3"], "takes no other size"),
        (["raptor", "--size", "28"], "must be 2 positive numbers"),
        (["raptor", "--size", "a,b"], "--size 'a,b' must be numbers"),
        (["raptor", "--size", "28,28", "--dynamic-size"], "exclude each other"),
        (["raptor", "--static-batch", "0"], "--static-batch 0 must be at least 1"),
        (["raptor", "--quantize", "dynamic"], "--quantize goes with --format onnx"),
        (["raptor", "--calibration", "x"], "--calibration goes with --quantize static"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(call, tmp_path, args, said):
    small = [f"--arg={key}={value}" for key, value in {"raptor": RAPTOR, "tdn_l1": GRAPH}.get(args[0], {}).items()]
    status, _, error = call(*args, "--format", "torch-export", "--out", "m.pt2", *small)
    assert status == 2 and said in error and list(tmp_path.iterdir()) == []


def test_missing_options_are_named(call):
    assert "give a model" in call()[2] and "give --format" in call("raptor")[2]


def test_missing_compilers_are_named(monkeypatch, tmp_path):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        model_export.export_model(blockzoo.create_model("raptor", **RAPTOR).eval(), "aoti", tmp_path / "m.pt2")


@torch.no_grad()
def test_outputs_that_depend_on_nothing_would_check_nothing():
    torch.manual_seed(0)
    model = blockzoo.create_model("emov2_1m", depths=(1, 1, 1, 1)).eval()
    x = model.example_inputs(2)["x"]
    assert float((model(x)[0] - model(x)[1]).abs().max()) < 1e-5
    export.liven(model)
    assert float((model(x)[0] - model(x)[1]).abs().max()) > 5e-4


def test_differences_are_seen_in_every_output():
    model = blockzoo.create_model("tdn_l1", **GRAPH).eval()
    inputs = [model.example_inputs(2)]
    right = lambda given: model_export.flatten(model(**given))  # noqa: E731
    assert model_export.difference(model, right, inputs) == 0
    for index in (0, 1):
        wrong = lambda given, i=index: [y + (k == i) * y.std() for k, y in enumerate(right(given))]  # noqa: E731
        assert model_export.difference(model, wrong, inputs) > 0.9
    assert model_export.difference(model, lambda given: right(given)[:1], inputs) == float("inf")
    assert model_export.difference(model, lambda given: [y * float("nan") for y in right(given)], inputs) == float(
        "inf"
    )


@pytest.mark.parametrize("mode", quantize.MODES)
def test_int8_is_smaller_and_its_loss_is_measured(call, tmp_path, mode):
    need_onnx()
    name = "timesnet_classifier.japanese_vowels"
    status, out, err = call(name, "--format", "onnx", "--quantize", mode, "--out", "m.onnx")
    assert status == 0, err
    line = next(line for line in out.splitlines() if line.startswith("accuracy on JapaneseVowels (test)"))
    before, after = (float(text.split()[1].rstrip(",")) for text in line.split(": ")[1].split(", ")[:2])
    assert before == pytest.approx(0.98108, abs=1e-4) and after > 0.9
    assert "float32 has" in out and [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


LABELLED = {"label_names": ("ant", "bee"), "mean": (0.1, 0.2, 0.3), "multi_label": True}


@pytest.mark.parametrize("form", ["safetensors", "torch-export", "onnx", "int8"])
def test_files_say_how_inputs_are_prepared_and_what_classes_are_called(tmp_path, form):
    if form in ("onnx", "int8"):
        need_onnx()
    model = blockzoo.create_model("raptor", **{**RAPTOR, "num_classes": 2}, pretrained_cfg_overlay=LABELLED).eval()
    path = tmp_path / "model"
    model_export.export_model(model, "onnx" if form == "int8" else form, path, size=(42, 28))
    if form == "safetensors":
        with safe_open(path, "pt") as file:
            text = file.metadata()["pretrained_cfg"]
    elif form == "torch-export":
        files = {"pretrained_cfg.json": ""}
        with path.open("rb") as file:
            torch.export.load(file, extra_files=files)
        text = files["pretrained_cfg.json"]
    else:
        import onnxruntime

        if form == "int8":
            quantize.quantize_onnx(path, tmp_path / "int8", "dynamic")
            path = tmp_path / "int8"
        text = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map["pretrained_cfg"]
    told = json.loads(text)
    assert told["label_names"] == ["ant", "bee"] and told["multi_label"] is True and told["num_classes"] == 2
    assert told["input_size"] == [3, 42, 28] and told["mean"] == [0.1, 0.2, 0.3] and told["modality"] == "image"


@pytest.fixture
def own_run(tmp_path):
    """A short fit of a small network on twelve images in two folders, left as a run's folder."""
    import numpy as np
    import yaml
    from PIL import Image

    from blockzoo.tasks.app.training import main as train

    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for level, name in ((60, "dark"), (180, "light")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(8):
                pixels = (level + rng.integers(0, 40, (40, 40, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}.png")
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "own"}}
    args = {"model_name": "nasnet_cifar", "model_kwargs": {"num_classes": 2, "width": 4, "num_cells": 1}}
    config = {
        "model": {"class_path": "ImageClassification", "init_args": args},
        "data": {"class_path": "ImageFolder", "init_args": {"root": "data", "num_workers": 0, "batch_size": 8}},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "enable_progress_bar": False,
            "logger": logger,
            "callbacks": [{"class_path": "RunFolder"}],
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    assert train(["fit", "--config", "own.yaml", "--trainer.log_every_n_steps=1"]) == 0
    return "runs/own/version_0"


def test_int8_of_a_run_is_calibrated_with_its_own_data_or_a_folder(call, own_run, tmp_path, monkeypatch):
    seen = []  # what the scales would be set by; writing ONNX takes long and is tested elsewhere
    monkeypatch.setattr(model_export, "export_model", lambda model, form, path, **how: Path(path).write_bytes(b"float"))
    monkeypatch.setattr(
        quantize,
        "quantize_onnx",
        lambda source, path, mode, samples: (seen.append(samples), Path(path).write_bytes(b"int8")),
    )
    monkeypatch.setattr(
        model_export, "load_exported", lambda path, form: lambda given: [torch.zeros(len(given["x"]), 2)]
    )
    args = [own_run, "--format", "onnx", "--out", "m.onnx", "--quantize", "static", "--static-batch", "2"]
    for more, count in (([], 16), (["--calibration", "data/val"], 16), (["--calibration", "data/val/dark"], 8)):
        status, out, error = call(*args, *more)
        assert status == 0, error
        x = torch.cat([part["x"] for part in seen.pop()])
        assert x.shape == (count, 3, 32, 32) and x.min() > -3 and x.max() < 3
    (tmp_path / "data" / "train").rename(tmp_path / "data" / "gone")
    status, _, error = call(*args)
    assert status == 2 and "data/train is missing; expected" in error.splitlines()[-1]
    (tmp_path / "empty").mkdir()
    status, _, error = call(*args, "--calibration", "empty")
    assert status == 2 and "no image in empty" in error


def test_int8_refusals(call, tmp_path):
    need_onnx()
    args = ["--format", "onnx", "--out", "m.onnx", "--quantize"]
    status, _, error = call("emov2_cifar.cifar10", *args, "static")
    assert status == 2 and "the training data of CIFAR-10 are not packaged; give --calibration" in error
    assert "is a model of graphs" in call("tdn.gfn2", *args, "dynamic")[2]
    from blockzoo.checkpoints import save_state_dict

    save_state_dict({"x": torch.randn(4, 3, 16, 16)}, tmp_path / "x.safetensors")
    status, _, error = call("emov2_cifar.cifar10", *args, "static", "--calibration", "x.safetensors")
    assert status == 2 and "has (4, 3, 16, 16) as 'x', expected (N, 3, 32, 32)" in error
    vowels = ("timesnet_classifier.japanese_vowels", *args, "static", "--calibration")  # their data are packaged
    status, _, error = call(*vowels, "nothing")
    assert status == 2 and "--calibration nothing: no such file or folder" in error
    status, _, error = call(*vowels, ".")
    assert status == 2 and "the training data of JapaneseVowels are packaged; leave it out" in error
    assert not (tmp_path / "m.onnx").exists()


def test_every_model_has_one_row_and_the_page_shows_the_results():
    for name in blockzoo.list_models():
        rows = [row for row in export_table.rows() if export_table.row_of(name) is row]
        assert len(rows) == 1
    results = json.loads((ROOT / export_table.RESULTS).read_text())
    text = (ROOT / "docs" / "exports.md").read_text()
    table = text.split(export_table.BEGIN)[1].split(export_table.END)[0].strip()
    assert table == export_table.render(results) and "not measured" not in table


@pytest.mark.parametrize("name", ["timesnet_anomaly", "tfno1d", "raptor", "cgnet_l1"])
def test_rows_of_the_table_come_out_the_same(name):
    results = json.loads((ROOT / export_table.RESULTS).read_text())[name]
    row = next(row for row in export_table.rows() if row.name == name)
    found = export_table.measure_row(row, ("torch-export",))
    assert found["size"] == results["size"] and found["torch-export"].keys() == results["torch-export"].keys()
