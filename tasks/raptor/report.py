r"""Write a report on a vision transformer and its Raptor as dynamical systems: numbers, figures and a page.

    blockzoo raptor report --teacher vit_small_patch16_224 --pretrained --out report
    blockzoo raptor report --teacher vit_tiny_patch16_224 --teacher-kwargs '{"img_size": 32}' \
        --checkpoint runs/teacher/version_0/model.safetensors --student runs/raptor/version_0 --out report

Images are those of a folder (`ROOT/CLASS/IMAGE`), or else 200 packaged test images of CIFAR-10, resized to what the
teacher takes. The quantities are defined in `blockzoo.tasks.raptor.dynamics` and `blockzoo.tasks.raptor.segmentation`.
The folder gets `report.md`, `report.json`, `phases.png` and a PNG for each quantity.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from timm.models import VisionTransformer

import blockzoo
from blockzoo.raptor import Raptor, teacher_trajectory
from blockzoo.tasks.core.files import check_output, write_figure, write_text
from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES, load_image
from blockzoo.tasks.core.labelled_files import class_folders
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.core.small_images import cifar10_images
from blockzoo.tasks.raptor import dynamics, figures
from blockzoo.tasks.raptor.activations import load_vit
from blockzoo.tasks.raptor.segmentation import layer_distance, plot_segments, segment_layers

__all__ = ["add_arguments", "analyse", "run"]

Step = Callable[[torch.Tensor, int], torch.Tensor]


def _images(
    vit: VisionTransformer, mean: Sequence[float], std: Sequence[float], folder: str | None, limit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepared images (N, C, H, W) and labels (N,), spread over the classes."""
    size: Any = vit.patch_embed.img_size
    if folder is None:
        images, labels = cifar10_images()
        chosen = torch.arange(min(limit, len(images))) * len(images) // min(limit, len(images))
        images, labels = images[chosen].float() / 255, labels[chosen]
        images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    else:
        _, source = class_folders(folder, "image", IMAGE_SUFFIXES)
        chosen = torch.arange(min(limit, len(source))) * len(source) // min(limit, len(source))
        prepare = timm.data.create_transform(input_size=(3, *size), mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.875)
        pairs = [source[int(i)] for i in chosen]
        images = torch.stack([torch.as_tensor(prepare(load_image(path))) for path, _ in pairs])
        labels = torch.tensor([label for _, label in pairs])
    shape = (1, 3, 1, 1)
    return (images - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape), labels


def _normalisation(args: argparse.Namespace, student: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of channels: as given, else those of the student's training, else those of timm's weights."""
    cfg = timm.get_pretrained_cfg(args.teacher.removeprefix("timm:"))
    of_timm: dict[str, Any] = {} if cfg is None else {"mean": cfg.mean, "std": cfg.std}
    found = {**of_timm, **({} if student is None else student.pretrained_cfg)}
    mean, std = (getattr(args, key) or found.get(key) or (0.5,) * 3 for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"--mean {mean} and --std {std} must be three numbers, deviations above 0")
    return mean, std


@torch.no_grad()
def _states(run: Callable[[torch.Tensor], list[torch.Tensor]], x: torch.Tensor, batch: int = 32) -> torch.Tensor:
    return torch.cat([torch.stack(run(part), 1) for part in x.split(batch)])


@torch.no_grad()
def analyse(
    states: torch.Tensor,
    labels: torch.Tensor,
    step: Step,
    num_prefix_tokens: int,
    class_token: bool,
    boundaries: Sequence[int],
    strength: float = 0.1,
    rank: int = 8,
) -> dict[str, Any]:
    """Compute all quantities of one network.

    Args:
        states: (B, L + 1, tokens, dim).
        labels: (B,).
        step: See `blockzoo.tasks.raptor.dynamics.perturbed_run`.
        num_prefix_tokens: Tokens before the patches.
        class_token: Whether the first of them is a class token.
        boundaries: The last layer of each phase but the final one.
        strength: Size of the perturbation as a share of a token's norm.
        rank: Rank of the dynamic mode decomposition; lower where the data have a lower rank.

    Returns:
        Tensors and numbers by name; some are by group of tokens.
    """
    groups = dynamics.group_slices(num_prefix_tokens, class_token)
    depth = states.shape[1] - 1
    found: dict[str, Any] = {"convergence": {}, "speed": {}, "norm": {}, "ranks": {}, "dmd": {}, "half_rise": {}}
    found |= {"phase_speed": {}, "correction": {}, "update_coherence": {}}
    for name, part in groups.items():
        here = states[:, :, part]
        found["convergence"][name] = dynamics.direction_convergence(here)
        found["half_rise"][name] = dynamics.half_rise(found["convergence"][name])
        found["speed"][name] = dynamics.angular_speed(here)
        found["phase_speed"][name] = dynamics.phase_speeds(found["speed"][name], tuple(boundaries))
        found["norm"][name] = dynamics.token_norms(here)
        found["ranks"][name] = dynamics.update_ranks(here)
        found["update_coherence"][name] = dynamics.update_coherence(here)
        bounds = [0, *boundaries, depth]
        for phase, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False), start=1):
            found["dmd"][f"{name}, phase {phase}"] = dynamics.dmd(here, rank, low, high)
    found["coherence"] = dynamics.coherence(states[:, :, num_prefix_tokens:])
    lead = groups["cls" if class_token else "patch"]
    if len(labels.unique()) > 1:
        found["basins"] = dynamics.angular_basins(states[:, :, lead], labels)
    for layer in sorted({0, depth // 3, 2 * depth // 3}):
        run = dynamics.perturbed_run(step, states, layer, strength)
        found["correction"][layer] = dynamics.self_correction(states[:, :, lead], run[:, :, lead], layer)
    return found


def _draw(found: dict[str, Any], boundaries: Sequence[int], folder: Path, prefix: str) -> list[str]:
    """Save a figure for each quantity; returns their names."""
    depth = len(found["coherence"]) - 1

    def ranks(axis: Any) -> None:
        curves = {name: value["effective_rank"] for name, value in found["ranks"].items()}
        figures.draw_groups(axis, curves, "effective rank of updates", boundaries, 1)

    drawings: dict[str, Callable[[Any], None]] = {
        "convergence": lambda axis: figures.draw_groups(
            axis, found["convergence"], "cosine to the final direction", boundaries
        ),
        "speed": lambda axis: figures.draw_groups(axis, found["speed"], "angular speed (radians)", boundaries, 1),
        "ranks": ranks,
        "coherence": lambda axis: figures.draw_by_layer(axis, found["coherence"], "patch coherence", boundaries),
        "correction": lambda axis: figures.draw_correction(
            axis, {layer: value["ratio"] for layer, value in found["correction"].items()}, total=depth
        ),
        "dmd": lambda axis: figures.draw_eigenvalues(
            axis, {name: value["eigenvalues"] for name, value in found["dmd"].items()}
        ),
    }
    if "basins" in found:
        drawings["basins"] = lambda axis: figures.draw_basins(axis, found["basins"], boundaries)
    names = []
    for name, draw in drawings.items():
        figure = Figure(figsize=(5.2, 3.6))
        draw(figure.subplots())
        figure.tight_layout()
        names.append(f"{prefix}_{name}.png")
        write_figure(folder / names[-1], figure)
    return names


def _plain(value: Any) -> Any:
    """Convert tensors and numbers to JSON's types; values that are not numbers become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        if value.is_complex():
            return {"real": value.real.tolist(), "imag": value.imag.tolist(), "abs": value.abs().tolist()}
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(found: dict[str, Any]) -> list[str]:
    lines = ["| tokens | half-rise layer | speed inside phases | at boundaries | last effective rank |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, speeds in found["phase_speed"].items():
        rank = float(found["ranks"][name]["effective_rank"][-1])
        cells: tuple[float, ...] = (found["half_rise"][name], speeds["inside"], speeds["boundary"], rank)
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    lines += ["", "| perturbed at layer | angle at the end over angle then |", "| --- | --- |"]
    lines += [f"| {layer} | {float(value['ratio'][-1]):.3f} |" for layer, value in found["correction"].items()]
    lines += ["", "| linear map | largest eigenvalue | residual | of the identity |", "| --- | --- | --- | --- |"]
    for name, value in found["dmd"].items():
        cells = (float(value["eigenvalues"][0].abs()), value["residual"], value["identity"])
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--teacher", required=True, help="name of a timm ViT")
    parser.add_argument(
        "--teacher-kwargs", type=json.loads, default={}, help="further arguments of the teacher, as JSON"
    )
    parser.add_argument("--pretrained", action="store_true", help="take the teacher's published weights")
    parser.add_argument("--checkpoint", help="take the weights in this file instead")
    parser.add_argument("--student", help="folder of a finished fit of a Raptor")
    parser.add_argument("--images", help="folder of images by class (default: packaged CIFAR-10 images)")
    parser.add_argument("--mean", type=float, nargs=3, help="mean of the channels (default: the student's or timm's)")
    parser.add_argument("--std", type=float, nargs=3, help="deviation of the channels (default: as for --mean)")
    parser.add_argument("--limit", type=int, default=200, help="number of images (default: 200)")
    parser.add_argument("--phases", type=int, default=2, help="number of phases, without a student (default: 2)")
    parser.add_argument(
        "--method", default="dp", choices=("dp", "bisect"), help="method of the segmentation (default: dp)"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=0.1,
        help="size of the perturbation as a share of a token's norm (default: 0.1)",
    )
    add_out(parser, "folder to write (default: raptor_report)", folder=True, default="raptor_report")


def _report(args: argparse.Namespace) -> Path:
    if args.limit < 2:
        raise ValueError(f"--limit {args.limit} must be at least 2")
    if not isinstance(args.teacher_kwargs, dict):
        raise ValueError(
            f'--teacher-kwargs {args.teacher_kwargs!r} must be an object of JSON, for example {{"img_size": 32}}'
        )
    if not 0 < args.strength < math.inf:
        raise ValueError(f"--strength {args.strength} must be a number greater than 0")
    check_output(args.out, folder=True)
    vit = load_vit(args.teacher, args.teacher_kwargs, args.pretrained, args.checkpoint)
    student: Any = None
    if args.student:
        student = blockzoo.create_model(f"local-dir:{args.student}", pretrained=True).eval()
        if not isinstance(student, Raptor) or student.depth != len(vit.blocks):
            raise ValueError(f"--student {args.student} is no Raptor of {len(vit.blocks)} layers")
    x, labels = _images(vit, *_normalisation(args, student), args.images, args.limit)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    states = _states(lambda part: teacher_trajectory(vit, part), x)
    prefix, class_token = vit.num_prefix_tokens, bool(vit.has_class_token)
    distance = layer_distance([states[:, 1:]], prefix, class_token)
    boundaries: tuple[int, ...]
    if student is not None:
        boundaries = tuple(student.bounds[1:-1])
    else:
        boundaries = segment_layers(distance, args.phases, args.method)
    plot_segments(distance, boundaries, folder / "phases.png", args.teacher)
    common = (prefix, class_token, boundaries, args.strength)
    results = {"teacher": analyse(states, labels, lambda h, depth: vit.blocks[depth - 1](h), *common)}
    fidelity: dict[str, torch.Tensor] = {}
    if student is not None:
        with torch.no_grad():
            run = torch.cat([torch.stack(student.forward_trajectory(s), 1) for s in states[:, 0].split(32)])
        step: Step = lambda h, depth: student.blocks[student.block_of(depth)](h, depth)  # noqa: E731
        results["student"] = analyse(run, labels, step, *common)
        fidelity = {"r2": dynamics.layer_r2(states, run, weighted=True)}
        fidelity["epsilon"] = (run - states).flatten(2).norm(dim=-1).mean(0)
    lines = [
        f"# {args.teacher}",
        "",
        f"{len(x)} images; phases end behind layers {[*boundaries, len(vit.blocks)]}.",
        "",
    ]
    lines += ["![distance between layers](phases.png)", ""]
    for name, found in results.items():
        pictures = _draw(found, boundaries, folder, name)
        lines += [f"## {name.capitalize()}", "", *_summary(found), ""]
        lines += [f"![{picture.removesuffix('.png')}]({picture})" for picture in pictures] + [""]
    if fidelity:
        lines += ["## Student against teacher", "", "| layer | R² | mean norm of the error |", "| --- | --- | --- |"]
        pairs = zip(fidelity["r2"].tolist(), fidelity["epsilon"].tolist(), strict=True)
        lines += [f"| {layer} | {r2:.4f} | {error:.4g} |" for layer, (r2, error) in enumerate(pairs) if layer]
    write_text(folder / "report.md", "\n".join(lines) + "\n")
    numbers = {"boundaries": list(boundaries), "distance": distance.tolist(), **results, "fidelity": fidelity}
    write_text(folder / "report.json", json.dumps(_plain(numbers), indent=1) + "\n")
    return folder / "report.md"


def run(args: argparse.Namespace) -> int:
    """Write the report and say where."""
    print(_report(args))
    return 0
