"""Classes of video files, for `blockzoo predict`."""

import argparse
from functools import partial
from typing import Any

from blockzoo.tasks.core.predictions import classify_files
from blockzoo.tasks.video.decoding import VIDEO_SUFFIXES, require_pyav
from blockzoo.tasks.video.files import test_clips

__all__ = ["predict"]


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify videos by five clips of each, whose probabilities are averaged; see `classify_files`."""
    try:
        require_pyav()
    except ImportError as error:
        raise ValueError(str(error)) from error
    return classify_files(model, files, args, "video", VIDEO_SUFFIXES, partial(test_clips, cfg=model.pretrained_cfg))
