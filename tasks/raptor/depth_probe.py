"""Depth probe of "Block-Recurrent Dynamics in Vision Transformers" (2025) on NYUv2: a linear head over bins.

Tokens of a frozen backbone are classified into bins of depth, whose expectation is the depth. What differs from the
authors' code: pixels without a valid depth are left out of the classification too. That code labels them 255 but
ignores another number, so it trains a real bin for them.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["DepthProbe", "bin_edges", "center_pad", "depth_loss", "depth_to_bins", "eigen_mask"]

INVALID = 255
"""Label of pixels without a valid depth."""


def bin_edges(num_bins: int = 256, min_depth: float = 1e-3, max_depth: float = 10.0) -> torch.Tensor:
    """Edges of uniform bins (num_bins + 1,), in metres."""
    return torch.linspace(min_depth, max_depth, num_bins + 1)


def depth_to_bins(
    depth: torch.Tensor, num_bins: int = 256, min_depth: float = 1e-3, max_depth: float = 10.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bin of each pixel, and which pixels are valid.

    Args:
        depth: Depths in metres, any shape; values outside [min_depth, max_depth] are invalid.
        num_bins: Number of bins.
        min_depth: Lower end of the first bin.
        max_depth: Upper end of the last bin.

    Returns:
        Bins from 0, int64, `INVALID` where invalid, and a mask of the valid pixels.
    """
    valid = (depth >= min_depth) & (depth <= max_depth)
    inner = bin_edges(num_bins, min_depth, max_depth)[1:-1].to(depth)
    bins = torch.bucketize(depth.contiguous(), inner)
    return bins.masked_fill(~valid, INVALID), valid


def center_pad(x: torch.Tensor, multiple: int = 14) -> torch.Tensor:
    """Pad the last two axes with zeros to the next multiple, half on each side, with an odd pixel at the end."""
    pads: list[int] = []
    for size in reversed(x.shape[-2:]):
        total = -size % multiple
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def eigen_mask(depth: torch.Tensor, min_depth: float = 1e-3, max_depth: float = 10.0) -> torch.Tensor:
    """Valid pixels in Eigen's crop of NYUv2 (rows 45 to 470, columns 41 to 600) of maps (..., 480, 640)."""
    if tuple(depth.shape[-2:]) != (480, 640):
        raise ValueError(f"depth must be (..., 480, 640), as NYUv2 is, it is {tuple(depth.shape)}")
    crop = torch.zeros_like(depth, dtype=torch.bool)
    crop[..., 45:471, 41:601] = True
    return crop & (depth >= min_depth) & (depth <= max_depth)


class DepthProbe(nn.Module):
    """Depth head: a linear layer over upsampled patch tokens, each together with the class token.

    Args:
        embed_dim: Channels of a token.
        grid_size: Patches along height and width.
        num_bins: Bins of depth.
        upsample: Factor between patches and the map of depth.
        min_depth: Least depth, in metres.
        max_depth: Greatest depth, in metres.
    """

    def __init__(
        self,
        embed_dim: int,
        grid_size: tuple[int, int],
        num_bins: int = 256,
        upsample: int = 4,
        min_depth: float = 1e-3,
        max_depth: float = 10.0,
    ) -> None:
        super().__init__()
        self.grid_size = tuple(grid_size)
        self.upsample = upsample
        self.classifier = nn.Conv2d(2 * embed_dim, num_bins, 1)
        edges = bin_edges(num_bins, min_depth, max_depth)
        self.register_buffer("centres", (edges[:-1] + edges[1:]) / 2, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_bins, upsample * rows, upsample * columns).

        Args:
            tokens: (B, N, dim), class token first, patches last.
        """
        rows, columns = self.grid_size
        if tokens.shape[1] <= rows * columns:
            raise ValueError(
                f"tokens must be a class token and {rows} x {columns} patches, there are {tokens.shape[1]}"
            )
        patches = tokens[:, -rows * columns :]
        pair = torch.cat([patches, tokens[:, :1].expand_as(patches)], -1)
        image = pair.transpose(1, 2).unflatten(2, (rows, columns))
        image = F.interpolate(image, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        return self.classifier(image)

    def depth(self, logits: torch.Tensor) -> torch.Tensor:
        """Expected depth (B, 1, H, W) in metres."""
        return torch.einsum("bnhw,n->bhw", logits.softmax(1), self.centres)[:, None]


def depth_loss(prediction: torch.Tensor, depth: torch.Tensor, logits: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Scale-invariant error of log depth, times 10, plus cross entropy of the bins.

    It is 10 (mean d² - 0.85 (mean d)²), d = log(prediction + 0.001) - log(depth + 0.001) over pixels with a depth above
    0, plus the entropy.

    Args:
        prediction: (B, 1, H, W) in metres; resized to the size of `depth`.
        depth: (B, 1, H', W') in metres.
        logits: (B, num_bins, h, w).
        bins: (B, H', W'), see `depth_to_bins`; resized to the size of the logits.
    """
    prediction = F.interpolate(prediction, depth.shape[-2:], mode="bilinear", align_corners=False)
    valid = depth > 0
    d = (prediction[valid] + 1e-3).log() - (depth[valid] + 1e-3).log()
    labels = F.interpolate(bins[:, None].float(), logits.shape[-2:], mode="nearest")[:, 0].long()
    entropy = F.cross_entropy(logits, labels, ignore_index=INVALID)
    return 10 * (d.square().mean() - 0.85 * d.mean().square()) + entropy
