"""Callbacks that every run uses."""
