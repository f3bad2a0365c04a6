"""The demo's page: complete, valid, accessible, and nothing in it from outside."""

import importlib.util
import re
import shlex
from html.parser import HTMLParser
from importlib.resources import files

import pytest
import torch

import blockzoo
from blockzoo.__main__ import main
from blockzoo.checkpoints import load_manifest
from blockzoo.tasks.app import demo_speed
from blockzoo.tasks.app.demo_families import families
from blockzoo.tasks.core import html_parts, pictures
from blockzoo.tasks.core.configs import list_configs
from blockzoo.tasks.core.suites import SpeedCase

VOID = {"meta", "link", "img", "br", "wbr", "input", "hr"}
SHIPPED = {name for name, item in load_manifest().items() if item.origin == "ours"}


class Reader(HTMLParser):
    """Reads a page, and refuses what is not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.code: dict[str, str] = {}
        self._label: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "pre":
            self._label = dict(attrs).get("aria-label")

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open, f"<{tag}/> is no tag of HTML"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:], self.getpos())
        self.open.pop()
        self._label = None if tag == "pre" else self._label

    def handle_data(self, data):
        if self._label and self.open[-1:] == ["code"]:
            self.code[self._label] = self.code.get(self._label, "") + data

    def all(self, name: str) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def read(demo_run):
    return Reader(demo_run.page)


def test_every_claim_holds_and_has_its_place(demo_run, read):
    assert demo_run.status == 0 and {row["checkpoint"] for row in demo_run.rows} == SHIPPED
    assert {row["result"] for row in demo_run.rows} == {"agrees"}
    assert f"<strong>{len(SHIPPED)} of {len(SHIPPED)}</strong> agree" in demo_run.page
    assert {attrs.get("id") for attrs in read.all("article")} == {name.replace(".", "-") for name in SHIPPED}


def test_every_family_has_a_section(demo_run, read):
    sections = {attrs["id"] for attrs in read.all("section")}
    assert sections == {"start", "results", *(family.name for family in families())}
    covered = {module for family in families() for module in (family.name, *family.also)}
    assert set(blockzoo.list_families()) <= covered
    for family in families():
        assert len(re.findall(r"[.!?](?:\s|$)", family.about.purpose)) == 2, family.name
    assert demo_run.page.count("<h3>Speed on this machine</h3>") == len(families())


def test_nothing_comes_from_outside(demo_run, read):
    for tag, attrs in read.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href", "background"):
            if name in attrs and not (tag == "meta"):
                assert re.match(r"#\S|data:", attrs[name]), (tag, name, attrs[name][:60])
        assert not re.search(r"url\((?!#)", attrs.get("style", "") + attrs.get("clip-path", ""))
    style = files("blockzoo.tasks.app").joinpath("page.css").read_text()
    script = files("blockzoo.tasks.app").joinpath("page.js").read_text()
    assert not re.search(r"url\(|@import|https?:", style) and not re.search(r"fetch|XMLHttp|import|https?:", script)
    policy = next(attrs["content"] for attrs in read.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none';") and "http" not in policy


def test_ids_are_unique_and_links_meet_them(read):
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"][1:] for _, attrs in read.tags if attrs.get("href", "").startswith("#")]
    used = [
        found
        for _, attrs in read.tags
        for value in attrs.values()
        for found in re.findall(r"url\(#([^)]+)\)", value or "")
    ]
    assert {*targets, *used} <= set(ids) and {*SHIPPED} <= {target.replace("-", ".", 1) for target in targets}


def test_pictures_have_words_and_headings_are_in_order(read):
    shown = [attrs.get("alt") for attrs in read.all("img")] + [attrs.get("aria-label") for attrs in read.all("svg")]
    assert len(shown) > 60 and all(text and len(text) > 5 for text in shown)
    assert all(attrs.get("role") == "img" for attrs in read.all("svg"))
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert all(attrs.get("type") == "button" and attrs.get("aria-label") for attrs in read.all("button"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in read.all("th"))
    assert read.all("html")[0]["lang"] == "en" and len(read.all("main")) == len(read.all("nav")) == 1


def test_code_of_the_page_runs(read):
    python = {label: text for label, text in read.code.items() if label.endswith(", Python")}
    calls = [label for label in python if label.startswith("calling ")]
    assert len(calls) == len(SHIPPED) + sum(not {m.split(".")[0] for m in SHIPPED} & set(f.models) for f in families())
    for label in calls:
        names: dict = {}
        with torch.no_grad() if "gfn2" not in label else torch.enable_grad():
            exec(python[label], names)
        assert names["outputs"] is not None
    shell = [line for label, text in read.code.items() if label.endswith(", shell") for line in text.splitlines()]
    for words in map(shlex.split, shell):
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]) is not None
            continue
        assert words[:2] in (["blockzoo", "fit"], ["blockzoo", "download"])
        assert words[1] == "download" or words[words.index("--config") + 1] in list_configs()


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(scheme):
    style = files("blockzoo.tasks.app").joinpath("page.css").read_text()
    roots = re.findall(r":root \{([^}]*)\}", style)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", roots[0]))
    if scheme == "dark":
        colours |= dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", roots[1]))
    for behind in ("paper", "card", "shade"):
        for text in ("ink", "soft", "accent", "green", "red", "blue", "orange"):
            if behind == "shade" and text not in ("ink", "soft", "accent"):
                continue
            low, high = sorted((luminance(colours[behind]), luminance(colours[text])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, behind)
    assert "prefers-reduced-motion" in style and ":focus-visible" in style


def test_only_shows_one_family_and_speed_can_be_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--only", "nextvit_cifar.cifar10", "--no-speed"]) == 0
    page = Reader((tmp_path / "demo.html").read_text())
    assert [attrs["id"] for attrs in page.all("section")] == ["start", "results", "nextvit"]
    assert "Speed on this machine" not in (tmp_path / "demo.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["demo.html"] and "agrees" in capsys.readouterr().out


def test_speed_is_only_told_of_equal_functions(monkeypatch):
    x = torch.arange(4.0)
    case = SpeedCase("a sum", "the old one", lambda: x, lambda: x + 1)
    with pytest.raises(RuntimeError, match="a sum: the outputs of the old one and of ours differ"):
        demo_speed.measure_speed(case)
    case = SpeedCase("a sum", "the old one", lambda: x, lambda: 1 * x)
    speed = demo_speed.measure_speed(case)
    assert 3 <= speed.runs <= 9 and speed.ratio == speed.theirs / speed.ours > 0


def test_texts_are_escaped():
    shown = html_parts.table(["<a>", "b&c"], [["first", "x < y".replace("<", "&lt;")]], '"caption"')
    assert "<a>" not in shown and "b&amp;c" in shown and "&quot;caption&quot;" in shown
    assert "<b>" not in html_parts.code("<b>", 'a "word"') and "&quot;word&quot;" in html_parts.code("", 'a "word"')


def test_charts_speak_the_colours_of_the_page():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2)
    for axis in axes:
        axis.plot([0, 1], color="#0072B2")
        axis.set_title("a <title>")
    found = pictures.panels(figure, ["left", 'right "one"'])
    Reader(found)
    assert found.count("<svg") == 2 and "var(--blue)" in found and "#0072b2" not in found and "currentColor" in found
    assert "right &quot;one&quot;" in found and plt.get_fignums() == []
    with pytest.raises(ValueError, match="zip"):
        pictures.panels(plt.subplots(1, 2)[0], ["one for two"])
    plt.close("all")
