"""Classes of video files, for `blockzoo predict`."""

import argparse
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core.predictions import classify_files, views_of_files
from blockzoo.tasks.video.decoding import VIDEO_SUFFIXES, require_pyav
from blockzoo.tasks.video.files import ClipForm

__all__ = ["inputs_of", "predict"]


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify videos by the mean probabilities over the views that the weights were tested with.

    If the weights do not say how clips are taken, five clips of each video are used; see `classify_files`.
    """
    require_pyav()
    form = ClipForm.of_cfg(model.pretrained_cfg)
    return classify_files(model, files, args, "video", VIDEO_SUFFIXES, form.views)


def inputs_of(model: Any, path: str | Path, count: int) -> dict[str, torch.Tensor]:
    """Forward arguments from videos of a folder, evenly spread over its files.

    Args:
        model: The model, whose configuration says how clips are taken.
        path: The folder, or one video.
        count: Largest number of clips.

    Raises:
        ValueError: There are no videos, or one cannot be read.
    """
    require_pyav()
    form = ClipForm.of_cfg(model.pretrained_cfg, num_clips=1)
    return {"x": views_of_files([str(path)], "video", VIDEO_SUFFIXES, form.views, count)}
