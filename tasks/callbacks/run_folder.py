"""What a finished fit leaves behind: weights, config, curves and a model card."""

import csv
import json
import os
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from blockzoo.checkpoints import save_state_dict
from blockzoo.tasks.base import Task
from blockzoo.tasks.data.base import ZooData

__all__ = ["RunFolder", "draw_curves"]


class RunFolder(Callback):
    """Turns the logger's folder into a complete record of a finished fit.

    It holds `model.safetensors` (the best weights by the `ModelCheckpoint` that has a `monitor`, averaged ones where
    weights are averaged; the last weights if nothing is monitored), `last.safetensors`, `config.json` (so that
    `blockzoo.create_model("local-dir:FOLDER", pretrained=True)` builds the model), `metrics.csv` and `config.yaml` of
    others, `curves.png`, `results.json` and the model card `README.md`. A fit that fails or is stopped gets none of it.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._facts: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything, on the main process."""
        if not trainer.is_global_zero or trainer.log_dir is None or trainer.interrupted:
            return
        assert isinstance(pl_module, Task)
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for logger in trainer.loggers:
            logger.save()
        keeper: Any = trainer.checkpoint_callback
        monitored = bool(keeper is not None and keeper.monitor and keeper.best_model_path)
        last = pl_module.model.state_dict()
        best = _weights(keeper.best_model_path) if monitored else last
        self._facts = self._gather(trainer, pl_module, keeper if monitored else None)
        config = _hub_config(pl_module, self._facts["preprocessing"])
        metadata = {"format": "pt", "config": json.dumps(config), "results": json.dumps(self._facts["results"])}
        save_state_dict(best, folder / "model.safetensors", metadata)
        save_state_dict(last, folder / "last.safetensors", metadata)
        _write(folder / "config.json", json.dumps(config, indent=2) + "\n")
        if (folder / "metrics.csv").is_file():
            draw_curves(folder / "metrics.csv", folder / "curves.png", keeper.monitor if monitored else None)
        self._describe(folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the test metrics of the best weights, when the test follows the fit."""
        if self._facts and trainer.is_global_zero and trainer.log_dir is not None:
            self._facts["results"]["test"] = _numbers(trainer, "test/")
            self._describe(Path(trainer.log_dir))

    def _gather(self, trainer: Trainer, task: Task, keeper: Any | None) -> dict[str, Any]:
        data = getattr(trainer, "datamodule", None)
        callbacks: list[Callback] = getattr(trainer, "callbacks", [])
        results: dict[str, Any] = {"last": _numbers(trainer, "val/"), "epochs": trainer.current_epoch}
        if keeper is not None:
            score = float(keeper.best_model_score) if keeper.best_model_score is not None else None
            results |= {"best_by": keeper.monitor, "best": score, "best_checkpoint": Path(keeper.best_model_path).name}
        return {
            "model": task.model_name,
            "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
            "averaged": any(isinstance(callback, WeightAveraging) for callback in callbacks),
            "preprocessing": data.preprocessing if isinstance(data, ZooData) else {},
            "data": data.description if isinstance(data, ZooData) else {},
            "seconds": time.monotonic() - self._start,
            "seed": os.environ.get("PL_GLOBAL_SEED", "not set"),
            "devices": f"{trainer.num_devices} x {_hardware(trainer)}",
            "results": results,
        }

    def _describe(self, folder: Path) -> None:
        _write(folder / "results.json", json.dumps(self._facts["results"], indent=2) + "\n")
        _write(folder / "README.md", _card(self._facts))


def _weights(checkpoint: str) -> dict[str, Any]:
    """The model's part of a checkpoint; where weights are averaged, these are the averages."""
    state_dict = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in state_dict.items() if name.startswith("model.")}


def _hub_config(task: Task, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """The folder's `config.json`, in timm's format."""
    hparams = dict(task.hparams)
    cfg = {key: value for key, value in task.model.pretrained_cfg.items() if key not in ("checkpoint", "model_args")}
    return {
        "architecture": str(cfg.get("architecture", task.model_name)),
        "num_classes": cfg.get("num_classes"),
        "pretrained_cfg": {**cfg, **preprocessing},
        "model_args": hparams.get("model_kwargs") or {},
    }


def _numbers(trainer: Trainer, prefix: str) -> dict[str, float]:
    metrics = trainer.callback_metrics
    return {key: float(value) for key, value in metrics.items() if key.startswith(prefix) and value.numel() == 1}


def _hardware(trainer: Trainer) -> str:
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _card(facts: dict[str, Any]) -> str:
    results, data = facts["results"], facts["data"]
    chosen = f"the best by `{results['best_by']}`" if "best_by" in results else "the last (nothing was monitored)"
    weights = f"averaged over training steps, {chosen}" if facts["averaged"] else chosen
    rows = [
        ("validation, last epoch", results["last"]),
        ("test, weights of `model.safetensors`", results.get("test", {})),
    ]
    dataset = data.get("dataset", "not described")
    licence, split = data.get("license", "not known"), data.get("split", "split not described")
    table = "\n".join(f"| {part} | `{key}` | {value:.6f} |" for part, group in rows for key, value in group.items())
    best = f"Best `{results['best_by']}`: {results['best']:.6f}.\n" if results.get("best") is not None else ""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("blockzoo", "torch", "timm", "lightning"))
    return f"""# {facts["model"]}

{facts["parameters"]:,} parameters. `model.safetensors` holds {weights}; `last.safetensors` those of the last epoch.

    blockzoo.create_model("local-dir:THIS_FOLDER", pretrained=True)

## Data

{dataset}; licence {licence}; {split}.
Inputs are prepared as `pretrained_cfg` in `config.json` says.

## Results

{best}
| part | metric | value |
| --- | --- | --- |
{table}

## How it was made

- command: `{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`; the resolved config is `config.yaml`
- seed: {facts["seed"]}; epochs: {results["epochs"]}; time: {facts["seconds"]:.0f} s on {facts["devices"]}
- {libraries}; Python {platform.python_version()}

## Limits

One run on one data set: nothing here says how the weights do on other data. The numbers are of one seed.
"""


def draw_curves(metrics: Path, out: Path, monitor: str | None = None) -> None:
    """Draw the learning curves of a `metrics.csv` of Lightning's `CSVLogger`, one panel for each metric.

    Args:
        metrics: The file; columns named `stage/name` are drawn over epochs.
        out: The PNG to write.
        monitor: The metric that chooses the best weights; its best epoch is marked.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({key.split("/")[1] for row in rows for key in row if key.startswith(("train/", "val/"))})
    figure, axes = plt.subplots(1, max(len(names), 1), figsize=(4.2 * max(len(names), 1), 3.4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=False):
        for stage, colour in (("train", "#0072B2"), ("val", "#D55E00")):
            key = f"{stage}/{name}"
            points = [(int(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
            if not points:
                continue
            axis.plot(*zip(*points, strict=True), color=colour, label=stage, linewidth=1.6)
            if key == monitor:
                smaller = "loss" in name or "err" in name or name in ("mse", "mae")
                epoch, value = (min if smaller else max)(points, key=lambda point: point[1])
                axis.plot(epoch, value, "o", color=colour, label=f"best: {value:.4g}, epoch {epoch}")
        axis.set(title=name, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.tight_layout()
    temporary = out.with_name(f".{out.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)
    os.replace(temporary, out)
