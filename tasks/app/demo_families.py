"""The families as the demo's page and the documentation show them."""

from dataclasses import dataclass

import blockzoo
from blockzoo._about import FamilyAbout
from blockzoo._registry import family_about
from blockzoo.tasks.app.bench import suites

__all__ = ["Family", "families"]


@dataclass(frozen=True)
class Family:
    """A family, with the families that are shown as part of it.

    Attributes:
        name: Name of its module in the package.
        about: Its texts for people.
        also: Families that are shown with it.
    """

    name: str
    about: FamilyAbout
    also: tuple[str, ...] = ()

    @property
    def models(self) -> list[str]:
        """Its registered models."""
        return blockzoo.list_models(family=[self.name, *self.also])

    @property
    def bench(self) -> str:
        """The name for `blockzoo bench` that measures it: a suite, or else a model."""
        found = [name for name, suite in suites().items() if self.name in (name, suite.family)]
        return found[0] if found else self.models[0]


def families() -> list[Family]:
    """All families of the registry, by modality and name; one that is part of another is listed with that one."""
    about = {name: family_about(name) for name in blockzoo.list_families()}
    modality = {name: blockzoo.get_pretrained_cfg(blockzoo.list_models(family=name)[0]).modality for name in about}
    shown = sorted((name for name in about if not about[name].part_of), key=lambda name: (modality[name], name))
    return [
        Family(name, about[name], tuple(other for other, words in about.items() if words.part_of == name))
        for name in shown
    ]
