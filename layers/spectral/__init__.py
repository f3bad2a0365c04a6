"""Operators on fields that work on Fourier coefficients.

| file | contents |
| --- | --- |
| `factorized_tensor` | weights in Tucker, CP and tensor-train form |
| `field_ops` | layers that map single points of a field, norms, coordinates and padding |
| `fno_block` | the block of Fourier neural operators |
| `fourier` | Fourier transforms that compute only the frequencies that are kept |
| `multigrid` | a field as patches that see their surroundings on coarser grids |
| `pointwise` | the pointwise part of a block, computed a few thousand points at a time |
| `spectral_conv` | convolution by Fourier coefficients, dense or factorised |
"""
