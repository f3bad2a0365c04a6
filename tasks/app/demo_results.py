"""Results of `blockzoo demo`, in the form that its page shows."""

from dataclasses import dataclass, field

from blockzoo.checkpoints import Artifact
from blockzoo.tasks.app.demo_families import Family
from blockzoo.tasks.app.demo_speed import Speed

__all__ = ["Chapter", "Result"]

TOLERANCE = 1e-6
"""How far a measured metric may be from the card's, unless the manifest gives the metric a `tolerance` of its own."""


@dataclass
class Result:
    """The demo's result for one checkpoint; `sections` are pairs of heading and HTML."""

    artifact: Artifact
    measured: float
    seconds: float
    sections: list[tuple[str, str]] = field(default_factory=list)

    @property
    def claimed(self) -> float:
        """The metric on the card; if only a sample of the data is packaged, the metric on that sample."""
        metric = self.artifact.metric
        return float(metric.get("sample", metric["value"]))

    @property
    def data(self) -> str:
        """The data of the evaluation."""
        metric = self.artifact.metric
        return f"{metric['dataset']} {metric['split']}{' (packaged sample)' if 'sample' in metric else ''}"

    @property
    def agrees(self) -> bool:
        """Whether the card's claim holds."""
        return abs(self.measured - self.claimed) <= self.artifact.metric.get("tolerance", TOLERANCE)


@dataclass
class Chapter:
    """The page's chapter about a family."""

    family: Family
    results: list[Result]
    speed: Speed | None
