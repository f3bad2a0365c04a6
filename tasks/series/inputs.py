"""Windows of a table as a trained model wants them."""

from typing import Any

import numpy as np
import torch

from blockzoo.tasks.series.calendar import calendar_features
from blockzoo.tasks.series.time_axis import past_dates

__all__ = ["model_inputs", "outputs_of"]


def model_inputs(
    model: Any, values: np.ndarray, dates: np.ndarray | None, starts: list[int]
) -> tuple[dict[str, torch.Tensor], np.ndarray, np.ndarray]:
    """Windows of a table as a model wants them.

    Args:
        model: One with `seq_len` and `in_chans`; of one channel, every column is a series by itself.
        values: (rows, columns), NaN where missing.
        dates: Of the rows on the local clock, or None.
        starts: First row of each window; rows before the first are taken for missing.

    Returns:
        Arguments of the model, batch axis (windows * columns) or (windows); mean and deviation of its channels.

    Raises:
        ValueError: The model wants calendar features, and there are no dates.
    """
    cfg = model.pretrained_cfg
    mean, std = (np.asarray(cfg.get(key, fill), dtype=np.float64) for key, fill in (("mean", 0.0), ("std", 1.0)))
    steps = model.seq_len
    padded = np.concatenate([np.full((steps, values.shape[1]), np.nan), values])
    windows = np.stack([padded[start + steps : start + 2 * steps] for start in starts])
    if model.in_chans == 1:
        windows = windows.transpose(0, 2, 1).reshape(-1, steps, 1)
    scaled = (windows - mean) / std
    seen = ~np.isnan(scaled)
    inputs = {"x": torch.from_numpy(np.where(seen, scaled, 0).astype(np.float32))}
    inputs["mask"] = torch.from_numpy(seen.astype(np.float32))
    if getattr(model, "time_freq", None) is not None:
        if dates is None:
            raise ValueError(f"the model uses calendar features ({model.time_freq!r}); name a --date-column")
        if len(dates) < 2:
            raise ValueError("a date of one row has no frequency; the file needs two rows at least")
        times = calendar_features(np.concatenate([past_dates(dates, steps), dates]), model.time_freq)
        parts = np.stack([times[start + steps : start + 2 * steps] for start in starts])
        repeats = values.shape[1] if model.in_chans == 1 else 1
        inputs["time_features"] = torch.from_numpy(np.repeat(parts, repeats, axis=0))
    return inputs, mean, std


@torch.no_grad()
def outputs_of(model: Any, inputs: dict[str, torch.Tensor], batch_size: int = 64) -> torch.Tensor:
    """A model's outputs for many windows, in batches, on the CPU."""
    device = next((part.device for part in model.parameters()), torch.device("cpu"))
    outputs = []
    for start in range(0, len(inputs["x"]), batch_size):
        batch = {key: value[start : start + batch_size].to(device) for key, value in inputs.items()}
        outputs.append(model(**batch).cpu())
    return torch.cat(outputs)
