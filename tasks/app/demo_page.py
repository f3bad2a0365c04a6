"""The demo's page: one HTML file that works offline."""

from __future__ import annotations

import html
from importlib.metadata import version
from importlib.resources import files

from blockzoo.checkpoints import load_manifest, read_card
from blockzoo.tasks.app.demo_families import Family
from blockzoo.tasks.app.demo_results import Chapter, Result
from blockzoo.tasks.app.demo_speed import Speed
from blockzoo.tasks.core.html_parts import code, table
from blockzoo.tasks.core.rooms import declared

__all__ = ["page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the browser may load: only what is in the file."""


LISTING = "import blockzoo\n\nprint(blockzoo.list_models(pretrained=True))"


def page(chapters: list[Chapter]) -> str:
    """The whole page, a section for each family."""
    css, js = ((files("blockzoo.tasks.app") / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("blockzoo", "torch"))
    results = [result for chapter in chapters for result in chapter.results]
    agree = sum(result.agrees for result in results)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>blockzoo demo</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>blockzoo</h1>
<p class="lead">A model zoo for vision and science. This page was made on this machine: every shipped checkpoint was
loaded by name and evaluated on real test data, and what was measured stands beside what its card claims.
<strong>{agree} of {len(results)}</strong> agree.</p>
</header>
<div class="layout">
<nav aria-label="Contents"><details open><summary>Contents</summary>{_contents(chapters)}</details></nav>
<main id="content">
<section id="start">
<h2>Start</h2>
<p>Every model is made by its name; a name with a tag also has weights.</p>
{code(LISTING, "list of models, Python")}
<p>In the shell, <code>blockzoo --help</code> lists the commands.</p>
</section>
<section id="results">
<h2>Claims and measurements</h2>
{_overview(results)}
</section>
{"".join(_chapter(chapter) for chapter in chapters)}
</main>
</div>
<footer><p>Written by <code>blockzoo demo</code> ({html.escape(libraries)}).</p></footer>
<p class="unseen" role="status" aria-live="polite" id="said"></p>
<script>{js}</script>
</body>
</html>
"""


def paper_of(family: Family) -> str:
    """Title and year of the family's paper."""
    about = family.about
    return f"{about.paper} ({about.year})" if about.paper else ""


def _slug(name: str) -> str:
    return html.escape(name.replace(".", "-"))


def _contents(chapters: list[Chapter]) -> str:
    items = '<li><a href="#start">Start</a></li><li><a href="#results">Claims and measurements</a></li>'
    for chapter in chapters:
        inner = "".join(
            f'<li><a href="#{_slug(result.artifact.name)}">{html.escape(_short(result, chapter))}</a></li>'
            for result in chapter.results
        )
        nested = f"<ul>{inner}</ul>" if inner else ""
        items += f'<li><a href="#{chapter.family.name}">{html.escape(chapter.family.about.title)}</a>{nested}</li>'
    return f"<ul>{items}</ul>"


def _short(result: Result, chapter: Chapter) -> str:
    """The data of a result, with the model if there are several."""
    data = str(result.artifact.metric["dataset"])
    several = sum(other.artifact.metric["dataset"] == data for other in chapter.results) > 1
    return f"{data}: {result.artifact.name.partition('.')[0]}" if several else data


def _metric(result: Result) -> str:
    name = str(result.artifact.metric["name"])
    return html.escape(declared("metrics").get(name, name))


def _overview(results: list[Result]) -> str:
    rows = []
    for result in results:
        name, verdict = html.escape(result.artifact.name), "agrees" if result.agrees else "differs"
        link = f'<a href="#{_slug(name)}">{name.replace("_", "_<wbr>").replace(".", ".<wbr>")}</a>'
        cells = [html.escape(result.data), _metric(result)]
        cells += [f"{result.claimed:.4f}", f"{result.measured:.4f}", f'<b class="{verdict}">{verdict}</b>']
        rows.append([link, *cells])
    columns = ("checkpoint", "data", "metric", "card says", "measured now", "result")
    return table(columns, rows, "Metrics of all shipped checkpoints: claimed by the card, and measured now")


def _chapter(chapter: Chapter) -> str:
    family = chapter.family
    models = ", ".join(f"<code>{html.escape(name)}</code>" for name in family.models)
    paper = f"<p class='soft'>{html.escape(paper_of(family))}</p>" if paper_of(family) else ""
    if chapter.results:
        body = "".join(_checkpoint(result) for result in chapter.results)
    else:
        body = _without_checkpoint(family)
    return f"""<section id="{family.name}" class="family">
<h2>{html.escape(family.about.title)}</h2>
{paper}
<p class="purpose">{html.escape(family.about.purpose)}</p>
{body}
{_speed(family, chapter.speed)}
{_published(family)}
<details class="models"><summary>All {len(family.models)} models of this family</summary><p>{models}</p></details>
</section>
"""


def _snippet(name: str, pretrained: bool) -> str:
    weights = ", pretrained=True" if pretrained else ""
    return (
        f'import blockzoo\n\nname = "{name}"\nmodel = blockzoo.create_model(name{weights})\n'
        "inputs = model.eval().example_inputs(2)\noutputs = model(**inputs)"
    )


def _checkpoint(result: Result) -> str:
    artifact, verdict = result.artifact, "agrees" if result.agrees else "differs"
    name, metric = html.escape(artifact.name), artifact.metric
    whole = ""
    if "sample" in metric:
        whole = f'<div><dt>card, all test data</dt><dd class="data">{float(metric["value"]):.4f}</dd></div>'
    sections = "".join(f"<h4>{html.escape(title)}</h4>{content}" for title, content in result.sections)
    return f"""<article id="{_slug(name)}">
<h3>{name.replace("_", "_<wbr>").replace(".", ".<wbr>")}</h3>
<dl class="claim"><div><dt>{_metric(result)}, measured now</dt><dd>{result.measured:.4f}</dd></div>
<div><dt>card says</dt><dd>{result.claimed:.4f}</dd></div>
<div><dt>result</dt><dd class="{verdict}">{verdict}</dd></div>
<div><dt>on</dt><dd class="data">{html.escape(result.data)}</dd></div>{whole}</dl>
{sections}
<h4>Call it</h4>
{code(_snippet(artifact.name, True), f"calling {artifact.name}, Python")}
<h4>Train it</h4>
{code(artifact.command, f"training {artifact.name}, shell")}
<p class="soft">Weights {html.escape(artifact.license)}, data {html.escape(artifact.data_license)}.</p>
<details><summary>Model card of {name}</summary><pre class="card">{html.escape(read_card(artifact))}</pre></details>
</article>
"""


def _without_checkpoint(family: Family) -> str:
    name = family.models[0]
    train = f"<h3>Train it</h3>{code(chr(10).join(family.about.train), f'training {family.about.title}, shell')}"
    return f"""<p>No weights of this family ship with the package.</p>
<h3>Call it</h3>
{code(_snippet(name, False), f"calling {name}, Python")}
{train if family.about.train else ""}"""


def _speed(family: Family, speed: Speed | None) -> str:
    if speed is None:
        return ""
    most = max(speed.theirs, speed.ours)
    bars = "".join(
        f'<div class="bar {kind}"><span>{html.escape(name)}</span>'
        f'<i style="width: {100 * value / most:.1f}%"></i><b>{value:.1f} ms</b></div>'
        for kind, name, value in (("theirs", speed.case.reference, speed.theirs), ("ours", "blockzoo", speed.ours))
    )
    compared = "the same weights, outputs compared first" if speed.case.same else "another function by design"
    more = f" Longer and at more sizes: <code>blockzoo bench {family.bench}</code>."
    return f"""<h3>Speed on this machine</h3>
<p>{html.escape(speed.case.what)}: <strong>{speed.ratio:.1f} times</strong> as fast as
{html.escape(speed.case.reference)} ({compared}; turn by turn, the fastest of {speed.runs} runs each).{more}</p>
<div class="bars">{bars}</div>"""


def _published(family: Family) -> str:
    models = set(family.models)
    found = [
        artifact
        for name, artifact in load_manifest().items()
        if artifact.origin == "official" and name.partition(".")[0] in models
    ]
    if not found:
        return ""
    rows = [
        [
            f"<code>{html.escape(item.name).replace('_', '_<wbr>').replace('.', '.<wbr>')}</code>",
            f"{html.escape(str(item.metric['name']))} {float(item.metric['value']):.4g}",
            html.escape(str(item.metric["dataset"])),
            html.escape(item.license),
        ]
        for item in found
    ]
    caption = f"Published weights of {family.about.title} and what their authors report"
    shown = table(("weights", "reported", "data", "licence"), rows, caption)
    return (
        f"<details><summary>{len(found)} published official weights that load by name</summary>{shown}"
        f"{code(f'blockzoo download {found[0].name}', f'fetching {found[0].name}, shell')}</details>"
    )
