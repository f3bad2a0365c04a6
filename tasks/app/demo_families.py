"""What the demo's page says about each family beyond its numbers."""

import inspect
import sys
from dataclasses import dataclass

import blockzoo
from blockzoo._registry import family_modules, family_of, model_entrypoint

__all__ = ["ABOUT", "Family", "families"]


@dataclass(frozen=True)
class Family:
    """Words about a family.

    Attributes:
        name: Of its module in the package.
        title: For people.
        purpose: What it is for, in two plain sentences.
        paper: Name and year of its paper or papers.
        train: Commands that train it where no shipped checkpoint names one.
        bench: What `blockzoo bench` measures it by.
        also: Further modules of the family.
    """

    name: str
    title: str
    purpose: str
    paper: str = ""
    train: tuple[str, ...] = ()
    bench: str = ""
    also: tuple[str, ...] = ()

    @property
    def models(self) -> list[str]:
        """Its registered models."""
        return blockzoo.list_models(family=[self.name, *self.also])


ABOUT = (
    Family(
        "timesnet",
        "TimesNet",
        "For time series with rhythms: forecasts, filled gaps, alarms about what is not normal, and classes. It finds "
        "the strongest periods of a series, folds the series by them into images, and looks at those by convolutions.",
        "TimesNet (2023)",
        bench="timesnet",
    ),
    Family(
        "nextvit",
        "Next-ViT",
        "Classifies images, and is a backbone for other tasks, where time on the device counts. Convolutions do most "
        "of the work, and at the end of each stage a transformer block sees the whole image.",
        "Next-ViT (2022)",
        bench="nextvit",
    ),
    Family(
        "emov2",
        "EMOv2",
        "Image classifiers and backbones of few parameters, for phones and other small devices. They consist of one "
        "kind of block, whose middle is a convolution or an attention among near and far pixels.",
        "EMOv2 (2024)",
        bench="emov2",
    ),
    Family(
        "nasnet",
        "NASNet",
        "Classifies images with cells that a search found, not a person. It is accurate for its number of parameters "
        "where speed matters less.",
        "Learning Transferable Architectures for Scalable Image Recognition (2018)",
        bench="nasnet",
    ),
    Family(
        "p3d",
        "P3D",
        "Says what happens in a video clip, from its frames or its optical flow. Every 3-D convolution is split into "
        "one over space and one over time, so that it can start from an image network.",
        "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks (2017)",
        bench="p3d",
    ),
    Family(
        "fno",
        "FNO, TFNO and MG-TFNO",
        "Learn what a solver of a differential equation computes, from one field to another, and answer at once. They "
        "work on frequencies, so that one model takes grids of any size; TFNO and MG-TFNO need fewer parameters.",
        "Fourier Neural Operator (2021), Multi-Grid Tensorized Fourier Neural Operator (2023)",
        bench="fno",
    ),
    Family(
        "tdn",
        "TDN, Gaunt and cgnet",
        "Give the energy of molecules and crystals and the forces on their atoms, for molecular dynamics far faster "
        "than quantum chemistry. Forces turn with the molecule; the three differ in how they multiply directions.",
        "Tensor Decomposition Networks (2025), Gaunt Tensor Products (2024)",
        bench="equivariant",
        also=("tdn_tensor",),
    ),
    Family(
        "raptor",
        "Raptor",
        "Replaces the layers of a vision transformer by two to four blocks that are applied again and again. It has "
        "far fewer parameters than its teacher, and follows the teacher's states from layer to layer.",
        "Block-Recurrent Dynamics in Vision Transformers (2025)",
        ("blockzoo fit --config raptor/cifar10_teacher", "blockzoo fit --config raptor/cifar10_blocks"),
        bench="raptor",
    ),
)
"""In the order of the page."""


def families() -> list[Family]:
    """All families of the registry; one without an entry in `ABOUT` is described by its module."""
    known = {module for family in ABOUT for module in (family.name, *family.also)}
    rest = sorted({*blockzoo.list_families(), *family_modules()} - known)
    return [*ABOUT, *(_described(name) for name in rest)]


def _described(name: str) -> Family:
    model = next(model for model in blockzoo.list_models(family=name) if family_of(model) == name)
    module = sys.modules[inspect.unwrap(model_entrypoint(model)).__module__]
    purpose = " ".join((inspect.getdoc(module) or f"The family {name}.").split("\n\n")[0].split())
    return Family(name, name, purpose)
