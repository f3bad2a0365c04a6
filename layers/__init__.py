"""Layers shared by the model families."""

if __name__ != "blockzoo.layers":
    raise ImportError("import this package as blockzoo.layers (pip install -e .)")

from blockzoo.layers.equivariant.spherical_power import GauntProductBasis
from blockzoo.layers.equivariant.tensor_product import ClebschGordanProduct, CPTensorProduct, GauntTensorProduct
from blockzoo.layers.spectral.factorized_tensor import FactorizedTensor
from blockzoo.layers.spectral.multigrid import MultigridPatching
from blockzoo.layers.spectral.spectral_conv import SpectralConv

__all__ = [
    "CPTensorProduct",
    "ClebschGordanProduct",
    "FactorizedTensor",
    "GauntProductBasis",
    "GauntTensorProduct",
    "MultigridPatching",
    "SpectralConv",
]
