"""Figures for pages: one style, charts as inline SVG in the page's own colours, photographs as inline PNG."""

import base64
import html
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import Bbox
from PIL import Image

__all__ = ["STYLE", "bitmap", "coloured", "panels", "picture", "tiles"]

STYLE: Any = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}

INKS = {
    "#000000": "currentColor", "#222222": "currentColor", "#1b2230": "currentColor", "#cccccc": "var(--line)",
    "#b0b0b0": "var(--line)", "#ffffff": "var(--card)", "#888888": "var(--soft)", "#8a8a8a": "var(--soft)",
    "#8a94a6": "var(--soft)", "#999999": "var(--soft)", "#3b6fb6": "var(--blue)", "#0072b2": "var(--blue)",
    "#0b62a4": "var(--blue)", "#1f77b4": "var(--blue)", "#d0732b": "var(--orange)", "#d55e00": "var(--orange)",
    "#e08214": "var(--orange)", "#ff7f0e": "var(--orange)", "#009e73": "var(--green)", "#2ca02c": "var(--green)",
    "#1a7f37": "var(--green)", "#b42318": "var(--red)", "#cc0000": "var(--red)", "#d62728": "var(--red)",
}  # fmt: skip
"""Colours that figures draw with, and what they are on a page that may be light or dark."""

_count = itertools.count()


def picture(figure: Any, alt: str) -> str:
    """Make an inline SVG from a figure, with a text alternative, selectable text, and the page's colours."""
    width = figure.get_size_inches()[0]
    found = _svg(figure, "tight", alt, width)
    plt.close(figure)
    return f'<div class="chart">{found}</div>'


def panels(
    figure: Any, alts: Sequence[str], size: tuple[float, float] | None = None, columns: int | None = None
) -> str:
    """Make a separate chart from each axes of a figure; the page arranges them to fit the screen.

    Args:
        figure: Laid out by matplotlib, not yet drawn.
        alts: A text alternative for each visible axes, in order.
        size: Width and height of one axes with its labels, in inches.
        columns: Number of panels in a row, if they fit; by default, as many as fit.
    """
    axes = [axis for axis in figure.axes if axis.axison]
    if size is not None:
        grid = figure.axes[0].get_gridspec()
        figure.set_size_inches(size[0] * grid.ncols, size[1] * grid.nrows)
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    inches = figure.dpi_scale_trans.inverted()
    inner = [axis.get_window_extent().transformed(inches) for axis in axes]
    outer = [axis.get_tightbbox().transformed(inches).padded(0.04) for axis in axes]
    margins = np.abs([(box - of) for box, of in zip(map(_corners, outer), map(_corners, inner), strict=True)]).max(0)
    parts = []
    for axis, box, alt in zip(axes, inner, alts, strict=True):
        for other in figure.axes:
            other.set_visible(other is axis)
        for text in figure.texts:
            text.set_visible(False)
        area = Bbox(_corners(box) + margins * [[-1], [1]])
        parts.append(_svg(figure, area, alt, area.width))
    plt.close(figure)
    style = f"--least: {0.75 * 96 * area.width:.0f}px" + (f"; --columns: {columns}" if columns else "")
    return f'<div class="panels" style="{style}">{"".join(parts)}</div>'


def _corners(box: Any) -> np.ndarray:
    return np.asarray(box.get_points())


def _svg(figure: Any, box: Any, alt: str, inches: float) -> str:
    """Part of a figure as SVG, without the parts that only a separate file needs, and with unique ids."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches=box, transparent=True, dpi=144, metadata={"Date": None})
    text = buffer.getvalue()
    view = re.search(r'viewBox="([^"]+)"', text)
    body = re.search(r"<svg[^>]*>(.*)</svg>", text, re.DOTALL)
    assert view and body
    inner = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body[1], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', inner))
    inner = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", inner)
    prefix = f"c{next(_count)}-"
    inner = re.sub(r'( id="|href="#|url\(#)', rf"\1{prefix}", inner).replace("xlink:href", "href")
    inner = re.sub(r"#[0-9a-f]{6}\b", lambda match: INKS.get(match[0], match[0]), inner)
    inner = re.sub(r"\s*\n\s*", "\n", inner)
    return (
        f'<svg role="img" aria-label="{html.escape(alt, quote=True)}" viewBox="{view[1]}" '
        f'style="max-width: {96 * inches * 1.2:.0f}px">{inner}</svg>'
    )


def coloured(values: Any, low: float, high: float, cmap: str = "viridis") -> np.ndarray:
    """A field (rows, columns) as the bytes of an image (rows, columns, 3)."""
    scaled = (np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-30)
    return (matplotlib.colormaps[cmap](scaled.clip(0, 1))[..., :3] * 255).round().astype(np.uint8)


def bitmap(pixels: np.ndarray, alt: str, enlarge: int = 1) -> str:
    """Bytes (rows, columns, 3) as an inline PNG with a text alternative.

    Args:
        pixels: The image.
        alt: What it shows.
        enlarge: Screen pixels for one pixel, for small images whose pixels should stay visible.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    rows, columns = (enlarge * n for n in pixels.shape[:2])
    return (
        f'<img alt="{html.escape(alt, quote=True)}" width="{columns}" height="{rows}" '
        f'src="data:image/png;base64,{data}">'
    )


def tiles(items: Sequence[tuple[str, str]], columns: int, classes: str = "") -> str:
    """Small pictures with captions in rows that wrap.

    Args:
        items: Pairs of a picture and its caption, both HTML.
        columns: Pictures in a row on a wide screen.
        classes: CSS classes of the element around them.
    """
    inner = "".join(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>" for shown, caption in items)
    return f'<div class="tiles {classes}" style="--columns: {columns}">{inner}</div>'
