"""What MkDocs does for this site beyond its plugins: API from the checkout's sources, commands from their parsers."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "docs-source"
FOLDERS = ("checkpoints", "configs", "kernels", "layers", "tasks")


def on_config(config: Any) -> Any:
    """Lay the checkout out as the package, so that the API is that of these sources however they are installed."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for source, target in {"zoo": "", **{name: name for name in FOLDERS}}.items():
        shutil.copytree(ROOT / source, SOURCE / "blockzoo" / target, ignore=_all_but_code, dirs_exist_ok=True)
    return config


def _all_but_code(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith(".py") and not (Path(folder) / name).is_dir()}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the public modules of a folder, and the help of every command, in place of their marks."""
    markdown = re.sub(r"<!-- modules: (\S+) -->", lambda mark: _modules(mark[1]), markdown)
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
