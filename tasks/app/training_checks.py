"""Checks of a training call before anything is built: devices, seed, checkpoint."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from blockzoo.tasks.app.training_errors import UsageError

__all__ = ["check_devices", "check_is_no_folder", "check_seed", "read_checkpoint"]


_CLUSTER = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_PORT")
"""Environment variables by which launchers tell a process that there are others."""


def check_devices(config: dict[str, Any]) -> None:
    """Refuse more processes than can be there: they would wait for each other for ever.

    Raises:
        ValueError: There are more processes on the CPU than it has cores, or several machines without a launcher that
            says where they are.
    """
    nodes = config.get("num_nodes") or 1
    if nodes > 1 and not any(name in os.environ for name in _CLUSTER):
        raise ValueError(
            f"trainer.num_nodes={nodes} needs a launcher such as torchrun or Slurm, which says where the machines are: "
            "MASTER_ADDR is not set"
        )
    devices, accelerator = config.get("devices"), str(config.get("accelerator"))
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    count = int(str(devices)) if str(devices).isdigit() else 1
    cores = max(os.cpu_count() or 1, 2)
    if on_cpu and count > cores:
        raise ValueError(f"trainer.devices={count} asks for {count} processes on the CPU, which has {cores} cores")


def check_is_no_folder(path: Any) -> None:
    """Refuse a folder as the checkpoint to go on from.

    Raises:
        UsageError: It is one.
    """
    if isinstance(path, str | Path) and Path(path).is_dir():
        raise UsageError(f"--ckpt_path {path} is a folder; give one of its files, such as checkpoints/last.ckpt")


def check_seed(config: Namespace) -> None:
    """Refuse a seed that NumPy does not take.

    Raises:
        UsageError: It does not.
    """
    seed = config.get(f"{config.get('subcommand')}.seed_everything", config.get("seed_everything"))
    if isinstance(seed, int) and not 0 <= seed < 1 << 32:
        raise UsageError(f"--seed_everything {seed} must be between 0 and {(1 << 32) - 1}")


def read_checkpoint(path: str) -> dict[str, Any]:
    """A run's checkpoint, its tensors left on the disk.

    Raises:
        UsageError: The file is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"--ckpt_path {path} is not a checkpoint of a run, or is damaged") from error
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= set(content):
        raise UsageError(
            f"--ckpt_path {path} is not a checkpoint of a run; weights alone are given as --model.checkpoint_path"
        )
    return content
