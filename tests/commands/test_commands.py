"""The `blockzoo` command, called in process."""

import csv
import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch

from blockzoo.__main__ import COMMANDS, main
from blockzoo.checkpoints import load_manifest
from blockzoo.tasks.commands import bench, bench_kernels, demo
from blockzoo.tasks.commands.output import parse_model_args

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
    assert all(f"\n  {name} " in result.stdout for name in (*COMMANDS, "fit", "validate", "test"))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(call, name):
    status, out, _ = call(name, "--help")
    assert status == 0 and out.startswith(f"usage: blockzoo {name}") and "Examples:" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["lst"], "unknown command 'lst'; did you mean 'list'?"),
        (["info", "timesnet_forcast"], "did you mean timesnet_forecast"),
        (["download"], "name the weights to fetch, or use --all"),
        (["download", "nothing"], f"no weights named 'nothing'; there are {SHIPPED}"),
        (["demo", "--only", "nothing"], "not a shipped checkpoint"),
        (["predict", SHIPPED, "none.csv"], "No such file"),
        (
            ["predict", "fno3d", "none.csv"],
            "no pretrained weights for fno3d; names with weights: none",
        ),
        (["info", "timesnet_forecast", "--arg", "d_model"], "--arg 'd_model' must be NAME=VALUE"),
        (["export", "timesnet_forecast", "--format", "safetensors", "--out", "no/such/folder/x"], "No such file"),
    ],
)
def test_mistakes_are_one_line_and_status_two(call, args, said):
    status, _, error = call(*args)
    assert status == 2 and said in error and "Traceback" not in error


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

    wrong = bench_kernels._residual_norm(1, 2, 3, "cpu")
    wrong.ours = lambda *inputs: (inputs[0], inputs[0])
    clock = bench_kernels._Clock("cpu")
    with pytest.raises(RuntimeError, match="ours is wrong"):
        list(bench_kernels.measure(wrong, clock, {"rate": 1, "bandwidth": 1}, 1, False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "--device 'tpu' must be cpu or cuda"),
        (["--kernel", "softmax"], "--kernel 'softmax' must be one of fold_conv"),
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
    assert "argument d_model\t16" in small and "parameters\t591,097" not in small


def test_the_demo_confirms_the_cards_and_writes_a_page_of_its_own(call, tmp_path):
    status, out, _ = call("demo", "--json")
    rows = json.loads(out)
    assert status == 0 and [row["result"] for row in rows] == ["agrees"] * len(rows)
    page = (tmp_path / "demo.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert page.count("<img alt=") >= 2 and 'lang="en"' in page and "prefers-color-scheme: dark" in page


def test_the_demo_fails_when_a_claim_is_wrong(call, monkeypatch):
    artifact = load_manifest()[SHIPPED]
    wrong = dataclasses.replace(artifact, metric={**artifact.metric, "value": 0.99})
    monkeypatch.setattr(demo, "load_manifest", lambda: {SHIPPED: wrong})
    status, out, _ = call("demo")
    assert status == 1 and "DIFFERS" in out


def test_prediction_from_csv_equals_the_model(call, tmp_path):
    from blockzoo.tasks.data.series import JapaneseVowels

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
    monkeypatch.setattr("blockzoo.tasks.model_export.difference", lambda model, run, examples: 1.0)
    status, out, _ = call("export", "timesnet_forecast", "--format", "safetensors", "--out", "m", *TINY)
    assert status == 1 and "nothing was written" in out and list(tmp_path.iterdir()) == []


def test_downloads_land_where_they_should(call, tmp_path):
    status, out, _ = call("download", "--all", "--verify", "--to", "weights")
    artifact = load_manifest()[SHIPPED]
    assert status == 0 and artifact.sha256 in out
    assert (tmp_path / "weights" / artifact.file).stat().st_size == artifact.size


def test_the_benchmark_compares_equal_functions(call, monkeypatch):
    monkeypatch.setattr(bench, "TIMESNET", {"small": ("timesnet_forecast", 2, {"d_model": 4, "d_ff": 4})})
    status, out, _ = call("bench", "timesnet", "--runs", "2", "--json")
    rows = json.loads(out)["rows"]
    assert status == 0
    assert {(row["phase"], row["variant"]) for row in rows} == {
        ("forward", "plain"), ("forward", "as built"), ("forward", "deployed"),
        ("training", "plain"), ("training", "as built"),
    }  # fmt: skip
    plain = bench._plain("timesnet_forecast", (model := bench.blockzoo.create_model("timesnet_forecast")), {})
    inputs = bench._inputs(model, 3)
    torch.testing.assert_close(plain.eval()(**inputs), model.eval()(**inputs), rtol=1e-4, atol=1e-5)


def test_argument_texts_become_values():
    assert parse_model_args(["a=1", "b=x", "c=[1, 2]", "d=None", "e=a=b"]) == {
        "a": 1, "b": "x", "c": [1, 2], "d": None, "e": "a=b",
    }  # fmt: skip
