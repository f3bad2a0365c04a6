"""Augmentation of batches of padded series."""

import torch
import torch.nn.functional as F

__all__ = ["SeriesAugment", "time_warp"]


def time_warp(x: torch.Tensor, mask: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample each series linearly to a new length, first and last step kept.

    Args:
        x: Series, (B, T, C), zero after the last step of each.
        mask: 1 where a step is real, (B, T); the real steps come first.
        length: New number of steps of each series, (B,), from 2 to T.

    Returns:
        Series and mask of the same shapes.
    """
    steps = x.shape[1]
    time = torch.arange(steps, device=x.device)
    old = mask.sum(1)
    place = time * ((old - 1) / (length - 1))[:, None]
    low = place.floor().long().clamp(max=steps - 1)
    high = torch.minimum(low + 1, (old.long() - 1)[:, None]).clamp(max=steps - 1)
    part = (place - low)[..., None].to(x.dtype)
    low, high = (index[..., None].expand_as(x) for index in (low, high))
    warped = x.gather(1, low) * (1 - part) + x.gather(1, high) * part
    new_mask = (time < length[:, None]).to(mask.dtype)
    return warped * new_mask[..., None].to(x.dtype), new_mask


class SeriesAugment:
    """Random changes of a training batch that keep the class; each is off at 0. Padded steps stay zero.

    Args:
        num_classes: Classes, for the targets.
        time_warp: Each series is resampled to a random length from (1 - time_warp) to (1 + time_warp) times its own, at
            most the padded length.
        jitter: Deviation of noise on each value, in units of the (standardised) values.
        channel_shift: Deviation of one offset for each channel of each series.
        scale: Deviation of a factor around 1 for each series.
        mixup: Parameter of the Beta distribution by which two series and their targets are mixed. Source: "mixup:
            Beyond Empirical Risk Minimization" (2018).

    Raises:
        ValueError: An amount is negative, or `time_warp` is not below 1.
    """

    def __init__(
        self,
        num_classes: int,
        time_warp: float = 0.0,
        jitter: float = 0.0,
        channel_shift: float = 0.0,
        scale: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        self.num_classes = num_classes
        self.amounts = {"time_warp": time_warp, "jitter": jitter, "channel_shift": channel_shift, "scale": scale}
        self.amounts["mixup"] = mixup
        for name, value in self.amounts.items():
            if value < 0 or (name == "time_warp" and value >= 1):
                raise ValueError(f"{name}={value} must be at least 0{', and below 1' if name == 'time_warp' else ''}")

    def __call__(
        self, x: torch.Tensor, mask: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Change a batch.

        Args:
            x: Series, (B, T, C).
            mask: 1 where a step is real, (B, T).
            label: Class of each, (B,).

        Returns:
            Series, mask, and target probabilities (B, num_classes).
        """
        amounts, batch = self.amounts, len(x)
        target = F.one_hot(label, self.num_classes).to(x.dtype)
        if amounts["time_warp"]:
            factor = 1 + amounts["time_warp"] * (2 * torch.rand(batch, device=x.device) - 1)
            length = (mask.sum(1) * factor).round().clamp(min=2, max=x.shape[1])
            x, mask = time_warp(x, mask, length)
        if amounts["jitter"]:
            x = x + amounts["jitter"] * torch.randn_like(x)
        if amounts["channel_shift"]:
            x = x + amounts["channel_shift"] * torch.randn_like(x[:, :1])
        if amounts["scale"]:
            x = x * (1 + amounts["scale"] * torch.randn_like(x[:, :1, :1]))
        x = x * mask[..., None].to(x.dtype)
        if amounts["mixup"]:
            beta = torch.distributions.Beta(amounts["mixup"], amounts["mixup"])
            share = beta.sample().to(x)
            other = torch.randperm(batch, device=x.device)
            x = share * x + (1 - share) * x[other]
            mask = torch.maximum(mask, mask[other])
            target = share * target + (1 - share) * target[other]
        return x, mask, target
