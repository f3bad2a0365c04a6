"""TimesNet against the plain formulation: the suite `timesnet` of `blockzoo bench`.

Whole models at the ETTh1, Weather and JapaneseVowels configurations are measured against the plain formulation
(`blockzoo.tasks.series.plain`), on the same weights and inputs, in one process and turn by turn, after their outputs
were compared. Inputs are sums of daily and other cycles plus noise.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import blockzoo
from blockzoo.tasks.core.output import parse_model_args
from blockzoo.tasks.core.suites import Rows, Suite, deployed_copy
from blockzoo.tasks.core.timing import interleaved, operations, timed_rows
from blockzoo.tasks.series.plain import PlainPeriodBlock

__all__ = ["CASES", "SUITES", "measure"]

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ETTh1": ("timesnet_forecast", 32, {}),
    "Weather": ("timesnet_forecast", 32, {"in_chans": 21, "d_model": 32, "d_ff": 32, "time_freq": "t"}),
    "JapaneseVowels": ("timesnet_classifier", 16, {}),
}
"""Model, batch and arguments by data set."""


def _inputs(model: Any, batch: int, device: str) -> dict[str, torch.Tensor]:
    """Example inputs whose series hold several cycles of different strength."""
    inputs = model.example_inputs(batch, torch.Generator().manual_seed(0))
    steps = torch.arange(model.seq_len, dtype=torch.float32)
    for strength, cycle in ((1.6, 24.0), (1.3, 12.0), (1.1, 8.0), (0.9, 48.0)):
        inputs["x"] = inputs["x"] + strength * torch.sin(2 * math.pi * steps / cycle)[:, None]
    return {key: value.to(device) for key, value in inputs.items()}


def _plain(name: str, model: Any, kwargs: dict[str, Any], device: str) -> Any:
    """A copy of a TimesNet with plain blocks on the same weights."""
    plain = blockzoo.create_model(name, **kwargs).to(device)
    plain.load_state_dict(model.state_dict())
    plain.blocks = torch.nn.ModuleList(PlainPeriodBlock(block) for block in plain.blocks)
    return plain.eval()


def _training(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        model(**inputs).square().mean().backward()

    return step


def measure(name: str, batch: int, kwargs: dict[str, Any], runs: int, compiled: bool, device: str = "cpu") -> Rows:
    """Rows of a model's variants, in both phases."""
    torch.manual_seed(0)
    model = blockzoo.create_model(name, **kwargs).to(device).eval()
    inputs = _inputs(model, batch, device)
    deployed = deployed_copy(model, name, **kwargs).to(device)
    variants = {"plain": _plain(name, model, kwargs, device), "as built": model, "deployed": deployed}
    if compiled:
        variants["compiled"] = torch.compile(model)
    with torch.no_grad():
        outputs = {key: variant(**inputs) for key, variant in variants.items()}
        for key, output in outputs.items():
            torch.testing.assert_close(output, outputs["as built"], rtol=1e-3, atol=1e-4, msg=f"{key} differs")
        calls: dict[str, Any] = {key: partial(variant, **inputs) for key, variant in variants.items()}
        about = {"batch": batch, "phase": "forward"}
        rows = timed_rows(about, interleaved(calls, runs, device), counts=operations(calls))
    trained = {key: _training(variants[key].train(), inputs) for key in ("plain", "as built")}
    times = interleaved(trained, runs, device)
    return rows + timed_rows({**about, "phase": "training"}, times, counts=operations(trained))


def _suite(args: argparse.Namespace) -> Rows:
    extra = parse_model_args(args.arg)
    for case, (name, batch, kwargs) in CASES.items():
        found = measure(name, args.batch_size or batch, {**kwargs, **extra}, args.runs, args.compile, args.device)
        yield from ({"case": case, **row} for row in found)


SUITES = {
    "timesnet": Suite(
        "TimesNet as built and deployed against the plain formulation, forward and training",
        _suite,
        ("batch_size", "compile", "device", "model_args"),
    )
}
"""By name after `blockzoo bench`."""
