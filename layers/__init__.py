"""Layers shared by the model families."""

if __name__ != "blockzoo.layers":
    raise ImportError("import this package as blockzoo.layers (pip install -e .)")

from blockzoo.layers.factorized_tensor import FactorizedTensor
from blockzoo.layers.multigrid import MultigridPatching
from blockzoo.layers.spectral_conv import SpectralConv
from blockzoo.layers.spherical_power import GauntProductBasis
from blockzoo.layers.tensor_product import ClebschGordanProduct, CPTensorProduct, GauntTensorProduct

__all__ = [
    "CPTensorProduct",
    "ClebschGordanProduct",
    "FactorizedTensor",
    "GauntProductBasis",
    "GauntTensorProduct",
    "MultigridPatching",
    "SpectralConv",
]
