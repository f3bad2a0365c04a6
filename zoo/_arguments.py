"""Checks of constructor arguments, so that a mistake gives one line that names the argument."""

import difflib
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["check_arguments", "constructor_arguments", "positive", "same_length"]

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a word",
    dict: "a dictionary",
    type(None): "None",
}


def positive(**values: int | Sequence[int]) -> None:
    """Check that numbers, or all numbers of sequences, are at least 1.

    Args:
        **values: The numbers by the names of their arguments.

    Raises:
        ValueError: A number is less than 1; the message names it.
    """
    for name, value in values.items():
        if min([value] if isinstance(value, int) else value, default=1) < 1:
            raise ValueError(f"{name}={value} must be {'at least 1' if isinstance(value, int) else '1 or more each'}")


def same_length(**values: Sequence[Any]) -> None:
    """Check that sequences are equally long.

    Args:
        **values: The sequences by the names of their arguments.

    Raises:
        ValueError: The lengths differ; the message names all of them.
    """
    if len({len(value) for value in values.values()}) > 1:
        raise ValueError(f"{' and '.join(f'{name}={value}' for name, value in values.items())} must be equally long")


def constructor_arguments(fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Collect the keyword arguments of a constructor, with those that its `**kwargs` pass on to its base class.

    Args:
        fn: A class, whose `excluded_arguments` name what it does not take from its base class; or a function, whose own
            `**kwargs` are kept.
    """
    found = dict(inspect.signature(fn).parameters)
    handed_on = next((name for name, parameter in found.items() if parameter.kind is parameter.VAR_KEYWORD), None)
    classes = _constructing(fn)
    if handed_on is None or len(classes) < 2:
        return found
    del found[handed_on]
    excluded = getattr(fn, "excluded_arguments", ())
    inherited = constructor_arguments(classes[1])
    return found | {name: value for name, value in inherited.items() if name not in found and name not in excluded}


def _constructing(fn: Callable[..., Any]) -> list[type]:
    """The class, then its bases that have a constructor."""
    return [cls for cls in getattr(fn, "__mro__", ()) if "__init__" in vars(cls) and cls is not object]


def check_arguments(fn: Callable[..., Any], owner: str, kwargs: dict[str, Any], also: Sequence[str] = ()) -> None:
    """Check names and types of keyword arguments before a constructor is called with them.

    Types are checked where annotations consist of numbers, strings, booleans, literals and sequences of these.

    Args:
        fn: The constructor.
        owner: The name of the constructor in messages.
        kwargs: The arguments.
        also: Further names that are accepted, unchecked.

    Raises:
        TypeError: A name is unknown; the message lists the known ones.
        ValueError: A value has another type; the message says which it should have.
    """
    arguments = constructor_arguments(fn)
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in arguments.values())
    hints: dict[str, Any] = {}
    for initialiser in [vars(cls)["__init__"] for cls in reversed(_constructing(fn))] or [fn]:
        hints |= get_type_hints(initialiser)
    for name, value in kwargs.items():
        if name in also:
            continue
        if name not in arguments:
            if free:
                continue
            close = difflib.get_close_matches(name, arguments, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise TypeError(f"{owner} has no argument {name!r}; {hint}it takes {', '.join(arguments)}")
        if name in hints and not _matches(value, hints[name]):
            raise ValueError(f"{owner}: {name}={value!r} must be {_in_words(hints[name])}")


def _matches(value: Any, hint: Any) -> bool:
    """Whether a value has a type; True if that cannot be checked."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_matches(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin in (tuple, list, Sequence):
        whole = not isinstance(value, str) and isinstance(value, Sequence)
        return whole and all(_matches(part, args[0]) for part in value if args)
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if hint is int:
        return hasattr(value, "__index__") and not isinstance(value, bool)
    if hint is float:
        return (hasattr(value, "__float__") or hasattr(value, "__index__")) and not isinstance(value, bool | str)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _in_words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(arg) for arg in args)
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin in (tuple, list, Sequence) and args:
        return f"a sequence, each {_in_words(args[0])}"
    return _WORDS.get(origin or hint, getattr(hint, "__name__", str(hint)))
