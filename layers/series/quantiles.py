"""Quantiles of forecasts as a model gives them: checked levels, and an axis of quantiles that never cross."""

from collections.abc import Sequence

import torch

__all__ = ["check_levels", "split_quantiles"]


def check_levels(levels: Sequence[float], name: str = "quantiles", median: bool = True) -> tuple[float, ...]:
    """Check the levels of quantiles, and return them.

    Args:
        levels: Numbers between 0 and 1.
        name: The argument, for messages.
        median: Whether 0.5 must be among them.

    Raises:
        ValueError: They are not increasing numbers between 0 and 1, or the median is missing.
    """
    found = tuple(float(level) for level in levels)
    if not found or not all(0 < level < 1 for level in found) or list(found) != sorted(set(found)):
        raise ValueError(f"{name}={list(levels)} must be increasing numbers between 0 and 1, such as [0.1, 0.5, 0.9]")
    if median and 0.5 not in found:
        raise ValueError(f"{name}={list(levels)} must hold 0.5, the median, which is the point forecast")
    return found


def split_quantiles(x: torch.Tensor, count: int) -> torch.Tensor:
    """Turn the channels of a head into quantiles of each channel, in increasing order.

    Quantiles that cross are put in order, which never makes them worse: Chernozhukov, Fernández-Val and Galichon,
    "Quantile and Probability Curves Without Crossing" (2010).

    Args:
        x: Outputs of a head, (B, T, count * C).
        count: Quantiles of each channel.

    Returns:
        (B, count, T, C).
    """
    return x.unflatten(-1, (count, -1)).movedim(-2, 1).sort(1).values
