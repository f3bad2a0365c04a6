"""Errors of a potential that knows only the energy of each element, for `blockzoo baselines`.

The energies are fitted to the training part by least squares; there are no forces.
"""

import argparse
from typing import Any

from blockzoo.tasks.molecules.potential import linear_baseline

__all__ = ["measure"]


def measure(task: Any, data: Any, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Fit the energies of the elements, and measure them on the test part.

    Args:
        task: A potential's task; its model is not used.
        data: A data module of structures.
        args: Options of the command, none of which matter here.

    Raises:
        ValueError: The data has no test part.
    """
    data.setup("fit")
    if "test" not in data.datasets:
        raise ValueError(f"{type(data).__name__} has no test part to measure on")
    test = data.datasets["test"]
    found = linear_baseline(data.train_sample(), [test.structures[i] for i in range(len(test.structures))])
    return {"linear": {f"test/{name}": value for name, value in found.items()}}
