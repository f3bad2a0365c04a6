"""Helpers for the readers of `blockzoo predict`: finding files, and printing or writing classes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core.files import check_output, write_csv
from blockzoo.tasks.core.labelled_files import data_files
from blockzoo.tasks.core.output import print_json, print_table

__all__ = [
    "check_classes_file",
    "class_rows",
    "classify_files",
    "files_below",
    "likely",
    "print_likeliest",
    "views_of_files",
]


def files_below(paths: list[str], kind: str, suffixes: tuple[str, ...]) -> list[Path]:
    """List the given files and those in the given folders, in order; see `data_files`.

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
        found += sorted(data_files(path, suffixes))
    if not found:
        raise ValueError(f"no {kind} in {', '.join(paths)}; they end in {', '.join(suffixes)}")
    return found


def views_of_files(
    paths: list[str], kind: str, suffixes: tuple[str, ...], read: Callable[[Path], torch.Tensor], count: int
) -> torch.Tensor:
    """Read at most `count` views of files that are evenly spread over the given files and folders.

    Args:
        paths: Files and folders.
        kind: What the files are, for messages.
        suffixes: Endings of files that are taken from folders.
        read: From a file to views (N, ...).
        count: Largest number of views.

    Raises:
        ValueError: There is no such file, or one cannot be read.
    """
    files = files_below(paths, kind, suffixes)
    number = min(count, len(files))
    chosen = [files[round(i * (len(files) - 1) / max(1, number - 1))] for i in range(number)]
    return torch.cat([read(file) for file in chosen])[:count]


def class_rows(kind: str, name: Any, probabilities: Any, labels: list[str]) -> dict[str, Any]:
    """Make a row for `print_likeliest` from a sample with probabilities (num_classes,)."""
    return {kind: name, "probabilities": dict(zip(labels, probabilities.tolist(), strict=True))}


def likely(probabilities: Sequence[float], labels: Sequence[str], several: bool = False) -> str:
    """The likeliest class of a sample; or, where it may have several, all of at least 0.5 with "|" between."""
    if several:
        return "|".join(name for name, share in zip(labels, probabilities, strict=True) if share >= 0.5)
    return labels[max(range(len(labels)), key=lambda index: probabilities[index])]


def check_classes_file(path: str, inputs: Sequence[str]) -> None:
    """Refuse what `print_likeliest` cannot write, before any work is done; see `check_output`.

    Raises:
        ValueError: The name does not end in .csv, or the file cannot be written.
    """
    if Path(path).suffix != ".csv":
        raise ValueError(f"--out {path} must end in .csv")
    check_output(path, inputs)


def print_likeliest(kind: str, rows: list[dict[str, Any]], args: argparse.Namespace, several: bool = False) -> None:
    """Print the most likely classes of each sample, or write all probabilities to `--out`, a CSV file.

    Args:
        kind: What a sample is called.
        rows: For each sample its name under `kind`, and "probabilities" by class.
        args: Has `out` and `json`.
        several: Whether a sample may have no class or several.
    """
    best = [sorted(row["probabilities"].items(), key=lambda item: -item[1])[:5] for row in rows]
    shown = [
        {
            kind: row[kind],
            "label": likely([*row["probabilities"].values()], [*row["probabilities"]], several),
            "probability": top[0][1],
        }
        for row, top in zip(rows, best, strict=True)
    ]
    if args.out:
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


@torch.no_grad()
def classify_files(
    model: Any,
    files: list[str],
    args: argparse.Namespace,
    kind: str,
    suffixes: tuple[str, ...],
    read: Callable[[Path], Any],
) -> int:
    """Classify files and those in folders. A file that cannot be read is named, and the others are still classified.

    Args:
        model: With a `pretrained_cfg` that may name the classes.
        files: Files and folders.
        args: Has `out` and `json`.
        kind: What a file is called, "image" for example.
        suffixes: Endings of files that are taken from folders.
        read: From a file to the model's input (N, ...), views of one sample whose probabilities are averaged; raises
            `ValueError` or `OSError` for a broken file.

    Returns:
        0, or 1 if a file could not be read.

    Raises:
        ValueError: No file could be read, or `--out` cannot be written.
    """
    if args.out:
        check_classes_file(args.out, files)
    labels = list(model.pretrained_cfg.get("label_names") or ())
    if len(labels) != model.num_classes:  # none, or those of the weights before they got other classes
        labels = list(map(str, range(model.num_classes)))
    several = bool(model.pretrained_cfg.get("multi_label"))
    device, rows, broken = next(model.parameters()).device, [], 0
    found = files_below(files, kind, suffixes)
    for file in found:
        try:
            views = read(file)
        except (ValueError, OSError) as error:
            named = str(error) if str(file) in str(error) else f"{file}: {error}"
            if len(found) == 1:
                raise ValueError(f"not read: {named}") from error
            print(f"not read: {named}", file=sys.stderr)
            broken += 1
            continue
        logits = model(views.to(device))
        probabilities = (logits.sigmoid() if several else logits.softmax(-1)).mean(0).cpu()
        rows.append(class_rows(kind, str(file), probabilities, labels))
    if not rows:
        raise ValueError(f"none of {broken} {kind}s could be read")
    print_likeliest(kind, rows, args, several)
    if broken:
        print(f"{broken} of {broken + len(rows)} {kind}s could not be read", file=sys.stderr)
    return int(broken > 0)
