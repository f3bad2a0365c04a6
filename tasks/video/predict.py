"""Classes of video files, for `blockzoo predict`."""

import argparse
from typing import Any

from blockzoo.tasks.core.predictions import classify_files
from blockzoo.tasks.video.decoding import VIDEO_SUFFIXES, require_pyav
from blockzoo.tasks.video.files import ClipForm

__all__ = ["predict"]


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify videos by the views that the weights were tested with, whose probabilities are averaged.

    Weights that do not say how clips are taken see five clips of each video; see `classify_files`.
    """
    require_pyav()
    form = ClipForm.of_cfg(model.pretrained_cfg)
    return classify_files(model, files, args, "video", VIDEO_SUFFIXES, form.views)
