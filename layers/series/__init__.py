"""Time series of shape (B, T, C).

| file | contents |
| --- | --- |
| `embed` | embedding of values, positions and calendar features |
| `norm` | standardisation of each series by its own mean and deviation, and its inverse |
| `quantiles` | levels of quantiles, and the axis of quantiles that a forecast has |
| `period` | search for the strongest periods, and the block that convolves a series folded by them |
"""
