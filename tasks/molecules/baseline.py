"""Errors of a potential that knows only the energy of each element, as a baseline for model cards.

    python -m blockzoo.tasks.molecules.baseline --out linear.json

The energies are fitted to the training part of the packaged GFN2-xTB molecules by least squares; there are no forces.
Nothing is random, so the report, in the form of that of `blockzoo.tasks.app.seeds`, has one run.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockzoo.tasks.app.seeds import summarize
from blockzoo.tasks.molecules.potential import linear_baseline
from blockzoo.tasks.molecules.structures import XTBMolecules

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command; returns what it writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="test/force_mae", help="(default: test/force_mae)")
    parser.add_argument("--out", help="JSON file to write")
    known = parser.parse_args(args)
    data = XTBMolecules()
    data.setup("fit")
    test: Any = data.datasets["test"]
    errors = {f"test/{name}": value for name, value in linear_baseline(data.train_sample(), test.structures).items()}
    if known.metric not in errors:
        raise ValueError(f"--metric {known.metric}: must be one of {', '.join(errors)}")
    value = errors[known.metric]
    report = {"metric": known.metric, "runs": [{"last": value, **errors}], "last": summarize([value])}
    for name, error in errors.items():
        print(f"{name} {error:.4g}")
    if known.out:
        Path(known.out).write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    main()
