"""What a user's type checker sees: `py.typed` is there, and every public name has a type."""

import importlib
import json
import site
import subprocess
import sys
from pathlib import Path

import pytest

import blockzoo

pytest.importorskip("pyright")
PACKAGES = ("blockzoo", "blockzoo.checkpoints", "blockzoo.kernels", "blockzoo.layers")

PROGRAM = """\
import torch

import blockzoo
from blockzoo.checkpoints import load_state_dict
from blockzoo.kernels import spectral_mix
from blockzoo.layers import ConvNormAct
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.task import Task
from blockzoo.tasks.series.uea import JapaneseVowels
from blockzoo.tasks.series.classification import SeriesClassification

names: list[str] = blockzoo.list_models("timesnet*", pretrained=True)
version: str = blockzoo.__version__
model: blockzoo.ZooModel = blockzoo.create_model(names[0], pretrained=True).eval()
inputs: dict[str, torch.Tensor] = model.example_inputs(batch_size=2)
layer: torch.nn.Module = ConvNormAct(3, 8, 3)
mixed: torch.Tensor = spectral_mix(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
task: Task = SeriesClassification(names[0], lr=1e-3)
data: ZooData = JapaneseVowels(seq_len=29, batch_size=4)
state: dict[str, torch.Tensor] = load_state_dict("model.safetensors")
"""


@pytest.fixture
def check(tmp_path):
    """Runs pyright, strict, on a program beside an ordinary installation of the package; returns what it reports."""
    packages = tmp_path / f"venv/lib/python3.{sys.version_info.minor}/site-packages"
    (packages / "blockzoo").mkdir(parents=True)
    for folder in blockzoo.__path__:  # an editable installation, in which no type checker finds the package
        for path in Path(folder).iterdir():
            if path.suffix in (".py", ".typed"):
                (packages / "blockzoo" / path.name).symlink_to(path)
    for name in ("checkpoints", "configs", "kernels", "layers", "tasks"):
        home = Path(str(importlib.import_module(f"blockzoo.{name}").__file__)).parent
        (packages / "blockzoo" / name).symlink_to(home, target_is_directory=True)
    others = {str(Path(str(importlib.import_module(name).__file__)).parents[1]) for name in ("torch", "timm")}
    (packages / "others.pth").write_text("\n".join(sorted({*site.getsitepackages(), *others})))
    settings = {"typeCheckingMode": "strict", "venvPath": ".", "venv": "venv", "include": ["user.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))

    def run(program: str) -> list[str]:
        (tmp_path / "user.py").write_text(program)
        command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(tmp_path)]
        report = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        assert report["summary"]["filesAnalyzed"] == 1
        return [f"{item['range']['start']['line'] + 1}: {item['message']}" for item in report["generalDiagnostics"]]

    return run


def test_a_small_user_program_has_types(check):
    assert check(PROGRAM) == []


def test_every_public_name_has_a_type_that_is_known(check):
    lines = []
    for package in PACKAGES:
        names = [name for name in importlib.import_module(package).__all__ if name != "__version__"]
        own = {name: f"{package.replace('.', '_')}_{name}" for name in names}
        lines += [f"from {package} import {name} as {alias}" for name, alias in own.items()]
        lines += [f"print({alias})" for alias in own.values()]
    assert check("\n".join(lines)) == []


def test_mistakes_are_seen(check):
    wrong = [f"from {package} import nothing as _{i}" for i, package in enumerate(PACKAGES)]
    messages = ["unknown import symbol"] * len(PACKAGES)
    wrong += ["import blockzoo", "blockzoo.create_model(5)", "blockzoo.list_models().nothing", "blockzoo.nothing"]
    messages += ["", "cannot be assigned to parameter", "Cannot access attribute", "is not a known attribute of module"]
    said = check("\n".join(wrong))
    for number, message in enumerate(messages, start=1):
        assert not message or any(line.startswith(f"{number}: ") and message in line for line in said), said
