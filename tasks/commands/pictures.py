"""Figures for pages: one style, and inline PNGs."""

import base64
import html
import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["STYLE", "picture"]

STYLE: Any = {"font.size": 9, "axes.titlesize": 10, "figure.facecolor": "white", "axes.spines.top": False}


def picture(figure: Any, alt: str) -> str:
    """A figure as an inline PNG with a text alternative."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
