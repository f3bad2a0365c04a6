"""Formats of exported models, and helpers for checks of them; imports nothing heavy."""

from typing import Any

__all__ = ["FORMATS", "TOLERANCE", "liven"]

FORMATS = ("safetensors", "torch-export", "onnx", "aoti")
"""What a model can be written as."""

TOLERANCE = 1e-4
"""Largest difference allowed, in units of the output's standard deviation."""


def liven(model: Any) -> None:
    """Set layer scales that start near zero to one, so that outputs depend on inputs and a comparison is meaningful."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "gamma" and parameter.detach().abs().max() < 1e-2:
            parameter.data.fill_(1.0)
