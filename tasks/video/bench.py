"""Comparison of P3D with the plain formulation, for `blockzoo bench p3d`.

The plain formulation is that of the published port, with our weights: `torch.nn.Conv3d` for every convolution, 1x3x3
and 3x1x1, `BatchNorm3d`, `MaxPool3d`, clips in PyTorch's ordinary memory order, no merging. Outputs are compared first.
"""

import argparse
import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import blockzoo
from blockzoo.layers.conv.conv_norm_act import ConvNormAct
from blockzoo.layers.conv.pseudo3d import PseudoConv3d
from blockzoo.p3d import P3D, Bottleneck
from blockzoo.tasks.core.suites import Rows, Suite, batches
from blockzoo.tasks.core.timing import interleaved, operations, timed_rows

__all__ = ["CASES", "PlainP3D", "rows"]

CASES: list[tuple[str, tuple[int, int, int]]] = [
    ("p3d63", (16, 160, 160)),
    ("p3d63", (8, 112, 112)),
    ("p3d199", (16, 160, 160)),
]
"""Models, and frames, height and width of a clip."""


def _conv(layer: ConvNormAct, over_time: bool = False) -> nn.Sequential:
    """Convert one of our layers to 3-D modules with the same values."""
    conv, norm = layer.conv, layer.norm
    weight = conv.weight[..., None] if over_time else conv.weight[:, :, None]
    (first, second), (stride, _) = conv.padding, conv.stride
    pads = (first, second, 0) if over_time else (0, first, second)
    strides = (1, 1, 1) if over_time else (1, stride, stride)
    plain = nn.Conv3d(conv.in_channels, conv.out_channels, tuple(weight.shape[2:]), strides, pads, bias=False)  # type: ignore[arg-type]
    plain.weight = nn.Parameter(weight.detach().clone().contiguous())
    plain_norm = nn.BatchNorm3d(norm.num_features, norm.eps, norm.momentum)
    plain_norm.load_state_dict(norm.state_dict())
    act: list[nn.Module] = [] if isinstance(layer.act, nn.Identity) else [nn.ReLU(inplace=True)]
    return nn.Sequential(plain, plain_norm, *act)


class _PlainBlock(nn.Module):
    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.reduce, self.expand = _conv(block.reduce.layer), _conv(block.expand.layer)
        self.structure = ""
        if isinstance(block.conv, PseudoConv3d):
            self.structure = block.conv.structure
            self.space, self.time = _conv(block.conv.space.layer), _conv(block.conv.time.layer, over_time=True)
        else:
            self.space = _conv(block.conv.layer)  # type: ignore[union-attr, arg-type]
        is_new = not isinstance(block.shortcut, nn.Identity)
        self.shortcut: nn.Module = _conv(block.shortcut.layer) if is_new else nn.Identity()  # type: ignore[union-attr, arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.reduce(x)
        of_space = self.space(y)
        if self.structure == "A":
            of_space = self.time(of_space)
        elif self.structure == "B":
            of_space = of_space + self.time(y)
        elif self.structure == "C":
            of_space = of_space + self.time(of_space)
        return F.relu(self.expand(of_space) + self.shortcut(x))


class PlainP3D(nn.Module):
    """The function of a published P3D (`semantics="port"`), computed like the port; see the docstring of this module.

    Args:
        model: The model, not deployed, whose values are copied.

    Shape:
        (B, C, T, H, W) with T from 16 to 31 -> (B, num_classes).
    """

    def __init__(self, model: P3D) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(model.stem.conv.layer), nn.MaxPool3d((2, 3, 3), 2, (0, 1, 1)))  # type: ignore[union-attr, arg-type]
        self.stages = nn.ModuleList(nn.Sequential(*map(_PlainBlock, stage.blocks)) for stage in model.stages)  # type: ignore[arg-type]
        self.pool = nn.MaxPool3d((2, 1, 1), (2, 1, 1))
        self.dropout = nn.Dropout(model.head.drop.p)  # type: ignore[union-attr, arg-type]
        self.fc = nn.Linear(model.num_features, model.num_classes)
        self.fc.load_state_dict(model.head.fc.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(self.pool(x) if i and x.shape[2] > 1 else x)
        return self.fc(self.dropout(x.mean((2, 3, 4))))


def _training(model: nn.Module, x: torch.Tensor) -> None:
    model.zero_grad()
    model(x).square().mean().backward()


def rows(sizes: list[int], runs: int, compiled: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure all cases.

    Args:
        sizes: Batch sizes.
        runs: Timed runs of each variant, taken in turn.
        compiled: Time the deployed model under `torch.compile` as well.
        device: Where to measure.

    Returns:
        One row for each case, batch, phase and variant, with times in ms and the ratio to the plain formulation.
    """
    table = []
    for name, size in CASES:
        torch.manual_seed(0)
        model = blockzoo.create_model(name).to(device).eval()
        plain = PlainP3D(model).to(device).eval()
        deployed = blockzoo.create_model(name).to(device)
        deployed.load_state_dict(model.state_dict())
        variants: dict[str, Any] = {"plain": plain, "as built": model, "deployed": deployed.deploy()}
        if compiled:
            variants["deployed, compiled"] = torch.compile(deployed)
        for batch in sizes:
            x = torch.randn(batch, 3, *size, device=device)
            with torch.no_grad():
                outputs = {key: variant(x) for key, variant in variants.items()}
                scale = float(outputs["plain"].std())
                for key, output in outputs.items():
                    torch.testing.assert_close(
                        output, outputs["plain"], rtol=0, atol=1e-4 * scale, msg=f"{key} differs"
                    )
                calls: dict[str, Any] = {key: partial(variant, x) for key, variant in variants.items()}
                about = {"model": f"{name}, {' x '.join(map(str, size))}", "batch": batch, "phase": "inference"}
                table += timed_rows(about, interleaved(calls, runs, device), counts=operations(calls))
            both = {key: variants[key].train() for key in ("plain", "as built")}
            states = {key: copy.deepcopy(variant.state_dict()) for key, variant in both.items()}
            steps: dict[str, Any] = {key: partial(_training, variant, x) for key, variant in both.items()}
            training = interleaved(steps, max(1, runs // 3), device)
            table += timed_rows({**about, "phase": "training"}, training, counts=operations(steps))
            for key, variant in both.items():  # training has moved the statistics of the norms
                variant.eval().load_state_dict(states[key])
    return table


def _suite(args: argparse.Namespace) -> Rows:
    return rows(batches(args, 4, 16), min(args.runs, 9), args.compile, args.device)


SUITES = {"p3d": Suite("P3D against the plain formulation in 3-D convolutions, inference and training", _suite)}
"""By name after `blockzoo bench`."""
