"""What the readers of `blockzoo predict` share: finding files, and printing or writing likeliest classes."""

import argparse
from pathlib import Path
from typing import Any

from blockzoo.tasks.core.files import write_csv
from blockzoo.tasks.core.labelled_files import is_junk
from blockzoo.tasks.core.output import print_json, print_table

__all__ = ["class_rows", "files_below", "print_likeliest"]


def files_below(paths: list[str], kind: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files that are named, and those in the folders that are named, in order; hidden ones are left out.

    Args:
        paths: Files and folders.
        kind: What the files are, for messages.
        suffixes: Endings of files that are taken from folders.

    Raises:
        ValueError: A path is missing, or there is no such file.
    """
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        if not path.is_dir():
            found.append(path)
            continue
        inside = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in suffixes)
        found += [file for file in inside if not is_junk(file.relative_to(path))]
    if not found:
        raise ValueError(f"no {kind} in {', '.join(paths)}; they end in {', '.join(suffixes)}")
    return found


def class_rows(kind: str, name: Any, probabilities: Any, labels: list[str]) -> dict[str, Any]:
    """What `print_likeliest` takes, of one sample with probabilities (num_classes,)."""
    return {kind: name, "probabilities": dict(zip(labels, probabilities.tolist(), strict=True))}


def print_likeliest(kind: str, rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the likeliest classes of each sample, or write all probabilities to `--out`, a CSV file.

    Args:
        kind: What a sample is called.
        rows: For each sample its name under `kind`, and "probabilities" by class.
        args: Has `out` and `json`.

    Raises:
        ValueError: `--out` does not end in .csv.
    """
    best = [sorted(row["probabilities"].items(), key=lambda item: -item[1])[:5] for row in rows]
    shown = [
        {kind: row[kind], "label": top[0][0], "probability": top[0][1]} for row, top in zip(rows, best, strict=True)
    ]
    if args.out:
        if Path(args.out).suffix != ".csv":
            raise ValueError(f"--out {args.out} must end in .csv")
        labels = list(rows[0]["probabilities"])
        head = [kind, "label", "probability", *labels]
        write_csv(
            args.out, [head, *([*s.values(), *r["probabilities"].values()] for s, r in zip(shown, rows, strict=True))]
        )
        print(f"{args.out}: {len(rows)} rows")
    elif args.json:
        print_json([{**s, "probabilities": r["probabilities"]} for s, r in zip(shown, rows, strict=True)])
    else:
        cells = [(s[kind], ", ".join(f"{name} {p:.4f}" for name, p in top)) for s, top in zip(shown, best, strict=True)]
        print_table((kind, "likeliest classes"), cells)
