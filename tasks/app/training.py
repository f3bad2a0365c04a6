"""`blockzoo fit|validate|test|predict`: Lightning's command line over the zoo's tasks and data modules."""

import json
import os
import pickle
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from blockzoo.checkpoints import CheckpointError, load_state_dict
from blockzoo.tasks.app.training_errors import UsageError, explain
from blockzoo.tasks.core import rooms
from blockzoo.tasks.core.checkpoint_io import AtomicCheckpointIO
from blockzoo.tasks.core.configs import config_path
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.guards import (
    ExactResume,
    InterruptGuard,
    NonFiniteLossError,
    NonFiniteLossGuard,
    last_checkpoint,
)
from blockzoo.tasks.core.output import one_line
from blockzoo.tasks.core.run_config import check_run_config
from blockzoo.tasks.core.run_folder import RunFolder
from blockzoo.tasks.core.save_config import SaveFitConfig
from blockzoo.tasks.core.task import Task

__all__ = ["ZooCLI", "build", "main", "run"]

_CLUSTER = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_PORT")
"""Environment variables by which launchers tell a process that there are others."""

SUBCOMMANDS = ("fit", "validate", "test", "predict")


class ZooCLI(LightningCLI):
    """Lightning's command line with the zoo's rules.

    Interpolation follows overrides from later files and the command line; for `fit` the given config wins over what a
    checkpoint remembers, for the other subcommands the checkpoint does; every trainer saves atomically, stops cleanly
    and can be resumed exactly.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--vars`, values that no other argument owns, for `${vars.name}` in configs."""
        parser.add_argument("--vars", type=dict, default={}, help="free values for ${vars.name} in configs")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse a command line, in which configs may be named and a finished run may be given by its folder.

        Raises:
            UsageError: The command line is wrong; the first line of the message says what, and where.
        """
        self.command = list(sys.argv[1:] if args is None else args)
        expanded = _expand(self.command)
        try:
            self.config = parser.parse_args(expanded)
        except (ArgumentError, ValueError, TypeError) as error:
            known = self._subcommand_parsers.get(expanded[0] if expanded else "")
            options = [action.dest for action in known._actions] if known else []
            raise UsageError(explain(error, expanded, options)) from error
        _check_seed(self.config)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the checkpoint's hyper-parameters win always, without a word.
        given = _model_arguments(self.config)
        if self.config.get("subcommand") == "fit":
            path = self.config.fit.get("ckpt_path")
            _check_is_no_folder(path)
            found = path and Path(path).is_file()
            stored = _checkpoint(path) if found else {}
            _print_differences(given, stored.get("hyper_parameters", {}), "the config's value is used")
        else:
            path = self.config.get(f"{self.config.get('subcommand')}.ckpt_path")
            _check_is_no_folder(path)
            if path and Path(path).is_file():
                _checkpoint(path)
            super()._parse_ckpt_path()
            _print_differences(given, _model_arguments(self.config), "the checkpoint's value is used")

    def instantiate_classes(self) -> None:
        """Build trainer, task and data.

        Raises:
            UsageError: A class refuses its arguments, or cannot be imported.
        """
        try:
            super().instantiate_classes()
        except (ArgumentError, ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
            raise UsageError(explain(error, _expand(self.command))) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        _check_devices(config)
        check_output(config.get("default_root_dir") or ".", folder=True)
        always = [NonFiniteLossGuard(), InterruptGuard(self.command), ExactResume()]
        trainer = super()._instantiate_trainer(config, [*callbacks, *always])
        # Plugins of the user, and strategies with their own way of saving, stay as they are.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def __deepcopy__(self, memo: dict[int, Any]) -> "ZooCLI":
        # Optimiser factories refer to their parser and so to this object with its trainer and processes; weight
        # averaging copies the task and them.
        return self

    def after_predict(self) -> None:
        """Write the predictions below the default root folder, as the task does, and say where."""
        rank = f".{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        batches: Any = self.trainer.predict_loop.predictions
        path = self.model.write_predictions(batches, Path(self.trainer.default_root_dir) / f"predictions{rank}")
        print(f"predictions: {path}")

    def after_fit(self) -> None:
        """Test the weights that the fit has chosen, and say where the run is."""
        self._test_chosen()
        self._say_what_next()

    def _test_chosen(self) -> None:
        kept = any(isinstance(callback, RunFolder) for callback in getattr(self.trainer, "callbacks", []))
        if not kept or self.trainer.interrupted or "test" not in self.datamodule.datasets:
            return
        folder = self.trainer.log_dir
        self.trainer.strategy.barrier("model.safetensors is written")
        weights = Path(folder or "") / "model.safetensors"
        if weights.is_file():
            # Not through the checkpoint: Lightning would take the weights before averaging from it.
            self.model.model.load_state_dict(load_state_dict(weights))
            self.trainer.test(self.model, datamodule=self.datamodule)

    def _say_what_next(self) -> None:
        """Print where the run is and what can be done with it."""
        folder, last = self.trainer.log_dir, last_checkpoint(self.trainer)
        if self.trainer.interrupted or folder is None or not (Path(folder) / "model.safetensors").is_file():
            return
        command = InterruptGuard(self.command).without_checkpoint()
        lines = [f"the run is in {folder}; next:"]
        lines += [f"  blockzoo test {shlex.quote(folder)}", f"  blockzoo predict {shlex.quote(folder)}"]
        lines += [f"  blockzoo export {shlex.quote('local-dir:' + folder)}"]
        if last is not None:
            lines += [f"  {shlex.join(['blockzoo', *command, '--ckpt_path', last])}   (trains on, with more epochs)"]
        rank_zero_only(print)("\n".join(lines))


def _check_devices(config: dict[str, Any]) -> None:
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


def _check_is_no_folder(path: Any) -> None:
    if isinstance(path, str | Path) and Path(path).is_dir():
        raise UsageError(f"--ckpt_path {path} is a folder; give one of its files, such as checkpoints/last.ckpt")


def _check_seed(config: Namespace) -> None:
    """Refuse a seed that NumPy does not take, before anything is built."""
    seed = config.get(f"{config.get('subcommand')}.seed_everything", config.get("seed_everything"))
    if isinstance(seed, int) and not 0 <= seed < 1 << 32:
        raise UsageError(f"--seed_everything {seed} must be between 0 and {(1 << 32) - 1}")


def _checkpoint(path: str) -> dict[str, Any]:
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


def _model_arguments(config: Namespace) -> dict[str, Any]:
    model = config.get(f"{config.get('subcommand')}.model")
    arguments = model.get("init_args") if isinstance(model, Namespace) else None
    return arguments.as_dict() if isinstance(arguments, Namespace) else {}


def _print_differences(given: dict[str, Any], stored: dict[str, Any], rule: str) -> None:
    for key in sorted(given.keys() & stored.keys()):
        if given[key] != stored[key]:
            rank_zero_info(f"{key}: config {given[key]!r}, checkpoint {stored[key]!r}; {rule}")


def _expand(args: Sequence[str]) -> list[str]:
    """Replace config names by paths, and a run folder behind the subcommand by the options that read it."""
    out, rest = list(args[:1]), list(args[1:])
    if out and out[0] in SUBCOMMANDS and rest and not rest[0].startswith("-"):
        if out[0] == "fit":
            raise UsageError(f"fit does not take {rest[0]!r} by itself; give a config: blockzoo fit --config {rest[0]}")
        folder = Path(rest.pop(0))
        weights = folder / "model.safetensors"
        for path in (folder / "config.yaml", weights):
            if not path.is_file():
                raise FileNotFoundError(f"{folder} is not the folder of a finished fit: it has no {path.name}")
        check_run_config(folder / "config.yaml")
        out += ["--config", str(folder / "config.yaml"), "--trainer.logger=false"]
        out += [f"--model.init_args.checkpoint_path={weights}"]
    for before, word in zip(["", *rest], rest, strict=False):
        if before in ("-c", "--config"):
            word = config_path(word)
        elif word.startswith("--config="):
            word = f"--config={config_path(word.removeprefix('--config='))}"
        out.append(word)
    return _merge_model_kwargs(out)


_OF_MODEL_KWARGS = re.compile(r"--model\.(?:init_args\.)?model_kwargs((?:\.\w+)*)(?:=(.*))?", re.DOTALL)


def _merge_model_kwargs(words: Sequence[str]) -> list[str]:
    """Put the model's arguments of several configs and options together, the later ones over the earlier.

    The parser replaces the whole dictionary instead, and turns a null behind a dot into the text "None". Where a later
    config or an option names another model, the arguments of the earlier one are dropped.
    """
    merged: dict[str, Any] = {}
    kept: list[str] = []
    model_name, count, rest = None, 0, list(words)
    named = re.findall(r"^--model\.(?:init_args\.)?model_name[=\n](.*)$", "\n".join(words), re.MULTILINE)
    while rest:
        word = rest.pop(0)
        found = _OF_MODEL_KWARGS.fullmatch(word)
        if found and (found[2] is not None or rest):
            text = found[2] if found[2] is not None else rest.pop(0)
            value = _plain(text)
            for key in reversed(found[1].split(".")[1:]):
                value = {key: value}
            if not isinstance(value, dict):
                return list(words)  # the parser says what is wrong with it
            merged, count = _merged(merged, value), count + 2
            continue
        kept.append(word)
        file = word.partition("=")[2] if word.startswith("--config=") else None
        if word in ("-c", "--config") and rest:
            file = rest[0]
        section = _section(file) if file else {}
        if section.get("model_name", model_name) != model_name:
            merged = merged if model_name is None else {}
            model_name = section["model_name"]
        of_another = named and model_name not in (None, named[-1])
        if isinstance(section.get("model_kwargs"), dict) and of_another:
            count += 1
        elif isinstance(section.get("model_kwargs"), dict):
            merged, count = _merged(merged, section["model_kwargs"]), count + 1
    if count < 2:
        return list(words)
    return [*kept, f"--model.init_args.model_kwargs={json.dumps(_relative(merged), default=str)}"]


def _relative(value: Any, depth: int = 3) -> Any:
    """Interpolations as the parser wants them in an option, which lies `depth` levels below the config's root."""
    if isinstance(value, dict):
        return {key: _relative(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, depth + 1) for item in value]
    if isinstance(value, str):  # a name with a colon behind it is a resolver's
        return re.sub(r"\$\{(?=[A-Za-z_][\w.]*\})", "${" + "." * depth, value)
    return value


def _section(file: str) -> dict[str, Any]:
    """What a config file gives to the task; nothing if it cannot be read, which the parser reports."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        found = content["model"]["init_args"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def _plain(text: str) -> Any:
    """The value of an option; YAML alone would leave 1e-3 a text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def build(config_args: Sequence[str]) -> tuple[Task, ZooData]:
    """Build what a training command describes, without running it.

    Args:
        config_args: Options of `blockzoo fit` without the word itself, for example `["--config", "darcy/tfno"]`.

    Returns:
        The task with its model, and the data module.

    Raises:
        UsageError: The options or a config are wrong.
    """
    cli = run(config_args, execute=False)
    return cli.model, cli.datamodule


def run(args: Sequence[str] | None = None, execute: bool = True) -> ZooCLI:
    """Parse, build and run; errors come as exceptions. Returns the finished command line object.

    With `execute=False` there is no subcommand: what the options describe is built and not run.
    """
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    for place in rooms.components().values():  # so that configs may name them by class name alone
        rooms.load(place)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _run(args, execute)
    finally:
        for number, handler in handlers.items():
            if threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)


def _run(args: Sequence[str] | None, execute: bool) -> ZooCLI:
    return ZooCLI(
        Task,
        ZooData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=None if args is None else list(args),
        run=execute,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={"default_root_dir": "runs"},
        save_config_callback=SaveFitConfig,
        parser_kwargs={
            "prog": "blockzoo",
            "parser_mode": "omegaconf+",
            "exit_on_error": False,
            "allow_abbrev": False,
        },
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run a training subcommand.

    Mistakes in the call, the config or the data are reported without a traceback, unless the environment variable
    `BLOCKZOO_DEBUG` is set.

    Returns:
        Exit status: 0; 1 when the loss became NaN or infinite; 2 for such a mistake; 130 and 143 after SIGINT and
        SIGTERM.
    """
    try:
        run(args)
    except SIGTERMException:
        return 143
    except KeyboardInterrupt:
        return 130
    except NonFiniteLossError as error:
        print(f"blockzoo: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, CheckpointError, MisconfigurationException, RecursionError, MemoryError) as error:
        if os.environ.get("BLOCKZOO_DEBUG"):
            raise
        # What Lightning refuses is a mistake in the call; of errors from anywhere, the hint says how to see more.
        mistake = isinstance(error, UsageError | FileNotFoundError | MisconfigurationException)
        text = str(error) if mistake else one_line(error)
        if isinstance(error, RecursionError):
            text = f"a config is nested too deeply ({text})"
        hint = "" if mistake or "BLOCKZOO_DEBUG" in text else " (BLOCKZOO_DEBUG=1 shows the traceback)"
        print(f"blockzoo: {text}{hint}", file=sys.stderr)
        return 2
    except SystemExit as error:
        # Lightning turns Ctrl-C into exit(1).
        return 130 if isinstance(error.__context__, KeyboardInterrupt) else int(error.code or 0)
    return 0
