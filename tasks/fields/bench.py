"""Fourier neural operators against the plain formulation and neuraloperator: `blockzoo bench fno` and `multigrid`.

`fno` times the spectral layer and the whole model, forward and training step, and measures the memory of each at its
peak. The plain formulation is "rfftn, einsum with complex weights, irfftn" on fields with channels first, written here;
neuraloperator's own code is measured too where it is installed. All variants have the same weights, their outputs are
compared first, and they run turn by turn in one process; memory is that of a fresh process for each. With `--compile`
our whole model is also timed under `torch.compile`.

`multigrid` measures a training step on one field of 1024 x 1024 points, whole and on 4 x 4 multi-grid patches.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

import blockzoo
from blockzoo.layers.spectral.factorized_tensor import Factorization
from blockzoo.layers.spectral.field_ops import PointwiseMLP
from blockzoo.layers.spectral.spectral_conv import Implementation, SpectralConv, SpectralWeight
from blockzoo.tasks.core.output import parse_model_args
from blockzoo.tasks.core.suites import Suite
from blockzoo.tasks.core.timing import interleaved, timed_rows

__all__ = [
    "MODELS",
    "SUITES",
    "TABLES",
    "PlainFNO",
    "compared_rows",
    "compiled",
    "make_models",
    "plain_spectral_conv",
]

TABLES = ("layer", "model", "factors", "memory")
"""Of the suite `fno`."""

LAYERS = [(n, m) for n in (64, 128, 256, 512) for m in (8, 16, 32, 64)]
MODELS = [(64, 16), (128, 16), (128, 32), (256, 16), (256, 32)]
RANKS, FACTORS, BATCHES = (0.05, 0.2), [(16, 16), (16, 32), (32, 24)], (1, 4, 32)
"""Shares of the dense weight's entries; modes and widths; and samples, for tables of factors."""
POINTS = 65536
"""Points of all samples of a batch together, as near as whole samples allow."""


def plain_spectral_conv(conv: SpectralConv, x: torch.Tensor) -> torch.Tensor:
    """The function of a layer with dense weights for 2-D fields (B, C, H, W), step by step with complex numbers."""
    assert conv.weight is not None and conv.bias is not None
    weight = torch.view_as_complex(conv.weight.tensor.tensor.permute(2, 3, 0, 1, 4).contiguous())
    rows, columns = weight.shape[2:]
    spectrum = torch.fft.fftshift(torch.fft.rfftn(x, dim=(2, 3), norm="forward"), dim=2)
    first = x.shape[2] // 2 - rows // 2
    kept = spectrum.new_zeros(len(x), weight.shape[1], *spectrum.shape[2:])
    kept[:, :, first : first + rows, :columns] = torch.einsum(
        "bixy,ioxy->boxy", spectrum[:, :, first : first + rows, :columns], weight
    )
    y = torch.fft.irfftn(torch.fft.ifftshift(kept, dim=2), s=x.shape[2:], dim=(2, 3), norm="forward")
    return y + conv.bias[:, None, None]


def _pointwise(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A linear map over channels as a convolution of width 1."""
    return F.conv1d(x.flatten(2), layer.weight[..., None], layer.bias).unflatten(2, x.shape[2:])


class PlainFNO(nn.Module):
    """A 2-D FNO with default options, layer by layer, on the weights of one of ours."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        axes = [torch.arange(n, device=x.device) / n for n in x.shape[2:]]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(x), 2, *x.shape[2:])
        x = self._mlp(self.model.lifting, torch.cat([x, grid], 1))
        last = self.model.blocks[-1]
        for block in self.model.blocks:
            skip, gate = _pointwise(block.fno_skip, x), block.mlp_skip.weight[:, None, None] * x
            x = plain_spectral_conv(block.spectral, x) + skip
            x = x if block is last else F.gelu(x)
            x = self._mlp(block.mlp, x) + gate
            x = x if block is last else F.gelu(x)
        return self._mlp(self.model.projection, x)

    @staticmethod
    def _mlp(mlp: Any, x: torch.Tensor) -> torch.Tensor:
        return _pointwise(mlp.layers[1], F.gelu(_pointwise(mlp.layers[0], x)))


def has_neuraloperator() -> bool:
    """Whether its package is there."""
    return importlib.util.find_spec("neuralop") is not None


def make_layers(modes: int, width: int, device: str = "cpu") -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The spectral layer in each formulation, on the same weights."""
    torch.manual_seed(0)
    ours = SpectralConv(width, width, (modes, modes), device=device)
    layers: dict[str, Any] = {"plain": partial(plain_spectral_conv, ours)}
    if has_neuraloperator():
        from neuralop.layers.spectral_convolution import SpectralConv as Theirs

        theirs = Theirs(width, width, (modes, modes)).to(device)
        assert ours.weight is not None and ours.bias is not None
        with torch.no_grad():
            theirs.weight.tensor.copy_(
                torch.view_as_complex(ours.weight.tensor.tensor.permute(2, 3, 0, 1, 4).contiguous())
            )
            theirs.bias.copy_(ours.bias[:, None, None])
        layers["neuraloperator"] = theirs
    layers["blockzoo"] = ours
    layers["blockzoo, channels last"] = ours.channels_last
    for backend in ("dft", "fft"):
        other = SpectralConv(width, width, (modes, modes), backend=backend, device=device)
        other.load_state_dict(ours.state_dict())
        layers[f"blockzoo, {backend}"] = other
    return layers


def make_models(modes: int, width: int, options: dict[str, Any], device: str = "cpu") -> dict[str, nn.Module]:
    """The whole model in each formulation, on the same weights."""
    torch.manual_seed(0)
    options = {"n_modes": (modes, modes), "hidden_channels": width, **options}
    ours = blockzoo.create_model("fno2d", **options).to(device)
    models: dict[str, nn.Module] = {}
    if not options.get("factorization"):
        models["plain"] = PlainFNO(ours)
    if has_neuraloperator():
        from neuralop.models import FNO, TFNO

        cls = TFNO if options.get("factorization") else FNO
        models["neuraloperator"] = cls(in_channels=1, out_channels=1, **options).to(device)
        ours.load_state_dict(blockzoo.convert_state_dict(ours, models["neuraloperator"].state_dict()))
    return {**models, "blockzoo": ours}


def _step(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    x.grad = None
    if isinstance(function, nn.Module):
        function.zero_grad()
    function(x).square().mean().backward()


def compiled(model: nn.Module) -> Any:
    """The model under `torch.compile`, for the shapes it is given; what was compiled before is forgotten."""
    torch.compiler.reset()
    return torch.compile(model, dynamic=False)


def _forward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return function(x)


class _Arithmetic:
    """The matrix products and GELUs of a model's pointwise maps, on a piece that stays in the cache, and nothing else.

    No formulation of the model can be faster than this and the spectral layers together.
    """

    def __init__(self, model: nn.Module, points: int, training: bool) -> None:
        self.piece, self.training = min(2048, points), training
        self.count = points // self.piece
        self.maps = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self.inputs = {m: torch.randn(self.piece, m.in_features) for m in self.maps}
        blocks: Any = model.blocks
        widths: list[int] = [
            cast(nn.Linear, m.layers[0]).out_features for m in model.modules() if isinstance(m, PointwiseMLP)
        ]
        widths += [blocks[0].spectral.out_chans] * (2 * len(blocks) - 2)
        self.acts = [torch.randn(self.piece, width) for width in widths]

    @torch.no_grad()
    def __call__(self) -> None:
        for _ in range(self.count):
            for linear in self.maps:
                x = self.inputs[linear]
                y = x @ linear.weight.T
                if self.training:
                    y @ linear.weight
                    y.T @ x
            for act in self.acts:
                F.gelu(act)
                if self.training:
                    torch.ops.aten.gelu_backward(act, act)


def _factor_step(weight: SpectralWeight, x: torch.Tensor, order: Implementation) -> torch.Tensor:
    x.grad = None
    weight.zero_grad()
    y = weight.mix(x, 0, [slice(None)] * 2, order)
    y.square().sum().backward()
    return y.detach()


def factor_rows(runs: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Time both ways to use factorised weights, and the way that "auto" chooses.

    The time is that of a training step of `SpectralWeight.mix`; the last number is the time of "auto" divided by that
    of the faster way.
    """
    rows = []
    forms: tuple[Factorization, ...] = ("tucker", "cp", "tt")
    for form, rank, (modes, width), batch in itertools.product(forms, RANKS, FACTORS, BATCHES):
        torch.manual_seed(0)
        weight = SpectralWeight(width, width, (modes, modes // 2 + 1), factorization=form, rank=rank, device=device)
        x = torch.randn(batch, 2, modes, modes // 2 + 1, width, device=device, requires_grad=True)
        orders: tuple[Implementation, ...] = ("reconstructed", "factorized", "auto")

        results = [_factor_step(weight, x, order) for order in orders]
        for y in results[1:]:
            torch.testing.assert_close(y, results[0], rtol=1e-3, atol=1e-4 * float(results[0].std()))
        times = interleaved({order: partial(_factor_step, weight, x, order) for order in orders}, runs, device)
        ms = {order: statistics.median(found) for order, found in times.items()}
        about = {"what": "factors", "form": form, "rank": rank, "modes": modes, "width": width, "batch": batch}
        rows.append({**about, **ms, "auto / faster": ms["auto"] / min(ms.values())})
    return rows


def compared_rows(
    what: str, variants: dict[str, Any], x: torch.Tensor, runs: int, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Compare outputs, time every variant, and give a row for each."""
    device = x.device.type
    last = x.movedim(1, -1).contiguous()
    inputs = {name: last if name.endswith("channels last") else x for name in variants}
    reference = _forward(variants["blockzoo"], x)
    for name, variant in variants.items():
        y = _forward(variant, inputs[name])
        y = y.movedim(-1, 1) if name.endswith("channels last") else y
        scale = float(reference.std())
        torch.testing.assert_close(y, reference, rtol=0, atol=1e-3 * scale, msg=f"{name} differs")
    times = {"forward": interleaved({k: partial(_forward, v, inputs[k]) for k, v in variants.items()}, runs, device)}
    if what == "layer":
        inputs = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    times["training"] = interleaved({k: partial(_step, v, inputs[k]) for k, v in variants.items()}, runs, device)
    if what == "model" and device == "cpu":
        for phase, found in times.items():
            least = _Arithmetic(variants["blockzoo"], x.shape[0] * x[0, 0].numel(), phase == "training")
            found |= interleaved({"arithmetic of the pointwise maps": least}, runs, device)
    base = next(name for name in ("neuraloperator", "plain", "blockzoo") if name in variants)
    return [row for phase, found in times.items()
            for row in timed_rows({"what": what, **about, "phase": phase}, found, base)]  # fmt: skip


def peak_megabytes(job: dict[str, Any]) -> float:
    """Memory at its peak of one pass in this process, above what it had before."""
    torch.set_num_threads(1)
    x = torch.randn(job["batch"], 1, job["n"], job["n"])
    if job["variant"].startswith("multigrid"):
        options: dict[str, Any] = {"levels": 2, "padding_fraction": 0.0625, "factorization": None}
        model = blockzoo.create_model(
            "mg_tfno2d", n_modes=(job["modes"],) * 2, hidden_channels=job["width"], **options, **job["options"]
        )
    else:
        model = make_models(job["modes"], job["width"], job["options"])[job["variant"]]
    function = _step if job["phase"] == "training" else _forward
    small = x[..., :64, :64]
    function(model, small)  # libraries load what they need
    before = _memory(reset=True)
    function(model, x)
    return (_memory() - before) / 1e6


def _memory(reset: bool = False) -> int:
    """Bytes of this process at the peak since the last reset; where that cannot be reset, since its start."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        try:
            import resource
        except ImportError as error:  # Windows
            raise RuntimeError("the table `memory` needs Linux or macOS, which count a process's memory") from error
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if reset:
        clear.write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _measured(job: dict[str, Any]) -> dict[str, Any]:
    """Peak memory and time of a job in a fresh process."""
    command = [sys.executable, "-m", __name__, json.dumps(job)]
    # glibc raises by itself the size above which freed memory goes back to the system, and then counts holes as used.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if result.returncode:
        raise RuntimeError(f"measuring {job} failed:\n{result.stderr[-2000:]}")
    shown = {key: job[key] for key in ("n", "modes", "width", "batch", "phase", "variant")}
    return {"what": "peak memory", **shown, "MB": float(result.stdout.split()[-1])}


def _fno(args: argparse.Namespace, options: dict[str, Any]) -> list[dict[str, Any]]:
    width = int(options.pop("hidden_channels", 32))
    only = args.only or TABLES
    rows = []
    for n, modes in LAYERS if "layer" in only else []:
        batch = args.batch_size or max(1, POINTS // n**2)
        about = {"n": n, "modes": modes, "width": width, "batch": batch}
        x = torch.randn(batch, width, n, n, device=args.device)
        rows += compared_rows("layer", make_layers(modes, width, args.device), x, args.runs, about)
    for n, modes in MODELS if "model" in only else []:
        batch = args.batch_size or max(1, POINTS // n**2)
        about = {"n": n, "modes": modes, "width": width, "batch": batch}
        x = torch.randn(batch, 1, n, n, device=args.device)
        models = make_models(modes, width, options, args.device)
        if args.compile:
            models["blockzoo, compiled"] = compiled(models["blockzoo"])
        rows += compared_rows("model", models, x, args.runs, about)
    if "factors" in only:
        rows += factor_rows(args.runs, args.device)
    for n, modes in MODELS[1:4:2] if "memory" in only else []:  # one of each size
        batch = args.batch_size or max(1, POINTS // n**2)
        for phase in ("forward", "training"):
            for variant in make_models(modes, width, options):
                job = {"n": n, "modes": modes, "width": width, "batch": batch, "phase": phase, "variant": variant}
                rows.append(_measured({**job, "options": options}))
    return rows


def _multigrid(options: dict[str, Any]) -> list[dict[str, Any]]:
    width = int(options.pop("hidden_channels", 32))
    rows = []
    base = {"n": 1024, "modes": 16, "width": width, "batch": 1, "phase": "training"}
    for variant, more in (
        ("blockzoo", {}),
        ("multigrid, all patches at once", {}),
        ("multigrid, 4 patches at a time", {"patches_per_step": 4}),
        ("multigrid, 1 patch at a time", {"patches_per_step": 1}),
    ):
        rows.append(_measured({**base, "variant": variant, "options": {**options, **more}}))
    return rows


SUITES = {
    "fno": Suite(
        "Fourier layers and models against the plain formulation and neuraloperator: time and memory",
        lambda args: _fno(args, parse_model_args(args.arg)),
        ("batch_size", "compile", "device", "model_args"),
        tables=TABLES,
        summary={"only": ("model",)},
    ),
    "multigrid": Suite(
        "memory of a training step on a field of 1024 x 1024 points, whole and on multi-grid patches",
        lambda args: _multigrid(parse_model_args(args.arg)),
        ("model_args",),
        summary=None,
    ),
}
"""By name after `blockzoo bench`."""


if __name__ == "__main__":
    print(peak_megabytes(json.loads(sys.argv[1])))
