"""Apply a model to your own files, or a finished run to its own data.

It classifies images, videos and series; forecasts series, fills their gaps or scores anomalies; maps fields; and
computes energies and forces. Files are prepared as the weights expect. With a run's folder and no files, or with
--config, it predicts the run's own prediction data.

Examples:
  blockzoo predict timesnet_classifier.japanese_vowels series.csv
  blockzoo predict nasnet_cifar.cifar10 photo.jpg holiday/
  blockzoo predict runs/timesnet_forecast/version_0 load.csv --out next.csv
  blockzoo predict tfno2d.darcy media.npz --out pressure.safetensors
  blockzoo predict tdn.gfn2 molecules.xyz --out computed.extxyz
"""

import argparse
from pathlib import Path

from blockzoo.tasks.core import names, rooms
from blockzoo.tasks.core.output import add_batch_size, add_cache_dir, add_out
from blockzoo.tasks.core.timing import checked_device

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="name.tag, local-dir:FOLDER, hf-hub:OWNER/NAME, or a run's folder")
    parser.add_argument("file", nargs="+", help="images, videos or folders; or one file of series, fields, structures")
    add_out(parser, "file for the result; its ending sets the format")
    parser.add_argument("--device", help="cpu or cuda (default: cpu)")
    add_batch_size(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_cache_dir(parser)
    for place in (place for room in rooms.rooms().values() for place in room.reader_arguments):
        rooms.load(place)(parser)


def run(args: argparse.Namespace) -> int:
    """Predict for each file and print or write the result.

    Raises:
        ValueError: A file or model is missing, the name has no weights, or nothing reads files for such a model.
    """
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size} must be at least 1")
    device = checked_device(args.device)
    names.with_weights(args.name)
    for file in args.file:
        if not Path(file).exists():
            raise ValueError(f"{file}: no such file or folder")
    model = names.build(args.name, cache_dir=args.cache_dir).to(device)
    readers = rooms.declared("readers")
    place = readers.get(f"{model.modality}/{model.task}", readers.get(model.modality))
    if place is None:
        raise ValueError(
            f"{args.name} is a model for {model.task} of {model.modality}s; predict reads no files for that"
        )
    return int(rooms.load(place)(model, args.file, args))
