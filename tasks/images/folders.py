"""Folders of labelled images, and torchvision's data sets, with timm's transforms."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from timm.data import create_transform
from torch.utils.data import Dataset

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES, load_image, to_channels
from blockzoo.tasks.core.labelled_files import class_folders, content_digest, stat_digest
from blockzoo.tasks.core.transforms import IMAGENET_MEAN, IMAGENET_STD, fit_channels, image_transform

__all__ = ["ImageFolder", "TorchvisionImages"]


class _Transformed(Dataset[dict[str, torch.Tensor]]):
    """Samples of a labelled source as dictionaries, each prepared when it is requested."""

    def __init__(self, source: Any, data: "_Transforms", augmented: bool) -> None:
        self.source, self.data, self.augmented = source, data, augmented

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, label = self.source.read(index, self.data.channels)
        transform = self.data.train_transform if self.augmented else self.data.eval_transform
        return {"x": transform(image), "label": torch.tensor(label), "index": torch.tensor(index)}

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        """Identity of these images for caches, see `blockzoo.tasks.raptor.activations`."""
        return self.source.fingerprint(known)


class _Files:
    """Image files with the numbers of their classes."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int, channels: int) -> tuple[Any, int]:
        path, label = self.files[index]
        return load_image(path, channels), label

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        files = stat_digest(self.files)
        if known.get("files") == files:  # untouched since the contents were read
            return known
        return {"files": files, "content": content_digest(self.files)}


class _OfTorchvision:
    """A data set of torchvision, in any of Pillow's modes."""

    def __init__(self, source: Any, name: str) -> None:
        self.source, self.name = source, name

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, channels: int) -> tuple[Any, int]:
        image, label = self.source[index]
        try:
            return to_channels(image, channels), label
        except ValueError as error:
            raise ValueError(f"{self.name}, image {index}: {error}") from error

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        digest = hashlib.sha256()
        for index in range(len(self)):
            image, label = self.read(index, 3)
            digest.update(f"{label}:{image.size}:".encode())
            digest.update(np.asarray(image).tobytes())
        return {"content": digest.hexdigest()}


class _Transforms(ZooData):
    """The transforms for training and evaluation.

    What is None is what the model wants: its weights' configuration within a trainer or after `match`; without a model
    `defaults`, the size, the crop and the interpolation that the subclass names, and ImageNet's statistics.
    """

    def __init__(
        self,
        img_size: int | None,
        crop_pct: float | None,
        interpolation: str | None,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        auto_augment: str | None,
        color_jitter: float,
        random_erasing: float,
        scale: tuple[float, float],
        batch_size: int,
        num_workers: int,
        defaults: tuple[int, float, str],
    ) -> None:
        super().__init__(batch_size, num_workers)
        size = None if img_size is None else (3, img_size, img_size)
        given = {"crop_pct": crop_pct, "interpolation": interpolation, "mean": mean, "std": std}
        self._given = {key: value for key, value in given.items() if value is not None}
        self._size = size
        side, crop, resampling = defaults
        self._defaults = {"input_size": (3, side, side), "crop_pct": crop, "interpolation": resampling}
        self._defaults |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        self._augmentation: dict[str, Any] = {
            "auto_augment": auto_augment,
            "color_jitter": color_jitter,
            "re_prob": random_erasing,
            "scale": (scale[0], scale[1]),
        }
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
        size = list(self._size[1:]) if self._size is not None else size
        used["input_size"] = (self.channels, *size)
        used |= {key: fit_channels(used[key], self.channels, key) for key in ("mean", "std")}
        self.used = used
        shape = {key: used[key] for key in ("input_size", "mean", "std", "interpolation")}
        self.train_transform: Any = create_transform(**shape, is_training=True, **self._augmentation)
        self.eval_transform: Any = image_transform(used, self.channels)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Size, mean, deviation and crop of evaluation as they are used, and the class names."""
        sizes = {key: list(self.used[key]) for key in ("input_size", "mean", "std")}
        crop = {key: self.used[key] for key in ("crop_pct", "interpolation")}
        return {**sizes, **crop, "label_names": list(self.class_names)}


class ImageFolder(_Transforms):
    """Images in folders by class: `root/train/CLASS/*.jpg`, `root/val/CLASS/*.jpg`, and `root/test` where there is one.

    ImageNet has this layout when its tools unpack it. Images of all of Pillow's modes are read as
    `blockzoo.tasks.core.image_files.load_image` says, grey for a model with `in_chans=1`. Hidden files, hidden folders
    and remains of archive programs are skipped.

    Args:
        root: The folder.
        img_size: Side of the square that the model sees, in pixels. This and the next four are by default what the
            model's configuration says; without a model 224, 0.875, "bicubic" and ImageNet's mean and deviation.
        crop_pct: In evaluation, that side over the side to which the image is resized first.
        interpolation: "bilinear", "bicubic" or "random" (training).
        mean: Mean of each channel, over 255.
        std: Standard deviation of each channel, over 255.
        auto_augment: timm's description of RandAugment and its kin, for example "rand-m9-mstd0.5-inc1".
        color_jitter: Strength of colour jitter, where `auto_augment` is None.
        random_erasing: Probability of erasing a rectangle.
        scale: Least and largest share of the image's area that a training crop takes.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: Parts have different classes, a class has no images, or an image cannot be read; the message names
            it.
    """

    def __init__(
        self,
        root: str,
        img_size: int | None = None,
        crop_pct: float | None = None,
        interpolation: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        auto_augment: str | None = None,
        color_jitter: float = 0.4,
        random_erasing: float = 0.0,
        scale: tuple[float, float] = (0.08, 1.0),
        batch_size: int = 128,
        num_workers: int = 8,
    ) -> None:
        pixels = (img_size, crop_pct, interpolation, mean, std)
        augmentation = (auto_augment, color_jitter, random_erasing, scale)
        super().__init__(*pixels, *augmentation, batch_size, num_workers, (224, 0.875, "bicubic"))
        self.root = Path(root)

    def setup(self, stage: str) -> None:
        """List the images of all parts; the same whatever the stage."""
        self.match_task()
        if self.datasets:
            return
        found: dict[str, Any] = {}
        for part in ("train", "val", "test"):
            folder = self.root / part
            if not folder.is_dir():
                if part == "test":
                    continue
                raise FileNotFoundError(f"{folder} is missing; expected {self.root}/{part}/CLASS/IMAGE")
            names = self.class_names if part != "train" else None
            self.class_names, files = class_folders(folder, "image", IMAGE_SUFFIXES, names)
            found[part] = _Transformed(_Files(files), self, part == "train")
        self.datasets = found

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": str(self.root), "license": "unknown", "split": "folders train, val and test"}


class TorchvisionImages(_Transforms):
    """A labelled image set of torchvision that has a training and a test part, for example "CIFAR100" or "SVHN".

    torchvision reads some of them from pickles, after checking their hash. Arguments as for `ImageFolder`, and

    Args:
        name: Class in `torchvision.datasets` that is built with `train=` or `split="train"|"test"`.
        root: Folder of the files.
        download: Fetch them.
        **kwargs: See `ImageFolder`; without a model, the size is 32, the crop 1.0 and the interpolation "bilinear".

    Raises:
        ValueError: torchvision has no such class.
    """

    def __init__(
        self,
        name: str,
        root: str = "data",
        download: bool = False,
        img_size: int | None = None,
        crop_pct: float | None = None,
        interpolation: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        auto_augment: str | None = None,
        color_jitter: float = 0.0,
        random_erasing: float = 0.0,
        scale: tuple[float, float] = (0.5, 1.0),
        batch_size: int = 128,
        num_workers: int = 0,
    ) -> None:
        if not isinstance(getattr(torchvision.datasets, name, None), type):
            known = ", ".join(torchvision.datasets.__all__)
            raise ValueError(f"name={name!r} is no data set of torchvision; they are {known}")
        pixels = (img_size, crop_pct, interpolation, mean, std)
        augmentation = (auto_augment, color_jitter, random_erasing, scale)
        super().__init__(*pixels, *augmentation, batch_size, num_workers, (32, 1.0, "bilinear"))
        self.dataset, self.root, self.download = name, root, download

    def _source(self, train: bool, download: bool) -> Any:
        make = getattr(torchvision.datasets, self.dataset)
        try:
            return make(self.root, train=train, download=download)
        except TypeError:  # those with more than two parts name them
            return make(self.root, split="train" if train else "test", download=download)

    def prepare_data(self) -> None:
        """Download, if that is asked for; by one process of a machine."""
        if self.download:
            for train in (True, False):
                self._source(train, download=True)

    def setup(self, stage: str) -> None:
        """Open both parts; the same whatever the stage."""
        self.match_task()
        if self.datasets:
            return
        train, test = self._source(True, False), self._source(False, False)
        self.class_names = tuple(getattr(train, "classes", ()))
        parts = {"train": train, "test": test}
        self.datasets = {
            part: _Transformed(_OfTorchvision(source, f"{self.dataset} ({part})"), self, part == "train")
            for part, source in parts.items()
        }

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": self.dataset, "license": "see torchvision", "split": "published training and test part"}
