"""Video files by class: folders, lists and tables, sampled as clips."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from blockzoo.tasks.core.balance import balanced_sampler
from blockzoo.tasks.core.broken_samples import kept_samples
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.label_tables import (
    LABEL_COLUMNS,
    TABLE_SUFFIXES,
    LabelTable,
    class_numbers,
    read_lines,
    read_table,
    several_labels,
)
from blockzoo.tasks.core.labelled_files import UnreadableFileError, part_folders
from blockzoo.tasks.core.transforms import IMAGENET_MEAN, IMAGENET_STD, check_augmentation
from blockzoo.tasks.video.clips import crop_boxes, dense_indices, span_of, uniform_indices, view_starts
from blockzoo.tasks.video.decoding import VIDEO_SUFFIXES, probe, read_frames, require_pyav

__all__ = ["ClipForm", "ClipNormalize", "VideoFolder", "VideoList", "clip_augmentation"]

Sampling = Literal["dense", "uniform"]

VIDEO_COLUMNS = ("video", "path", "file", "file_name", "filename", "video_path", "filepath", "clip")


class ClipNormalize:
    """Convert bytes to a model's input: frames (T, C, H, W), uint8 -> (C, T, H, W), float32, standardised.

    Args:
        mean: Mean of each channel, on a scale where white is 1.
        std: Standard deviation of each channel, on that scale.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Scale, and move the channels in front of the frames."""
        return ((frames.float() / 255 - self.mean) / self.std).transpose(0, 1).contiguous()


def clip_augmentation(
    img_size: int, resize: int | list[int] | None, scale: tuple[float, float] | None, flip: bool, color_jitter: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Random changes of a clip (T, C, H, W), uint8, the same for all its frames.

    torchvision's transforms draw one set of parameters for all leading axes of a tensor.

    Args:
        img_size: Side of the result in pixels.
        resize: Before a random crop: the shorter side, or height and width.
        scale: Instead of that, least and largest share of the area that is cut out and resized.
        flip: Mirror half of the clips.
        color_jitter: Largest relative change of brightness, contrast and saturation.
    """
    steps: list[Any] = []
    if scale is not None:
        steps.append(v2.RandomResizedCrop(img_size, scale=tuple(scale), antialias=True))
    else:
        steps += [v2.Resize(resize or img_size, antialias=True), v2.RandomCrop(img_size)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if color_jitter:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    return v2.Compose(steps)


@dataclass(frozen=True)
class ClipForm:
    """How clips are taken from a video, in the same way in training, tests and predictions.

    Attributes:
        num_frames: Frames of a clip.
        stride: Distance of its frames in the video, for dense sampling.
        sampling: "dense", frames at a constant distance; or "uniform", one of each of `num_frames` equal parts.
        num_clips: Clips of a video in evaluation, spread evenly over it.
        num_crops: Crops of each of them: 1, the centre; or 3 along the longer side.
        size: Height and width that the model sees, in pixels.
        resize: Size before cropping: the shorter side, or height and width.
        pad_short: Repeat the last frame of videos shorter than a clip, instead of an error.
        mean: Mean of each channel, on a scale where white is 1.
        std: Standard deviation of each channel, on that scale.
    """

    num_frames: int
    stride: int
    sampling: Sampling
    num_clips: int
    num_crops: int
    size: tuple[int, int]
    resize: int | list[int]
    pad_short: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_cfg(cls, cfg: Mapping[str, Any], num_clips: int = 5) -> "ClipForm":
        """The form that weights expect.

        Args:
            cfg: The model's `pretrained_cfg`.
            num_clips: Clips of a video for weights that do not say how many.

        Raises:
            ValueError: The weights do not take RGB.
        """
        chans, num_frames, height, width = cfg["input_size"]
        if chans != 3:
            raise ValueError(f"these weights want {chans} channels, of optical flow; only RGB is read from videos")
        how = cfg.get("clips") or {}
        return cls(
            num_frames=num_frames,
            stride=cfg.get("frame_stride") or 1,
            sampling=how.get("sampling", "dense"),
            num_clips=how.get("num_clips", num_clips),
            num_crops=how.get("num_crops", 1),
            size=(height, width),
            resize=how.get("resize") or round(min(height, width) / (cfg.get("crop_pct") or 1.0)),
            pad_short=how.get("pad_short", False),
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
        )

    @property
    def cfg(self) -> dict[str, Any]:
        """The form as entries of a `pretrained_cfg`, from which `of_cfg` makes it again."""
        names = ("sampling", "num_clips", "num_crops", "resize", "pad_short")
        return {
            "input_size": [3, self.num_frames, *self.size],
            "frame_stride": self.stride,
            "mean": list(self.mean),
            "std": list(self.std),
            "clips": {name: getattr(self, name) for name in names},
        }

    @property
    def normalize(self) -> ClipNormalize:
        """The conversion from bytes to the model's input."""
        return ClipNormalize(self.mean, self.std)

    def read(self, path: Path, clip: int | None) -> torch.Tensor:
        """A clip as it is in the file, (T, C, H, W), uint8.

        Args:
            path: The file.
            clip: Which of the `num_clips` of evaluation; None for a random one.

        Raises:
            ValueError: The video cannot be read, or is shorter than a clip.
        """
        total = probe(path).frames
        span = span_of(self.num_frames, self.stride) if self.sampling == "dense" else self.num_frames
        if total < span and not self.pad_short:
            raise UnreadableFileError(
                f"{path} has {total} frames, a clip needs {span} (num_frames={self.num_frames}, stride={self.stride}); "
                "pad_short=true repeats the last frame"
            )
        if self.sampling == "uniform":
            indices = uniform_indices(total, self.num_frames, random=clip is None)
        else:
            start = None if clip is None else view_starts(total, span, self.num_clips)[clip]
            indices = dense_indices(total, self.num_frames, self.stride, start)
        return read_frames(path, indices).permute(0, 3, 1, 2)

    def resized(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (T, C, H, W) at the size from which crops are cut."""
        resized: torch.Tensor = v2.functional.resize(
            frames, [self.resize] if isinstance(self.resize, int) else list(self.resize), antialias=True
        )
        return resized

    def crop(self, frames: torch.Tensor, number: int) -> torch.Tensor:
        """One of the `num_crops` crops of resized frames, as the model takes it: (C, T, height, width), float32."""
        top, left = crop_boxes(frames.shape[-2], frames.shape[-1], self.size, self.num_crops)[number]
        return self.normalize(frames[..., top : top + self.size[0], left : left + self.size[1]])

    def views(self, path: Path) -> torch.Tensor:
        """All views of a video in evaluation, (num_clips * num_crops, C, T, height, width), float32."""
        clips = (self.resized(self.read(path, clip)) for clip in range(self.num_clips))
        return torch.stack([self.crop(frames, number) for frames in clips for number in range(self.num_crops)])


@dataclass(frozen=True)
class _Video:
    """A video file with its classes, and where it is named."""

    path: Path
    labels: tuple[int, ...]
    place: str


class _Clips(Dataset[dict[str, torch.Tensor]]):
    """Clips of videos: one random clip of each in training, all test views of each in evaluation."""

    def __init__(self, data: "Videos", videos: list[_Video], train: bool) -> None:
        self.data, self.videos, self.train = data, videos, train
        self.views = 1 if train else data.form.num_clips * data.form.num_crops
        self._last: tuple[Any, torch.Tensor] | None = None  # the crops of a clip are requested in a row

    def __len__(self) -> int:
        return len(self.videos) * self.views

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, view = divmod(index, self.views)
        form, video = self.data.form, self.videos[number]
        if self.train:
            x = form.normalize(self.data.augment(_frames(form, video, None)))
        else:
            clip, crop = divmod(view, form.num_crops)
            wanted = (number, clip, form)
            if self._last is None or self._last[0] != wanted:
                self._last = wanted, form.resized(_frames(form, video, clip))
            x = form.crop(self._last[1], crop)
        numbers = {"index": index, "video": number}
        return {"x": x, "label": self._label(video), **{key: torch.tensor(value) for key, value in numbers.items()}}

    def _label(self, video: _Video) -> torch.Tensor:
        if not self.data.multi_label:
            return torch.tensor(video.labels[0])
        label = torch.zeros(len(self.data.class_names))
        label[list(video.labels)] = 1.0
        return label


def _frames(form: ClipForm, video: _Video, clip: int | None) -> torch.Tensor:
    """See `ClipForm.read`; messages also say where the file is named."""
    try:
        return form.read(video.path, clip)
    except (UnreadableFileError, FileNotFoundError) as error:
        message = str(error) if video.place == str(video.path) else f"{video.place}: {error}"
        raise UnreadableFileError(message) from error


class Videos(ZooData):
    """Base class of data modules for folders and lists of videos.

    Options that are None follow the model's configuration, within a trainer or after `match`; without a model, they
    have the defaults below. The values that were used are stored with the weights, and `blockzoo predict` reads videos
    in the same way.

    Args:
        num_frames: Frames of a clip; without a model 16.
        stride: Distance of its frames, for dense sampling; without a model 1.
        sampling: "dense", frames at a constant distance; or "uniform", one of each of `num_frames` equal parts.
        num_clips: Clips of a video in evaluation, spread evenly over it.
        num_crops: Crops of each of them: 1, the centre; or 3 along the longer side.
        img_size: Side of the square that the model sees, in pixels; without a model 160.
        resize: Size before cropping: the shorter side, or height and width. By default that of the model's weights, or
            `img_size` over the model's `crop_pct`, or `img_size`.
        scale: In training, random crops of this least and largest share of the area, resized, instead of `resize`.
        flip: Mirror half of the training clips.
        color_jitter: Strength of colour jitter in training.
        pad_short: Repeat the last frame of videos shorter than a clip, instead of an error.
        mean: Mean of each channel, on a scale where white is 1; without a model ImageNet's.
        std: Standard deviation of each channel, on that scale; without a model ImageNet's.
        balance: Draw training videos so that every class is seen equally often; an epoch keeps its length.
        skip_broken: Decode a clip of every video once before training, and go on without those that cannot be read or
            are too short; they are named. By default the first of them stops the run when it is met.
        batch_size: Clips in a batch, on each device.
        num_workers: Processes that decode.
    """

    def __init__(
        self,
        num_frames: int | None = None,
        stride: int | None = None,
        sampling: Sampling = "dense",
        num_clips: int = 1,
        num_crops: int = 1,
        img_size: int | None = None,
        resize: int | list[int] | None = None,
        scale: tuple[float, float] | None = None,
        flip: bool = True,
        color_jitter: float = 0.0,
        pad_short: bool = False,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        balance: bool = False,
        skip_broken: bool = False,
        batch_size: int = 16,
        num_workers: int = 4,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.balance, self.skip_broken, self.multi_label = balance, skip_broken, False
        self.skipped: list[str] = []
        counts = {"num_frames": num_frames, "stride": stride, "num_clips": num_clips, "img_size": img_size}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if sampling == "uniform" and num_clips > 1:
            raise ValueError(f"num_clips={num_clips}: uniform sampling has one clip of a video, it must be 1")
        if num_crops not in (1, 3):
            raise ValueError(f"num_crops={num_crops} must be 1 or 3")
        sides = [] if resize is None else [resize] if isinstance(resize, int) else list(resize)
        if resize is not None and (len(sides) not in (1, 2) or min(sides) < 1):
            raise ValueError(f"resize={resize} must be the shorter side, or height and width, in pixels")
        check_augmentation(std, color_jitter, scale)
        self._num_frames, self._img_size, self._resize = num_frames, img_size, resize
        given = {"frame_stride": stride, "mean": mean, "std": std}
        self._given = {key: value for key, value in given.items() if value is not None}
        self._views: dict[str, Any] = {
            "sampling": sampling,
            "num_clips": num_clips,
            "num_crops": num_crops,
            "pad_short": pad_short,
        }
        self._augmentation = (scale, flip, color_jitter)
        self.class_names: tuple[str, ...] = ()
        self.match({})

    def match(self, cfg: dict[str, Any], trained: bool = True) -> None:
        """Take frames, stride, size, mean and deviation from a model's configuration, unless they are given."""
        _, frames, *sizes = cfg.get("input_size") or (3, 16, 160, 160)
        side = min(sizes) if self._img_size is None else self._img_size
        found = {key: cfg[key] for key in ("frame_stride", "mean", "std", "crop_pct") if cfg.get(key) is not None}
        resize = self._resize
        if resize is None and side == min(sizes):
            resize = (cfg.get("clips") or {}).get("resize")
        self.form = ClipForm.of_cfg(
            {
                **{"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **found, **self._given},
                "input_size": (3, frames if self._num_frames is None else self._num_frames, side, side),
                "clips": {**self._views, "resize": resize},
            }
        )
        scale, flip, color_jitter = self._augmentation
        self.augment = clip_augmentation(side, self.form.resize, scale, flip, color_jitter)

    def setup(self, stage: str) -> None:
        """Find the videos of all parts; the same whatever the stage."""
        self.match_task()
        if self.datasets:
            return
        found = self._parts()
        require_pyav()
        self.skipped = []
        if self.skip_broken:
            found = {part: self._readable(part, videos) for part, videos in found.items()}
        self.datasets = {part: _Clips(self, videos, part == "train") for part, videos in found.items()}

    @abc.abstractmethod
    def _parts(self) -> dict[str, list[_Video]]:
        """The videos of each part; sets `class_names`."""

    def _readable(self, part: str, videos: list[_Video]) -> list[_Video]:
        """The videos of which a clip can be decoded; the others are noted in `skipped`."""
        wrong: list[str | None] = []
        for video in videos:
            try:
                _frames(self.form, video, 0)
                wrong.append(None)
            except (ValueError, OSError) as error:
                wrong.append(str(error))
        kept, broken = kept_samples(wrong, [video.labels for video in videos], "video", part, self.class_names)
        self.skipped += broken
        return [videos[index] for index in kept]

    def sample_names(self, part: str) -> list[str]:
        """Which video each clip of a part is from, in the order of their `index`."""
        clips: Any = self.datasets[part]
        return [str(video.path) for video in clips.videos for _ in range(clips.views)]

    @property
    def train_labels(self) -> list[tuple[int, ...]]:
        """See `ZooData.train_labels`."""
        clips: Any = self.datasets["train"]
        return [video.labels for video in clips.videos]

    def _sampler(self) -> Any:
        return balanced_sampler(self.train_labels, len(self.class_names)) if self.balance else None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How clips are taken and scaled, see `ClipForm`, and the class names."""
        several = {"multi_label": True} if self.multi_label else {}
        return {**self.form.cfg, **several, "label_names": list(self.class_names)}

    @property
    def _words_of_skipped(self) -> str:
        return f"; {len(self.skipped)} videos that cannot be read left out" if self.skipped else ""


class VideoFolder(Videos):
    """Videos in folders by class: `root/train/CLASS/*.mp4`, `root/val/CLASS/*.mp4`, and optionally `root/test`.

    Samples are `x` (3, num_frames, img_size, img_size), `label`, `index` (of the clip) and `video` (which video a clip
    belongs to). In training, every epoch takes one random clip of each video, changed in the same way on all frames; in
    evaluation, `num_clips * num_crops` views of each.

    Args:
        root: The folder.
        **kwargs: See `blockzoo.tasks.video.files.Videos`.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: An argument is out of range, parts have different classes, or a file is too short or cannot be read;
            the message names it.
        ImportError: PyAV is not installed.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)

    def _parts(self) -> dict[str, list[_Video]]:
        self.class_names, parts = part_folders(self.root, "video", VIDEO_SUFFIXES)
        return {part: [_Video(path, (label,), str(path)) for path, label in files] for part, files in parts.items()}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        split = f"folders train, val and test{self._words_of_skipped}"
        return {"dataset": str(self.root), "license": "unknown", "split": split}


class VideoList(Videos):
    """Videos that a list or a table names, one on each line. Samples and options are those of `VideoFolder`.

    In a list (any ending but those of tables), a line is a path, a space and the name of a class. The class is the last
    word, so that paths may contain spaces; empty lines and those beginning with `#` are skipped. Lists of
    UCF101 and Kinetics are easily brought into this form. Tables are CSV, JSON, JSON lines or Parquet, see
    `blockzoo.tasks.images.tables.ImageTable`.

    Args:
        train: The list or table of the training part.
        val: That of the validation part.
        test: That of the test part; None for none.
        root: Folder that paths are relative to; None for that of each list.
        video_column: Column of the paths in tables; by default "video", "path", "file" or the like.
        label_column: Column of the labels; by default "label", "labels", "class" or the like.
        label_separator: What stands between the labels of a cell, for example "|".
        multi_label: A video may have no label or several; the task needs `multi_label=true` too.
        **kwargs: See `blockzoo.tasks.video.files.Videos`.

    Raises:
        FileNotFoundError: A list is missing.
        ValueError: A line has no class, or one that the training part does not have; the message names the line.
    """

    def __init__(
        self,
        train: str,
        val: str,
        test: str | None = None,
        root: str | None = None,
        video_column: str | None = None,
        label_column: str | None = None,
        label_separator: str | None = None,
        multi_label: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if label_separator is not None and not multi_label:
            raise ValueError(f"label_separator={label_separator!r} gives a video several labels; set multi_label=true")
        self.lists = {"train": train, "val": val, **({} if test is None else {"test": test})}
        self.root, self.multi_label = root, multi_label
        self.video_column, self.label_column, self.label_separator = video_column, label_column, label_separator

    def _parts(self) -> dict[str, list[_Video]]:
        parts: dict[str, list[_Video]] = {}
        for part, name in self.lists.items():
            is_table = Path(name).suffix.lower() in TABLE_SUFFIXES
            table = read_table(name) if is_table else _read_list(Path(name))
            files = table.values(table.name(self.video_column if is_table else "video", VIDEO_COLUMNS, "video_column"))
            column = table.name(self.label_column if is_table else "label", LABEL_COLUMNS, "label_column")
            texts = several_labels(table, [column], self.label_separator)
            names = table.classes.get(column) if part == "train" else self.class_names
            self.class_names, labels = class_numbers(texts, table.place, names, self.multi_label)
            folder = Path(self.root or Path(name).parent)
            parts[part] = []
            for row, (file, own) in enumerate(zip(files, labels, strict=True)):
                if not isinstance(file, str) or not file:
                    raise ValueError(f"{table.place(row)}: no path of a video")
                if not self.skip_broken and not (folder / file).is_file():
                    told = f"no such file: {folder / file} (paths are relative to root, here {folder})"
                    raise ValueError(f"{table.place(row)}: {told}")
                parts[part].append(_Video(folder / file, own, table.place(row)))
        return parts

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        split = ", ".join(self.lists.values()) + self._words_of_skipped
        return {"dataset": self.lists["train"], "license": "unknown", "split": split}


def _read_list(path: Path) -> LabelTable:
    """The columns "video" and "label" of a list."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of videos")
    columns: dict[str, list[str]] = {"video": [], "label": []}
    places = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name:
            raise ValueError(f"{path}, line {number}: {line!r} must be a path, a space and a class")
        columns["video"].append(name.strip())
        columns["label"].append(label)
        places.append(f"line {number}")
    if not places:
        raise ValueError(f"{path} names no videos")
    return LabelTable(path, columns, places)
