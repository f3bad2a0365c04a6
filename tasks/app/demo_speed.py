"""The demo's part on speed: a small model of each family against the original, on this machine, in seconds.

`blockzoo bench` measures the same at more and larger sizes, longer, and in training too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

import blockzoo
from blockzoo.layers.equivariant.neighbors import neighbor_list
from blockzoo.tasks.core.timing import interleaved
from blockzoo.tasks.fields.bench import make_models
from blockzoo.tasks.molecules.plain import plain_energy_forces
from blockzoo.tasks.series.plain import PlainPeriodBlock
from blockzoo.tasks.video.bench import PlainP3D

__all__ = ["CASES", "Case", "Speed", "measure_speed"]

SECONDS = 2.0
"""For the timed runs of a family, of which there are from 3 to 9."""


@dataclass
class Case:
    """Two ways to compute something.

    Attributes:
        what: Model and input.
        reference: What the original is.
        theirs: The original.
        ours: As `theirs`.
        same: Whether both compute the same function, on the same weights.
    """

    what: str
    reference: str
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    same: bool = True


@dataclass
class Speed:
    """Milliseconds of the fastest of some runs of each, which other work on the machine disturbs least."""

    case: Case
    theirs: float
    ours: float
    runs: int

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.theirs / self.ours


def measure_speed(family: str) -> Speed:
    """Time the case of a family, the two ways turn by turn, after comparing their outputs.

    Raises:
        RuntimeError: The outputs differ.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        case = CASES[family]()
        theirs, ours = case.theirs(), case.ours()
        if case.same and float((ours - theirs).abs().max()) > 1e-2 * float(theirs.std()):
            raise RuntimeError(f"{case.what}: the outputs of {case.reference} and of ours differ")
        functions = {"theirs": case.theirs, "ours": case.ours}
        once = sum(sum(times) for times in interleaved(functions, 1).values()) / 1000
        runs = int(min(9, max(3, SECONDS // once)))
        times = interleaved(functions, runs)
    return Speed(case, min(times["theirs"]), min(times["ours"]), runs)


def _deployed(model: Any, name: str, **kwargs: Any) -> Any:
    deployed = blockzoo.create_model(name, **kwargs)
    deployed.load_state_dict(model.state_dict())
    return deployed.deploy()


def _timesnet() -> Case:
    name = "timesnet_forecast"
    model = blockzoo.create_model(name).eval()
    inputs = model.example_inputs(4, torch.Generator().manual_seed(0))
    for cycle in (24, 12, 8):
        inputs["x"] += torch.sin(2 * torch.pi * torch.arange(model.seq_len) / cycle)[:, None]
    deployed = _deployed(model, name)
    model.blocks = nn.ModuleList(PlainPeriodBlock(block) for block in model.blocks)
    what = f"{name}, 4 series of {model.seq_len} steps"
    return Case(what, "the plain formulation", partial(model, **inputs), partial(deployed, **inputs))


def _against_timm(what: str, theirs: Any, ours: Any, size: int) -> Case:
    theirs.eval()
    ours.load_state_dict(blockzoo.convert_state_dict(ours, theirs.state_dict()))
    x = torch.randn(1, 3, size, size)
    return Case(f"{what}, one image of {size} px", "timm", partial(theirs, x), partial(ours.deploy(), x))


def _nextvit() -> Case:
    name = "nextvit_small"
    return _against_timm(name, timm.create_model(name), blockzoo.create_model(name), 160)


def _nasnet() -> Case:
    theirs = timm.create_model("nasnetalarge", stem_size=32, num_features=1056)
    ours = blockzoo.create_model("nasnetalarge", stem_chans=32, width=44)
    return _against_timm("nasnetalarge with cells of 44 channels", theirs, ours, 160)


def _emov2() -> Case:
    name, x = "emov2_1m", torch.randn(1, 3, 224, 224)
    model = blockzoo.create_model(name).eval()
    deployed = partial(_deployed(model, name), x)
    return Case(f"{name}, one image of 224 px", "ours before merging, as published", partial(model, x), deployed)


def _p3d() -> Case:
    name, x = "p3d63", torch.randn(1, 3, 8, 80, 80)
    model = blockzoo.create_model(name).eval()
    plain = PlainP3D(model).eval()
    deployed = partial(_deployed(model, name), x)
    return Case(f"{name}, a clip of 8 frames of 80 px", "plain 3-D convolutions", partial(plain, x), deployed)


def _fno() -> Case:
    models = make_models(16, 32, {})
    x = torch.randn(2, 1, 64, 64)
    known = {"neuraloperator": "neuraloperator", "plain": "the plain formulation"}
    base = next(name for name in known if name in models)
    what = "fno2d, width 32, 16 modes, 2 fields of 64 x 64 points"
    return Case(what, known[base], partial(models[base], x), partial(models["blockzoo"], x))


def _tdn() -> Case:
    sizes: dict[str, Any] = {"l_max": 1, "hidden_channels": 128, "depth": 3}
    model = blockzoo.create_model("tdn", **sizes, product="cp", extensive=False).eval()
    inputs = model.example_inputs(1, torch.Generator().manual_seed(0))
    positions, numbers = inputs["positions"], inputs["atomic_numbers"]
    edges, _ = neighbor_list(positions, model.cutoff)

    def plain() -> torch.Tensor:
        with torch.enable_grad():
            return plain_energy_forces(model, positions, numbers, edges)[1].detach()

    def ours() -> torch.Tensor:
        return model(positions, numbers, edge_index=edges)["forces"].detach()

    what = f"tdn, l_max 1, 128 channels, 3 blocks, forces on {len(positions)} atoms"
    return Case(what, "the published formulation", plain, ours)


def _raptor() -> Case:
    teacher = timm.create_model("vit_small_patch16_224").eval()
    ours = blockzoo.create_model("raptor", teacher="vit_small_patch16_224", blocks=2, mlp="gelu").deploy()
    x = torch.randn(1, 3, 224, 224)
    what = "raptor, 2 blocks for vit_small_patch16_224, one image of 224 px"
    return Case(what, "its teacher in timm", partial(teacher, x), partial(ours, x), same=False)


CASES: dict[str, Callable[[], Case]] = {
    "emov2": _emov2,
    "fno": _fno,
    "nasnet": _nasnet,
    "nextvit": _nextvit,
    "p3d": _p3d,
    "raptor": _raptor,
    "tdn": _tdn,
    "timesnet": _timesnet,
}
"""By family."""
