"""Accuracy over videos, from the predictions for several clips of each."""

from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.utilities import dim_zero_cat

__all__ = ["VideoAccuracy"]


class VideoAccuracy(Metric):
    """Share of videos whose correct class is among the `top_k` most likely, by the mean probability of their clips.

    Args:
        num_classes: Classes.
        top_k: Number of most likely classes that count as correct.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int, top_k: int = 1) -> None:
        super().__init__()
        self.num_classes, self.top_k = num_classes, top_k
        for name in ("scores", "labels", "videos"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, scores: torch.Tensor, labels: torch.Tensor, videos: torch.Tensor) -> None:
        """Take a batch.

        Args:
            scores: Class probabilities of clips, (B, num_classes).
            labels: Their classes, (B,).
            videos: Which video each belongs to, (B,).
        """
        states: Any = self
        states.scores.append(scores)
        states.labels.append(labels)
        states.videos.append(videos)

    def compute(self) -> torch.Tensor:
        """The share, from 0 to 1."""
        states: Any = self
        scores, labels, videos = (dim_zero_cat(state) for state in (states.scores, states.labels, states.videos))
        _, place = videos.unique(return_inverse=True)
        count = int(place.max()) + 1
        sums = scores.new_zeros(count, self.num_classes).index_add_(0, place, scores)
        label = labels.new_zeros(count).scatter_(0, place, labels)
        # The mean's order of classes is that of the sum.
        return multiclass_accuracy(sums, label, self.num_classes, average="micro", top_k=self.top_k)
