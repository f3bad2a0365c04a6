"""Evaluation of a model on the data set of a checkpoint's card, by the evaluator of a room."""

from typing import Any

from blockzoo.tasks.core import rooms

__all__ = ["measure"]


def measure(model: Any, name: str, dataset: str) -> tuple[float, list[tuple[str, str]]]:
    """Measure the metric of the model `name` on packaged data, and make sections (heading, HTML) about it.

    Raises:
        ValueError: No room evaluates on this data set.
    """
    evaluators = rooms.declared("evaluators")
    place = evaluators.get(name, evaluators.get(dataset))
    if place is None:
        raise ValueError(f"{name}: nothing evaluates on {dataset!r}; the data sets are {', '.join(evaluators)}")
    found: tuple[float, list[tuple[str, str]]] = rooms.load(place)(model)
    return found
