"""Metrics of anomaly detection that know of stretches: a detection a little early or late still counts for something.

Plain scores of steps punish a detector that fires one step beside an anomaly as much as one that never fires, and
`point_adjust` rewards one lucky step as much as the whole stretch. These stand between:

- `volume_scores`: Paparrizos et al., "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series
  Anomaly Detection" (2022): areas under ROC and precision-recall curves of scores, with labels that fade out around
  each anomaly, averaged over the width of the fading; no threshold.
- `affiliation_scores`: Huet, Navarro and Rossi, "Local Evaluation of Time Series Anomaly Detection Algorithms" (2022):
  how near detections and anomalies are to each other, against chance in the anomaly's surroundings.
- `range_scores`: Tatbul et al., "Precision and Recall for Time Series" (2018): overlap of stretches.
"""

import numpy as np
import torch

__all__ = ["affiliation_scores", "range_scores", "stretches", "stretches_of_flags", "volume_scores"]


def stretches_of_flags(flags: np.ndarray) -> np.ndarray:
    """First and one-past-last step of each stretch of flagged steps, int64 (stretches, 2), in order."""
    return np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)


def stretches(flags: torch.Tensor) -> np.ndarray:
    """`stretches_of_flags` for a tensor."""
    return stretches_of_flags(flags.cpu().numpy())


def volume_scores(
    score: torch.Tensor, label: torch.Tensor, window: int = 100, thresholds: int = 250
) -> dict[str, float]:
    """Volumes under the ROC and the precision-recall surface, `vus_roc` and `vus_pr`, of scores (steps,).

    For each width w from 0 to `window`, labels fade out over w // 2 steps on both sides of an anomaly, as the square
    root of 1 - distance / w; a true positive counts as much as its label; recall is multiplied by the share of
    (faded, merged) anomalies that are hit at all. The volume is the mean area over the widths. Areas are taken at
    `thresholds` ranks of the scores, as in the authors' code.

    Args:
        score: The larger, the more anomalous, (steps,).
        label: Whether a step is anomalous, bool (steps,).
        window: The largest width, in steps; the authors take the period of the series.
        thresholds: Points of each curve.

    Returns:
        Both volumes; NaN unless there are both anomalous and other steps.

    Raises:
        ValueError: Shapes differ, a size is out of range, or a score is NaN.
    """
    if window < 0 or thresholds < 2:
        raise ValueError(f"window={window} must be at least 0 and thresholds={thresholds} at least 2")
    if score.shape != label.shape or score.ndim != 1:
        raise ValueError(f"score {tuple(score.shape)} and label {tuple(label.shape)} must both be (steps,)")
    if not bool(label.any()) or bool(label.all()):
        return {"vus_roc": float("nan"), "vus_pr": float("nan")}
    values = score.detach().cpu().double().numpy()
    if np.isnan(values).any():
        raise ValueError(f"score is NaN at step {int(np.isnan(values).argmax())}")
    real = label.cpu().numpy().astype(bool)
    events, count = stretches(label), len(values)
    order = np.argsort(-values, kind="stable")
    levels = values[order][np.linspace(0, count - 1, thresholds).astype(int)]
    found = np.searchsorted(-values[order], -levels, side="right")  # steps with a score of at least the level
    outside = ~real[order]
    areas = np.zeros((window + 1, 2))
    for width in range(window + 1):
        faded = _faded(real, events, width)[order]
        hits = np.concatenate([[0.0], np.cumsum(faded)])[found]
        beside = np.concatenate([[0.0], np.cumsum(faded * outside)])[found]
        zones = _merged(events, width // 2, count)
        highest = np.sort([-values[start:end].max() for start, end in zones])
        existence = np.searchsorted(highest, -levels, side="right") / len(zones)
        positives = real.sum() + beside / 2  # the mean of the true labels and of those reached by detections
        recall = np.minimum(hits / positives, 1) * existence
        false = (found - hits) / (count - positives)
        x, y = np.concatenate([[0], false, [1]]), np.concatenate([[0], recall, [1]])
        areas[width, 0] = (np.diff(x) * (y[1:] + y[:-1]) / 2).sum()
        areas[width, 1] = (np.diff(y[:-1]) * hits / found).sum()
    roc, pr = areas.mean(0)
    return {"vus_roc": float(roc), "vus_pr": float(pr)}


def _faded(real: np.ndarray, events: np.ndarray, width: int) -> np.ndarray:
    """Labels that fade out beside the anomalies, float64 (steps,); where two fade, they add up to at most 1."""
    labels = real.astype(np.float64)
    reach = np.arange(1, width // 2 + 1)
    if not len(reach):
        return labels
    weight = np.sqrt(1 - reach / width)
    for start, end in events:
        before, after = start - reach, end - 1 + reach
        labels[before[before >= 0]] += weight[before >= 0]
        labels[after[after < len(labels)]] += weight[after < len(labels)]
    return np.minimum(labels, 1)


def _merged(events: np.ndarray, reach: int, count: int) -> list[tuple[int, int]]:
    """Stretches widened by `reach` on both sides, those that touch made one."""
    zones: list[tuple[int, int]] = []
    for start, end in events.tolist():
        first, last = max(start - reach, 0), min(end + reach, count)
        if zones and first < zones[-1][1]:
            zones[-1] = (zones[-1][0], last)
        else:
            zones.append((first, last))
    return zones


def affiliation_scores(predicted: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Affiliation precision, recall and F1 of detected steps, as `affiliation_precision` and so on.

    Each anomaly owns the steps that are nearer to it than to any other. There, precision is the mean over detected
    time of the chance that a random moment of the zone is at least as far from the anomaly; recall is the mean over
    the anomaly of the chance that a random moment is at least as far from it as the nearest detection. 0.5 is about
    chance. Precision is averaged over the anomalies with a detection, recall over all.

    Args:
        predicted: Whether a step is detected, bool (steps,).
        label: Whether it is anomalous, bool (steps,).

    Returns:
        The three; all NaN where no step is anomalous, precision NaN and F1 0 where none is detected.
    """
    names = ("affiliation_precision", "affiliation_recall", "affiliation_f1")
    if predicted.shape != label.shape or label.ndim != 1:
        raise ValueError(f"predicted {tuple(predicted.shape)} and label {tuple(label.shape)} must both be (steps,)")
    events, found = (stretches(flags).astype(np.float64) for flags in (label, predicted))
    if not len(events):
        return dict.fromkeys(names, float("nan"))
    borders = np.concatenate([[0.0], (events[:-1, 1] + events[1:, 0]) / 2, [float(len(label))]])
    precisions, recalls = [], []
    for event, first, last in zip(events, borders[:-1], borders[1:], strict=True):
        inside = found[np.searchsorted(found[:, 1], first, side="right") : np.searchsorted(found[:, 0], last)]
        inside = inside.clip(first, last)
        if len(inside):
            precisions.append(_zone_precision(inside, event, first, last))
            recalls.append(_zone_recall(inside, event, first, last))
        else:
            recalls.append(0.0)
    precision = float(np.mean(precisions)) if precisions else float("nan")
    recall = float(np.mean(recalls))
    f1 = 2 * precision * recall / (precision + recall) if precisions and precision + recall > 0 else 0.0
    return dict(zip(names, (precision, recall, f1), strict=True))


def _zone_precision(found: np.ndarray, event: np.ndarray, first: float, last: float) -> float:
    """Mean over detections (N, 2) within a zone of the chance to be at least as far from the anomaly."""
    start, end = event
    near = min(start - first, last - end)

    def within(distance: np.ndarray) -> np.ndarray:
        """Integral from 0 to a distance of the length of the zone that is not farther than that from the anomaly."""
        short = np.minimum(distance, near)
        return (end - start) * distance + distance**2 / 2 + short**2 / 2 + near * (distance - short)

    hit = (np.minimum(found[:, 1], end) - np.maximum(found[:, 0], start)).clip(0).sum()
    total = (found[:, 1] - found[:, 0]).sum()
    left, right = (start - found).clip(0), (found - end).clip(0)  # distances of both borders, 0 from the anomaly on
    missed = within(left[:, 0]) - within(left[:, 1]) + within(right[:, 1]) - within(right[:, 0])
    beside = (left[:, 0] - left[:, 1] + right[:, 1] - right[:, 0]).sum()
    return float((hit + beside - missed.sum() / (last - first)) / total)


def _zone_recall(found: np.ndarray, event: np.ndarray, first: float, last: float) -> float:
    """Mean over an anomaly of the chance to be at least as far from it as the nearest detection (N, 2) is."""
    start, end = event
    middles = (found[:-1, 1] + found[1:, 0]) / 2
    points = np.concatenate([found.ravel(), middles])
    # the chance is linear between these: borders of detections, middles between them, and where a circle around a
    # moment that reaches a detection begins to leave the zone
    edges = np.concatenate([points, (points[: 2 * len(found)] + first) / 2, (points[: 2 * len(found)] + last) / 2])
    cuts = np.unique(np.concatenate([[start, end], edges.clip(start, end)]))
    place = np.searchsorted(found[:, 0], cuts, side="right")
    before = np.where(place > 0, cuts - found[np.maximum(place - 1, 0), 1], np.inf).clip(0)
    after = np.where(place < len(found), found[np.minimum(place, len(found) - 1), 0] - cuts, np.inf)
    distance = np.minimum(before, after)
    closer = np.minimum(distance, cuts - first) + np.minimum(distance, last - cuts)
    chance = 1 - closer / (last - first)
    return float((np.diff(cuts) * (chance[1:] + chance[:-1]) / 2).sum() / (end - start))


def range_scores(predicted: torch.Tensor, label: torch.Tensor, alpha: float = 0.2) -> dict[str, float]:
    """Range-based precision, recall and F1 of detected steps, as `range_precision` and so on.

    The recall of an anomaly is `alpha` for being hit at all and 1 - `alpha` times the share of its steps that are
    detected, over the number of detected stretches that it takes; precision is the same with the roles exchanged and
    without the first part. Both are means over stretches; all positions in a stretch weigh the same.

    Args:
        predicted: Whether a step is detected, bool (steps,).
        label: Whether it is anomalous, bool (steps,).
        alpha: Reward for existence, from 0 to 1.

    Returns:
        The three; 0 where nothing is detected or anomalous.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must be from 0 to 1")
    if predicted.shape != label.shape or label.ndim != 1:
        raise ValueError(f"predicted {tuple(predicted.shape)} and label {tuple(label.shape)} must both be (steps,)")
    recall, precision = _overlap(label, predicted, alpha), _overlap(predicted, label, 0.0)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return {"range_precision": precision, "range_recall": recall, "range_f1": f1}


def _overlap(flags: torch.Tensor, others: torch.Tensor, alpha: float) -> float:
    """Mean reward of the stretches of `flags` for their overlap with those of `others`."""
    own, other = stretches(flags), stretches(others)
    if not len(own):
        return 0.0
    covered = np.concatenate([[0], np.cumsum(others.cpu().numpy().astype(np.int64))])
    share = (covered[own[:, 1]] - covered[own[:, 0]]) / (own[:, 1] - own[:, 0])
    parts = np.searchsorted(other[:, 0], own[:, 1]) - np.searchsorted(other[:, 1], own[:, 0], side="right")
    reward = alpha * (share > 0) + (1 - alpha) * share / np.maximum(parts, 1)
    return float(reward.mean())
