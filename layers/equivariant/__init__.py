"""Equivariant layers: irreps, harmonics, tensor products, edges, neighbours, radial bases."""
