"""Activations of a teacher on the images of another data module, stored in files."""

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from timm.models import VisionTransformer
from torch.utils.data import DataLoader, Dataset, Subset

from blockzoo._raptor_teacher import load_teacher
from blockzoo.raptor import teacher_trajectory
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.transforms import wanted_inputs

__all__ = ["ActivationCache", "TeacherActivations", "load_vit"]


def load_vit(
    name: str, kwargs: dict[str, Any] | None = None, pretrained: bool = False, checkpoint: str | None = None
) -> VisionTransformer:
    """A timm ViT in eval mode, without gradients.

    Args:
        name: timm's name, with or without "timm:".
        kwargs: Further arguments of the model.
        pretrained: Whether to load its published weights.
        checkpoint: Take the weights in this file instead, for example `model.safetensors` of a finished fit.

    Raises:
        ValueError: The model is not a `VisionTransformer`, or the file's weights do not fit it.
        FileNotFoundError: There is no such file.
    """
    if checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"teacher_checkpoint={checkpoint!r} is no file; train the teacher first")
    model = load_teacher(name, pretrained, checkpoint, kwargs or {})
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"teacher={name!r} is a {type(model).__name__}, not a timm VisionTransformer")
    return model.requires_grad_(False).eval()


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class ActivationCache:
    """States and labels of images in one memory-mapped file, which is filled batch by batch.

    `states.bin` holds (N, layers, tokens, dim). `rows.json` describes it and counts the finished rows. It is written
    after the rows have reached the disk, so that an interrupted run continues where it stopped.

    Args:
        folder: Folder of the files.
        shape: (N, layers, tokens, dim).
        dtype: "float32" or "float16".
        about: What the states depend on, as plain values; a cache made for other values is refused.
        max_gb: Largest size of the file, in 10^9 bytes.

    Raises:
        ValueError: The states need more space than `max_gb` or than is free, or the folder holds other states.
    """

    def __init__(
        self, folder: str | Path, shape: tuple[int, int, int, int], dtype: str, about: dict[str, Any], max_gb: float
    ) -> None:
        self.folder, self.shape = Path(folder), tuple(shape)
        row = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        needed = row * shape[0]
        if needed > max_gb * 1e9:
            raise ValueError(
                f"max_gb={max_gb:g}: {shape[0]} images of {row / 1e6:.3g} MB take {needed / 1e9:.3g} GB in {folder}; "
                f"num_images={int(max_gb * 1e9 / row)} would fit, or dtype='float16'"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.about = {**about, "shape": list(shape), "dtype": dtype}
        self.path, self.index = self.folder / "states.bin", self.folder / "rows.json"
        self.done = 0
        if self.index.is_file():
            stored = json.loads(self.index.read_text(encoding="utf-8"))
            different = [key for key in self.about if stored["about"].get(key) != self.about[key]]
            if different:
                key = different[0]
                raise ValueError(
                    f"{folder} holds activations of something else ({key}: {stored['about'].get(key)!r}, wanted "
                    f"{self.about[key]!r}); delete it or choose another cache_dir"
                )
            if not self.path.is_file() or self.path.stat().st_size != needed:
                raise ValueError(f"{self.path} does not have {needed} bytes: it is damaged; delete {folder}")
            self.done = int(stored["done"])
        elif needed > shutil.disk_usage(self.folder).free:
            raise ValueError(f"{needed / 1e9:.3g} GB of activations do not fit on the disk of {folder}")
        mode: Any = "r+" if self.index.is_file() else "w+"
        self.states = np.memmap(self.path, dtype=dtype, mode=mode, shape=self.shape)
        self.labels = np.memmap(
            self.folder / "labels.bin", dtype=np.int64, mode=mode if self.done else "w+", shape=(shape[0], 2)
        )
        if not self.index.is_file():
            self._record()

    def _record(self) -> None:
        write_text(self.index, json.dumps({"about": self.about, "done": self.done}))

    def append(self, states: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> None:
        """Add rows (B, layers, tokens, dim) with labels and indices (B,)."""
        rows = slice(self.done, self.done + len(states))
        self.states[rows] = states.cpu().numpy()
        self.labels[rows] = torch.stack([labels, indices], 1).cpu().numpy()
        self.states.flush()
        self.labels.flush()
        self.done += len(states)
        self._record()


class _Rows(Dataset[dict[str, torch.Tensor]]):
    """Whole batches of consecutive rows, which a disk reads at once."""

    def __init__(self, cache: ActivationCache, batch_size: int, layers: list[int] | None = None) -> None:
        self.cache, self.batch_size = cache, batch_size
        self.layers: Any = slice(None) if layers is None else layers

    def __len__(self) -> int:
        return -(-self.cache.done // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        rows = slice(batch * self.batch_size, min((batch + 1) * self.batch_size, self.cache.done))
        labels = torch.from_numpy(self.cache.labels[rows].copy())
        states = torch.from_numpy(self.cache.states[rows][:, self.layers].astype(np.float32))
        return {"states": states, "label": labels[:, 0], "index": labels[:, 1]}


def _plain(dataset: Any, source: ZooData) -> Any:
    """A data set without its augmentation."""
    dataset = copy.copy(dataset)
    if hasattr(dataset, "augment"):
        dataset.augment = None
    elif hasattr(dataset, "augmented"):
        dataset.augmented = False
    elif hasattr(dataset, "transform"):
        dataset.transform = getattr(source, "eval_transform", dataset.transform)
    return dataset


def _content(images: Any, folder: Path) -> str:
    """SHA-256 of the images behind a data set.

    A data set's own `fingerprint(known)` gives "content", and may trust the "content" that is known as long as the
    other entries, such as sizes and times of its files, are as they were. For any other data set the prepared images
    themselves are hashed.
    """
    if not hasattr(images, "fingerprint"):
        digest = hashlib.sha256()
        for sample in (images[index] for index in range(len(images))):
            digest.update(sample["x"].contiguous().numpy())
            digest.update(str(int(sample["label"])).encode())
        return digest.hexdigest()
    path = folder / "images.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found: dict[str, str] = images.fingerprint(known)
    if found != known:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found))
    return found["content"]


class TeacherActivations(ZooData):
    """All states of a ViT on the images of another data module, computed once and then read from files.

    A batch is `states` (B, depth + 1, tokens, dim), float32, the first being the embedded tokens, with `label` and
    `index`. Images are not augmented. Training images are shuffled once; a batch always has the same rows, and each
    epoch shuffles batches, as in the authors' code.

    Args:
        source: The images.
        teacher: Name of a timm ViT.
        teacher_kwargs: Further arguments of the teacher.
        teacher_pretrained: Take the teacher's published weights.
        teacher_checkpoint: Take the weights in this file instead.
        cache_dir: Folder of the files.
        max_gb: Largest size of the file of a part, in 10^9 bytes.
        dtype: "float32" or "float16" of the file.
        num_images: Use only this many images of each part, after shuffling; all by default.
        order_seed: Seed of the shuffling.
        layers: Which states a batch has; 0 is the embedded tokens; all by default. Choose some for a student with fewer
            layers, for example a shallow network with one layer for each phase.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that read batches.
        device: Where the teacher runs; by default on a GPU, if there is one.

    Raises:
        ValueError: See `ActivationCache`; or `layers` do not increase from 0 to at most the teacher's depth.
    """

    def __init__(
        self,
        source: ZooData,
        teacher: str,
        teacher_kwargs: dict[str, Any] | None = None,
        teacher_pretrained: bool = False,
        teacher_checkpoint: str | None = None,
        cache_dir: str = "data/activations",
        max_gb: float = 20.0,
        dtype: Literal["float32", "float16"] = "float32",
        num_images: int | None = None,
        order_seed: int = 42,
        layers: list[int] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        device: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images={num_images} must be at least 1")
        self.source = source
        self.teacher_name, self.teacher_kwargs = teacher, dict(teacher_kwargs or {})
        self.teacher = load_vit(teacher, teacher_kwargs, teacher_pretrained, teacher_checkpoint)
        depth = len(self.teacher.blocks)
        if layers is not None and (not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] > depth):
            raise ValueError(f"layers={layers} must increase, from 0 on and to at most {depth}, the teacher's depth")
        self.layers = layers
        self.source.match(*wanted_inputs(self.teacher, teacher_pretrained, teacher_checkpoint))
        self.cache_dir = Path(cache_dir)
        self.max_gb, self.dtype, self.num_images, self.order_seed = max_gb, dtype, num_images, order_seed
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def prepare_data(self) -> None:
        """Fetch the images and compute missing states; in one process per machine."""
        self.source.prepare_data()
        self._fill()

    def setup(self, stage: str) -> None:
        """Open the files."""
        if not self.datasets:
            self._fill()

    def _fill(self) -> None:
        self.source.setup("fit")
        if self.source.preprocessing.get("multi_label"):
            raise ValueError("the source has multi_label=true; activations are stored with one label an image")
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        weights = fingerprint(self.teacher)
        with FileLock(self.cache_dir / "lock"):
            for part in ("train", "val", "test"):
                if part in self.source.datasets:
                    self.datasets[part] = _Rows(self._part(part, weights), self.batch_size, self.layers)

    @torch.no_grad()
    def _part(self, part: str, weights: str) -> ActivationCache:
        images: Any = _plain(self.source.datasets[part], self.source)
        generator = torch.Generator().manual_seed(self.order_seed)
        order = torch.randperm(len(images), generator=generator) if part == "train" else torch.arange(len(images))
        order = order[: self.num_images]
        teacher = self.teacher.to(self.device)
        tokens = teacher_trajectory(teacher, images[int(order[0])]["x"][None].to(self.device))
        shape = (len(order), len(tokens), *tokens[0].shape[1:])
        about = {"part": part, "teacher": self.teacher_name, "weights": weights, "order_seed": self.order_seed}
        about |= {"dataset": self.source.description["dataset"], "images": len(images)}
        about["preprocessing"] = json.loads(json.dumps(self.source.preprocessing))
        about["content"] = _content(images, self.cache_dir / part)
        cache = ActivationCache(self.cache_dir / part, shape, self.dtype, about, self.max_gb)
        rest = Subset(images, order[cache.done :].tolist())
        for batch in (
            DataLoader(dataset=rest, batch_size=self.batch_size, num_workers=self.num_workers) if len(rest) else ()
        ):
            states = torch.stack(teacher_trajectory(teacher, batch["x"].to(self.device)), 1)
            cache.append(states.float(), batch["label"], batch["index"])
        teacher.cpu()
        return cache

    def _loader(self, name: str) -> Any:
        if name not in self.datasets:
            return []
        rows = self.datasets[name]
        return DataLoader(dataset=rows, batch_size=None, shuffle=name == "train", num_workers=self.num_workers)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How the images are prepared, see `ZooData.preprocessing`."""
        return self.source.preprocessing

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        about = self.source.description
        return {**about, "dataset": f"{about['dataset']}, activations of {self.teacher_name}"}
