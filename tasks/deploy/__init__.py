"""Export of trained models for other runtimes, also in int8."""
