"""Pieces of pages: tables that fit a phone, and code that can be copied."""

import html
from collections.abc import Sequence

__all__ = ["code", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str, classes: Sequence[str] = ()) -> str:
    """A table whose rows become cards on a narrow screen.

    Args:
        columns: Headings, text.
        rows: Cells, HTML; the first of a row is its heading.
        caption: What the table shows, for readers who cannot see it.
        classes: One for each row, for the style sheet.
    """
    head = "".join(f'<th scope="col" role="columnheader">{html.escape(name)}</th>' for name in columns)
    body = []
    for i, row in enumerate(rows):
        first, *rest = row
        label = html.escape(columns[0], quote=True)
        cells = f'<th scope="row" role="rowheader" data-label="{label}">{first}</th>'
        for name, cell in zip(columns[1:], rest, strict=True):
            cells += f'<td role="cell" data-label="{html.escape(name, quote=True)}">{cell}</td>'
        kind = f' class="{classes[i]}"' if classes else ""
        body.append(f'<tr role="row"{kind}>{cells}</tr>')
    return (
        f'<table role="table"><caption>{html.escape(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(body)}</tbody></table>'
    )


def code(text: str, what: str) -> str:
    """A block of code with a button that copies it, visible if scripts run; `what` is the name of the code."""
    label = html.escape(what, quote=True)
    return (
        f'<div class="code"><pre tabindex="0" role="region" aria-label="{label}"><code>{html.escape(text)}</code></pre>'
        f'<button type="button" hidden aria-label="Copy: {label}">Copy</button></div>'
    )
