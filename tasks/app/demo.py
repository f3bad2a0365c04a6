"""Evaluate all shipped checkpoints on packaged test data, compare with their model cards, and write a page.

The page is one HTML file that works offline. For each family it shows the purpose, inputs and outputs, metrics beside
those of the cards, the speed beside that of the original on this machine, and how to call and train it. The exit status
is 1 if a metric differs from that of its card.

Examples:
  blockzoo demo
  blockzoo demo --out report.html --only timesnet_classifier.japanese_vowels
  blockzoo demo --no-speed
"""

import argparse
import sys
import time
from pathlib import Path

import blockzoo
from blockzoo._registry import family_of
from blockzoo.checkpoints import Artifact, load_manifest
from blockzoo.tasks.app.demo_families import families
from blockzoo.tasks.app.demo_page import page
from blockzoo.tasks.app.demo_results import Chapter, Result
from blockzoo.tasks.app.demo_speed import case_of, measure_speed
from blockzoo.tasks.core.evaluation import measure
from blockzoo.tasks.core.files import check_output, write_text
from blockzoo.tasks.core.output import add_out, print_json, print_table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_out(parser, "the page to write (default: demo.html)", default="demo.html")
    parser.add_argument("--only", metavar="MODEL.TAG", help="only this checkpoint, and its family")
    parser.add_argument("--no-speed", action="store_true", help="leave out the comparison of speed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def evaluate(artifact: Artifact) -> Result:
    """Load a checkpoint the way a user does and evaluate it."""
    start = time.perf_counter()
    model = blockzoo.create_model(artifact.name, pretrained=True).eval()
    measured, sections = measure(model, artifact.name, artifact.metric["dataset"])
    return Result(artifact, measured, time.perf_counter() - start, sections)


def _say(text: str) -> None:
    """Print progress for a person who waits."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def _chapters(results: list[Result], args: argparse.Namespace) -> list[Chapter]:
    """Chapters of the page: all families, or only that of the chosen checkpoint."""
    chapters = []
    for family in families():
        own = [result for result in results if family_of(result.artifact.name) in (family.name, *family.also)]
        if args.only and not own:
            continue
        speed = None
        if not args.no_speed:
            _say(f"timing {family.about.title}")
            speed = measure_speed(case_of(family.name))
        chapters.append(Chapter(family, own, speed))
    return chapters


def run(args: argparse.Namespace) -> int:
    """Evaluate, print and write the page."""
    out = Path(args.out)
    check_output(out)
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
    write_text(out, page(_chapters(results, args)))
    if args.json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows], title="Shipped checkpoints")
        print(f"page: {out.resolve()}")
    return 0 if all(result.agrees for result in results) else 1
