"""Image models against timm's, and the modes of `ConvNormAct`: the suites `nextvit`, `nasnet`, `emov2`, `conv_norm`."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

import blockzoo
from blockzoo.layers.conv.conv_norm_act import ConvNormAct, set_conv_norm_mode
from blockzoo.tasks.core.memory import peak_bytes_apart
from blockzoo.tasks.core.suites import Rows, Suite, batches
from blockzoo.tasks.core.timing import interleaved, operations, timed_rows

__all__ = ["MODELS", "SUITES", "forward_rows", "saved_bytes"]

MODELS: dict[str, list[tuple[str, int, bool]]] = {
    "nextvit": [("nextvit_small", 224, True)],
    "nasnet": [("nasnetalarge", 331, True), ("nasnetamobile", 224, False)],
    "emov2": [("emov2_1m", 224, False), ("emov2_5m", 224, False)],
}
"""Models, pixels, and whether timm has the model."""


def _variants(name: str, in_timm: bool, compiled: bool, device: str) -> dict[str, nn.Module]:
    model = blockzoo.create_model(name).to(device).eval()
    deployed = blockzoo.create_model(name).to(device).eval()
    variants: dict[str, nn.Module] = {}
    if in_timm:
        variants["timm"] = timm.create_model(name).to(device).eval()
        model.load_state_dict(blockzoo.convert_state_dict(model, variants["timm"].state_dict()))
    deployed.load_state_dict(model.state_dict())
    variants |= {"as built": model, "deployed": deployed.deploy()}
    if compiled:
        of_timm = {"timm, compiled": torch.compile(variants["timm"])} if in_timm else {}
        variants |= {**of_timm, "deployed, compiled": torch.compile(deployed)}  # type: ignore[dict-item]
    return variants


@torch.no_grad()
def forward_rows(
    name: str, size: int, in_timm: bool, batch: int, runs: int, compiled: bool, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Compare and time the variants of a model: one row for each."""
    torch.manual_seed(0)
    variants = _variants(name, in_timm, compiled, device)
    x = torch.randn(batch, 3, size, size, device=device)
    outputs = {key: variant(x) for key, variant in variants.items()}
    scale = float(outputs["as built"].std())
    for key, output in outputs.items():
        torch.testing.assert_close(output, outputs["as built"], rtol=0, atol=1e-3 * scale + 1e-6, msg=f"{key} differs")
    calls = {key: partial(variant, x) for key, variant in variants.items()}
    about = {"model": f"{name}, {size} px", "batch": batch}
    return timed_rows(about, interleaved(calls, runs, device), counts=operations(calls))


def saved_bytes(function: Callable[[], Any], ignore: list[torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage counted once, without those of `ignore`."""
    kept: dict[int, int] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in ignore}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(kept.values())


def p3d_like(chans: int = 64, depth: int = 8) -> nn.Module:
    """Spatial and temporal 3-D convolutions in turn, as P3D stacks them."""
    layers = [ConvNormAct(3, chans, (1, 7, 7), (1, 2, 2), dims=3)]
    for i in range(depth):
        layers.append(ConvNormAct(chans, chans, (3, 1, 1) if i % 2 else (1, 3, 3), dims=3))
    return nn.Sequential(*layers)


def _training(stack: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    if stack == "nasnetalarge":
        return blockzoo.create_model(stack), torch.randn(batch, 3, 224, 224)
    return p3d_like(), torch.randn(batch, 3, 8, 112, 112)


def _step(model: nn.Module, x: torch.Tensor) -> None:
    model.zero_grad()
    model(x).square().mean().backward()


def prepare_step(stack: str, batch: int, mode: Any) -> Callable[[], None]:
    """A training step of a stack in a mode, for `peak_bytes_apart`."""
    model, x = _training(stack, batch)
    set_conv_norm_mode(model.train(), mode)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # as in every step but the first
    return partial(_step, model, x)


def _modes(stack: str, batch: int, runs: int) -> list[dict[str, Any]]:
    model, x = _training(stack, batch)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    rows = []
    for mode in ("train", "eval", "tune"):
        model.load_state_dict(state)
        set_conv_norm_mode(model.train(), mode)  # type: ignore[arg-type]
        _step(model, x)
        kept = saved_bytes(partial(model, x), [x, *model.parameters(), *model.buffers()])
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            _step(model, x)
            times.append(1e3 * (time.perf_counter() - start))
        peak = peak_bytes_apart(prepare_step, stack, batch, mode)
        found = {"kept MB": kept / 1e6, "peak MB": peak / 1e6, "step ms": statistics.median(times)}
        rows.append({"model": f"{stack}, {' x '.join(map(str, (batch, *x.shape[2:])))}", "mode": mode, **found})
    return rows


def _conv_norm(args: argparse.Namespace) -> Rows:
    for stack, batch in (("nasnetalarge", 1), ("nasnetalarge", 4), ("P3D-like stack", 2)):
        yield from _modes(stack, batch, min(args.runs, 3))


def _family(family: str) -> Callable[[argparse.Namespace], Rows]:
    def rows(args: argparse.Namespace) -> Rows:
        for name, size, in_timm in MODELS[family]:
            runs = min(args.runs, 5) if name == "nasnetalarge" else args.runs
            for batch in batches(args, 8, 64):
                yield from forward_rows(name, size, in_timm, batch, runs, args.compile, args.device)

    return rows


SUITES = {
    "nextvit": Suite("Next-ViT as built and deployed, against timm's", _family("nextvit")),
    "nasnet": Suite("NASNet as built and deployed, the large one against timm's", _family("nasnet")),
    "emov2": Suite("EMOv2 as built and deployed", _family("emov2")),
    "conv_norm": Suite(
        "memory and time of training with batch norms in the modes train, eval and tune", _conv_norm, (), summary=None
    ),
}
"""By name after `blockzoo bench`."""
