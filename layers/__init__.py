"""Layers shared by the model families."""

if __name__ != "blockzoo.layers":
    raise ImportError("import this package as blockzoo.layers (pip install -e .)")

from blockzoo.layers.factorized_tensor import FactorizedTensor
from blockzoo.layers.multigrid import MultigridPatching
from blockzoo.layers.spectral_conv import SpectralConv

__all__ = ["FactorizedTensor", "MultigridPatching", "SpectralConv"]
