"""Attention: in windows, over pooled keys, gated linear, and the recurrent block."""
