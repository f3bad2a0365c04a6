"""Where an image classifier looks."""

from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["class_activation_map"]


def class_activation_map(model: Any, x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
    """Grad-CAM of the last feature map.

    Source: "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (2017), equations 1, 2.
    With average pooling before a linear classifier, it is the class activation map of "Learning Deep Features for
    Discriminative Localization" (2016), clipped at 0.

    Args:
        model: An image model with `forward_features` and `forward_head`, in eval mode.
        x: Images (B, C, H, W), prepared as the model expects.
        label: Class of each image to explain, (B,); the likeliest by default.

    Returns:
        (B, H, W), from 0 to 1 in each image; all 0 if nothing supports the class.
    """
    with torch.enable_grad():
        features = model.forward_features(x).detach().requires_grad_()
        logits = model.forward_head(features)
        label = logits.argmax(1) if label is None else label
        (gradient,) = torch.autograd.grad(logits.gather(1, label[:, None]).sum(), features)
    heat = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).detach().relu()
    heat = heat / heat.amax((2, 3), keepdim=True).clamp(min=1e-12)
    return F.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
