"""Comparison of Raptor with its teacher, for `blockzoo bench raptor`."""

import argparse
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

import blockzoo
from blockzoo.tasks.core.suites import Rows, Suite, batches
from blockzoo.tasks.core.timing import interleaved, operations, timed_rows

__all__ = ["SUITES", "TEACHERS", "measure"]

TEACHERS = ("vit_small_patch16_224", "vit_base_patch14_reg4_dinov2")
MLPS = {"gelu": ("gelu", 4.0), "swiglu 8/3": ("swiglu", 8 / 3), "swiglu 4": ("swiglu", 4.0)}
"""The first two cost as many multiplications as the teacher, the published third 1.31 times as many."""


@torch.no_grad()
def measure(teacher: str, batch: int, runs: int, compiled: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Compare and time a teacher and its Raptors: one row for each."""
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 224, 224, device=device)
    variants: dict[str, nn.Module] = {"teacher": timm.create_model(teacher, img_size=224).to(device).eval()}
    for name, (mlp, ratio) in MLPS.items():
        args: dict[str, Any] = {"teacher": teacher, "blocks": 2, "img_size": 224, "mlp": mlp, "mlp_ratio": ratio}
        model = blockzoo.create_model("raptor", **args).to(device).eval()
        expected = model(x)
        if name == "gelu":
            built = blockzoo.create_model("raptor", **args).to(device).eval()
            built.load_state_dict(model.state_dict())
            variants["gelu, as built"] = built
        variants[f"{name}, deployed"] = model.deploy()
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-3 * float(expected.std()) + 1e-6)
    if compiled:
        pair = ("teacher", "gelu, deployed")
        variants |= {f"{name}, compiled": torch.compile(variants[name]) for name in pair}  # type: ignore[misc]
    calls = {name: partial(model, x) for name, model in variants.items()}
    about = {"teacher": teacher, "batch": batch}
    return timed_rows(about, interleaved(calls, runs, device), counts=operations(calls))


def _suite(args: argparse.Namespace) -> Rows:
    for teacher in TEACHERS:
        for batch in batches(args, 8, 64):
            yield from measure(teacher, batch, args.runs, args.compile, args.device)


SUITES = {"raptor": Suite("Raptors against their teachers in timm", _suite)}
"""By name after `blockzoo bench`."""
