"""Operators in Fourier space: transforms, spectral convolution, factorised weights, FNO blocks, multi-grid patches."""
