"""Molecules and crystals: potentials, tensors, dynamics, and their data."""
