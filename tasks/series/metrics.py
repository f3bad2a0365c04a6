"""Metrics of forecasts and of anomaly detection, and the forecasts that they are measured against.

Sources: Hyndman and Koehler, "Another look at measures of forecast accuracy" (2006), for MASE; Makridakis, Spiliotis
and Assimakopoulos, "The M4 Competition: 100,000 time series and 61 forecasting methods" (2020), for sMAPE, OWA and
Naive 2; Xu et al., "Unsupervised Anomaly Detection via Variational Auto-Encoder for Seasonal KPIs in Web Applications"
(2018), for the adjustment of detections.
"""

from collections.abc import Mapping

import numpy as np
import torch

__all__ = [
    "BASELINES",
    "detection_scores",
    "grouped_scores",
    "is_seasonal",
    "mase",
    "mase_scale",
    "mean_steps",
    "naive",
    "naive2",
    "owa",
    "point_adjust",
    "quantile",
    "ranking_scores",
    "seasonal_factors",
    "seasonal_naive",
    "smape",
    "step_scores",
]


def smape(forecast: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Symmetric mean absolute percentage error, mean of 200 |f - y| / (|f| + |y|), in per cent; 0 where both are 0.

    Args:
        forecast: (..., steps).
        target: (..., steps).
        mask: 1 where a target counts, (..., steps); all by default.

    Returns:
        For each series, (...).
    """
    total = forecast.abs() + target.abs()
    error = 200 * (forecast - target).abs() / torch.where(total == 0, 1, total)
    return _mean(error, mask)


def mean_steps(x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Mean absolute step of series, over neighbours that are both observed; NaN where there are none.

    Args:
        x: Values, (..., steps, C).
        seen: 1 where a value is observed, 0 where it is missing and `x` is ignored, in the shape of `x`.

    Returns:
        (..., C).
    """
    both = seen[..., 1:, :] * seen[..., :-1, :]
    return ((x[..., 1:, :] - x[..., :-1, :]).abs() * both).sum(-2) / both.sum(-2)


def mase_scale(history: torch.Tensor, period: int = 1) -> torch.Tensor:
    """Mean absolute difference of values a season apart, over one series' past (steps,), without gaps.

    Raises:
        ValueError: The past is not longer than a season.
    """
    if len(history) <= period:
        raise ValueError(f"period={period}, but the past has only {len(history)} steps; MASE needs more than a season")
    return (history[period:] - history[:-period]).abs().mean()


def mase(
    forecast: torch.Tensor, target: torch.Tensor, scale: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean absolute error over `mase_scale` of the past; NaN where that is 0.

    Args:
        forecast: (..., steps).
        target: (..., steps).
        scale: (...).
        mask: 1 where a target counts, (..., steps); all by default.

    Returns:
        For each series, (...).
    """
    return _mean((forecast - target).abs(), mask) / torch.where(scale > 0, scale, torch.nan)


def _mean(error: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return error.mean(-1)
    return torch.where(mask != 0, error, 0).sum(-1) / mask.sum(-1).clamp(min=1)


def owa(smape: float, mase: float, smape_naive2: float, mase_naive2: float) -> float:
    """Overall weighted average of the M4 competition: means of sMAPE and MASE, each over that of Naive 2, averaged."""
    return 0.5 * (smape / smape_naive2 + mase / mase_naive2)


def grouped_scores(scores: Mapping[str, tuple[float, float, float, float, int]]) -> dict[str, dict[str, float]]:
    """Scores of several frequencies as the M4 papers show them.

    Args:
        scores: By frequency: sMAPE, MASE, both of Naive 2, and the number of series, which are the weights.

    Returns:
        `smape`, `mase` and `owa` for "Yearly", "Quarterly", "Monthly", for "Others" (all the rest together) and for
        "Average", the mean over all series; OWA always from the averages of the other two.
    """
    named = [name for name in ("Yearly", "Quarterly", "Monthly") if name in scores]
    groups = {name: [name] for name in named}
    groups |= {"Others": [name for name in scores if name not in named], "Average": list(scores)}
    table = {}
    for group, members in groups.items():
        if not members:
            continue
        count = sum(scores[name][4] for name in members)
        means = [sum(scores[name][i] * scores[name][4] for name in members) / count for i in range(4)]
        table[group] = {"smape": means[0], "mase": means[1], "owa": owa(*means)}
    return table


def naive(history: np.ndarray, steps: int, period: int = 1) -> np.ndarray:
    """The last value, repeated."""
    return np.full(steps, history[-1])


def seasonal_naive(history: np.ndarray, steps: int, period: int = 1) -> np.ndarray:
    """The last season, repeated; the last value if the past is shorter than a season."""
    return np.resize(history[-period:], steps) if len(history) >= period else naive(history, steps)


def is_seasonal(history: np.ndarray, period: int) -> bool:
    """The competition's test: whether the autocorrelation at `period` differs from 0 at the 90 % level (Bartlett)."""
    if period <= 1 or len(history) < 3 * period:
        return False
    centred = history - history.mean()
    power = (centred**2).sum()
    if power == 0:
        return False
    lags = np.array([(centred[lag:] * centred[:-lag]).sum() / power for lag in range(1, period + 1)])
    limit = 1.645 * np.sqrt((1 + 2 * (lags[:-1] ** 2).sum()) / len(history))
    return bool(abs(lags[-1]) > limit)


def _seasonal_indices(history: np.ndarray, period: int) -> np.ndarray:
    """Factors of the phases of a season, counted from the first value: classical multiplicative decomposition."""
    kernel = np.ones(period) / period
    if period % 2 == 0:
        kernel = np.convolve(kernel, [0.5, 0.5])
    trend = np.convolve(history, kernel, mode="valid")
    start = (len(kernel) - 1) // 2
    ratios = history[start : start + len(trend)] / trend
    phases = (start + np.arange(len(ratios))) % period
    means = np.array([ratios[phases == phase].mean() for phase in range(period)])
    return means / means.mean()


def seasonal_factors(history: np.ndarray, count: int, period: int) -> np.ndarray:
    """Factors of the season at the first `count` steps from the beginning of a past, float64 (count,).

    They are those of Naive 2: 1 where `is_seasonal` finds no season, or where a value is not positive.
    """
    if not is_seasonal(history, period) or history.min() <= 0:
        return np.ones(count)
    return _seasonal_indices(history, period)[np.arange(count) % period]


def naive2(history: np.ndarray, steps: int, period: int = 1) -> np.ndarray:
    """Naive 2: the last value of the seasonally adjusted series, with the season put back.

    The season is adjusted for where `is_seasonal` finds one, in series of positive values, by classical multiplicative
    decomposition.
    """
    factors = seasonal_factors(history, len(history) + steps, period)
    return history[-1] / factors[len(history) - 1] * factors[len(history) :]


BASELINES = {"naive": naive, "seasonal naive": seasonal_naive, "Naive 2": naive2}


def point_adjust(predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Point adjustment: if one step of an anomalous stretch is detected, count the whole stretch as detected.

    This is how the anomaly benchmarks are scored in the literature. It is too optimistic: one lucky step in a long
    stretch counts as much as all of it, and random scores do well. Show the plain scores beside it.

    Args:
        predicted: Whether a step is detected, bool (steps,).
        label: Whether it is anomalous, bool (steps,).

    Returns:
        The adjusted detections, bool (steps,).
    """
    starts = label & ~torch.cat([label.new_zeros(1), label[:-1]])
    stretch = torch.where(label, starts.long().cumsum(0), 0)
    hit = torch.zeros(int(stretch.max()) + 1 if len(stretch) else 1, dtype=torch.bool, device=label.device)
    hit[stretch[predicted & label]] = True
    hit[0] = False
    return predicted | hit[stretch]


def detection_scores(predicted: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Precision, recall and F1 of detected steps, bool (steps,) each; 0 where nothing is detected or anomalous."""
    hits, found, real = (int(value) for value in ((predicted & label).sum(), predicted.sum(), label.sum()))
    precision, recall = hits / found if found else 0.0, hits / real if real else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def ranking_scores(score: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Areas under the ROC and the precision-recall curve of scores (steps,), without a threshold and unadjusted.

    The first is NaN unless there are both anomalous and other steps, the second NaN where no step is anomalous.
    """
    if not label.any():
        return {"auroc": float("nan"), "auprc": float("nan")}
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision  # slow to import

    # torchmetrics squeezes scores outside [0, 1] by a sigmoid, which would make ties; ranks keep the order exactly
    _, rank = score.double().unique(return_inverse=True)
    scaled = rank.double() / max(int(rank.max()), 1)
    return {
        "auroc": float("nan") if label.all() else float(binary_auroc(scaled, label.long())),
        "auprc": float(binary_average_precision(scaled, label.long())),
    }


def step_scores(
    starts: torch.Tensor, scores: torch.Tensor, counted: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of steps from those of windows, the mean where windows overlap.

    Args:
        starts: Step that each window begins with, int64 (N,).
        scores: (N, seq_len).
        counted: 1 where a window's score of a step counts, (N, seq_len); all by default.

    Returns:
        The steps that any window scores, int64 (M,), in order, and their scores, float64 (M,), both on the CPU.
    """
    starts, scores = starts.cpu(), scores.cpu().double()
    steps, flat = (starts[:, None] + torch.arange(scores.shape[1])).flatten(), scores.flatten()
    if counted is not None:
        chosen = counted.cpu().flatten() > 0
        steps, flat = steps[chosen], flat[chosen]
    covered, place = steps.unique(return_inverse=True)
    total = torch.zeros(len(covered), dtype=torch.float64).index_add_(0, place, flat)
    return covered, total / torch.bincount(place)


def quantile(values: torch.Tensor, q: float) -> float:
    """The value below which a share `q` of values (N,) lies, with linear interpolation between two of them.

    torch's own takes 2**24 values at most.
    """
    ordered = values.double().sort().values
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
