"""Finds the rooms of `blockzoo.tasks` and reads what each declares about itself.

A room is a folder of `blockzoo.tasks` with a module `about.py` that holds `room = Room(...)`. Declarations are text:
nothing heavy is imported to read them, and what they name is imported when it is used. The commands read the
declarations from here, so a new room or family needs no entry in another list.
"""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GROUPS", "Calibration", "Command", "Int8", "Room", "commands", "components", "declared", "load", "rooms"]

GROUPS = ("models", "training", "evaluation", "science tools", "maintenance")
"""The groups of `blockzoo --help`, in order."""


@dataclass(frozen=True)
class Command:
    """A sub-command of `blockzoo`.

    Attributes:
        name: The words to type after `blockzoo`, one or two.
        group: One of `GROUPS`.
        module: The module with `add_arguments(parser)` and `run(args)`, which returns the exit status.
        text: One line for `blockzoo --help`.
    """

    name: str
    group: str
    module: str
    text: str


@dataclass(frozen=True)
class Calibration:
    """The training data of a data set, for int8 programs and for compression.

    Attributes:
        data: The data module.
        packaged: Whether the data ship with blockzoo; the data module then takes only `seq_len`, otherwise the folder
            of the data.
    """

    data: str
    packaged: bool = False


@dataclass(frozen=True)
class Int8:
    """How models of a modality become programs in int8.

    Attributes:
        real_inputs: Whether programs are traced and compared on real samples wherever there are some, since what such a
            model computes depends on its input's values; otherwise they are used for static scales alone.
    """

    real_inputs: bool = False


@dataclass(frozen=True)
class Room:
    """Declaration of a room: what it offers to the commands.

    Functions and classes are named as "package.module:name".

    Attributes:
        components: Tasks, data modules and callbacks that a config may name by their class name alone.
        evaluators: By checkpoint or data set, a function from a model to its metric and the demo page's sections.
        readers: By "modality/task", or "modality" alone, the function `(model, files, args) -> exit status` behind
            `blockzoo predict`.
        reader_arguments: Functions that add the readers' own options to the parser of `blockzoo predict`.
        suites: By the name after `blockzoo bench`, the `Suite` to run.
        kernels: By kernel, the `Cases` that `blockzoo bench kernels` measures.
        speed: By family, a function that makes the demo's `SpeedCase`, if timm has no model of the same name.
        calibration: By data set, the data whose training part sets the scales of int8 programs.
        calibration_files: By "modality/task", a function `(model, path, count)` from a user's files to forward
            arguments that set the scales of int8 programs.
        int8: By modality, how its models become programs in int8; those of other modalities do not.
        exporters: By modality, a function `(model, form, path)` that exports models whose input sizes are always free.
        metrics: By name in a card, the metric's name for people.
        baselines: By a task's class name, the function `(task, data, args) -> scores` behind `blockzoo baselines`:
            metrics by name, by method.
        baseline_arguments: Functions that add the baselines' own options to that command's parser.
        commands: Further sub-commands.
    """

    components: tuple[str, ...] = ()
    evaluators: Mapping[str, str] = field(default_factory=dict)
    readers: Mapping[str, str] = field(default_factory=dict)
    reader_arguments: tuple[str, ...] = ()
    suites: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    speed: Mapping[str, str] = field(default_factory=dict)
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    calibration_files: Mapping[str, str] = field(default_factory=dict)
    int8: Mapping[str, Int8] = field(default_factory=dict)
    exporters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    baseline_arguments: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()


@functools.cache
def rooms() -> dict[str, Room]:
    """The rooms by their folder's name, sorted.

    Raises:
        TypeError: The `about.py` of a folder does not hold `room = Room(...)`.
    """
    import blockzoo.tasks

    found = {}
    for folder in sorted(info.name for info in pkgutil.iter_modules(blockzoo.tasks.__path__) if info.ispkg):
        name = f"blockzoo.tasks.{folder}.about"
        if importlib.util.find_spec(name) is None:
            continue
        room = getattr(importlib.import_module(name), "room", None)
        if not isinstance(room, Room):
            raise TypeError(f"{name} must hold `room = Room(...)`, it holds {type(room).__name__}")
        found[folder] = room
    return found


def declared(what: str) -> dict[str, Any]:
    """Collect one kind of declaration from all rooms, by name.

    Args:
        what: An attribute of `Room` that is a mapping, for example "evaluators".

    Raises:
        ValueError: Two rooms declare the same name.
    """
    merged: dict[str, Any] = {}
    for folder, room in rooms().items():
        for name, value in getattr(room, what).items():
            if merged.setdefault(name, value) != value:
                raise ValueError(f"blockzoo.tasks.{folder}.about declares {what} {name!r}, which another room has too")
    return merged


def components() -> dict[str, str]:
    """Find the module of each task, data module and callback, by class name.

    Raises:
        ValueError: Two classes have the same name.
    """
    merged: dict[str, str] = {}
    for room in rooms().values():
        for place in room.components:
            name = place.partition(":")[2]
            if merged.setdefault(name, place) != place:
                raise ValueError(f"two classes are called {name}: {merged[name]} and {place}")
    return merged


def commands() -> dict[str, Command]:
    """The rooms' own sub-commands, by name."""
    return {command.name: command for room in rooms().values() for command in room.commands}


def load(place: str) -> Any:
    """Import what "package.module:name" names.

    Raises:
        ImportError: There is no such module.
        AttributeError: The module has no such name.
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
