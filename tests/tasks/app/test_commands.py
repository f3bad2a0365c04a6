"""The `blockzoo` command, called in process."""

import argparse
import contextlib
import csv
import dataclasses
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import blockzoo
from blockzoo.__main__ import main
from blockzoo.checkpoints import load_manifest
from blockzoo.layers.conv.deployed_conv import DeployedConv2d
from blockzoo.tasks.app import bench, bench_kernels, demo
from blockzoo.tasks.app.main import parser_of
from blockzoo.tasks.core.output import parse_model_args
from blockzoo.tasks.core.rooms import commands
from blockzoo.tasks.core.timing import operations
from blockzoo.tasks.fields import bench as bench_fno
from blockzoo.tasks.images import bench as bench_images
from blockzoo.tasks.molecules import bench as bench_equivariant
from blockzoo.tasks.series import bench as bench_series

SHIPPED = "timesnet_classifier.japanese_vowels"
TINY = ["--arg", "d_model=4", "--arg", "d_ff=4", "--arg", "num_kernels=2"]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder; returns status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str):
        status = main(args)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_help_and_version_are_quick_and_complete():
    code = "import sys; from blockzoo.__main__ import main; main(['--help']); main(['--version']); "
    code += "print([m for m in ('torch', 'lightning', 'timm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")
    assert all(f"\n  {name} " in result.stdout for name in (*commands(), "fit", "validate", "test"))


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself(call, name):
    status, out, _ = call(*name.split(), "--help")
    assert status == 0 and out.startswith(f"usage: blockzoo {name}") and f"  blockzoo {name}" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["info", "timm:nope"], "timm has no model 'nope'"),
        (["info", "timm:resnet81"], "did you mean resnet"),
        (["info", "timm:"], "timm has no model ''"),
        (["info", "timesnet_forecast", "--arg", "d_model=" + "(" * 500], "must be a whole number"),
        (["info", "timesnet_forecast", "--arg", "d_model=99999999999"], "it would not fit into memory"),
        (["info", "nasnet_cifar", "--arg", "device=cuda:99"], "(BLOCKZOO_DEBUG=1 shows the traceback)"),
        (["list", "nothing*"], "no model matches 'nothing*'"),
        (["list", "--task", "nothing"], "--task nothing: there is none; choose from anomaly"),
        (["list", "--modality", "sound"], "--modality sound: there is none; choose from field"),
        (["bench", "kernels", "--threads", "-1"], "--threads"),
        (["seeds", "--config", "nothing"], "--config nothing: no such file, and no packaged config"),
        (
            [
                "publish",
                "nothing",
                "--name",
                "a.b",
                "--seeds",
                "x",
                "--dataset",
                "x",
                "--data-license",
                "x",
                "--command",
                "x",
            ],
            "No such file",
        ),
        (["lst"], "unknown command 'lst'; did you mean 'list'?"),
        (["info", "timesnet_forcast"], "did you mean timesnet_forecast"),
        (["predict", "timesnet_forcast", "x.csv"], "unknown model 'timesnet_forcast'; did you mean timesnet_forecast"),
        (["download"], "name the weights to fetch, or use --all"),
        (["download", "nothing"], "no weights named 'nothing'; there are "),
        (["demo", "--only", "nothing"], "not a shipped checkpoint"),
        (["predict", SHIPPED, "none.csv"], "none.csv: no such file"),
        (
            ["predict", "fno3d", "none.csv"],
            "fno3d has no weights; name a tag",
        ),
        (["info", "timesnet_forecast", "--arg", "d_model"], "--arg 'd_model' must be NAME=VALUE"),
        (
            ["export", "timesnet_forecast", "--format", "safetensors", "--out", "no/such/folder/x"],
            "there is no folder",
        ),
    ],
)
def test_mistakes_are_one_line_and_status_two(call, args, said):
    status, _, error = call(*args)
    lines = [line for line in error.splitlines() if not line.startswith(("usage:", " "))]
    assert status == 2 and said in error and "Traceback" not in error and len(lines) == 1, error


BROKEN = ("csv", "npz", "pt", "png", "jpg", "mp4", "ts", "safetensors", "parquet", "npy", "mat", "xyz", "db", "json")


@pytest.mark.parametrize("suffix", BROKEN)
@pytest.mark.parametrize("name", [SHIPPED, "nasnet_cifar.cifar10", "tfno2d.darcy", "tdn.gfn2"])
@pytest.mark.parametrize("content", [b"", b"\x00\x91\xfe" * 999])
def test_files_of_nothing_are_named_by_predict(call, tmp_path, suffix, name, content):
    (tmp_path / f"x.{suffix}").write_bytes(content)
    status, _, error = call("predict", name, f"x.{suffix}")
    assert status in (1, 2) and f"x.{suffix}" in error and "Traceback" not in error, error


def test_a_database_of_others_is_named_and_left_alone(call, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.execute("create table songs (name text)")
        database.commit()
    before = (tmp_path / "x.db").read_bytes()
    status, _, error = call("predict", "tdn.gfn2", "x.db")
    assert (tmp_path / "x.db").read_bytes() == before
    assert status == 2 and "x.db is not a database of ASE's" in error and error.count("\n") == 1


def parsers():
    """The parser of every command and of every sub-command, with its name."""
    todo = [(name, parser_of(command)) for name, command in sorted(commands().items())]
    while todo:
        name, parser = todo.pop()
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += [(f"{name} {word}", inner) for word, inner in action.choices.items()]


def options():
    """Every option of every command, with the command's name."""
    for name, parser in parsers():
        for action in parser._actions:
            if action.dest != "help" and not isinstance(action, argparse._SubParsersAction):
                yield name, action


def test_one_option_is_one_thing_in_every_command():
    said = {}
    for name, action in options():
        for word in action.option_strings:
            said.setdefault(word, {}).setdefault((action.help, action.type, action.nargs), []).append(name)
    shared = ("--arg", "--batch-size", "--cache-dir", "--compile", "--config", "--device", "--family", "--json")
    for word in (*shared, "--runs", "--threads"):
        assert len(said[word]) == 1, said[word]
    others = {word for word in said if re.fullmatch(r"--(output|dest|file|batch|bs|gpu|cuda|as-json|cfg)", word)}
    assert not others, "--out, --batch-size, --device, --json and --config are what these are called"


def test_every_option_of_every_command_has_words():
    assert [(name, action.dest) for name, action in options() if not action.help] == []


def test_a_model_is_called_name_and_an_output_is_an_option():
    named = [(name, action.dest) for name, action in options() if not action.option_strings]
    assert not [where for where in named if where[1] in ("model", "out", "output", "target")]


def written():
    """For each command with `--out`: its words, with something for all that it needs, and whether a folder is meant."""
    for name, parser in parsers():
        words, out = [*name.split()], None
        for action in parser._actions:
            if "--out" in action.option_strings:
                out = action
            elif action.required and not isinstance(action, argparse._SubParsersAction):
                value = str(next(iter(action.choices or ["1"])))
                words += [*action.option_strings[:1], *[value] * (action.nargs if isinstance(action.nargs, int) else 1)]
        for group in parser._mutually_exclusive_groups:
            if group.required:
                words += [group._group_actions[0].option_strings[0], "1"]
        if out is not None:
            yield words, out


@pytest.mark.parametrize(("words", "out"), [pytest.param(*case, id=" ".join(case[0])) for case in written()])
def test_outputs_have_one_rule(call, tmp_path, words, out):
    (tmp_path / "file").write_text("mine")
    wrong = ["file"] if out.folder else ["no/such/folder/x", "."]
    for path in wrong:
        status, printed, error = call(*words, "--out", path)
        said = "is a file; a folder is written there" if out.folder else "there is no folder"
        said = "is a folder; give the name of a file" if path == "." else said
        assert status == 2 and said in error and f"--out {path}" in error and error.count("\n") == 1, error
        assert not printed and [item.name for item in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_folders_are_made_with_their_parents(call, tmp_path):
    status, _, error = call("bench", "kernels", "--kernel", "residual_norm", "--runs", "1", "--out", "new/folder")
    assert status == 0 and (tmp_path / "new/folder/kernels.json").is_file(), error


def test_no_output_replaces_the_weights_that_are_read(call, tmp_path):
    blockzoo.save_pretrained(blockzoo.create_model("fno1d"), tmp_path / "run")
    before = (tmp_path / "run/model.safetensors").read_bytes()
    for words in (["export", "run", "--format", "safetensors"], ["convert", "run/model.safetensors", "--as", "fno1d"]):
        status, _, error = call(*words, "--out", "run/model.safetensors")
        assert status == 2 and "model.safetensors is an input too" in error and error.count("\n") == 1, error
    assert (tmp_path / "run/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("command", ["seeds", "learning-curve"])
def test_a_metric_that_no_run_logs_is_named(call, monkeypatch, command):
    metrics = {"val/loss": torch.tensor(1.0), "test/mse": torch.tensor(0.5)}
    ran = argparse.Namespace(trainer=argparse.Namespace(log_dir=".", callback_metrics=metrics))
    monkeypatch.setattr("blockzoo.tasks.app.training.run", lambda words: ran)
    own = {"seeds": ["--metric", "test/acc"], "learning-curve": ["--sizes", "9", "--metrics", "test/acc"]}
    status, _, error = call(command, "--config", "x", *own[command], "--out", "out.json")
    assert status == 2 and error.endswith(" test/acc: the run has not logged it; its test metrics: test/mse\n"), error
    assert f"--metric{'s' if command == 'learning-curve' else ''} test/acc: " in error and error.count("\n") == 1


def test_a_learning_curve_goes_on_only_from_its_own_report(call, tmp_path):
    (tmp_path / "out.json").write_text("[]")
    status, _, error = call("learning-curve", "--config", "x", "--sizes", "9", "--out", "out.json")
    assert status == 2 and "out.json is not the JSON of an earlier call" in error


def test_one_file_that_cannot_be_read_is_one_line(call, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"nothing")
    status, out, error = call("predict", "nasnet_cifar.cifar10", "photo.png")
    assert status == 2 and not out and "photo.png" in error and error.count("\n") == 1, error
    (tmp_path / "other.png").write_bytes(b"nothing")
    status, _, error = call("predict", "nasnet_cifar.cifar10", "photo.png", "other.png")
    assert status == 2 and [line.partition(".png")[0] for line in error.splitlines()[:2]] == [
        "not read: photo", "not read: other",
    ] and error.splitlines()[2:] == ["blockzoo predict: none of 2 images could be read"]  # fmt: skip


def test_listing_filters_and_speaks_json(call):
    _, out, _ = call("list", "--json")
    assert {row["model"] for row in json.loads(out)} >= {"timesnet_forecast", "timesnet_classifier"}
    _, out, _ = call("list", "--pretrained", "--task", "classification")
    assert SHIPPED in [line.split("\t")[0] for line in out.splitlines()]
    _, out, _ = call("list", "--configs")
    assert "timesnet/japanese_vowels\tTimesNet on JapaneseVowels" in out


def test_bench_measures_kernels_after_checking_them(call, tmp_path, monkeypatch):
    out = tmp_path / "kernels"
    code, text, _ = call("bench", "kernels", "--kernel", "residual_norm", "--runs", "2", "--out", str(out))
    result = json.loads((out / "kernels.json").read_text())
    assert code == 0 and "residual_norm" in text
    assert {(row["phase"], row["variant"]) for row in result["rows"]} == {
        (phase, variant) for phase in ("forward", "training") for variant in ("eager", "ours")
    }
    assert all(row["min"] <= row["ms"] <= row["max"] and row["error"] < 1e-5 for row in result["rows"])
    assert (out / "kernels.png").stat().st_size > 1000 and not list(out.glob(".*"))

    wrong = bench_kernels.kernel_cases()["residual_norm"].make(1, 2, 3, device="cpu")
    wrong.ours = lambda *inputs: (inputs[0], inputs[0])
    clock = bench_kernels.Clock("cpu")
    with pytest.raises(RuntimeError, match="ours is wrong"):
        list(bench_kernels.measure(wrong, clock, {"rate": 1, "bandwidth": 1}, 1, False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "--device 'tpu' must be cpu or cuda"),
        (["--kernel", "softmax"], "--kernel 'softmax' must be one of edge_product"),
        (["--tune"], "--tune needs --device cuda and --out"),
    ],
)
def test_bench_of_kernels_names_bad_options(call, options, message):
    code, _, error = call("bench", "kernels", *options)
    assert code == 2 and message in error


def test_kernels_win_where_they_beat_the_compiled_reference():
    rows = [("a", 1.3), ("a", 1.0), ("b", 1.5), ("b", 0.9), ("c", 1.1)]
    rows = [{"kernel": kernel, "variant": "ours", "speedup": ratio} for kernel, ratio in rows]
    assert bench_kernels.winners(rows) == {"a": True, "b": False, "c": False}


def test_info_says_which_kernels_run(call):
    facts = json.loads(call("info", "timesnet_classifier", *TINY, "--json")[1])["kernels"]
    assert facts["mode"] == "auto" and set(facts) == {"mode", "triton", "devices", "in use"}
    assert "kernels mode\tauto" in call("info", "timesnet_classifier", *TINY)[1]


def test_info_counts_what_is_there(call):
    _, out, _ = call("info", "timesnet_classifier", "--json")
    facts = json.loads(out)
    assert facts["parameters"] == 591_097 and facts["inputs"]["x"] == [1, 29, 12] and facts["output"] == [1, 9]
    assert facts["weights"][0]["available"] and facts["weights"][0]["license"] == "Apache-2.0"
    _, small, _ = call("info", "timesnet_classifier", *TINY)
    assert "argument d_model\t4" in small  # what this very model was built with and "parameters\t591,097" not in small


def test_the_demo_fails_when_a_claim_is_wrong(call, monkeypatch, tmp_path):
    artifact = load_manifest()[SHIPPED]
    wrong = dataclasses.replace(artifact, metric={**artifact.metric, "value": 0.99})
    monkeypatch.setattr(demo, "load_manifest", lambda: {SHIPPED: wrong})
    status, out, _ = call("demo", "--no-speed")
    assert status == 1 and "DIFFERS" in out and "<strong>0 of 1</strong> agree" in (tmp_path / "demo.html").read_text()


def test_prediction_from_csv_equals_the_model(call, tmp_path):
    from blockzoo.tasks.series.uea import JapaneseVowels

    data = JapaneseVowels()
    _, test = data.read()
    ends = test.lengths.cumsum(0)
    with open(tmp_path / "s.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["series", *[f"c{i}" for i in range(12)]])
        for index in range(20):
            for step in test.values[ends[index] - test.lengths[index] : ends[index]].tolist():
                writer.writerow([f"s{index}", *step])
    status, out, _ = call("predict", SHIPPED, "s.csv", "--json")
    rows = json.loads(out)
    assert status == 0 and [row["series"] for row in rows] == [f"s{i}" for i in range(20)]
    right = sum(row["label"] == test.class_names[label] for row, label in zip(rows, test.labels.tolist(), strict=False))
    assert right >= 19 and sum(rows[0]["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("series,a\n1,2\n1,x\n", "row 3, column 'a': 'x' is not a finite number"),
        ("series,a\n1,\n", "row 2, column 'a': '' is not a finite number"),
        ("a,b\n1,2\n", "expected a header with a column 'series'"),
        ("series,a\n", "no rows below the header"),
        ("series,a\n1,2\n", "the series have 1 channels, the model expects 12"),
    ],
)
def test_bad_cells_are_named(call, tmp_path, text, said):
    (tmp_path / "bad.csv").write_text(text)
    status, _, error = call("predict", SHIPPED, "bad.csv")
    assert status == 2 and said in error


@pytest.mark.parametrize("form", ["safetensors", "torch-export"])
@pytest.mark.parametrize("name", ["timesnet_forecast", "timesnet_classifier"])
def test_exports_are_checked_and_written_whole(call, tmp_path, name, form):
    status, out, _ = call("export", name, "--format", form, "--out", "model.bin", *TINY)
    assert status == 0 and "checked: difference" in out
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_onnx_runs_in_onnxruntime(call, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs blockzoo[export]")
    pytest.importorskip("onnxscript", reason="needs blockzoo[export]")
    status, out, _ = call("export", SHIPPED, "--format", "onnx", "--out", "m.onnx", "--deploy")
    assert status == 0 and "pretrained weights" in out and (tmp_path / "m.onnx").stat().st_size > 100_000


def test_an_export_that_differs_is_not_written(call, tmp_path, monkeypatch):
    monkeypatch.setattr("blockzoo.tasks.deploy.export.difference", lambda model, run, examples: 1.0)
    status, out, _ = call("export", "timesnet_forecast", "--format", "safetensors", "--out", "m", *TINY)
    assert status == 1 and "nothing was written" in out and list(tmp_path.iterdir()) == []


def test_downloads_land_where_they_should(call, tmp_path):
    status, out, _ = call("download", "--all", "--verify", "--to", "weights")
    artifact = load_manifest()[SHIPPED]
    assert status == 0 and artifact.sha256 in out
    assert (tmp_path / "weights" / artifact.file).stat().st_size == artifact.size


def test_the_benchmark_compares_equal_functions(call, monkeypatch):
    monkeypatch.setattr(bench_series, "CASES", {"small": ("timesnet_forecast", 2, {"d_model": 4, "d_ff": 4})})
    status, out, _ = call("bench", "timesnet", "--runs", "2", "--json")
    rows = json.loads(out)["rows"]
    assert status == 0
    assert {(row["phase"], row["variant"]) for row in rows} == {
        ("forward", "plain"), ("forward", "as built"), ("forward", "deployed"),
        ("training", "plain"), ("training", "as built"),
    }  # fmt: skip
    model = bench.blockzoo.create_model("timesnet_forecast")
    plain, inputs = bench_series._plain("timesnet_forecast", model, {}, "cpu"), bench_series._inputs(model, 3, "cpu")
    torch.testing.assert_close(plain.eval()(**inputs), model.eval()(**inputs), rtol=1e-4, atol=1e-5)


def test_argument_texts_become_values():
    assert parse_model_args(["a=1", "b=x", "c=[1, 2]", "d=None", "e=a=b"]) == {
        "a": 1, "b": "x", "c": [1, 2], "d": None, "e": "a=b",
    }  # fmt: skip


def test_bench_runs_the_tables_of_all_families_in_the_same_columns(call, tmp_path, monkeypatch):
    emo = {"depths": (1,), "embed_dims": (8,), "ratios": (2.0,), "head_dims": (8,), "kernel_sizes": (3,),
           "strides": (2,), "attn_stages": (False,), "out_indices": (0,)}  # fmt: skip
    create = bench.blockzoo.create_model
    monkeypatch.setattr(bench.blockzoo, "create_model", lambda name, **kw: create(name, **{**emo, **kw}))
    monkeypatch.setitem(bench_images.MODELS, "emov2", [("emov2_1m", 32, False)])
    out = tmp_path / "models"
    options = ["--family", "emov2", "--runs", "2", "--batch-size", "2", "--out", str(out)]
    status, text, _ = call("bench", "models", *options)
    result = json.loads((out / "models.json").read_text())
    assert status == 0 and "emov2_1m, 32 px, batch 2" in text
    assert [row["variant"] for row in result["rows"]] == ["as built", "deployed"]
    assert all(0 < row["min"] <= row["ms"] <= row["max"] and 0 < row["of rate"] for row in result["rows"])
    assert result["environment"]["kernels"] == "auto" and result["ceilings"]["rate"] > 0
    assert (out / "models.png").stat().st_size > 1000 and not list(out.glob(".*"))


def test_bench_of_a_family_with_transforms_and_of_products_has_no_rates(call, monkeypatch):
    monkeypatch.setattr(bench_fno, "MODELS", [(16, 8)])
    small = ["--runs", "1", "--batch-size", "2", "--json"]
    rows = json.loads(call("bench", "models", "--family", "fno", *small)[1])["rows"]
    assert {row["phase"] for row in rows} == {"forward", "training"}
    assert rows[0]["case"] == "model, n 16, modes 8, width 32, batch 2" and "of rate" not in rows[0]
    tiny = lambda parser: parser.set_defaults(edges=24, chans=4, l_max=[1], atoms=4, official=None)  # noqa: E731
    suite = dataclasses.replace(bench_equivariant.SUITES["equivariant"], add_arguments=tiny)
    monkeypatch.setitem(bench_equivariant.SUITES, "equivariant", suite)
    rows = json.loads(call("bench", "models", "--family", "equivariant", *small)[1])["rows"]
    assert {row["variant"] for row in rows} >= {"e3nn uvu", "EdgeProduct", "plain"}


def test_models_and_tables_name_bad_options(call, tmp_path):
    code, _, error = call("bench", "models", "--family", "resnet")
    assert code == 2 and "--family 'resnet' must be one of emov2, equivariant" in error
    code, _, error = call("bench", "nextvit", "--device", "tpu")
    assert code == 2 and "--device 'tpu' must be cpu or cuda" in error
    code, _, error = call("bench", "kernels", "--table", "nothing.json")
    assert code == 2 and "--table 'nothing.json' is no file" in error
    (tmp_path / "other.json").write_text("[]")
    code, _, error = call("bench", "kernels", "--table", str(tmp_path / "other.json"))
    assert code == 2 and "holds no run" in error


def test_operations_of_derived_variants_are_those_of_their_source():
    x, y = torch.zeros(4, 8), torch.zeros(8, 2)
    calls = {"as built": lambda: x @ y, "deployed": lambda: x, "compiled": lambda: x, "deployed, compiled": lambda: x,
             "teacher": lambda: y.T @ y, "teacher, compiled": lambda: y}  # fmt: skip
    product, teacher = 2 * 4 * 8 * 2, 2 * 2 * 8 * 2
    assert list(operations(calls).values()) == [product] * 4 + [teacher] * 2
    conv = DeployedConv2d(torch.nn.Conv2d(2, 3, 1))
    with torch.no_grad():
        assert operations({"deployed": lambda: conv(torch.zeros(1, 2, 4, 4))}) == {"deployed": 2 * 2 * 3 * 16}


@pytest.mark.parametrize(
    ("kernel", "phases", "peers"),
    [
        ("edge_product_harmonics", {"forward", "training"}, {"e3nn"}),
        ("spectral_mix", {"forward", "training"}, set()),
        ("separable_conv", {"forward"}, set()),
    ],
)
def test_the_cases_of_a_kernel_agree_with_their_peers(kernel, phases, peers):
    cases = bench_kernels.kernel_cases()[kernel]
    make, large, small = cases.make, cases.large, cases.small
    assert {len(sizes) for sizes in large} == {len(small)}
    clock, limits = bench_kernels.Clock("cpu"), {"rate": 1e9, "bandwidth": 1e9}
    rows = list(bench_kernels.measure(make(*small, device="cpu"), clock, limits, 1, False))
    assert max(row["error"] for row in rows) < 1e-5
    assert {row["phase"] for row in rows} == phases
    assert {row["variant"] for row in rows} >= {"eager", "ours"} | peers


def test_tables_come_from_results(call, tmp_path):
    status, out, _ = call("bench", "kernels", "--table")
    assert status == 0 and "| fold_conv |" in out
    assert ("No run on a GPU is committed" in out) == (bench_kernels._read_result("") == {})
    row = {"kernel": "k", "size": "s", "phase": "forward", "min": 1.0, "max": 2.0, "error": 0.0}
    rows = [{**row, "variant": name, "ms": ms, "speedup": 2.0 / ms, "of_floor": 0.5 / ms}
            for name, ms in (("eager", 3.0), ("compiled", 2.0), ("ours", 1.25), ("e3nn", 9.0))]  # fmt: skip
    facts = {"torch": "2.14", "device": "Card", "driver": "600.1"}
    result = {"environment": facts, "ceilings": {"bandwidth": 3e12, "rate": 5e13}, "rows": rows}
    (tmp_path / "kernels.json").write_text(json.dumps(result))
    _, out, _ = call("bench", "kernels", "--table", str(tmp_path / "kernels.json"))
    assert "| k | s | forward | 3 | 2 | e3nn 9 | 1.25 | 1.60 | 40 % |" in out
    assert "torch 2.14, device Card, driver 600.1; a copy 3000 GB/s, 50 TFLOP/s a product." in out
    (tmp_path / "empty.json").touch()
    status, _, error = call("bench", "kernels", "--table", "empty.json")
    assert status == 2 and "--table 'empty.json' is not JSON" in error and error.count("\n") == 1, error


def test_documents_show_the_table_of_the_committed_run():
    found = []
    for name in ("docs/kernels.md", "BENCHMARKS.md"):
        text = (Path(__file__).parents[3] / name).read_text()
        found += re.findall(r"<!-- kernels -->\n(.*?)\n<!-- /kernels -->", text, re.DOTALL)
    assert found == [bench_kernels.markdown_table(bench_kernels._read_result(""))]
