"""Classification of images and clips by cross entropy, with mixed samples, smooth labels and teachers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.mixup import mixup_target

from blockzoo import create_model
from blockzoo.layers.conv.conv_norm_act import set_conv_norm_mode
from blockzoo.tasks.core.balance import balanced_weights, class_counts
from blockzoo.tasks.core.classification_metrics import ClassificationMetrics, MultiLabelMetrics
from blockzoo.tasks.core.files import write_csv
from blockzoo.tasks.core.predictions import likely
from blockzoo.tasks.core.task import Task
from blockzoo.tasks.core.transforms import input_channels

__all__ = ["Classification", "check_classes"]


def check_classes(model: Any, data: Any, training: bool) -> None:
    """Compare the classes and channels of the data with those of the model.

    Args:
        model: A model with `num_classes`, and with `pretrained_cfg` if its weights have class names.
        data: A data module after its `setup`; anything without `preprocessing` is accepted.
        training: Whether it is for training; then the classes may have other names than those of the weights.

    Raises:
        ValueError: The numbers differ, or the names are the same in another order; the message says both.
    """
    about = getattr(data, "preprocessing", None) or {}
    names, count = list(about.get("label_names") or ()), model.num_classes
    if names and len(names) != count:
        shown = ", ".join(map(str, names[:10])) + (", …" if len(names) > 10 else "")
        raise ValueError(
            f"the data have {len(names)} classes ({shown}), the model has num_classes={count}; "
            f"set model_kwargs.num_classes={len(names)}"
        )
    known = list((getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ())
    if not training and names != known and sorted(map(str, names)) == sorted(map(str, known)):
        raise ValueError(f"the data number their classes {', '.join(names)}, the weights {', '.join(known)}")
    size = about.get("input_size")
    if size and int(size[0]) != input_channels(model):
        raise ValueError(
            f"the data have {size[0]} channels, the model takes in_chans={input_channels(model)}; "
            f"set model_kwargs.in_chans={size[0]}"
        )


class _Mix(Mixup):
    """timm's mixing, for a batch of any size: in an odd batch, the middle sample is mixed with itself."""

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share = self._mix_batch(x)
        if target.is_floating_point():  # several labels of each image
            return x, target * share + target.flip(0) * (1 - share)
        return x, mixup_target(target, self.num_classes, share, self.label_smoothing)


class Classification(Task):
    """Task that classifies images or clips by cross entropy, and can also learn from a teacher.

    Batches are dictionaries with `x` (B, C, H, W), `label` (B,) and `index` (B,). Logged are `loss` and, in evaluation,
    `acc`, `acc5` (for more than five classes) and `ece`, see `ClassificationMetrics`. After a test, `test_confusion`
    holds the confusion matrix.

    With `multi_label`, an image has any number of labels: `label` is (B, num_classes) of zeros and ones, the loss is
    binary cross entropy, and the metrics are `map` and `f1`, see `MultiLabelMetrics`.

    The distilled loss is `(1 - w) * cross entropy + w * t² * KL(teacher || student)` of the logits over t for "soft"
    ("Distilling the Knowledge in a Neural Network", 2015), and `(1 - w) * cross entropy + w * cross entropy with the
    teacher's class` for "hard" ("Training data-efficient image transformers & distillation through attention", 2021).
    The teacher sees the same augmented images. It is not part of the task's weights.

    Args:
        multi_label: Whether a sample may have no label or several.
        class_weights: Weights of the classes in the training loss, where some are rare: a number for each, or
            "balanced" for what the training part's counts give, see `blockzoo.tasks.core.balance.balanced_weights`.
            With `multi_label` they weigh the positive samples of each class. Losses of evaluation have no weights.
        label_smoothing: Share of the target spread over all classes, in training only.
        mixup: Parameter of the Beta distribution that mixes two images; 0 for none.
        cutmix: Parameter of the Beta distribution for pasting a rectangle of one image into another; 0 for none. With
            both, each batch gets one of the two at random.
        mix_prob: Probability that a batch is mixed at all.
        teacher: Name of a model for `blockzoo.create_model`, "timm:" names included, pretrained unless
            `teacher_checkpoint` is given.
        teacher_kwargs: Further arguments of the teacher.
        teacher_checkpoint: File of the teacher's weights.
        distill_weight: w, from 0 to 1.
        distill_temperature: t, for "soft".
        distill_kind: "soft" or "hard".
        conv_norm_mode: "train"; or "eval" or "tune" to fine-tune with frozen statistics, see
            `blockzoo.layers.conv.conv_norm_act`.
        channels_last: Keep images and weights in channels-last memory.
        **kwargs: See `Task`.
    """

    def __init__(
        self,
        *args: Any,
        multi_label: bool = False,
        class_weights: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_prob: float = 1.0,
        teacher: str | None = None,
        teacher_kwargs: dict[str, Any] | None = None,
        teacher_checkpoint: str | None = None,
        distill_weight: float = 0.5,
        distill_temperature: float = 1.0,
        distill_kind: Literal["soft", "hard"] = "soft",
        conv_norm_mode: Literal["train", "eval", "tune"] = "train",
        channels_last: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        num_classes = self.model.num_classes
        shares = {"distill_weight": distill_weight, "label_smoothing": label_smoothing, "mix_prob": mix_prob}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be in [0, 1]")
        for name, value in {"mixup": mixup, "cutmix": cutmix}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be 0 or more")
        if distill_temperature <= 0:
            raise ValueError(f"distill_temperature={distill_temperature} must be greater than 0")
        if multi_label and (label_smoothing or teacher is not None):
            given = f"label_smoothing={label_smoothing}" if label_smoothing else f"teacher={teacher!r}"
            raise ValueError(f"{given} is for one label a sample; leave it out with multi_label=true")
        self.multi_label = multi_label
        self.class_weights = _checked_weights(class_weights, num_classes)
        self._weights: torch.Tensor | None = None
        self.label_smoothing = label_smoothing
        self.mix = None
        if mixup or cutmix:
            self.mix = _Mix(mixup, cutmix, prob=mix_prob, label_smoothing=label_smoothing, num_classes=num_classes)
        self.distill_weight = distill_weight
        self.distill_temperature = distill_temperature
        self.distill_kind = distill_kind
        self._teacher: list[torch.nn.Module] = []  # in a list, so that it is no submodule
        if teacher is not None:
            self._teacher.append(_teacher(teacher, teacher_kwargs or {}, teacher_checkpoint, num_classes))
        if conv_norm_mode != "train":
            set_conv_norm_mode(self.model, conv_norm_mode)
        self.channels_last = channels_last
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.metrics: ClassificationMetrics | MultiLabelMetrics = (
            MultiLabelMetrics(num_classes) if multi_label else ClassificationMetrics(num_classes, ("acc5", "ece"))
        )

    def _loss(self, logits: torch.Tensor, target: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        weights = None if self._weights is None else self._weights.to(logits.device)
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=weights)
        target = target.to(logits.dtype) if target.is_floating_point() else target
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing  # mixed targets are smooth already
        loss = F.cross_entropy(logits, target, weight=weights, label_smoothing=smoothing)
        if not self._teacher:
            return loss
        teacher = self._teacher[0].to(x.device)
        with torch.no_grad():
            # The trainer casts inputs and the student alone, for example under precision bf16-true.
            wanted = teacher(x.to(next(teacher.parameters()).dtype)).float()
        if self.distill_kind == "hard":
            extra = F.cross_entropy(logits, wanted.argmax(-1))
        else:
            t = self.distill_temperature
            pair = (F.log_softmax(logits / t, -1), F.log_softmax(wanted / t, -1))
            extra = F.kl_div(*pair, reduction="batchmean", log_target=True) * t**2
        return (1 - self.distill_weight) * loss + self.distill_weight * extra

    def setup(self, stage: str) -> None:
        """Compare the data's classes and channels with the model's, and count classes where their weights need it.

        Raises:
            ValueError: They differ, see `check_classes`; or the data have several labels a sample and the task has not,
                or the reverse.
        """
        data = getattr(self.trainer, "datamodule", None)
        check_classes(self.model, data, stage == "fit")
        several = (getattr(data, "preprocessing", None) or {}).get("multi_label", False)
        if data is not None and several != self.multi_label:
            raise ValueError(
                "the data have several labels a sample; set the model's multi_label=true too"
                if several
                else "the task has multi_label=true, the data have one label a sample; set the data's multi_label=true"
            )
        if stage == "fit" and isinstance(self.class_weights, list):
            self._weights = torch.tensor(self.class_weights)
        elif stage == "fit" and self.class_weights == "balanced":
            labels = getattr(data, "train_labels", None)
            if labels is None:
                raise ValueError("class_weights='balanced' needs a data module that tells its labels; give numbers")
            counts = class_counts(labels, self.model.num_classes)
            self._weights = balanced_weights(counts, len(labels), self.multi_label)

    def _check_labels(self, label: torch.Tensor) -> None:
        """Refuse labels that are not classes of the model; only on the CPU, where that needs no synchronisation."""
        wanted = (len(label), self.model.num_classes) if self.multi_label else (len(label),)
        if label.shape != wanted:
            raise ValueError(f"labels of a batch have the shape {tuple(label.shape)}, expected {wanted}")
        if self.multi_label or label.device.type != "cpu" or not len(label):
            return
        low, high = int(label.min()), int(label.max())
        if low < 0 or high >= self.model.num_classes:
            raise ValueError(
                f"the data have labels from {low} to {high}, the model has num_classes={self.model.num_classes}"
            )

    def count(self, stage: str, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Add a batch to the metrics of "val" or "test"; returns them by name, for logging."""
        return self.metrics.update(stage, logits, batch["label"])

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        x, label = batch["x"], batch["label"]
        self._check_labels(label)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        size = len(x)
        if stage == "train":
            target = label
            if self.mix is not None:
                x, target = self.mix(x.clone(), label)
            loss = self._loss(self.model(x), target, x)
        else:
            logits = self.model(x)
            loss = self._plain_loss(logits.float(), label)
            for name, metric in self.count(stage, logits, batch).items():
                self.log(name, metric, on_epoch=True, on_step=False, prog_bar=name.endswith("acc"))
        self.log(f"{stage}/loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=size, sync_dist=True)
        return loss

    def _plain_loss(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss without what belongs to training alone."""
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))
        return F.cross_entropy(logits, label)

    def on_test_epoch_start(self) -> None:
        """Begin a new confusion matrix."""
        if isinstance(self.metrics, ClassificationMetrics):
            self.metrics.confusion.reset()

    def on_test_epoch_end(self) -> None:
        """Sum the confusion matrix over all processes."""
        if isinstance(self.metrics, ClassificationMetrics):
            self.test_confusion = self.metrics.confusion.compute().cpu()

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Class probabilities (B, num_classes), the likeliest class (B,), and which samples they belong to (B,)."""
        logits = self.model(batch["x"]).float()
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(-1)
        return {"index": batch["index"], "label": probabilities.argmax(-1), "probabilities": probabilities}

    def write_predictions(self, batches: list[dict[str, torch.Tensor]], path: Path) -> Path:
        """Write a CSV file with a row for each sample: what it is called, its label, and each class's probability.

        Samples are called as the data call them where they do (`sample`), classes by their names. With `multi_label`,
        `label` holds all classes whose probability is at least 0.5, with "|" between.
        """
        columns = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        probabilities, index = columns.pop("probabilities"), columns["index"].tolist()
        data: Any = getattr(self.trainer, "datamodule", None)
        about = getattr(data, "preprocessing", None) or {}
        names = [str(name) for name in about.get("label_names") or range(probabilities.shape[1])]
        told: Any = getattr(data, "sample_names", None)
        called = {} if told is None else {"sample": told("predict" if "predict" in data.datasets else "test")}
        cells: dict[str, list[Any]] = {key: [values[i] for i in index] for key, values in called.items()}
        cells |= {key: value.tolist() for key, value in columns.items()}
        cells["label"] = [likely(row, names, self.multi_label) for row in probabilities.tolist()]
        rows = zip(*cells.values(), strict=True)
        written = path.with_name(f"{path.name}.csv")
        written.parent.mkdir(parents=True, exist_ok=True)
        write_csv(
            written,
            [[*cells, *names], *([*row, *p] for row, p in zip(rows, probabilities.tolist(), strict=True))],
        )
        return written


def _checked_weights(
    weights: Sequence[float] | Literal["balanced"] | None, num_classes: int
) -> list[float] | Literal["balanced"] | None:
    if weights is None or weights == "balanced":
        return weights  # type: ignore[return-value]
    numbers = [] if isinstance(weights, str) else [float(weight) for weight in weights]
    if len(numbers) != num_classes or not all(0 <= number < math.inf for number in numbers) or not any(numbers):
        raise ValueError(
            f"class_weights={weights} must be {num_classes} numbers of 0 or more, one a class, not all 0; or balanced"
        )
    return numbers


def _teacher(name: str, kwargs: dict[str, Any], checkpoint: str | None, num_classes: int) -> torch.nn.Module:
    model: torch.nn.Module = create_model(name, pretrained=checkpoint is None, checkpoint_path=checkpoint, **kwargs)
    if model.num_classes != num_classes:
        raise ValueError(f"teacher={name!r} has {model.num_classes} classes, the student has {num_classes}")
    return model.requires_grad_(False).eval()
