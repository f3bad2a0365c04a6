"""Splits of data sets."""

import torch

__all__ = ["stratified_split"]


def stratified_split(labels: torch.Tensor, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split indices so that the second part has the same share of each class, rounded.

    Args:
        labels: Class of each sample, (N,).
        fraction: Share of the second part, in [0, 1).
        seed: Of the choice.

    Returns:
        Sorted indices of the first and of the second part.

    Raises:
        ValueError: The share is out of range, or one of the parts would be empty.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"val_fraction={fraction} must be in [0, 1)")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        chosen[members[order[: round(fraction * len(members))]]] = True
    if fraction and (not chosen.any() or chosen.all()):
        part = "training" if chosen.any() else "validation"
        raise ValueError(f"val_fraction={fraction} leaves no {part} sample of {len(labels)}, by class and rounded")
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)
