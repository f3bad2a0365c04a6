"""Samples that cannot be read: they are named, and left out where the user asks for that."""

import sys
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_only

from blockzoo.tasks.core.balance import Labels, class_counts

__all__ = ["kept_samples"]

_SHOWN = 20
"""Samples that are printed at most; all of them are in the run's folder."""


def kept_samples(
    wrong: Sequence[str | None], labels: Labels, kind: str, part: str, class_names: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Choose the samples of a part that can be read, and name the others on the screen.

    Args:
        wrong: For each sample one line that says why it cannot be read; None where it can.
        labels: Classes of each sample, by number.
        kind: What a sample is called, "image" for example.
        part: "train", "val" or "test".
        class_names: Names of the classes.

    Returns:
        Indices of the samples that can be read, and the lines of the others.

    Raises:
        ValueError: No sample can be read, or none of a class in training; the message names it.
    """
    kept = [index for index, message in enumerate(wrong) if message is None]
    broken = [message for message in wrong if message is not None]
    if broken:
        _report([*broken[:_SHOWN], *([f"and {len(broken) - _SHOWN} more"] if len(broken) > _SHOWN else [])])
    if not kept:
        first = f"; the first: {broken[0]}" if broken else ""
        raise ValueError(f"none of the {len(wrong)} {kind}s of the {part} part can be read{first}")
    before, after = (class_counts(own, len(class_names)) for own in (labels, [labels[index] for index in kept]))
    lost = (before > 0) & (after == 0)
    if part == "train" and lost.any():
        raise ValueError(f"class {class_names[int(lost.nonzero()[0])]!r} has no training {kind} that can be read")
    return kept, broken


@rank_zero_only
def _report(messages: list[str]) -> None:
    for message in messages:
        print(f"skipped: {message}", file=sys.stderr)
