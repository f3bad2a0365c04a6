"""Raptors: distillation of a vision transformer into recurrent blocks, and studies of it."""
