"""The documentation: its code runs, its commands exist, its pages are complete, and the site builds."""

import csv
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blockzoo._registry import family_about, family_modules
from blockzoo.tasks.app.main import parser_of
from blockzoo.tasks.core import rooms
from blockzoo.tasks.core.configs import list_configs
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.rooms import commands
from blockzoo.tasks.core.task import Task

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "api")
FAMILY_PAGE = "add_a_family.md"
EXAMPLE_CONFIGS = {"pulsenet/pulses"}
"""Configs that a page makes itself."""

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the tests run outside of a checkout")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, title and text of the fenced blocks of a page."""
    found = re.findall(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    assert len(found) * 2 == len(re.findall(r"^```", (DOCS / page).read_text(), re.M))
    return found


FOLLOWED = ("tutorials/", "your_series", "your_fields", "your_molecules", "index", "using")
"""Pages whose Python code runs as it stands; that of `your_images.md` makes the files of its commands, see below."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(FOLLOWED)])
def test_code_of_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page == "using.md":
        pytest.importorskip("ase", reason="needs blockzoo[molecules]")
    code = [text for language, title, text in blocks(page) if language == "python" and not title]
    assert code and "assert" in "".join(code)
    names = {"__name__": page}
    for text in code:
        exec(compile(text, page, "exec"), names)  # one after the other, as a reader does
    assert [path.name for path in tmp_path.iterdir()] == (["vowels"] if page == "using.md" else [])


def test_the_page_of_your_images_is_followed_to_a_table_of_classes(tmp_path, monkeypatch):
    from blockzoo.__main__ import main

    monkeypatch.chdir(tmp_path)
    found = blocks("your_images.md")
    (code,) = [text for language, title, text in found if language == "python" and not title]
    exec(compile(code, "your_images.md", "exec"), {"__name__": "page"})
    quiet = ["--trainer.accelerator=cpu", "--trainer.max_epochs=4", "--data.num_workers=0"]
    for line in next(text for language, _, text in found if language == "bash").splitlines():
        words = shlex.split(line)[1:]
        assert main([*words, *(quiet if words[0] == "fit" else [])]) == 0, line
    with open("classes.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open("labels.csv", encoding="utf-8") as file:
        labels = {row["file"]: row["label"] for row in csv.DictReader(file)}
    assert {row["image"] for row in rows} == set(labels) and list(rows[0])[3:] == ["leaf", "sky", "soil"]
    assert sum(row["label"] == labels[row["image"]] for row in rows) >= 20  # chance is 10


def test_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    names = {}
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (4, 9)


def test_every_family_has_a_tutorial():
    own = {family for family in family_modules() if not family_about(family).part_of}
    assert {Path(page).stem for page in PAGES if page.startswith("tutorials/")} == own


@pytest.mark.parametrize("page", [page for page in PAGES if page != FAMILY_PAGE])  # that page's commands are run
def test_commands_of_pages_exist(page):
    """Every call of `blockzoo` names a command, and configs and checkpoints that there are."""
    for language, _, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if language == "bash" else ():
            words = shlex.split(line, comments=True)
            if words[:1] != ["blockzoo"]:
                continue
            assert {words[1], " ".join(words[1:3])} & {*commands(), "fit", "validate", "test"}, line
            if "--config" in words:
                assert words[words.index("--config") + 1] in {*list_configs(), *EXAMPLE_CONFIGS}, line
            name = " ".join(words[1:3]) if " ".join(words[1:3]) in commands() else words[1]
            of_a_run = name == "predict" and words[2].startswith("runs/") and len(words) == 3  # Lightning's command
            if name in commands() and "--config" not in words and not of_a_run:
                parser_of(commands()[name]).parse_args(words[1 + len(name.split()) :])  # exits if an option is unknown


def test_options_of_classes_in_pages_exist():
    """Every `--data.x` and `--model.x` is an argument of a data module or task that the command line offers."""
    classes = [rooms.load(place) for place in rooms.components().values()]
    offered = {
        (section, name)
        for section, base in (("data", ZooData), ("model", Task))
        for cls in classes
        if issubclass(cls, base)
        for part in cls.__mro__[: cls.__mro__.index(base) + 1]  # arguments are handed on to the class above
        for name in inspect.signature(part.__init__).parameters
    }
    found = {page: re.findall(r"--(data|model)\.(\w+)", (DOCS / page).read_text(encoding="utf-8")) for page in PAGES}
    assert any(found.values())
    assert [(page, option) for page, options in found.items() for option in options if option not in offered] == []


def test_pages_of_families_show_their_measured_speed():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    for family in ("timesnet", "fno", "nasnet", "p3d", "tdn", "raptor"):
        page = hooks._family_page(next(found for found in hooks._families() if found.name == family))
        against = page.split("## Against the original")[1]
        assert "| --- |" in against and "`blockzoo bench " in against.split("Measure it here")[0]


DRIVER = """
import sys
from pathlib import Path
from blockzoo.__main__ import main
names = {"main": main}
for path in map(Path, sys.argv[1:]):
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
"""


def _copy_of_the_tree(folder: Path) -> Path:
    """The files of the checkout under version control's rules, and a package `site/blockzoo` of links to them."""
    tree = folder / "tree"
    for name in ("checkpoints", "configs", "kernels", "layers", "tasks", "zoo"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    (tree / ".gitignore").write_text("__pycache__/\n/runs/\n", encoding="utf-8")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "."]):
        subprocess.run(["git", *words], cwd=tree, check=True)
    return tree


def _links(tree: Path, site: Path) -> None:
    """The tree as the package that its install would be."""
    package = site / "blockzoo"
    package.mkdir(parents=True)
    for path in (tree / "zoo").iterdir():
        (package / path.name).symlink_to(path)
    for name in ("checkpoints", "configs", "kernels", "layers", "tasks"):
        (package / name).symlink_to(tree / name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="makes links")
def test_a_family_is_added_as_the_page_says(tmp_path):
    """The page's files go into a copy of the tree, its steps run in order, and no existing file changes."""
    tree = _copy_of_the_tree(tmp_path)
    steps, split, files = [], 0, []
    for language, title, text in blocks(FAMILY_PAGE):
        if title and title != "run":
            assert not (tree / title).exists()  # a family brings files and edits none
            (tree / title).parent.mkdir(parents=True, exist_ok=True)
            (tree / title).write_text(text, encoding="utf-8")
            files.append(title)
            if title.startswith("tests/"):
                words = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, title]
                steps.append(f"import pytest\nassert pytest.main({words!r}) == 0\n")
        elif title == "run":
            for line in text.replace("\\\n", " ").splitlines():
                steps.append(f"assert main({shlex.split(line)[1:]!r}) == 0, {line!r}\n")
                if line.startswith("blockzoo publish"):
                    split = len(steps)  # what is published is there from the next start on
        elif language == "python":
            steps.append(text)
    assert len(steps) == 14 and 0 < split < len(steps)
    packages = (tree / "pyproject.toml").read_text(encoding="utf-8")
    added = packages.replace(
        '    "blockzoo.tasks.raptor",', '    "blockzoo.tasks.pulses",\n    "blockzoo.tasks.raptor",'
    )
    assert added != packages and '"blockzoo.tasks.pulses"' in (DOCS / FAMILY_PAGE).read_text(encoding="utf-8")
    (tree / "pyproject.toml").write_text(added, encoding="utf-8")
    _links(tree, tmp_path / "site")
    paths = [tmp_path / f"step{i}.py" for i in range(len(steps))]
    for path, step in zip(paths, steps, strict=True):
        path.write_text(step, encoding="utf-8")
    safe = "-P" if sys.version_info >= (3, 11) else "-B"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    for part in (paths[:split], paths[split:]):
        command = [sys.executable, safe, "-c", DRIVER, *map(str, part)]
        result = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, env=env, timeout=600)
        assert result.returncode == 0, result.stdout + result.stderr
    listed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"], cwd=tree, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line for line in listed if not line.startswith("??")] == [" M pyproject.toml"]
    weights = [f"checkpoints/pulsenet_small.pulses.{kind}" for kind in ("md", "safetensors")]
    made = [*files, *weights, "checkpoints/manifest.pulsenet.json"]
    results = ["seeds.json", "pulse.txt", "pulse.csv", "pulsenet.pt2", "demo.html"]
    assert {line[3:] for line in listed if line.startswith("??")} == {*made, *results}


def _script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_measured_tables_are_those_of_the_json():
    figures = _script("figures")
    used = set()
    for page in figures.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert figures.filled(text) == text, f"{page}: run `python docs/figures.py`"
        used |= {name for name, _ in figures.BLOCK.findall(text)}
    stored = {path.stem for path in figures.MEASURED.glob("*.json")}
    assert stored == used - set(figures.COMPUTED) and set(figures.COMPUTED) <= used
    for name in stored:
        table = figures.read(name)
        assert {"command", "date", "commit", "machine"} <= set(table)
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_results_are_those_of_the_cards():
    """The range in each row of a table that rests on cards stands in one of these cards, to the digits shown."""
    figures = _script("figures")
    compared = 0
    for path in figures.MEASURED.glob("*.json"):
        table = figures.read(path.stem)
        cards = "".join((ROOT / "checkpoints" / f"{name}.md").read_text("utf-8") for name in table.get("cards", ()))
        known = {tuple(map(float, pair)) for pair in re.findall(r"([\d.]+)(?: %| \S+)? to ([\d.]+\d)", cards)}
        for row in table["rows"] if cards else ():
            if shown := re.search(r"(\d+\.\d+) to (\d+\.\d+)", " ".join(row)):
                units = [0.51 * 10.0 ** -len(number.partition(".")[2]) for number in shown.groups()]
                low, high = map(float, shown.groups())
                near = [pair for pair in known if abs(pair[0] - low) < units[0] and abs(pair[1] - high) < units[1]]
                assert near or row[0].endswith("baseline"), (path.stem, row)
                compared += 1
    assert compared > 15


def test_code_stays_in_its_box():
    """Lines of code break at the edge of their box, on every page; nothing makes a page load another style."""
    assert "extra_css: [extra.css]" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    rule = re.search(r"pre > code \{(.*?)\}", (DOCS / "extra.css").read_text(encoding="utf-8"), re.S)[1]
    assert "white-space: pre-wrap" in rule and "overflow-wrap: anywhere" in rule


def test_the_api_pages_name_all_public_modules():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    pages = [hooks.on_page_markdown(path.read_text(), None, {}, None) for path in (DOCS / "api").glob("*.md")]
    listed = re.findall(r"^::: (\S+)$", "\n".join(pages), re.M)
    assert len(listed) == len(set(listed)) and not any("<!--" in page for page in pages)
    assert {"blockzoo.fno", "blockzoo.layers.series.period", "blockzoo.tasks.fields.darcy"} <= set(listed)
    modules = [name for name in listed if not re.search(r"\._\w+\.\w+$", name)]
    assert all(importlib.util.find_spec(name) for name in modules) and set(family_modules()) <= {
        name.removeprefix("blockzoo.") for name in modules
    }
    for name in set(listed) - set(modules):  # things of private modules
        module, _, thing = name.rpartition(".")
        assert hasattr(importlib.import_module(module), thing)


def test_the_site_builds_without_a_warning(tmp_path, monkeypatch):
    pytest.importorskip("material", reason="needs blockzoo[docs]")
    pytest.importorskip("mkdocstrings", reason="needs blockzoo[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0 and "WARNING -" not in result.stderr, result.stdout + result.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.html")}
    assert {page.replace(".md", ".html") for page in PAGES} <= set(pages)
    assert "usage: blockzoo demo" in pages["commands.html"].read_text()
    assert "nasnetalarge" in pages["benchmarks.html"].read_text()
    families = pages["api/families.html"].read_text()
    assert 'id="blockzoo.fno.FNO"' in families and "Fourier" in families
    loads = r"<(?:script|img|iframe)[^>]* src=\"(?:https?:)?//|<link[^>]* rel=\"stylesheet\"[^>]* href=\"(?:https?:)?//"
    assert [name for name, path in pages.items() if re.search(loads, path.read_text())] == []
