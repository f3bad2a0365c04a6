"""Convolutions: with norm and activation, merged for deployment, separable, inception, pseudo-3D,
squeeze-and-excite.
"""
