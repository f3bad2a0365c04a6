"""What the wheel and the sdist carry."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")


def tracked() -> set[str]:
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return set(listing.stdout.splitlines())


def test_every_package_on_disk_is_listed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {folder: name for name, folder in setuptools["package-dir"].items()}
    found = set()
    for path in tracked():
        parts = Path(path).parts
        if parts[-1] == "__init__.py" and parts[0] in folders:
            found.add(".".join((folders[parts[0]], *parts[1:-1])))
    assert found == set(setuptools["packages"])


@pytest.mark.slow
def test_wheel_and_sdist_carry_code_configs_weights_and_licences(tmp_path):
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    wheel = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    folders = {"zoo": "blockzoo", "checkpoints": "blockzoo/checkpoints", "configs": "blockzoo/configs"}
    folders |= {name: f"blockzoo/{name}" for name in ("kernels", "layers", "tasks")}
    shipped = {path for path in tracked() if path.split("/")[0] in folders and (ROOT / path).is_file()}
    expected = {path.replace(path.split("/")[0], folders[path.split("/")[0]], 1) for path in shipped}
    assert expected <= wheel
    assert {name.split("/")[0] for name in wheel if ".dist-info" not in name} == {"blockzoo"}
    licences = {name.rsplit("/")[-1] for name in wheel if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    sdist = {name.split("/", 1)[-1] for name in tarfile.open(next(tmp_path.glob("*.tar.gz"))).getnames()}
    documents = {path for path in tracked() if path.startswith("docs/") and not path.endswith((".pyc", ".pyo"))}
    documents |= {"BENCHMARKS.md", "CHANGELOG.md", "mkdocs.yml"}
    assert shipped | documents | {"pyproject.toml", "NOTICE", "tests/conftest.py"} <= sdist
