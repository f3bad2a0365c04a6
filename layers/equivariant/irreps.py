"""Linear map, norms, gate and activation on features with one channel axis for all degrees.

Features are (N, (l_max + 1)², C): the components of the degrees l = 0 .. l_max in e3nn's order, channels contiguous.

Source: "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations" (2025), section 3.3
(path-weight sharing), and its code; after "Equiformer" (2023). The joint norm is that of "EquiformerV2" (2024).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Gate", "IrrepsLayerNorm", "IrrepsLinear", "IrrepsRMSNorm", "component_degrees"]


def component_degrees(l_max: int) -> list[int]:
    """The degree of each of the (l_max + 1)² components."""
    return [degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]


class IrrepsLinear(nn.Module):
    """One matrix over channels that all degrees share; the bias reaches l = 0 alone.

    Args:
        in_features: Channels in.
        out_features: Channels out.
        bias: Whether there is a bias.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (N, (l_max + 1)², in_features) -> (N, (l_max + 1)², out_features); any number of leading degrees.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **dd: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **dd))
        self.bias = nn.Parameter(torch.zeros(out_features, **dd)) if bias else None
        nn.init.uniform_(self.weight, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mapped features."""
        y = F.linear(x, self.weight)
        if self.bias is None:
            return y
        return y + F.pad(self.bias.to(y.dtype).unsqueeze(0), (0, 0, 0, x.shape[-2] - 1))

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class _IrrepsNorm(nn.Module):
    """What the norms share: a weight for each degree and channel, and a bias and a mean for l = 0 alone."""

    def __init__(self, num_features: int, l_max: int, eps: float = 1e-5, **dd: Any) -> None:
        super().__init__()
        self.l_max, self.eps = l_max, eps
        self.weight = nn.Parameter(torch.ones(l_max + 1, num_features, **dd))
        self.bias = nn.Parameter(torch.zeros(num_features, **dd))

    def _by_degree(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The degrees of `x`, each (N, 2 l + 1, C), in float32 at least, l = 0 without its mean over channels."""
        l_max = math.isqrt(x.shape[1]) - 1
        x = x.to(self.weight.dtype if x.dtype in (torch.float16, torch.bfloat16) else x.dtype)
        scalars = x[:, :1]
        parts = [scalars - scalars.mean(2, keepdim=True)]
        return parts + [x[:, degree**2 : (degree + 1) ** 2] for degree in range(1, l_max + 1)]

    def _joined(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """The degrees as one tensor (N, (l_max + 1)², C), with the bias on l = 0."""
        parts = [parts[0] + self.bias.to(parts[0].dtype), *parts[1:]]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.weight.shape[1]}, l_max={self.l_max}, eps={self.eps}"


class IrrepsLayerNorm(_IrrepsNorm):
    """Divide each degree by its own root mean square over components and channels; l = 0 is centred first.

    Warning:
        This is the published form, for published weights. Where symmetry makes a degree vanish, as at the carbon of
        methane or in a crystal, it multiplies the smallest deviation by up to `eps` ** -0.5, about 300. A few of these
        in a row make energies and forces almost discontinuous there. Use `IrrepsRMSNorm` for new models.

    Args:
        num_features: Channels.
        l_max: Highest degree.
        eps: Added to the mean square.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (N, (l_max + 1)², C), or its leading degrees alone -> the same.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalised features."""
        return self._joined([self._scaled(part, degree) for degree, part in enumerate(self._by_degree(x))])

    def _scaled(self, x: torch.Tensor, degree: int) -> torch.Tensor:
        return x * ((x.square().mean((1, 2), keepdim=True) + self.eps).rsqrt() * self.weight[degree].to(x.dtype))


class IrrepsRMSNorm(_IrrepsNorm):
    """Divide all degrees by one root mean square; l = 0 is centred first.

    The mean square is the average over degrees of the mean over components and channels. Scalars don't vanish by
    symmetry, so the denominator doesn't either, and the norm stays smooth where the other degrees are zero.

    Args:
        num_features: Channels.
        l_max: Highest degree.
        eps: Added to the mean square.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (N, (l_max + 1)², C), or its leading degrees alone -> the same.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalised features."""
        parts = self._by_degree(x)
        # (N, 1, 1) for each degree, averaged with equal weight: higher degrees have more components.
        square = torch.stack([part.square().mean((1, 2), keepdim=True) for part in parts]).mean(0)
        scale = (square + self.eps).rsqrt()
        return self._joined([part * (scale * self.weight[degree].to(part.dtype)) for degree, part in enumerate(parts)])


class Gate(nn.Module):
    """SiLU on l = 0; the other degrees are multiplied by sigmoids of separate scalars, one for each channel.

    Shape:
        features (N, d, C) and gates (N, C) -> (N, d, C).
    """

    def forward(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """The gated features."""
        scalars = F.silu(x[:, :1])
        return torch.cat([scalars, x[:, 1:] * gates.sigmoid().unsqueeze(1)], 1) if x.shape[1] > 1 else scalars
