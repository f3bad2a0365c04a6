"""Choice of the frames and crops that a clip takes from a video."""

import torch

__all__ = ["crop_boxes", "dense_indices", "span_of", "uniform_indices", "view_starts"]


def span_of(num_frames: int, stride: int) -> int:
    """Frames of a video from the first to the last one of a clip."""
    return (num_frames - 1) * stride + 1


def uniform_indices(total: int, num_frames: int, random: bool = False) -> torch.Tensor:
    """One frame out of each of `num_frames` equal parts of a video.

    Source: "Temporal Segment Networks" (2016), section 3.1.

    Args:
        total: Frames of the video; if there are fewer than `num_frames`, some are taken more than once.
        num_frames: Frames of the clip.
        random: Anywhere in each part (torch's global random state), not in its middle.

    Returns:
        Indices (num_frames,), not decreasing.
    """
    offset = torch.rand(num_frames, dtype=torch.double) if random else torch.full((num_frames,), 0.5).double()
    indices = ((torch.arange(num_frames) + offset) * total / num_frames).floor().long()
    return indices.clamp(max=total - 1)


def dense_indices(total: int, num_frames: int, stride: int = 1, start: int | None = None) -> torch.Tensor:
    """Frames at a constant distance.

    Args:
        total: Frames of the video; beyond its end, the last one is repeated.
        num_frames: Frames of the clip.
        stride: Their distance.
        start: The first one; None for a random one (torch's global random state) from which the clip fits.

    Returns:
        Indices (num_frames,), not decreasing.
    """
    if start is None:
        start = int(torch.randint(max(1, total - span_of(num_frames, stride) + 1), ()))
    return (start + stride * torch.arange(num_frames)).clamp(max=total - 1)


def view_starts(total: int, span: int, num_clips: int) -> list[int]:
    """First frames of `num_clips` clips spread evenly over a video, from its start to its end; one is in the middle.

    Args:
        total: Frames of the video.
        span: See `span_of`.
        num_clips: Clips.
    """
    room = max(0, total - span)
    if num_clips == 1:
        return [room // 2]
    return [round(i * room / (num_clips - 1)) for i in range(num_clips)]


def crop_boxes(height: int, width: int, size: tuple[int, int], num_crops: int) -> list[tuple[int, int]]:
    """Upper left corners of crops.

    Args:
        height: Height of the frame, at least that of a crop.
        width: Width of the frame, at least that of a crop.
        size: Height and width of a crop.
        num_crops: 1 for the centre, 3 for both ends and the centre along the longer side.

    Returns:
        (top, left) of each.

    Raises:
        ValueError: Another number, or the frame is smaller than a crop.
    """
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops={num_crops} must be 1 or 3")
    if height < size[0] or width < size[1]:
        raise ValueError(f"frames of {height} x {width} px are smaller than crops of {size[0]} x {size[1]} px")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    if num_crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (height - size[0], left)]
    return [(top, 0), (top, left), (top, width - size[1])]
