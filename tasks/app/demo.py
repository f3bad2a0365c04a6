"""Show every family: evaluate the shipped checkpoints on real test data, compare with their cards, write a page.

The page is one HTML file that needs nothing from outside: for each family what it is for, inputs and outputs, metrics
against claims, its speed against the original's on this machine, how to call it and how to train it. Exit status 1 if
a measured metric differs from the claimed one.

Examples:
  blockzoo demo
  blockzoo demo --out report.html --only timesnet_classifier.japanese_vowels
  blockzoo demo --no-speed
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockzoo.checkpoints import Artifact, load_manifest
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.output import print_json, print_table

if TYPE_CHECKING:
    from blockzoo.tasks.app.demo_families import Family
    from blockzoo.tasks.app.demo_speed import Speed

__all__ = ["Chapter", "Result", "add_arguments", "run"]

TOLERANCE = 1e-6
"""How far a measured metric may be from the card's, unless the manifest gives the metric a `tolerance` of its own."""

EVALUATORS = {
    "CIFAR-10": "images.evaluate:evaluate_cifar10",
    "CameraMoves": "video.evaluate:evaluate_camera_moves",
    "Daphnet S06R02E0": "series.evaluate:evaluate_daphnet",
    "InternalBleeding16": "series.evaluate:evaluate_internal_bleeding",
    "Darcy flow": "fields.evaluate:evaluate_darcy",
    "GFN2-xTB molecules": "molecules.evaluate:evaluate_molecules",
    "JapaneseVowels": "series.evaluate_classes:evaluate_japanese_vowels",
    "M3 monthly": "series.evaluate:evaluate_m3",
    "Navier-Stokes": "fields.evaluate:evaluate_navier_stokes",
    "raptor_cifar.cifar10": "raptor.evaluate:evaluate_raptor",
}
"""By checkpoint or data set: a module here, and its function from a model to its metric and the page's sections."""


@dataclass
class Result:
    """What the demo found out about one checkpoint; `sections` are pairs of heading and HTML."""

    artifact: Artifact
    measured: float
    seconds: float
    sections: list[tuple[str, str]] = field(default_factory=list)

    @property
    def claimed(self) -> float:
        """The metric on the card: on the packaged sample of the data, where not all of them are packaged."""
        metric = self.artifact.metric
        return float(metric.get("sample", metric["value"]))

    @property
    def data(self) -> str:
        """What was evaluated on."""
        metric = self.artifact.metric
        return f"{metric['dataset']} {metric['split']}{' (packaged sample)' if 'sample' in metric else ''}"

    @property
    def agrees(self) -> bool:
        """Whether the card's claim holds."""
        return abs(self.measured - self.claimed) <= self.artifact.metric.get("tolerance", TOLERANCE)


@dataclass
class Chapter:
    """What the page says about a family."""

    family: Family
    results: list[Result]
    speed: Speed | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", default="demo.html", help="the page to write (default: demo.html)")
    parser.add_argument("--only", metavar="MODEL.TAG", help="only this checkpoint, and its family")
    parser.add_argument("--no-speed", action="store_true", help="leave the comparison of speed out")
    parser.add_argument("--json", action="store_true", help="print JSON")


def measure(model: Any, name: str, dataset: str) -> tuple[float, list[tuple[str, str]]]:
    """The metric of the model `name` on packaged data, and sections (heading, HTML) about it.

    Raises:
        KeyError: Nothing here evaluates on this data set.
    """
    module, _, function = EVALUATORS[name if name in EVALUATORS else dataset].partition(":")
    found: tuple[float, list[tuple[str, str]]]
    found = getattr(importlib.import_module(f"blockzoo.tasks.{module}"), function)(model)
    return found


def evaluate(artifact: Artifact) -> Result:
    """Load a checkpoint the way a user does and evaluate it."""
    import blockzoo

    start = time.perf_counter()
    model = blockzoo.create_model(artifact.name, pretrained=True).eval()
    measured, sections = measure(model, artifact.name, artifact.metric["dataset"])
    return Result(artifact, measured, time.perf_counter() - start, sections)


def _say(text: str) -> None:
    """Tell a person who waits what is going on."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def _chapters(results: list[Result], args: argparse.Namespace) -> list[Chapter]:
    """What the page shows: all families, or only that of the chosen checkpoint."""
    from blockzoo._registry import family_of
    from blockzoo.tasks.app.demo_families import families
    from blockzoo.tasks.app.demo_speed import CASES, measure_speed

    chapters = []
    for family in families():
        own = [result for result in results if family_of(result.artifact.name) in (family.name, *family.also)]
        if args.only and not own:
            continue
        speed = None
        if not args.no_speed and family.name in CASES:
            _say(f"timing {family.title}")
            speed = measure_speed(family.name)
        chapters.append(Chapter(family, own, speed))
    return chapters


def run(args: argparse.Namespace) -> int:
    """Evaluate, print and write the page."""
    from blockzoo.tasks.app.demo_page import page

    shipped = {name: item for name, item in load_manifest().items() if item.origin == "ours"}
    if args.only and args.only not in shipped:
        raise ValueError(f"--only {args.only}: not a shipped checkpoint; there are {', '.join(shipped)}")
    results = []
    for name, item in shipped.items():
        if args.only in (None, name):
            _say(f"evaluating {name}")
            results.append(evaluate(item))
    rows = [
        {
            "checkpoint": result.artifact.name,
            "data": result.data,
            "metric": result.artifact.metric["name"],
            "claimed": f"{result.claimed:.6f}",
            "measured": f"{result.measured:.6f}",
            "result": "agrees" if result.agrees else "DIFFERS",
            "seconds": f"{result.seconds:.1f}",
        }
        for result in results
    ]
    out = Path(args.out)
    write_text(out, page(_chapters(results, args)))
    if args.json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows], title="Shipped checkpoints")
        print(f"page: {out.resolve()}")
    return 0 if all(result.agrees for result in results) else 1
