"""The spread of a figure over seeds."""

import statistics

__all__ = ["summarize"]


def summarize(values: list[float]) -> dict[str, float]:
    """Median, least and largest of some numbers."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
