"""Folders of labelled images, and torchvision's data sets, with timm's transforms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform
from torch.utils.data import Dataset

from blockzoo.tasks.core.data import ZooData

__all__ = ["ImageFolder", "TorchvisionImages", "load_image"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_image(path: str) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        ValueError: It cannot be read; the message names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


class _Transformed(Dataset[dict[str, torch.Tensor]]):
    """Samples of a torchvision data set as dictionaries."""

    def __init__(self, source: Any, transform: Callable[[Any], torch.Tensor]) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, label = self.source[index]
        return {"x": self.transform(image), "label": torch.tensor(label), "index": torch.tensor(index)}


class _Transforms(ZooData):
    """The transforms for training and evaluation."""

    def __init__(
        self,
        img_size: int,
        crop_pct: float,
        interpolation: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        auto_augment: str | None,
        color_jitter: float,
        random_erasing: float,
        scale: tuple[float, float],
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.mean, self.std = tuple(mean), tuple(std)
        self.crop = {"crop_pct": crop_pct, "interpolation": interpolation}
        common: dict[str, Any] = {"input_size": (3, img_size, img_size), "mean": self.mean, "std": self.std}
        self.train_transform: Any = create_transform(
            **common,
            is_training=True,
            scale=(scale[0], scale[1]),
            interpolation=interpolation,
            auto_augment=auto_augment,
            color_jitter=color_jitter,
            re_prob=random_erasing,
        )
        self.eval_transform: Any = create_transform(**common, interpolation=interpolation, crop_pct=crop_pct)
        self.class_names: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Mean, deviation and crop of evaluation, and the class names."""
        return {"mean": list(self.mean), "std": list(self.std), "label_names": list(self.class_names), **self.crop}


class ImageFolder(_Transforms):
    """Images in folders by class: `root/train/CLASS/*.jpg`, `root/val/CLASS/*.jpg`, and `root/test` where there is one.

    ImageNet as its tools unpack it has this layout.

    Args:
        root: The folder.
        img_size: Side of the square that the model sees, in pixels.
        crop_pct: In evaluation, that side over the side to which the image is resized first.
        interpolation: "bilinear", "bicubic" or "random" (training).
        mean: Of each channel, over 255.
        std: Likewise.
        auto_augment: timm's description of RandAugment and its kin, for example "rand-m9-mstd0.5-inc1".
        color_jitter: Strength of colour jitter, where `auto_augment` is None.
        random_erasing: Probability of erasing a rectangle.
        scale: Least and largest share of the image's area that a training crop takes.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: Parts have different classes, or an image cannot be read; the message names it.
    """

    def __init__(
        self,
        root: str,
        img_size: int = 224,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        auto_augment: str | None = None,
        color_jitter: float = 0.4,
        random_erasing: float = 0.0,
        scale: tuple[float, float] = (0.08, 1.0),
        batch_size: int = 128,
        num_workers: int = 8,
    ) -> None:
        pixels = (img_size, crop_pct, interpolation, mean, std)
        augmentation = (auto_augment, color_jitter, random_erasing, scale)
        super().__init__(*pixels, *augmentation, batch_size, num_workers)
        self.root = Path(root)

    def setup(self, stage: str) -> None:
        """List the images of all parts; the same whatever the stage."""
        if self.datasets:
            return
        for part in ("train", "val", "test"):
            folder = self.root / part
            if not folder.is_dir():
                if part == "test":
                    continue
                raise FileNotFoundError(f"{folder} is missing; expected {self.root}/{part}/CLASS/IMAGE")
            source = torchvision.datasets.ImageFolder(str(folder), loader=load_image)
            names = tuple(source.classes)
            if self.class_names and names != self.class_names:
                different = sorted(set(names) ^ set(self.class_names))
                raise ValueError(f"{folder} and {self.root}/train differ in the classes {', '.join(different)}")
            self.class_names = names
            self.datasets[part] = _Transformed(source, self.train_transform if part == "train" else self.eval_transform)

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
        **kwargs: See `ImageFolder`.

    Raises:
        ValueError: torchvision has no such class.
    """

    def __init__(
        self,
        name: str,
        root: str = "data",
        download: bool = False,
        img_size: int = 32,
        crop_pct: float = 1.0,
        interpolation: str = "bilinear",
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
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
        super().__init__(*pixels, *augmentation, batch_size, num_workers)
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
        if not self.datasets:
            train, test = self._source(True, False), self._source(False, False)
            self.class_names = tuple(getattr(train, "classes", ()))
            self.datasets = {"train": _Transformed(_Rgb(train), self.train_transform)}
            self.datasets["test"] = _Transformed(_Rgb(test), self.eval_transform)

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": self.dataset, "license": "see torchvision", "split": "published training and test part"}


class _Rgb:
    """A data set whose images are made RGB."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        image, label = self.source[index]
        return image.convert("RGB"), label
