"""Standardisation of each series by its own statistics."""

import torch

__all__ = ["standardize_series"]


def standardize_series(
    x: torch.Tensor, mask: torch.Tensor | None = None, eps: float = 1e-5, published: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Standardise each channel of each series over time, from its observed values only.

    Undo it with `y * std + mean`. Statistics carry no gradient.

    Source: "Non-stationary Transformers: Exploring the Stationarity in Time Series Forecasting" (2022), equation 1,
    with `eps` inside the root as in the TimesNet code. A channel without observed values has mean 0 and std sqrt(eps).

    Args:
        x: Series, (B, T, C).
        mask: 1 where a value is observed, 0 where it is missing, (B, T, C); all are observed by default.
        eps: Added to the variance, in squared units of x.
        published: Standardise `x` without a change of unit. In a very small unit, the variance of a channel is not far
            above `eps`, and the channel is then flattened. If False, a channel whose values all lie within -1 and 1, or
            are so large that their squares would overflow, is first divided by the largest of them, so that the unit
            does not matter.

    Returns:
        The standardised series (B, T, C), 0 where nothing was observed, and mean and std, each (B, 1, C).
    """
    if not published:
        top = (x if mask is None else torch.where(mask != 0, x, 0)).detach().abs().amax(1, keepdim=True)
        scale = torch.where(((top < 1) & (top > 0)) | (top > 1e15), top, 1)
        y, mean, std = standardize_series(x / scale, mask, eps)
        return y, mean * scale, std * scale
    if mask is None:
        mean = x.mean(1, keepdim=True).detach()
        x = x - mean
        std = (x.square().mean(1, keepdim=True) + eps).sqrt().detach()
        return x / std, mean, std
    observed = mask != 0
    count = observed.sum(1, keepdim=True).clamp(min=1)
    mean = (torch.where(observed, x, 0).sum(1, keepdim=True) / count).detach()
    x = torch.where(observed, x - mean, 0)
    std = (x.square().sum(1, keepdim=True) / count + eps).sqrt().detach()
    return x / std, mean, std
