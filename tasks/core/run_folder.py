"""The folder of a finished fit: weights, config, curves and a model card."""

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
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from blockzoo._model import ZooModel
from blockzoo.checkpoints import load_state_dict, save_state_dict
from blockzoo.checkpoints.verification import digest_of
from blockzoo.tasks.core.curves import draw_curves
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.files import write_csv, write_text
from blockzoo.tasks.core.task import Task

__all__ = ["RunFolder"]

_OF_OTHER_WEIGHTS = ("checkpoint", "description", "file", "source", "url", "hf_hub_id", "mean", "std", "label_names",
                     "clips", "multi_label", "series")  # fmt: skip


class RunFolder(Callback):
    """Callback that turns the logger's folder into a complete record of a finished fit.

    It holds `model.safetensors` (the best weights by the `ModelCheckpoint` with a `monitor`, or the last weights
    without one; averaged weights if the run averages them), `last.safetensors`, `config.json` (so that
    `blockzoo.create_model("local-dir:FOLDER", pretrained=True)` builds the model), `metrics.csv` and `config.yaml` of
    others, `curves.png`, `results.json`, `confusion.csv` of a classifier's test, `skipped.txt` where samples could
    not be read and were left out, figures and tables of a field model's test, and the model card `README.md`. If a fit
    fails or is stopped, none of these files is written.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._facts: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything, on the main process."""
        log_dir = trainer.log_dir  # a collective call: every process must get to it
        if not trainer.is_global_zero or log_dir is None or trainer.interrupted:
            return
        assert isinstance(pl_module, Task)
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for logger in trainer.loggers:
            logger.save()
        keeper = _keeper(trainer)
        self._facts = self._gather(trainer, pl_module, keeper)
        results = self._facts["results"]
        best = last = pl_module.model.state_dict()
        if keeper is not None:
            best, results["best_epoch"] = _read(keeper.best_model_path)
        config = _hub_config(pl_module, self._facts["preprocessing"])
        metadata = {"format": "pt", "config": json.dumps(config)}
        if (folder / "config.yaml").is_file():
            metadata["config_sha256"] = digest_of(folder / "config.yaml")
        of_best, of_last = ({**results, "weights": which} for which in ("best" if keeper else "last", "last"))
        save_state_dict(best, folder / "model.safetensors", {**metadata, "results": json.dumps(of_best)})
        save_state_dict(last, folder / "last.safetensors", {**metadata, "results": json.dumps(of_last)})
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        if (folder / "metrics.csv").is_file():
            monitor, mode = (keeper.monitor, keeper.mode) if keeper is not None else (None, "min")
            draw_curves(folder / "metrics.csv", folder / "curves.png", monitor, mode, pl_module.model_name)
        if skipped := getattr(getattr(trainer, "datamodule", None), "skipped", None):
            write_text(folder / "skipped.txt", "".join(f"{line}\n" for line in skipped))
        self._describe(folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the metrics of the first test of `model.safetensors` after the fit."""
        log_dir = trainer.log_dir
        if not self._facts or "test" in self._facts["results"] or not trainer.is_global_zero or log_dir is None:
            return
        assert isinstance(pl_module, Task)
        folder = Path(log_dir)
        weights = pl_module.model.state_dict()
        exported = load_state_dict(folder / "model.safetensors")
        if not all(torch.equal(value.cpu(), exported[name]) for name, value in weights.items()):
            return  # a test of other weights, such as those of the last epoch
        self._facts["results"]["test"] = _numbers(trainer, "test/")
        self._describe(folder)
        counts = getattr(pl_module, "test_confusion", None)
        if counts is not None:
            names = self._facts["preprocessing"].get("label_names") or [str(i) for i in range(len(counts))]
            rows = ([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
            write_csv(folder / "confusion.csv", [["true \\ predicted", *names], *rows])
        pl_module.write_report(folder)

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
        write_text(folder / "results.json", json.dumps(self._facts["results"], indent=2) + "\n")
        write_text(folder / "README.md", _card(self._facts))


def _keeper(trainer: Trainer) -> ModelCheckpoint | None:
    """The callback that kept the best weights by a metric, or None."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return callback
    return None


def _read(checkpoint: str) -> tuple[dict[str, Any], int]:
    """The model's weights in a checkpoint (averaged, if the run averages them), and its epoch."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state_dict = {name: value for name, value in content["state_dict"].items() if name.startswith("model.")}
    return {name.removeprefix("model."): value for name, value in state_dict.items()}, int(content["epoch"])


def _hub_config(task: Task, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """The folder's `config.json` in timm's format, without entries that belong to other weights."""
    cfg = task.model.pretrained_cfg
    model_args = dict(task.hparams.get("model_kwargs") or {})
    if task.hparams.get("pretrained") or "." in task.model_name or ":" in task.model_name:
        model_args = {**cfg.get("model_args", {}), **model_args}  # as the builder does for a tag
    size = preprocessing.get("input_size")
    if size and isinstance(task.model, ZooModel):
        model_args |= task.model.size_arguments(size)
    kept = {key: value for key, value in cfg.items() if key not in _OF_OTHER_WEIGHTS}
    return {
        "architecture": str(cfg.get("architecture", task.model_name)),
        "num_classes": cfg.get("num_classes"),
        "pretrained_cfg": {**kept, "tag": None, "license": None, **preprocessing, "model_args": model_args},
        "model_args": model_args,
    }


def _numbers(trainer: Trainer, prefix: str) -> dict[str, float]:
    metrics = trainer.callback_metrics
    return {key: float(value) for key, value in metrics.items() if key.startswith(prefix) and value.numel() == 1}


def _hardware(trainer: Trainer) -> str:
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


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
    best = ""
    if results.get("best") is not None:
        best = f"Best `{results['best_by']}`: {results['best']:.6f}, in epoch {results['best_epoch']} (from 0).\n"
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
