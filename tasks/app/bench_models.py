"""All model families against their peers, on one device: `blockzoo bench models [--device cuda]`.

Runs the tables of the suites `timesnet`, `nextvit`, `nasnet`, `emov2`, `p3d`, `fno`, `equivariant` and `raptor`: ours
as built, deployed and compiled, against timm's models, the plain formulations, e3nn and neuraloperator (where it is
installed), on the same weights, in one process and turn by turn, after comparing outputs. Rows of all families have
the same columns. GFLOP/s counts products, convolutions and attention, and is left out where transforms do the work;
"of rate" relates it to that of a large product of float32, measured in the same process. float32 is float32: TF32 is
off, also in convolutions. On a GPU compiled forms are always among the variants, and batches are larger.

Kernels are those that BLOCKZOO_KERNELS chooses, which is part of the result. `--family NAME` runs one family, `--out
DIR` writes models.json, after every family, and models.png.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.app import bench
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.core.timing import Clock, ceilings, environment, picture
from blockzoo.tasks.fields import bench as bench_fno
from blockzoo.tasks.images import bench as bench_images
from blockzoo.tasks.molecules import bench as bench_equivariant
from blockzoo.tasks.raptor import bench as bench_raptor
from blockzoo.tasks.video import bench as bench_p3d

__all__ = ["FAMILIES", "run"]

Rows = Iterable[dict[str, Any]]
_MEASURED = ("phase", "variant", "ms", "min", "max", "speedup", "GFLOP/s")


def _batches(args: argparse.Namespace, small: int, large: int) -> list[int]:
    return [args.batch_size] if args.batch_size else [1, large if args.device == "cuda" else small]


def _timesnet(args: argparse.Namespace) -> Rows:
    for case, (name, batch, kwargs) in bench.TIMESNET.items():
        found = bench.measure(name, args.batch_size or batch, kwargs, args.runs, True, args.compile, args.device)
        yield from ({"case": case, **row} for row in found)


def _images(suite: str) -> Callable[[argparse.Namespace], Rows]:
    def rows(args: argparse.Namespace) -> Rows:
        for name, size, in_timm in bench_images.SUITES[suite]:
            for batch in _batches(args, 8, 64):
                yield from bench_images.forward_rows(name, size, in_timm, batch, args.runs, args.compile, args.device)

    return rows


def _p3d(args: argparse.Namespace) -> Rows:
    return bench_p3d.rows(_batches(args, 4, 16), args.runs, args.compile, args.device)


def _fno(args: argparse.Namespace) -> Rows:
    for n, modes in bench_fno.MODELS:
        batch = args.batch_size or max(1, bench_fno.POINTS // n**2)
        variants: dict[str, Any] = bench_fno.make_models(modes, 32, {}, args.device)
        if args.compile:
            variants["blockzoo, compiled"] = bench_fno.compiled(variants["blockzoo"])
        about = {"points": f"{n} x {n}", "modes": modes, "width": 32, "batch": batch}
        x = torch.randn(batch, 1, n, n, device=args.device)
        yield from bench_fno.compared_rows("model", variants, x, args.runs, about)


def _equivariant(args: argparse.Namespace) -> Rows:
    for l_max in args.l_max:
        yield from bench_equivariant.edge_rows(l_max, args.edges, args.chans, args.runs, args.device)
        yield from bench_equivariant.model_rows(l_max, args.atoms, args.runs, args.official, args.device)


def _raptor(args: argparse.Namespace) -> Rows:
    for teacher in bench_raptor.TEACHERS:
        for batch in _batches(args, 8, 64):
            yield from bench_raptor.measure(teacher, batch, args.runs, args.compile, args.device)


FAMILIES: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "timesnet": _timesnet,
    "nextvit": _images("nextvit"),
    "nasnet": _images("nasnet"),
    "emov2": _images("emov2"),
    "p3d": _p3d,
    "fno": _fno,
    "equivariant": _equivariant,
    "raptor": _raptor,
}


def _common(family: str, row: dict[str, Any], rate: float) -> dict[str, Any]:
    """A suite's row in the columns that all families share."""
    about = [f"{key} {value}" if isinstance(value, int) else str(value) for key, value in row.items()
             if key not in _MEASURED]  # fmt: skip
    found = {"phase": "forward", **{key: row[key] for key in _MEASURED if key in row}}
    share = {"of rate": 1e9 * row["GFLOP/s"] / rate} if "GFLOP/s" in row else {}
    return {"family": family, "case": ", ".join(about), **found, **share}


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for.

    Raises:
        ValueError: The family is unknown.
    """
    if args.family is not None and args.family not in FAMILIES:
        raise ValueError(f"--family {args.family!r} must be one of {', '.join(FAMILIES)}")
    args.compile = args.compile or args.device == "cuda"
    facts, limits = environment(args.device), ceilings(args.device, Clock(args.device))
    result: dict[str, Any] = {"environment": facts, "ceilings": limits, "rows": []}
    folder = None if args.out is None else Path(args.out)
    for family in FAMILIES if args.family is None else [args.family]:
        result["rows"] += [_common(family, row, limits["rate"]) for row in FAMILIES[family](args)]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "models.json", json.dumps(result, indent=1))
    rows = result["rows"]
    if folder is not None:
        title = ", ".join(str(value) for value in facts.values())
        picture(rows, lambda row: f"{row['family']}: {row['case']}\n{row['phase']}", title, folder / "models.png")
    if args.json:
        print_json(result)
        return 0
    columns = ["family", "case", *_MEASURED, "of rate"]
    cells = [[f"{row[c]:.3g}" if isinstance(row.get(c), float) else row.get(c) for c in columns] for row in rows]
    print_table(columns, cells, title=f"{facts}, {limits['rate'] / 1e9:.0f} GFLOP/s")
    return 0
