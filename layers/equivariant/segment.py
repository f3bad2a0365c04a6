"""Sums and softmax over segments of rows, for messages that arrive at nodes."""

import torch

__all__ = ["segment_softmax", "segment_sum"]


def segment_sum(x: torch.Tensor, index: torch.Tensor, num_segments: int) -> torch.Tensor:
    """Sum the rows of `x` (E, ...) that have the same `index` (E,); segments without rows are zero.

    Args:
        x: Rows.
        index: Segment of each row, from 0 to num_segments - 1.
        num_segments: Rows of the result.

    Returns:
        (num_segments, ...).
    """
    return x.new_zeros((num_segments, *x.shape[1:])).index_add(0, index, x)


def segment_softmax(
    logits: torch.Tensor, index: torch.Tensor, num_segments: int, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax over the rows of each segment, optionally weighted.

    Args:
        logits: (E, H).
        index: Segment of each row, (E,).
        num_segments: Number of segments.
        weight: Positive factors of the exponentials, (E, 1) or (E, H). A row whose weight goes to zero leaves its
            segment smoothly.

    Returns:
        (E, H); the rows of a segment sum to 1.
    """
    with torch.no_grad():
        highest = logits.new_zeros((num_segments, logits.shape[1]))
        rows = index.unsqueeze(1).expand_as(logits)
        highest = highest.scatter_reduce(0, rows, logits.detach(), "amax", include_self=False)
    exponential = (logits - highest.index_select(0, index)).exp()
    if weight is not None:
        exponential = exponential * weight
    total = segment_sum(exponential, index, num_segments)
    # The largest exponential is 1, so only weights can bring a sum near the smallest normal number.
    return exponential / total.index_select(0, index).clamp_min(torch.finfo(total.dtype).tiny)
