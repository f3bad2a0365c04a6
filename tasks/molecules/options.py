"""Checks of numbers among the options of commands."""

import math

__all__ = ["check_not_negative", "check_positive"]


def check_positive(**values: float) -> None:
    """Refuse options that are not positive and finite.

    Raises:
        ValueError: One is not; the message has its name as it is typed.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} {value:g} must be positive and finite")


def check_not_negative(**values: float) -> None:
    """Refuse options that are negative or not finite.

    Raises:
        ValueError: One is; the message has its name as it is typed.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"--{name.replace('_', '-')} {value:g} must be at least 0 and finite")
