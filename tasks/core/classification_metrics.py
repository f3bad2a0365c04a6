"""Metrics of all classification tasks."""

from typing import Any

import torch
from torch import nn
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

__all__ = ["ClassificationMetrics", "MultiLabelMetrics"]


class ClassificationMetrics(nn.Module):
    """Metrics of each evaluation stage, over all its samples at once.

    They are `acc` (share of correct predictions) and those of `extra`: "acc5" (the correct class is among the five most
    likely), "f1" (mean over classes), "ece" (expected calibration error in 15 bins). In the stage "test" a confusion
    matrix is counted too: how many samples of each true class (row) were taken for each class (column).

    Args:
        num_classes: Classes.
        extra: Names of further metrics; "acc5" is left out for five classes or fewer.
    """

    def __init__(self, num_classes: int, extra: tuple[str, ...] = ()) -> None:
        super().__init__()
        makers: dict[str, Any] = {
            "acc": lambda: MulticlassAccuracy(num_classes, average="micro"),
            "acc5": lambda: MulticlassAccuracy(num_classes, top_k=5, average="micro"),
            "f1": lambda: MulticlassF1Score(num_classes, average="macro"),
            "ece": lambda: MulticlassCalibrationError(num_classes, n_bins=15),
        }
        self.names = [name for name in ("acc", *extra) if name != "acc5" or num_classes > 5]
        self.stages = nn.ModuleDict(
            {stage: nn.ModuleDict({name: makers[name]() for name in self.names}) for stage in ("val", "test")}
        )
        self.confusion = MulticlassConfusionMatrix(num_classes)

    def update(self, stage: str, logits: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
        """Count a batch of logits (B, num_classes) with labels (B,); returns the metrics by name, for logging."""
        metrics: Any = self.stages[stage]
        scores = logits.detach().float().softmax(-1)
        for metric in metrics.values():
            metric.update(scores, label)
        if stage == "test":
            self.confusion.update(scores, label)
        return {f"{stage}/{name}": metric for name, metric in metrics.items()}


class MultiLabelMetrics(nn.Module):
    """Metrics of each evaluation stage for samples that have any number of labels, over all samples at once.

    They are `map`, the mean over classes of the average precision (classes without a positive sample are left out, as
    torchmetrics does), and `f1`, the mean over classes at a threshold of 0.5.

    Args:
        num_classes: Classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.names = ["map", "f1"]
        self.stages = nn.ModuleDict(
            {
                stage: nn.ModuleDict(
                    {
                        "map": MultilabelAveragePrecision(num_classes, average="macro"),
                        "f1": MultilabelF1Score(num_classes, average="macro"),
                    }
                )
                for stage in ("val", "test")
            }
        )

    def update(self, stage: str, logits: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
        """Count a batch of logits and labels (B, num_classes); returns the metrics by name, for logging."""
        metrics: Any = self.stages[stage]
        scores = logits.detach().float().sigmoid()
        for metric in metrics.values():
            metric.update(scores, label.long())
        return {f"{stage}/{name}": metric for name, metric in metrics.items()}
