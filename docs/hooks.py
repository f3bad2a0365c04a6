"""What MkDocs does for this site beyond its plugins: API from the checkout's sources, commands from their parsers."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "docs-source"
FOLDERS = ("checkpoints", "configs", "kernels", "layers", "tasks")


def on_startup(command: str, dirty: bool) -> None:
    """Lay the checkout out as the package, so that the API is that of these sources however they are installed.

    This comes before any plugin looks at its settings: in a fresh checkout the folder would not be there yet.
    """
    shutil.rmtree(SOURCE, ignore_errors=True)
    for source, target in {"zoo": "", **{name: name for name in FOLDERS}}.items():
        shutil.copytree(ROOT / source, SOURCE / "blockzoo" / target, ignore=_all_but_code, dirs_exist_ok=True)


def on_config(config: Any) -> Any:
    """Put the pages and tutorials of families into the navigation, after the start page."""
    pages = [{family.about.title: f"families/{family.name}.md"} for family in _families()]
    tutorials = [{family.about.title: _tutorial(family)} for family in _families() if _tutorial(family)]
    start, *others = config["nav"]
    config["nav"] = [start, {"Families": pages}, {"Tutorials": tutorials}, *others]
    return config


def _tutorial(family: Any) -> str:
    """The family's tutorial, as a path in `docs/`, or nothing."""
    page = f"tutorials/{family.name}.md"
    return page if (ROOT / "docs" / page).is_file() else ""


def on_files(files: Any, config: Any) -> Any:
    """Add a page for every family, and the figures of shipped checkpoints."""
    from mkdocs.structure.files import File

    for path in sorted([*(ROOT / "checkpoints").glob("*.png"), *(ROOT / "docs" / "pictures").glob("*.png")]):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    for family in _families():
        files.append(File.generated(config, f"families/{family.name}.md", content=_family_page(family)))
    return files


def _families() -> list[Any]:
    from blockzoo.tasks.app.demo_families import families

    return families()


def _shipped(family: Any, origin: str) -> list[Any]:
    from blockzoo.checkpoints import load_manifest

    models = set(family.models)
    return [item for item in load_manifest().values() if item.origin == origin and item.name.split(".")[0] in models]


def _figure(family: Any) -> str:
    """The file of the first figure of a shipped checkpoint, of its card or drawn for the site; or nothing."""
    names = [item.name for item in _shipped(family, "ours")]
    found = [path.name for name in names for path in sorted((ROOT / "checkpoints").glob(f"{name}.*.png"))]
    found += [f"{name}.png" for name in names if (ROOT / "docs" / "pictures" / f"{name}.png").is_file()]
    return found[0] if found else ""


def _gallery() -> str:
    """One entry for each family: a figure where a shipped checkpoint has one, title and purpose."""
    entries = []
    for family in _families():
        figure = _figure(family)
        picture = f"![A figure of {family.about.title}](figures/{figure})\n\n" if figure else ""
        entries.append(f"### [{family.about.title}](families/{family.name}.md)\n\n{picture}{family.about.purpose}\n")
    return "\n".join(entries)


def _tutorials() -> str:
    """A table of the families' tutorials."""
    lines = ["| family | tutorial | models for |", "| --- | --- | --- |"]
    for family in _families():
        if page := _tutorial(family):
            title = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            kinds = ", ".join(sorted({_task(model) for model in family.models}))
            lines.append(f"| [{family.about.title}](families/{family.name}.md) | [{title}]({page}) | {kinds} |")
    return "\n".join(lines)


def _task(model: str) -> str:
    import blockzoo

    cfg = blockzoo.get_pretrained_cfg(model)
    return f"{cfg.task} ({cfg.modality})"


def _family_page(family: Any) -> str:
    """Words, weights and measured speed of a family."""
    about = family.about
    lines = [f"# {about.title}", "", about.purpose, ""]
    if about.paper:
        lines += [f"Source: {about.paper} ({about.year}).", ""]
    if _tutorial(family):
        lines += [f"[Tutorial](../{_tutorial(family)}), [API](../api/families.md#blockzoo.{family.name}).", ""]
    figure = _figure(family)
    if figure:
        lines += [f"![A figure of {about.title}](../figures/{figure})", ""]
    lines += ["## Models", "", ", ".join(f"`{name}`" for name in family.models), ""]
    for title, origin in (("Shipped weights", "ours"), ("Published weights", "official")):
        items = _shipped(family, origin)
        if items:
            lines += [
                f"## {title}",
                "",
                "| weights | metric | value | data | licence |",
                "| --- | --- | --- | --- | --- |",
            ]
            for item in items:
                metric = item.metric
                cells = [
                    f"`{item.name}`",
                    metric["name"],
                    f"{float(metric['value']):.4g}",
                    metric["dataset"],
                    item.license,
                ]
                lines.append(f"| {' | '.join(map(str, cells))} |")
            lines.append("")
    lines += ["## Against the original", ""]
    for part in _benchmarks(family.bench.split()[0] if family.bench else family.name):
        lines += [part, ""]
    lines += [f"Measure it here: `blockzoo bench {family.bench}`. All tables: [benchmarks](../benchmarks.md).", ""]
    return "\n".join(lines)


def _benchmarks(suite: str) -> list[str]:
    """The parts of BENCHMARKS.md whose first paragraph names a suite, each from the command that measures it."""
    text = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    parts = re.split(r"^(?=`blockzoo bench )", text, flags=re.M)[1:]
    return [part.strip() for part in parts if re.search(rf"bench {re.escape(suite)}\b", part.split("\n\n")[0])]


def _all_but_code(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith(".py") and not (Path(folder) / name).is_dir()}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the public modules of a folder, and the help of every command, in place of their marks."""
    markdown = re.sub(r"<!-- modules: (\S+) -->", lambda mark: _modules(mark[1]), markdown)
    if "<!-- gallery -->" in markdown:
        markdown = markdown.replace("<!-- gallery -->", _gallery())
    if "<!-- tutorials -->" in markdown:
        markdown = markdown.replace("<!-- tutorials -->", _tutorials())
    return markdown.replace("<!-- commands -->", _commands()) if "<!-- commands -->" in markdown else markdown


def _modules(folder: str) -> str:
    pattern = "*.py" if folder == "zoo" else "**/*.py"
    package = ".".join(["blockzoo", *(part for part in Path(folder).parts if part != "zoo")])
    paths = (path.relative_to(ROOT / folder).with_suffix("") for path in (ROOT / folder).glob(pattern))
    names = sorted(".".join(path.parts) for path in paths if not any(part.startswith("_") for part in path.parts))
    return "\n\n".join(f"::: {package}.{name}" for name in names)


def _commands() -> str:
    from blockzoo.tasks.core.rooms import commands

    os.environ["COLUMNS"] = "100"
    os.environ["NO_COLOR"] = "1"
    parts = [f"## {name}\n\n{command.text.capitalize()}.\n\n```text\n{_help(command)}```\n"
             for name, command in sorted(commands().items())]  # fmt: skip
    return "\n".join(parts)


def _help(command: Any) -> str:
    from blockzoo.tasks.app.main import parser_of

    return parser_of(command).format_help()
