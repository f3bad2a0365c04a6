"""The documentation: its code runs, its commands exist, its pages are complete, and the site builds."""

import importlib
import importlib.util
import inspect
import os
import re
import shlex
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
EXAMPLE_CONFIGS = {"convseries/japanese_vowels"}
"""Configs that a page makes itself."""

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the tests run outside of a checkout")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, title and text of the fenced blocks of a page."""
    found = re.findall(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    assert len(found) * 2 == len(re.findall(r"^```", (DOCS / page).read_text(), re.M))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("tutorials/") or page == "index.md"])
def test_code_of_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = [text for language, _, text in blocks(page) if language == "python"]
    assert code and "assert" in "".join(code)
    names = {"__name__": page}
    for text in code:
        exec(compile(text, page, "exec"), names)  # one after the other, as a reader does
    assert list(tmp_path.iterdir()) == []


def test_every_family_has_a_tutorial():
    own = {family for family in family_modules() if not family_about(family).part_of}
    assert {Path(page).stem for page in PAGES if page.startswith("tutorials/")} == own


@pytest.mark.parametrize("page", PAGES)
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
import blockzoo
from blockzoo.__main__ import main
folder = Path(sys.argv[1])
blockzoo.__path__.append(str(folder / "zoo"))
names = {"main": main}
for path in sorted(folder.glob("step*.py")):
    exec(compile(path.read_text(), str(path), "exec"), names)
"""


def test_a_family_is_added_as_the_page_says(tmp_path):
    """Files of the page go where it says, in a package beside this one; then its steps run in order."""
    steps = []
    for language, title, text in blocks(FAMILY_PAGE):
        if title and title != "run":
            assert not (ROOT / title).exists()  # a family brings files and edits none
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(text)
            if title.startswith("tests/"):
                steps.append(f"import pytest\nassert pytest.main(['-q', '-p', 'no:cacheprovider', {title!r}]) == 0\n")
        elif title == "run":
            words = [f"{word}.yaml" if word in EXAMPLE_CONFIGS else word for word in shlex.split(text)[1:]]
            words = [f"configs/{word}" if word.endswith(".yaml") else word for word in words]
            steps.append(f"assert main({[*words, '--trainer.max_epochs=2']!r}) == 0\n")
        elif language == "python":
            steps.append(text)
    assert len(steps) == 6
    for i, step in enumerate(steps):
        (tmp_path / f"step{i}.py").write_text(step)
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", DRIVER, str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})
    assert result.returncode == 0, result.stdout + result.stderr


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
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "WARNING -" not in result.stderr, result.stdout + result.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.html")}
    assert {page.replace(".md", ".html") for page in PAGES} <= set(pages)
    assert "usage: blockzoo demo" in pages["commands.html"].read_text()
    assert "nasnetalarge" in pages["benchmarks.html"].read_text()
    families = pages["api/families.html"].read_text()
    assert 'id="blockzoo.fno.FNO"' in families and "Fourier" in families
    loads = r"<(?:script|img|iframe)[^>]* src=\"(?:https?:)?//|<link[^>]* rel=\"stylesheet\"[^>]* href=\"(?:https?:)?//"
    assert [name for name, path in pages.items() if re.search(loads, path.read_text())] == []
