"""The demo, run once for all tests of this folder."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blockzoo.__main__ import main


@dataclass
class Demo:
    """What `blockzoo demo` left: exit status, rows of its output, and the page."""

    status: int
    rows: list[dict[str, Any]]
    file: Path

    @property
    def page(self) -> str:
        return self.file.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """One complete run, with the comparison of speed."""
    folder = tmp_path_factory.mktemp("demo")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKZOO_CACHE", str(folder / "cache"))
        status = main(["demo", "--json", "--out", str(folder / "page with spaces.html")])
    return Demo(status, json.loads(out.getvalue()), folder / "page with spaces.html")
