"""From anomaly scores to alarms: the threshold of a detector, where it is kept, and what is flagged by it."""

import json
from pathlib import Path

import numpy as np

from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.series.range_metrics import stretches_of_flags

__all__ = ["CALIBRATION", "alarms", "choose_threshold", "flagged", "read_threshold", "write_threshold"]

CALIBRATION = "calibration.json"
"""The file of a run's folder that holds a detector's threshold, or a forecaster's intervals."""


def write_threshold(folder: Path, quantile: float, value: float) -> None:
    """Write the threshold of a detector into its run's folder.

    Args:
        folder: The run's.
        quantile: Which quantile of the validation scores it is.
        value: The threshold, in units of the scores.
    """
    content = {"threshold": {"val_quantile": quantile, "value": value}}
    write_text(folder / CALIBRATION, json.dumps(content, indent=2) + "\n")


def read_threshold(name: str) -> float | None:
    """The threshold in a run's folder, if the name is such a folder and it has one.

    Raises:
        ValueError: The file is something else.
    """
    file = Path(name.removeprefix("local-dir:")) / CALIBRATION
    if not file.is_file():
        return None
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["threshold"]["value"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} holds no threshold: {type(error).__name__}: {error}") from error


def choose_threshold(
    scores: np.ndarray, name: str, threshold: float | None = None, anomaly_ratio: float | None = None
) -> tuple[np.ndarray, str]:
    """The threshold of each column of scores, and where it comes from.

    Args:
        scores: (rows, columns), NaN where there is none.
        name: The model's, perhaps a run's folder with a calibrated threshold.
        threshold: One that the user gives.
        anomaly_ratio: Or the per cent of the rows with the largest scores to flag.

    Returns:
        (columns,), and words for people; NaN and "" if nothing says what the threshold is.

    Raises:
        ValueError: Both are given, or one is out of its range.
    """
    if threshold is not None and anomaly_ratio is not None:
        raise ValueError(f"--threshold {threshold:g} and --anomaly-ratio {anomaly_ratio:g}: give one of them")
    columns = scores.shape[1]
    if threshold is not None:
        if not np.isfinite(threshold):
            raise ValueError(f"--threshold {threshold} must be a finite number")
        return np.full(columns, threshold), "as given"
    if anomaly_ratio is not None:
        if not 0 < anomaly_ratio < 100:
            raise ValueError(f"--anomaly-ratio {anomaly_ratio:g} must be between 0 and 100 per cent")
        return np.nanquantile(scores, 1 - anomaly_ratio / 100, axis=0), f"{anomaly_ratio:g} % of these rows"
    kept = read_threshold(name)
    if kept is None:
        return np.full(columns, np.nan), ""
    return np.full(columns, kept), "from the run's validation part"


def alarms(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last row of each stretch of flagged rows."""
    return [(int(start), int(end) - 1) for start, end in stretches_of_flags(flags)]


def flagged(names: list[str], scores: np.ndarray, limits: np.ndarray, source: str) -> tuple[list[str], np.ndarray, str]:
    """Scores with their thresholds and flags beside them.

    Args:
        names: Of the columns of scores, each with "score" at its beginning.
        scores: (rows, columns), NaN where there is none, which is never flagged.
        limits: See `choose_threshold`.
        source: See `choose_threshold`.

    Returns:
        Names and columns with `threshold` and `flag` (0 or 1) behind each score, unless there is no threshold; and what
        was found, in one line.
    """
    if not source:
        return names, scores, "no threshold: --threshold, --anomaly-ratio or blockzoo series calibrate RUN gives one"
    flags = scores > limits
    parts, told = [], []
    for i, name in enumerate(names):
        parts += [scores[:, i], np.full(len(scores), limits[i]), np.where(np.isnan(scores[:, i]), np.nan, flags[:, i])]
        found = alarms(flags[:, i])
        told.append(f"{name} above {limits[i]:.6g} ({source}): {flags[:, i].sum()} steps in {len(found)} stretches")
    whole = [name.replace("score", kind, 1) for name in names for kind in ("score", "threshold", "flag")]
    return whole, np.stack(parts, 1), "; ".join(told)
