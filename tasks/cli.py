"""`blockzoo fit|validate|test|predict`: Lightning's command line over the zoo's tasks and data modules."""

import difflib
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

# Tasks and data modules are imported so that configs may name them by class name alone.
from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.base import Task
from blockzoo.tasks.callbacks.guards import InterruptGuard, NonFiniteLossError, NonFiniteLossGuard
from blockzoo.tasks.callbacks.run_folder import RunFolder
from blockzoo.tasks.callbacks.save_config import SaveFitConfig
from blockzoo.tasks.checkpoint_io import AtomicCheckpointIO
from blockzoo.tasks.data.base import ZooData
from blockzoo.tasks.data.series import JapaneseVowels, UEASeries
from blockzoo.tasks.series_classification import SeriesClassification

__all__ = [
    "JapaneseVowels",
    "RunFolder",
    "SeriesClassification",
    "UEASeries",
    "ZooCLI",
    "config_path",
    "list_configs",
    "main",
]

SUBCOMMANDS = ("fit", "validate", "test", "predict")


def list_configs() -> list[str]:
    """Names of the packaged configs, as `--config` takes them."""
    root = Path(str(files("blockzoo.configs")))
    return sorted(str(path.relative_to(root).with_suffix("").as_posix()) for path in root.rglob("*.yaml"))


def config_path(name: str) -> str:
    """The file of a config: a path that exists, or else the packaged config of that name.

    Raises:
        FileNotFoundError: It is neither; the message suggests near names.
    """
    if Path(name).is_file():
        return name
    packaged = Path(str(files("blockzoo.configs"))) / f"{name.removesuffix('.yaml')}.yaml"
    if packaged.is_file():
        return str(packaged)
    known = list_configs()
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise FileNotFoundError(
        f"--config {name}: no such file, and no packaged config; did you mean {' or '.join(close)}?"
    )


class ZooCLI(LightningCLI):
    """Lightning's command line with the zoo's rules.

    Interpolation follows overrides from later files and the command line; for `fit` the given config wins over what a
    checkpoint remembers; every trainer saves atomically and stops cleanly.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--vars`, values that no other argument owns, for `${vars.name}` in configs."""
        parser.add_argument("--vars", type=dict, default={}, help="free values for ${vars.name} in configs")

    def _parse_ckpt_path(self) -> None:
        if self.config.get("subcommand") != "fit":
            super()._parse_ckpt_path()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Any:
        plugins = config.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        guards = [NonFiniteLossGuard(), InterruptGuard()]
        return super()._instantiate_trainer({**config, "plugins": plugins}, [*callbacks, *guards])

    def after_fit(self) -> None:
        """Test the weights that the fit has chosen."""
        weights = Path(self.trainer.log_dir or "") / "model.safetensors"
        if self.trainer.interrupted or not weights.is_file() or "test" not in self.datamodule.datasets:
            return
        # Not through the checkpoint: Lightning would take the weights before averaging from it.
        self.model.model.load_state_dict(load_state_dict(weights))
        self.trainer.test(self.model, datamodule=self.datamodule)


def _expand(args: Sequence[str]) -> list[str]:
    """Replace config names by paths, and a run folder behind the subcommand by the options that read it."""
    out = list(args[:1])
    rest = list(args[1:])
    if out and out[0] in SUBCOMMANDS[1:] and rest and not rest[0].startswith("-"):
        folder = Path(rest.pop(0))
        weights = folder / "model.safetensors"
        for path in (folder / "config.yaml", weights):
            if not path.is_file():
                raise FileNotFoundError(f"{folder} is not the folder of a finished fit: it has no {path.name}")
        out += ["--config", str(folder / "config.yaml"), "--trainer.logger=false"]
        out += [f"--model.init_args.checkpoint_path={weights}"]
    take = False
    for argument in rest:
        if take:
            argument, take = config_path(argument), False
        elif argument in ("-c", "--config"):
            take = True
        elif argument.startswith("--config="):
            argument = f"--config={config_path(argument.removeprefix('--config='))}"
        out.append(argument)
    return out


def run(args: Sequence[str] | None = None) -> ZooCLI:
    """Parse, build and run; errors come as exceptions. Returns the finished command line object."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    given = sys.argv[1:] if args is None else list(args)
    return ZooCLI(
        Task,
        ZooData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=_expand(given),
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={"default_root_dir": "runs"},
        save_config_callback=SaveFitConfig,
        parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run a training subcommand.

    Returns:
        Exit status: 0; 1 when the run failed; 2 for a wrong command or config; 130 and 143 after SIGINT and SIGTERM.
    """
    from jsonargparse import ArgumentError

    try:
        run(args)
    except SIGTERMException:
        return 143
    except NonFiniteLossError as error:
        print(f"blockzoo: {error}", file=sys.stderr)
        return 1
    except (ArgumentError, FileNotFoundError, MisconfigurationException, ValueError, TypeError) as error:
        print(f"blockzoo: {explain(error)}", file=sys.stderr)
        return 2
    except SystemExit as error:
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        return 130 if interrupted else int(error.code or 0)
    return 0


def explain(error: BaseException) -> str:
    """The cause of a config error first, then what the parser said."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    for link in chain:
        if isinstance(link, ModuleNotFoundError):
            return f"the Python package {link.name!r} is missing (pip install {link.name})\n{text}"
    unknown = re.search(r"Key '([\w.]+)' is not expected|does not accept (?:nested )?(?:key|option) '([\w.]+)'", text)
    if unknown:
        key = unknown.group(1) or unknown.group(2)
        return f"unknown config key {key!r}\n{text}"
    return text
