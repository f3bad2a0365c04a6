"""Classification of videos by clips."""

from typing import Any

import torch
from torch import nn

from blockzoo.tasks.core.classification import Classification
from blockzoo.tasks.video.metrics import VideoAccuracy

__all__ = ["VideoClassification"]


class VideoClassification(Classification):
    """Task that classifies clips by cross entropy, and videos by the mean probabilities of their clips.

    Batches are dictionaries with `x` (B, C, T, H, W), `label` (B,), `index` (B,) and `video` (B,), the number of the
    video that a clip belongs to. The metrics of `Classification` are over clips. Evaluation also logs
    `video_acc` and `video_acc5` (for more than five classes), over videos; with `multi_label` neither.

    Args:
        *args: See `Task`.
        **kwargs: See `Classification`; `cutmix` and `channels_last` are only for pictures, not for clips.

    Raises:
        ValueError: `cutmix` or `channels_last` is given.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("cutmix", "channels_last"):
            if kwargs.get(name):
                raise ValueError(f"{name}={kwargs[name]!r} is for images; clips do without it")
        num_classes = self.model.num_classes
        tops = {} if self.multi_label else {"video_acc": 1} | ({"video_acc5": 5} if num_classes > 5 else {})
        self.video_metrics = nn.ModuleDict(
            {
                stage: nn.ModuleDict({name: VideoAccuracy(num_classes, top_k) for name, top_k in tops.items()})
                for stage in ("val", "test")
            }
        )

    def count(self, stage: str, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Add a batch to the metrics over clips and over videos; returns them by name, for logging."""
        metrics = super().count(stage, logits, batch)
        of_videos: Any = self.video_metrics[stage]
        scores = logits.detach().float().softmax(-1)
        for name, metric in of_videos.items():
            metric.update(scores, batch["label"], batch["video"])
            metrics[f"{stage}/{name}"] = metric
        return metrics

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """What `Classification.predict_step` returns, and which videos the clips belong to (B,)."""
        return {"video": batch["video"], **super().predict_step(batch, batch_idx)}
