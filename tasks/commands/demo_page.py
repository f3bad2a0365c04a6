"""The demo's page: one HTML file without anything from outside."""

from __future__ import annotations

import html
from importlib.metadata import version
from typing import TYPE_CHECKING

from blockzoo.checkpoints import read_card

if TYPE_CHECKING:
    from blockzoo.tasks.commands.demo import Result

__all__ = ["page"]

CSS = """
:root { color-scheme: light dark; --ink: #1b2230; --soft: #5a6475; --paper: #fbfbf9; --card: #ffffff; --line: #dfe3ea;
  --accent: #0b62a4; --good: #146c43; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaf0; --soft: #a3adbd; --paper: #12161d; --card: #1a2029;
  --line: #2d3644; --accent: #6db6f2; --good: #6ed3a0; --bad: #ff8f86; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.9rem; margin: 0.5rem 0; } h2 { margin: 2.5rem 0 0.5rem; overflow-wrap: anywhere; }
h3 { margin: 1.6rem 0 0.4rem; }
p { max-width: 46rem; } .lead, figcaption, footer { color: var(--soft); }
a { color: var(--accent); } :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.4rem 0.7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
.right td:last-child, .agrees { color: var(--good); font-weight: 600; }
.wrong td:last-child, .differs { color: var(--bad); font-weight: 600; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; padding: 0.5rem; margin: 0.8rem 0; }
.wide img { min-width: 44rem; }
.code { position: relative; } pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.9rem; overflow-x: auto; font-size: 0.9rem; }
button { position: absolute; top: 0.5rem; right: 0.5rem; font: inherit; font-size: 0.85rem; color: var(--ink);
  background: var(--paper); border: 1px solid var(--line); border-radius: 6px; padding: 0.25rem 0.7rem;
  cursor: pointer; }
summary { cursor: pointer; font-weight: 600; }
"""

JS = """
document.querySelectorAll('.code button').forEach(function (button) {
  button.addEventListener('click', function () {
    navigator.clipboard.writeText(button.parentElement.querySelector('pre').textContent).then(function () {
      button.textContent = 'Copied';
    });
  });
});
"""


def page(results: list[Result]) -> str:
    """The whole page for some evaluated checkpoints."""
    rows = "".join(_row(result) for result in results)
    names = ("checkpoint", "data", "metric", "card says", "measured now", "result")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_checkpoint(result) for result in results)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("blockzoo", "torch"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>blockzoo demo</title>
<link rel="icon" href="data:,">
<style>{CSS}</style>
</head>
<body>
<main>
<h1>What the shipped models do</h1>
<p class="lead">Each checkpoint was loaded by name and evaluated on its real test data on this machine.
The card's claim and the measured value must agree.</p>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
{body}
<footer><p>Written by <code>blockzoo demo</code> ({html.escape(libraries)}).</p></footer>
</main>
<script>{JS}</script>
</body>
</html>
"""


def _row(result: Result) -> str:
    metric = result.artifact.metric
    verdict = "agrees" if result.agrees else "differs"
    link = f'<a href="#{html.escape(result.artifact.name)}">{html.escape(result.artifact.name)}</a>'
    cells = [link, result.data, metric["name"]]
    cells += [f"{result.claimed:.4f}", f"{result.measured:.4f}", f'<span class="{verdict}">{verdict}</span>']
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _checkpoint(result: Result) -> str:
    name = result.artifact.name
    snippet = f'import blockzoo\n\nmodel = blockzoo.create_model("{name}", pretrained=True).eval()\n'
    snippet += "outputs = model(**model.example_inputs(batch_size=4))"
    sections = "".join(f"<h3>{html.escape(title)}</h3>{content}" for title, content in result.sections)
    return f"""<section id="{html.escape(name)}">
<h2>{html.escape(name)}</h2>
<div class="code"><pre><code>{html.escape(snippet)}</code></pre><button type="button">Copy</button></div>
{sections}
<h3>Where it comes from</h3>
<p>Trained by <code>{html.escape(result.artifact.command)}</code>. Weights {html.escape(result.artifact.license)}, data
{html.escape(result.artifact.data_license)}.</p>
<details><summary>Model card</summary><pre>{html.escape(read_card(result.artifact))}</pre></details>
</section>
"""
