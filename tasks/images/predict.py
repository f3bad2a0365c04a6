"""Classes of image files, for `blockzoo predict`."""

import argparse
import sys
from typing import Any

import torch

from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES, load_image
from blockzoo.tasks.core.predictions import class_rows, files_below, print_likeliest
from blockzoo.tasks.core.transforms import image_transform, input_channels

__all__ = ["predict"]


@torch.no_grad()
def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify images, and those in folders; a file that cannot be read is named, and the others go on.

    Args:
        model: For images, with a `pretrained_cfg` that says how they are prepared.
        files: Images and folders.
        args: Has `out` and `json`.

    Returns:
        0, or 1 if a file could not be read.
    """
    if args.out:
        check_output(args.out, files)
    cfg = model.pretrained_cfg
    channels = input_channels(model)
    transform: Any = image_transform(cfg, channels)
    labels = list(cfg.get("label_names") or map(str, range(model.num_classes)))
    device, rows, broken = next(model.parameters()).device, [], []
    for file in files_below(files, "image", IMAGE_SUFFIXES):
        try:
            image = load_image(file, channels)
        except (ValueError, OSError) as error:
            broken.append(f"{file}: {error}" if str(file) not in str(error) else str(error))
            continue
        probabilities = model(transform(image)[None].to(device)).softmax(-1)[0].cpu()
        rows.append(class_rows("image", str(file), probabilities, labels))
    for line in broken:
        print(f"not read: {line}", file=sys.stderr)
    if not rows:
        raise ValueError(f"none of {len(broken)} images could be read")
    print_likeliest("image", rows, args)
    if broken:
        print(f"{len(broken)} of {len(broken) + len(rows)} images could not be read", file=sys.stderr)
    return int(bool(broken))
