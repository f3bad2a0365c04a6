"""What a family module says about itself for people."""

from dataclasses import dataclass

__all__ = ["FamilyAbout"]


@dataclass(frozen=True)
class FamilyAbout:
    """Words about a family, which its module holds under the name `about`.

    Attributes:
        title: The name that people know.
        purpose: What the models are for and how they work, in two plain sentences.
        paper: The title of the paper. If there are several, the older ones come first, each with its year in brackets.
        year: The year in which the paper, or the last of several, appeared; 0 without a paper.
        part_of: The module of another family, if both are shown as one.
    """

    title: str
    purpose: str
    paper: str = ""
    year: int = 0
    part_of: str = ""
