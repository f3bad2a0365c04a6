"""Folders of labelled images, and torchvision's data sets, with timm's transforms."""

import abc
import hashlib
import inspect
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from timm.data import create_transform
from torch.utils.data import Dataset

from blockzoo.tasks.core.balance import balanced_sampler
from blockzoo.tasks.core.broken_samples import kept_samples
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES, to_channels
from blockzoo.tasks.core.labelled_files import part_folders
from blockzoo.tasks.core.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_augmentation,
    fit_channels,
    image_transform,
)
from blockzoo.tasks.images.records import FileRecords, Records, unreadable

__all__ = ["ImageFolder", "Images", "TorchvisionImages"]


_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming", "random")


class _Transformed(Dataset[dict[str, torch.Tensor]]):
    """Samples of a labelled source as dictionaries, each prepared when it is requested."""

    def __init__(self, source: Any, data: "Images", augmented: bool) -> None:
        self.source, self.data, self.augmented = source, data, augmented

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, label = self.source.read(index, self.data.channels)
        transform = self.data.train_transform if self.augmented else self.data.eval_transform
        return {"x": transform(image), "label": torch.as_tensor(label), "index": torch.tensor(index)}

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        """Identity of these images for caches, see `blockzoo.tasks.raptor.activations`."""
        return self.source.fingerprint(known)


class _OfTorchvision:
    """A data set of torchvision, in any of Pillow's modes."""

    def __init__(self, source: Any, name: str) -> None:
        self.source, self._name = source, name

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> list[tuple[int, ...]]:
        """The class of each image.

        Raises:
            ValueError: The data set does not tell without decoding all images.
        """
        found = next((getattr(self.source, key) for key in ("targets", "labels") if hasattr(self.source, key)), None)
        if found is None:
            raise ValueError(f"{self._name} does not tell its labels without its images, so that nothing is balanced")
        return [(int(label),) for label in found]

    def name(self, index: int) -> str:
        """What an image is called in tables."""
        return str(index)

    def read(self, index: int, channels: int) -> tuple[Any, int]:
        """The image and its class."""
        image, label = self.source[index]
        try:
            return to_channels(image, channels), label
        except ValueError as error:
            raise ValueError(f"{self._name}, image {index}: {error}") from error

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        """See `blockzoo.tasks.raptor.activations`."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            image, label = self.read(index, 3)
            digest.update(f"{label}:{image.size}:".encode())
            digest.update(np.asarray(image).tobytes())
        return {"content": digest.hexdigest()}


def _check_ranges(
    img_size: int | None, crop_pct: float | None, interpolation: str | None, random_erasing: float
) -> None:
    if img_size is not None and img_size < 1:
        raise ValueError(f"img_size={img_size} must be at least 1")
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct} must be greater than 0, and at most 1")
    if interpolation not in (None, *_INTERPOLATIONS):
        raise ValueError(f"interpolation={interpolation!r} must be one of {', '.join(_INTERPOLATIONS)}")
    if not 0 <= random_erasing <= 1:
        raise ValueError(f"random_erasing={random_erasing} must be in [0, 1]")


class Images(ZooData):
    """What data modules of images share: the transforms for training and evaluation, and what balances classes.

    What is None is what the model wants: its weights' configuration within a trainer or after `match`; without a model
    the size, crop and interpolation in `defaults`, and ImageNet's statistics.

    Args:
        img_size: Side of the square that the model sees, in pixels; without a model 224.
        crop_pct: In evaluation, that side over the side to which the image is resized first; without a model 0.875.
        interpolation: "bilinear", "bicubic", "nearest", "lanczos", "box" or "hamming"; or "random" for one of the first
            two in training, and the model's in evaluation; without a model "bicubic".
        mean: Mean of each channel, on a scale where white is 1; without a model ImageNet's.
        std: Standard deviation of each channel, on that scale; without a model ImageNet's.
        auto_augment: timm's description of RandAugment, AugMix or AutoAugment, for example "rand-m9-mstd0.5-inc1".
        color_jitter: Strength of colour jitter, used if `auto_augment` is None.
        random_erasing: Probability of erasing a rectangle.
        scale: Least and largest share of the image's area that a training crop takes.
        balance: Draw training images so that every class is seen equally often; an epoch keeps its length.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that prepare batches.
    """

    defaults: ClassVar[tuple[int, float, str]] = (224, 0.875, "bicubic")

    def __init__(
        self,
        img_size: int | None = None,
        crop_pct: float | None = None,
        interpolation: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        auto_augment: str | None = None,
        color_jitter: float = 0.4,
        random_erasing: float = 0.0,
        scale: tuple[float, float] = (0.08, 1.0),
        balance: bool = False,
        batch_size: int = 128,
        num_workers: int = 8,
    ) -> None:
        super().__init__(batch_size, num_workers)
        _check_ranges(img_size, crop_pct, interpolation, random_erasing)
        check_augmentation(std, color_jitter, scale)
        given = {"crop_pct": crop_pct, "interpolation": interpolation, "mean": mean, "std": std}
        self._random_interpolation = interpolation == "random"
        self._given = {key: value for key, value in given.items() if value is not None and value != "random"}
        self._side = img_size
        side, crop, resampling = self.defaults
        self._defaults = {"input_size": (3, side, side), "crop_pct": crop, "interpolation": resampling}
        self._defaults |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        self._augmentation: dict[str, Any] = {
            "auto_augment": auto_augment,
            "color_jitter": color_jitter,
            "re_prob": random_erasing,
            "scale": (scale[0], scale[1]),
        }
        self.balance = balance
        self.multi_label = False
        self.skipped: list[str] = []
        self.class_names: tuple[str, ...] = ()
        self.match({})

    def match(self, cfg: dict[str, Any], trained: bool = True) -> None:
        """Take size, crop, interpolation, mean and deviation from a model's configuration, unless they are given.

        Raises:
            ValueError: The model takes neither three channels nor one, or statistics do not fit its channels.
        """
        found = {key: value for key, value in cfg.items() if key in self._defaults and value is not None}
        used: dict[str, Any] = {**self._defaults, **found, **self._given}
        self.channels, *size = used["input_size"]
        if self.channels not in (1, 3):
            raise ValueError(f"images have 3 channels, or 1 as grey; the model takes in_chans={self.channels}")
        size = size if self._side is None else [self._side, self._side]
        used["input_size"] = (self.channels, *size)
        used |= {key: fit_channels(used[key], self.channels, key) for key in ("mean", "std")}
        self.used = used
        shape = {key: used[key] for key in ("input_size", "mean", "std", "interpolation")}
        if self._random_interpolation:
            shape["interpolation"] = "random"
        self.train_transform: Any = create_transform(**shape, is_training=True, **self._augmentation)
        self.eval_transform: Any = image_transform(used, self.channels)

    def setup(self, stage: str) -> None:
        """Find the images of all parts; the same whatever the stage."""
        self.match_task()
        if self.datasets:
            return
        self.datasets = {part: _Transformed(found, self, part == "train") for part, found in self._parts().items()}

    @abc.abstractmethod
    def _parts(self) -> dict[str, Any]:
        """The labelled images of each part; sets `class_names`."""

    def sample_names(self, part: str) -> list[str]:
        """What the images of a part are called, in the order of their `index`."""
        source: Any = self.datasets[part]
        return [source.source.name(index) for index in range(len(source))]

    @property
    def train_labels(self) -> list[tuple[int, ...]]:
        """See `ZooData.train_labels`."""
        train: Any = self.datasets["train"]
        found: list[tuple[int, ...]] = train.source.labels
        return found

    def _sampler(self) -> Any:
        return balanced_sampler(self.train_labels, len(self.class_names)) if self.balance else None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Size, mean, deviation and crop of evaluation as they are used, and the class names."""
        sizes = {key: list(self.used[key]) for key in ("input_size", "mean", "std")}
        crop = {key: self.used[key] for key in ("crop_pct", "interpolation")}
        several = {"multi_label": True} if self.multi_label else {}
        return {**sizes, **crop, **several, "label_names": list(self.class_names)}

    def _skipping(self, parts: dict[str, Records]) -> dict[str, Any]:
        """The parts without images that cannot be read, which are noted in `skipped`.

        Raises:
            ValueError: No image of a part is left, or none of a class in training.
        """
        self.skipped = []
        kept: dict[str, Any] = {}
        for part, records in parts.items():
            rows, broken = kept_samples(unreadable(records), records.labels, "image", part, self.class_names)
            kept[part] = records.only(rows)
            self.skipped += broken
        return kept

    @property
    def _words_of_skipped(self) -> str:
        return f"; {len(self.skipped)} images that cannot be read left out" if self.skipped else ""


class ImageFolder(Images):
    """Images in folders by class: `root/train/CLASS/*.jpg`, `root/val/CLASS/*.jpg`, and optionally `root/test`.

    ImageNet has this layout when its tools unpack it. Images of all of Pillow's modes are read as
    `blockzoo.tasks.core.image_files.load_image` says, grey for a model with `in_chans=1`. Hidden files, hidden folders
    and remains of archive programs are skipped.

    Args:
        root: The folder.
        skip_broken: Decode every image once before training, and go on without those that cannot be read; they are
            named. By default the first of them stops the run when it is met.
        **kwargs: See `blockzoo.tasks.images.folders.Images`.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: Parts have different classes, a class has no images, or an image cannot be read; the message names
            it.
    """

    def __init__(self, root: str, skip_broken: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.skip_broken = Path(root), skip_broken

    def _parts(self) -> dict[str, Any]:
        self.class_names, parts = part_folders(self.root, "image", IMAGE_SUFFIXES)
        found: dict[str, Records] = {
            part: FileRecords([path for path, _ in files], [(label,) for _, label in files])
            for part, files in parts.items()
        }
        return self._skipping(found) if self.skip_broken else found

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        split = f"folders train, val and test{self._words_of_skipped}"
        return {"dataset": str(self.root), "license": "unknown", "split": split}


class TorchvisionImages(Images):
    """A labelled image set of torchvision that has a training and a test part, for example "CIFAR100" or "SVHN".

    torchvision reads some of them from pickles, after checking their hash.

    Args:
        name: Class in `torchvision.datasets` that is built with `train=` or `split="train"|"test"`.
        root: Folder of the files.
        download: Fetch them.
        color_jitter: Strength of colour jitter, used if `auto_augment` is None.
        scale: Least and largest share of the image's area that a training crop takes.
        num_workers: Processes that prepare batches.
        **kwargs: See `blockzoo.tasks.images.folders.Images`; without a model, the size is 32, the crop 1.0 and the
            interpolation "bilinear".

    Raises:
        ValueError: torchvision has no such class, or it has not these parts.
    """

    defaults = (32, 1.0, "bilinear")

    def __init__(
        self,
        name: str,
        root: str = "data",
        download: bool = False,
        color_jitter: float = 0.0,
        scale: tuple[float, float] = (0.5, 1.0),
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        if not isinstance(getattr(torchvision.datasets, name, None), type):
            known = ", ".join(torchvision.datasets.__all__)
            raise ValueError(f"name={name!r} is no data set of torchvision; they are {known}")
        takes = inspect.signature(getattr(torchvision.datasets, name)).parameters
        if "train" not in takes and not {"split", "download"} <= set(takes):
            raise ValueError(
                f"name={name!r} is a data set of torchvision without a training and a test part to download"
            )
        super().__init__(color_jitter=color_jitter, scale=scale, num_workers=num_workers, **kwargs)
        self.dataset, self.root, self.download = name, root, download

    def _source(self, train: bool, download: bool) -> Any:
        make = getattr(torchvision.datasets, self.dataset)
        takes = inspect.signature(make).parameters
        part = {"train": train} if "train" in takes else {"split": "train" if train else "test"}
        return make(self.root, **part, download=download)

    def prepare_data(self) -> None:
        """Download if `download` is set; one process of each machine does it."""
        if self.download:
            for train in (True, False):
                self._source(train, download=True)

    def _parts(self) -> dict[str, Any]:
        train, test = self._source(True, False), self._source(False, False)
        self.class_names = tuple(getattr(train, "classes", ()))
        parts = {"train": train, "test": test}
        return {part: _OfTorchvision(source, f"{self.dataset} ({part})") for part, source in parts.items()}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": self.dataset, "license": "see torchvision", "split": "published training and test part"}
