"""Classes of video files, for `blockzoo predict`."""

import argparse
import sys
from typing import Any

import torch

from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.predictions import class_rows, files_below, print_likeliest
from blockzoo.tasks.video.decoding import VIDEO_SUFFIXES, require_pyav
from blockzoo.tasks.video.files import test_clips

__all__ = ["predict"]


@torch.no_grad()
def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify videos by five clips of each; one that cannot be read is named, and the others go on.

    Args:
        model: For videos, with a `pretrained_cfg` that says how they are prepared.
        files: Videos and folders.
        args: Has `out` and `json`.

    Returns:
        0, or 1 if a file could not be read.
    """
    if args.out:
        check_output(args.out, files)
    cfg = model.pretrained_cfg
    labels = list(cfg.get("label_names") or map(str, range(model.num_classes)))
    device, rows, broken = next(model.parameters()).device, [], []
    try:
        require_pyav()
    except ImportError as error:
        raise ValueError(str(error)) from error
    for file in files_below(files, "video", VIDEO_SUFFIXES):
        try:
            clips = test_clips(file, cfg)
        except (ValueError, OSError) as error:
            broken.append(f"{file}: {error}" if str(file) not in str(error) else str(error))
            continue
        rows.append(class_rows("video", str(file), model(clips.to(device)).softmax(-1).mean(0).cpu(), labels))
    for line in broken:
        print(f"not read: {line}", file=sys.stderr)
    if not rows:
        raise ValueError(f"none of {len(broken)} videos could be read")
    print_likeliest("video", rows, args)
    if broken:
        print(f"{len(broken)} of {len(broken) + len(rows)} videos could not be read", file=sys.stderr)
    return int(bool(broken))
