"""`blockzoo fit|validate|test|predict`: Lightning's command line over the zoo's tasks and data modules.

1. `expand` turns what was typed into what Lightning's parser takes (`blockzoo.tasks.app.training_words`).
2. The parser builds a configuration; seed, checkpoint and devices are checked (`training_checks`), and a mistake gets
   one line (`training_errors`).
3. Trainer, task and data module are built, and the sub-command runs, with the guards of `blockzoo.tasks.core.guards`.
4. After a fit, the weights that it has chosen are tested.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from blockzoo.checkpoints import CheckpointError, load_state_dict
from blockzoo.tasks.app.training_checks import check_devices, check_is_no_folder, check_seed, read_checkpoint
from blockzoo.tasks.app.training_errors import UsageError, explain
from blockzoo.tasks.app.training_words import expand
from blockzoo.tasks.core import rooms
from blockzoo.tasks.core.checkpoint_io import AtomicCheckpointIO
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
from blockzoo.tasks.core.run_folder import RunFolder
from blockzoo.tasks.core.save_config import SaveFitConfig
from blockzoo.tasks.core.task import Task

__all__ = ["ZooCLI", "build", "logged", "main", "run"]


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
        expanded = expand(self.command)
        try:
            self.config = parser.parse_args(expanded)
        except (ArgumentError, ValueError, TypeError) as error:
            known = self._subcommand_parsers.get(expanded[0] if expanded else "")
            options = [action.dest for action in known._actions] if known else []
            raise UsageError(explain(error, expanded, options)) from error
        check_seed(self.config)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the checkpoint's hyper-parameters win always, without a word.
        given = _model_arguments(self.config)
        if self.config.get("subcommand") == "fit":
            path = self.config.fit.get("ckpt_path")
            check_is_no_folder(path)
            found = path and Path(path).is_file()
            stored = read_checkpoint(path) if found else {}
            _print_differences(given, stored.get("hyper_parameters", {}), "the config's value is used")
        else:
            path = self.config.get(f"{self.config.get('subcommand')}.ckpt_path")
            check_is_no_folder(path)
            if path and Path(path).is_file():
                read_checkpoint(path)
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
            raise UsageError(explain(error, expand(self.command))) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        check_devices(config)
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
        lines += [f"  blockzoo export {shlex.quote(folder)} --format torch-export --out model.pt2"]
        if last is not None:
            lines += [f"  {shlex.join(['blockzoo', *command, '--ckpt_path', last])}   (trains on, with more epochs)"]
        rank_zero_only(print)("\n".join(lines))


def _model_arguments(config: Namespace) -> dict[str, Any]:
    model = config.get(f"{config.get('subcommand')}.model")
    arguments = model.get("init_args") if isinstance(model, Namespace) else None
    return arguments.as_dict() if isinstance(arguments, Namespace) else {}


def _print_differences(given: dict[str, Any], stored: dict[str, Any], rule: str) -> None:
    for key in sorted(given.keys() & stored.keys()):
        if given[key] != stored[key]:
            rank_zero_info(f"{key}: config {given[key]!r}, checkpoint {stored[key]!r}; {rule}")


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


def logged(trainer: Trainer, names: Sequence[str], option: str) -> dict[str, float]:
    """Metrics of a finished run, by name.

    Args:
        trainer: The trainer of the run.
        names: The metrics that a user has asked for.
        option: The option that named them, for the message.

    Raises:
        ValueError: The run has not logged one of them; the message lists its test metrics.
    """
    found = trainer.callback_metrics
    for name in names:
        if name not in found:
            tested = ", ".join(sorted(known for known in found if known.startswith("test/"))) or "none"
            raise ValueError(f"{option} {name}: the run has not logged it; its test metrics: {tested}")
    return {name: float(found[name]) for name in names}


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


_REFUSALS = (
    ValueError,
    OSError,
    ImportError,  # a package of an extra
    CheckpointError,
    MisconfigurationException,
    RecursionError,
    MemoryError,
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
    except (
        ValueError,
        OSError,
        ImportError,
        CheckpointError,
        MisconfigurationException,
        RecursionError,
        MemoryError,
    ) as error:
        if os.environ.get("BLOCKZOO_DEBUG"):
            raise
        # What Lightning refuses is a mistake in the call; of errors from anywhere, the hint says how to see more.
        mistake = isinstance(error, UsageError | FileNotFoundError | MisconfigurationException)
        text = str(error) if mistake and not isinstance(error, OSError) else one_line(error)
        if isinstance(error, RecursionError):
            text = f"a config is nested too deeply ({text})"
        hint = "" if mistake or "BLOCKZOO_DEBUG" in text else " (BLOCKZOO_DEBUG=1 shows the traceback)"
        print(f"blockzoo: {text}{hint}", file=sys.stderr)
        return 2
    except SystemExit as error:
        # Lightning turns Ctrl-C into exit(1).
        return 130 if isinstance(error.__context__, KeyboardInterrupt) else int(error.code or 0)
    return 0
