"""The demo's part on speed: a small model of each family against the original, on this machine, in seconds.

`blockzoo bench` measures more and larger sizes, with more runs, and training too.
"""

from dataclasses import dataclass

import torch

from blockzoo._registry import family_of
from blockzoo.tasks.app.export_table import rows
from blockzoo.tasks.core import rooms
from blockzoo.tasks.core.suites import SpeedCase, merged
from blockzoo.tasks.core.timing import interleaved

__all__ = ["Speed", "case_of", "measure_speed"]

SECONDS = 2.0
"""For the timed runs of a family, of which there are from 3 to 9."""


@dataclass
class Speed:
    """Times of the fastest runs of both, in ms; other work on the machine disturbs these least."""

    case: SpeedCase
    theirs: float
    ours: float
    runs: int

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.theirs / self.ours


def case_of(family: str) -> SpeedCase:
    """The case of a family: the one that a room declares, or else its first model before and after merging."""
    place = rooms.declared("speed").get(family)
    if place is not None:
        found: SpeedCase = rooms.load(place)()
        return found
    row = next(row for row in rows() if family_of(row.name) == family)
    return merged(row.name, **row.args)


def measure_speed(case: SpeedCase) -> Speed:
    """Time a case, the two ways turn by turn, after comparing their outputs.

    Raises:
        RuntimeError: The outputs differ.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        theirs, ours = case.theirs(), case.ours()
        if case.same and float((ours - theirs).abs().max()) > 1e-2 * float(theirs.std()):
            raise RuntimeError(f"{case.what}: the outputs of {case.reference} and of ours differ")
        functions = {"theirs": case.theirs, "ours": case.ours}
        once = sum(sum(times) for times in interleaved(functions, 1).values()) / 1000
        runs = int(min(9, max(3, SECONDS // once)))
        times = interleaved(functions, runs)
    return Speed(case, min(times["theirs"]), min(times["ours"]), runs)
