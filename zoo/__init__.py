"""blockzoo."""
