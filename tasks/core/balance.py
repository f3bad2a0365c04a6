"""What to do about classes of unequal size: counts, weights of a loss, and a sampler."""

from collections.abc import Sequence

import torch
from torch.utils.data import WeightedRandomSampler

__all__ = ["balanced_sampler", "balanced_weights", "class_counts"]

Labels = Sequence[tuple[int, ...]]


def class_counts(labels: Labels, num_classes: int) -> torch.Tensor:
    """How many samples each class has, (num_classes,), int64; a sample with several classes counts for each."""
    flat = torch.tensor([label for own in labels for label in own], dtype=torch.int64)
    return torch.bincount(flat, minlength=num_classes)


def balanced_weights(counts: torch.Tensor, samples: int, several: bool = False) -> torch.Tensor:
    """Weights of classes by which rare ones count as much as frequent ones.

    Args:
        counts: Samples of each class, (num_classes,).
        samples: Samples in all.
        several: Whether a sample may have several classes: then negatives over positives of each class, the
            `pos_weight` of binary cross entropy; else `samples / (num_classes * count)`, as in scikit-learn.

    Returns:
        (num_classes,), float32.

    Raises:
        ValueError: A class has no samples, or in the case of several classes no negatives.
    """
    empty = (counts == 0) | ((counts == samples) & several)
    if empty.any():
        raise ValueError(
            f"class {int(empty.nonzero()[0])} has {int(counts[empty][0])} of {samples} training samples, so that no "
            "weight balances it; give class_weights as numbers"
        )
    counts = counts.double()
    weights = (samples - counts) / counts if several else samples / (len(counts) * counts)
    return weights.float()


def balanced_sampler(labels: Labels, num_classes: int) -> WeightedRandomSampler:
    """Draw samples with replacement so that every class is seen equally often; an epoch keeps its length.

    A sample with several classes is drawn as its rarest one, a sample without any as the most frequent one.

    Args:
        labels: Classes of each sample.
        num_classes: Classes.
    """
    counts = class_counts(labels, num_classes).double()
    most = float(counts.max())
    weights = [1 / min((float(counts[label]) for label in own), default=most) for own in labels]
    return WeightedRandomSampler(weights, len(weights))
