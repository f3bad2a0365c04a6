"""Apply pretrained weights to your own files: classify images, videos, series; forecast or repair series; map fields;
compute energies and forces.

Images are files, or folders of them; they are resized, cropped and scaled as the weights want it. So are videos: five
clips of each are seen and their probabilities averaged; they need the extra `video`. A series file to classify is a
UEA `.ts` file, or a CSV file with a header: one row a step, a column `series` that numbers the series, and one column
for each channel. Models that forecast, fill gaps or find anomalies read a CSV table: a row for each step, a column for
each channel, perhaps a column `date`; empty cells are missing values. Fields are the array `x` (N, C, *size) of an
.npz, .safetensors or .pt file, on any grid; the predicted ones are written to a file. So are energies (eV), forces and
stress of the structures of an extended XYZ file or an ASE database; they need the extra `molecules`. Values are in the
units of the training data; the checkpoint's own standardisation and padding are applied. Predictions of a config or of
a run's folder are Lightning's: blockzoo predict --config ...

Examples:
  blockzoo predict timesnet_classifier.japanese_vowels vowels.ts
  blockzoo predict timesnet_classifier.japanese_vowels vowels.csv --json
  blockzoo predict emov2_cifar.cifar10 photo.jpg holiday/
  blockzoo predict p3d_tiny.camera_moves pan.mp4
  blockzoo predict local-dir:runs/timesnet_forecast/version_0 load.csv --out forecast.csv
  blockzoo predict tfno2d.darcy media.npz --out pressure.safetensors
  blockzoo predict tdn.gfn2 molecules.xyz --out computed.extxyz
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

import blockzoo
from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.fields.predict import predict_fields
from blockzoo.tasks.molecules.predict import predict_structures
from blockzoo.tasks.series.predict import add_table_arguments, predict_table
from blockzoo.tasks.series.ts_files import SeriesSet, read_ts
from blockzoo.tasks.video.decoding import VIDEO_SUFFIXES

__all__ = ["add_arguments", "classify", "image_files", "prepare", "read_csv", "run"]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="model.tag")
    parser.add_argument("file", nargs="+", help="images, videos or folders; or one file of series, fields, structures")
    parser.add_argument("--cache-dir", help="cache folder for downloads")
    parser.add_argument("--json", action="store_true", help="print JSON with all probabilities")
    parser.add_argument("--out", help="write the result there: .csv for tables, .safetensors for fields, .extxyz")
    add_table_arguments(parser)


def read_csv(path: str | Path) -> SeriesSet:
    """Read series from a CSV file with a column `series` and one column for each channel.

    Raises:
        ValueError: A column is missing, or a cell is not a finite number; the message names row and column.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        channels = [name for name in reader.fieldnames or [] if name != "series"]
        if "series" not in (reader.fieldnames or []) or not channels:
            raise ValueError(f"{path}: expected a header with a column 'series' and one for each channel")
        groups: dict[str, list[list[float]]] = {}
        for number, row in enumerate(reader, start=2):
            groups.setdefault(row["series"], []).append([_number(path, number, name, row[name]) for name in channels])
    if not groups:
        raise ValueError(f"{path}: no rows below the header")
    lengths = torch.tensor([len(steps) for steps in groups.values()])
    values = torch.tensor([step for steps in groups.values() for step in steps])
    return SeriesSet(values, lengths, torch.zeros(len(groups), dtype=torch.long), tuple(groups))


def _number(path: str | Path, row: int, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{path}, row {row}, column {column!r}: {text!r} is not a finite number")
    return value


def prepare(model: Any, series: SeriesSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad series and standardise them as the model's weights want it: values (N, T, C) and mask (N, T)."""
    cfg = model.pretrained_cfg
    steps, channels = cfg["input_size"]
    if series.values.shape[1] != channels:
        raise ValueError(f"the series have {series.values.shape[1]} channels, the model expects {channels}")
    x, mask = series.padded(steps)
    mean, std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
    return (x - mean) / std * mask[..., None], mask


@torch.no_grad()
def classify(model: Any, x: torch.Tensor, mask: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Class probabilities (N, num_classes)."""
    parts = zip(x.split(batch_size), mask.split(batch_size), strict=True)
    return torch.cat([model(*part).softmax(-1) for part in parts])


def image_files(paths: list[str], kind: str = "image", suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The images that are named, and those in the folders that are named, in order.

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
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if not path.is_dir() or file.suffix.lower() in suffixes]
    if not found:
        raise ValueError(f"no {kind} in {', '.join(paths)}; they end in {', '.join(suffixes)}")
    return found


@torch.no_grad()
def _classify_images(model: Any, files: list[Path], as_json: bool) -> int:
    from timm.data import create_transform

    from blockzoo.tasks.images.folders import load_image

    cfg = model.pretrained_cfg
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct")
    transform: Any = create_transform(**{key: cfg[key] for key in keys})
    scores = {file: model(transform(load_image(str(file)))[None]).softmax(-1)[0] for file in files}
    return _print_likeliest("image", scores, model, as_json)


def _print_likeliest(kind: str, scores: dict[Path, torch.Tensor], model: Any, as_json: bool) -> int:
    """Print the likeliest classes of each file from its class probabilities (num_classes,)."""
    labels = model.pretrained_cfg.get("label_names") or [str(i) for i in range(model.num_classes)]
    rows: list[dict[str, Any]] = []
    for file, probabilities in scores.items():
        best = probabilities.topk(min(5, len(labels)))
        top = {labels[int(i)]: float(p) for p, i in zip(best.values, best.indices, strict=True)}
        rows.append({kind: str(file), "label": next(iter(top)), "top": top})
    if as_json:
        print_json(rows)
    else:
        cells = [(row[kind], ", ".join(f"{name} {p:.4f}" for name, p in row["top"].items())) for row in rows]
        print_table((kind, "likeliest classes"), cells)
    return 0


@torch.no_grad()
def _classify_videos(model: Any, files: list[Path], as_json: bool) -> int:
    from blockzoo.tasks.video.files import test_clips

    scores = {file: model(test_clips(file, model.pretrained_cfg)).softmax(-1).mean(0) for file in files}
    return _print_likeliest("video", scores, model, as_json)


def run(args: argparse.Namespace) -> int:
    """Print the likeliest class of each image, video or series."""
    model = blockzoo.create_model(args.name, pretrained=True, cache_dir=args.cache_dir).eval()
    if model.modality == "series" and model.task != "classification":
        return predict_table(model, args)
    if model.task in ("operator", "potential"):
        if len(args.file) > 1:
            raise ValueError(f"fields and structures are read from one file, not {len(args.file)}")
        predict = predict_fields if model.task == "operator" else predict_structures
        return predict(model, args.file[0], args.out, args.json)
    if model.task != "classification" or model.modality not in ("image", "series", "video"):
        raise ValueError(f"{args.name} is a model for {model.task}; predict has no files for that")
    if model.modality == "image":
        return _classify_images(model, image_files(args.file), args.json)
    if model.modality == "video":
        return _classify_videos(model, image_files(args.file, "video", VIDEO_SUFFIXES), args.json)
    if len(args.file) > 1:
        raise ValueError(f"series are read from one file, not {len(args.file)}")
    path = args.file[0]
    if Path(path).suffix == ".ts":
        series, names = read_ts(path), None
    else:
        series = read_csv(path)
        names = series.class_names
    probabilities = classify(model, *prepare(model, series))
    labels = model.pretrained_cfg["label_names"]
    best = probabilities.max(-1)
    rows = [
        {
            "series": names[i] if names else i,
            "label": labels[int(best.indices[i])],
            "probability": float(best.values[i]),
        }
        for i in range(len(series))
    ]
    if args.json:
        print_json(
            [
                {**row, "probabilities": dict(zip(labels, p.tolist(), strict=True))}
                for row, p in zip(rows, probabilities, strict=True)
            ]
        )
    else:
        print_table(
            ("series", "label", "probability"), [(*list(r.values())[:2], f"{r['probability']:.4f}") for r in rows]
        )
    return 0
