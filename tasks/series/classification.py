"""Classification of multivariate series."""

from typing import Any

import torch
import torch.nn.functional as F

from blockzoo.tasks.core.classification_metrics import ClassificationMetrics
from blockzoo.tasks.core.task import Task
from blockzoo.tasks.series.augment import SeriesAugment

__all__ = ["SeriesClassification"]


class SeriesClassification(Task):
    """Classify series by cross entropy.

    Batches are dictionaries with `x` (B, T, C), `mask` (B, T), `label` (B,) and `index` (B,). Logged are `loss` and,
    in evaluation, `acc` (share of series that are right) and `f1` (mean over classes), computed over all series of a
    stage at once, so that they do not depend on the batch size. After a test, `test_confusion` holds how many series
    of each true class (row) were taken for each class (column).

    Args:
        label_smoothing: Share of the target spread over all classes, in training only.
        time_warp: See `SeriesAugment`, as for the next four.
        jitter: See `SeriesAugment`.
        channel_shift: See `SeriesAugment`.
        scale: See `SeriesAugment`.
        mixup: See `SeriesAugment`.
        **kwargs: See `Task`.
    """

    def __init__(
        self,
        *args: Any,
        label_smoothing: float = 0.0,
        time_warp: float = 0.0,
        jitter: float = 0.0,
        channel_shift: float = 0.0,
        scale: float = 0.0,
        mixup: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        num_classes = self.model.num_classes
        self.label_smoothing = label_smoothing
        self.augment = SeriesAugment(num_classes, time_warp, jitter, channel_shift, scale, mixup)
        self.metrics = ClassificationMetrics(num_classes, ("f1",))

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        x, mask, label = batch["x"], batch["mask"], batch["label"]
        if stage == "train":
            x, mask, target = self.augment(x, mask, label)
            logits = self.model(x, mask)
            loss = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        else:
            logits = self.model(x, mask)
            loss = F.cross_entropy(logits, label)
        self.log(f"{stage}/loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=len(x), sync_dist=True)
        for name, metric in self.metrics.update(stage, logits, label).items() if stage != "train" else ():
            self.log(name, metric, on_epoch=True, on_step=False, prog_bar=name.endswith("acc"))
        return loss

    def on_test_epoch_start(self) -> None:
        """Begin a new confusion matrix."""
        self.metrics.confusion.reset()

    def on_test_epoch_end(self) -> None:
        """Count over all processes."""
        self.test_confusion = self.metrics.confusion.compute().cpu()

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Class probabilities (B, num_classes), the likeliest class (B,), and which series they belong to (B,)."""
        probabilities = self.model(batch["x"], batch["mask"]).float().softmax(-1)
        return {"index": batch["index"], "label": probabilities.argmax(-1), "probabilities": probabilities}
