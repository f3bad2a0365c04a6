"""Texts about a model family, which its module declares for people to read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FamilyAbout", "Small"]


@dataclass(frozen=True)
class Small:
    """A small model that stands for others of its family in tables and tests.

    Attributes:
        name: The registered model that is built.
        covers: Wildcards of the models that it stands for, as in `fnmatch`; the first entry that covers a name counts.
        args: Constructor arguments that make it small.
    """

    name: str
    covers: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FamilyAbout:
    """Texts about a family; its module holds them under the name `about`.

    Attributes:
        title: The name that people know it by.
        purpose: What the models are for and how they work, in two plain sentences.
        paper: The title of the paper. If there are several, the older ones come first, each with its year in brackets.
        year: The year in which the paper, or the last of several, appeared; 0 without a paper.
        part_of: The module of another family, if both are shown as one.
        small: Small models that stand for the family; without any, its first model stands for all.
        train: Commands that train the family where no shipped checkpoint names one.
    """

    title: str
    purpose: str
    paper: str = ""
    year: int = 0
    part_of: str = ""
    small: tuple[Small, ...] = ()
    train: tuple[str, ...] = ()
