"""TimesNet's block in the plain formulation, as the reference of benchmarks.

The equations of "TimesNet" (2023), section 3.2, step by step: every period folds the padded series anew, six parallel
convolutions run on the image, their outputs are stacked and averaged, and the periods are read on the host. It shares
the weights of one of our blocks and computes the same function.
"""

import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.layers.conv.inception_conv import InceptionConv2d
from blockzoo.layers.series.period import PeriodBlock

__all__ = ["PlainPeriodBlock"]


class PlainPeriodBlock(nn.Module):
    """`PeriodBlock` with periods per batch, without any of its savings; see there for shapes."""

    def __init__(self, block: PeriodBlock) -> None:
        super().__init__()
        self.top_k = block.top_k
        self.conv1, self.conv2 = block.conv1, block.conv2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, T, C) to (B, T, C)."""
        batch, steps, chans = x.shape
        amplitude = torch.fft.rfft(x, dim=1).abs()
        spectrum = amplitude.mean(0).mean(-1)
        spectrum[0] = 0
        frequencies = torch.topk(spectrum, self.top_k).indices.detach()
        results = []
        for period in (steps // frequencies).tolist():
            length = -(-steps // period) * period
            padded = torch.cat([x, x.new_zeros(batch, length - steps, chans)], dim=1)
            image = padded.reshape(batch, length // period, period, chans).permute(0, 3, 1, 2).contiguous()
            image = self._parallel(self.conv2, F.gelu(self._parallel(self.conv1, image)))
            results.append(image.permute(0, 2, 3, 1).reshape(batch, -1, chans)[:, :steps])
        weights = amplitude.mean(-1)[:, frequencies].softmax(1)
        return (torch.stack(results, -1) * weights[:, None, None]).sum(-1)

    @staticmethod
    def _parallel(layer: InceptionConv2d, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([conv(x) for conv in layer.kernels], -1).mean(-1)
