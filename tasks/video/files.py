"""Video files by class: folders and lists, sampled as clips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.labelled_files import UnreadableFileError, class_folders
from blockzoo.tasks.core.transforms import IMAGENET_MEAN, IMAGENET_STD
from blockzoo.tasks.video.clips import crop_boxes, dense_indices, span_of, uniform_indices, view_starts
from blockzoo.tasks.video.decoding import VIDEO_SUFFIXES, probe, read_frames

__all__ = ["ClipNormalize", "VideoFolder", "VideoList", "clip_augmentation", "test_clips"]

Sampling = Literal["dense", "uniform"]


class ClipNormalize:
    """Bytes to what a model wants: frames (T, C, H, W), uint8 -> (C, T, H, W), float32, standardised.

    Args:
        mean: Of each channel, over 255.
        std: Likewise.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Scale and turn."""
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


def test_clips(path: str | Path, cfg: dict[str, Any], num_clips: int = 5) -> torch.Tensor:
    """Clips of a video as some weights want them: spread evenly over it, the centre of each frame.

    Args:
        path: The file.
        cfg: The model's `pretrained_cfg`.
        num_clips: Clips; fewer if the video is short.

    Returns:
        (num_clips, C, T, H, W), float32.

    Raises:
        ValueError: The weights want something else than RGB; or the video cannot be read or is shorter than a clip.
    """
    chans, num_frames, height, width = cfg["input_size"]
    if chans != 3:
        raise ValueError(f"these weights want {chans} channels, of optical flow; only RGB is read from {path}")
    stride = cfg.get("frame_stride", 1)
    info, span = probe(path), span_of(num_frames, stride)
    if info.frames < span:
        raise ValueError(f"{path} has {info.frames} frames, a clip needs {span}")
    starts = sorted(set(view_starts(info.frames, span, num_clips)))
    indices = torch.cat([dense_indices(info.frames, num_frames, stride, start) for start in starts])
    frames = read_frames(path, indices).permute(0, 3, 1, 2)
    share = max(height / info.height, width / info.width) / cfg.get("crop_pct", 1.0)
    size = [max(height, round(info.height * share)), max(width, round(info.width * share))]
    frames = v2.functional.center_crop(v2.functional.resize(frames, size, antialias=True), [height, width])
    normalize = ClipNormalize(cfg["mean"], cfg["std"])
    return torch.stack([normalize(clip) for clip in frames.split(num_frames)])


class _Clips(Dataset[dict[str, torch.Tensor]]):
    """Clips of videos: one random clip of each in training, all test views of each in evaluation."""

    def __init__(self, data: "Videos", files: list[tuple[Path, int]], train: bool) -> None:
        self.data, self.files, self.train = data, files, train
        self.views = 1 if train else data.num_clips * data.num_crops
        self.resize = v2.Resize(data.resize or data.img_size, antialias=True)
        self._last: tuple[tuple[int, int], torch.Tensor] | None = None  # the crops of a clip are asked for in a row

    def __len__(self) -> int:
        return len(self.files) * self.views

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        video, view = divmod(index, self.views)
        data, (path, label) = self.data, self.files[video]
        if self.train:
            frames = data.augment(self._read(path, None))
        else:
            clip, crop = divmod(view, data.num_crops)
            if self._last is None or self._last[0] != (video, clip):
                self._last = (video, clip), self.resize(self._read(path, clip))
            frames = self._last[1]
            top, left = crop_boxes(frames.shape[-2], frames.shape[-1], data.img_size, data.num_crops)[crop]
            frames = frames[..., top : top + data.img_size, left : left + data.img_size]
        numbers = {"label": label, "index": index, "video": video}
        return {"x": data.normalize(frames), **{key: torch.tensor(value) for key, value in numbers.items()}}

    def _read(self, path: Path, clip: int | None) -> torch.Tensor:
        """A clip (T, C, H, W): a random one, or one of the test views."""
        data = self.data
        total = probe(path).frames
        span = num = data.num_frames
        if data.sampling == "dense":
            span = span_of(num, data.stride)
        if total < span and not data.pad_short:
            raise UnreadableFileError(
                f"{path} has {total} frames, a clip needs {span} (num_frames={num}, stride={data.stride}); "
                "pad_short=true repeats the last frame"
            )
        if data.sampling == "uniform":
            indices = uniform_indices(total, num, random=clip is None)
        else:
            start = None if clip is None else view_starts(total, span, data.num_clips)[clip]
            indices = dense_indices(total, num, data.stride, start)
        return read_frames(path, indices).permute(0, 3, 1, 2)


class Videos(ZooData):
    """What folders and lists of videos share.

    Args:
        num_frames: Frames of a clip.
        stride: Their distance, for dense sampling.
        sampling: "dense", frames at a constant distance; or "uniform", one of each of `num_frames` equal parts.
        num_clips: Clips of a video in evaluation, spread evenly over it.
        num_crops: Crops of each of them: 1, the centre; or 3 along the longer side.
        img_size: Side of the square that the model sees, in pixels.
        resize: Size before cropping: the shorter side, or height and width; None for `img_size`.
        scale: In training, random crops of this least and largest share of the area, resized, instead of `resize`.
        flip: Mirror half of the training clips.
        color_jitter: Strength of colour jitter in training.
        pad_short: Repeat the last frame of videos shorter than a clip, instead of an error.
        mean: Of each channel, over 255.
        std: Likewise.
        batch_size: Clips in a batch, on each device.
        num_workers: Processes that decode.
    """

    def __init__(
        self,
        num_frames: int = 16,
        stride: int = 1,
        sampling: Sampling = "dense",
        num_clips: int = 1,
        num_crops: int = 1,
        img_size: int = 160,
        resize: int | list[int] | None = None,
        scale: tuple[float, float] | None = None,
        flip: bool = True,
        color_jitter: float = 0.0,
        pad_short: bool = False,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        batch_size: int = 16,
        num_workers: int = 4,
    ) -> None:
        super().__init__(batch_size, num_workers)
        counts = {"num_frames": num_frames, "stride": stride, "num_clips": num_clips}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if sampling == "uniform" and num_clips > 1:
            raise ValueError(f"num_clips={num_clips}: uniform sampling has one clip of a video, it must be 1")
        crop_boxes(img_size, img_size, img_size, num_crops)
        self.num_frames, self.stride, self.sampling = num_frames, stride, sampling
        self.num_clips, self.num_crops = num_clips, num_crops
        self.img_size, self.resize, self.pad_short = img_size, resize, pad_short
        self.mean, self.std = tuple(mean), tuple(std)
        self.normalize = ClipNormalize(self.mean, self.std)
        self.augment = clip_augmentation(img_size, resize, scale, flip, color_jitter)
        self.class_names: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Size, stride, mean and deviation of a clip, and the class names."""
        size = [3, self.num_frames, self.img_size, self.img_size]
        about = {"input_size": size, "frame_stride": self.stride, "mean": list(self.mean), "std": list(self.std)}
        return {**about, "label_names": list(self.class_names)}


class VideoFolder(Videos):
    """Videos in folders by class: `root/train/CLASS/*.mp4`, `root/val/CLASS/*.mp4`, and `root/test` where there is one.

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

    def setup(self, stage: str) -> None:
        """List the videos of all parts; the same whatever the stage."""
        if self.datasets:
            return
        for part in ("train", "val", "test"):
            folder = self.root / part
            if not folder.is_dir():
                if part == "test":
                    continue
                raise FileNotFoundError(f"{folder} is missing; expected {self.root}/{part}/CLASS/VIDEO")
            names = self.class_names if part != "train" else None
            self.class_names, files = class_folders(folder, "video", VIDEO_SUFFIXES, names)
            self.datasets[part] = _Clips(self, files, part == "train")

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": str(self.root), "license": "unknown", "split": "folders train, val and test"}


class VideoList(Videos):
    """Videos named in list files, one a line: path, a space, class name. Samples and options as for `VideoFolder`.

    The class is the last word of a line, so that paths may contain spaces; empty lines and those beginning with `#` are
    skipped. UCF101's and Kinetics' lists are a `sed` away from this form.

    Args:
        train: The list of the training part.
        val: Of the validation part.
        test: Of the test part; None for none.
        root: Folder that paths are relative to; None for that of each list.
        **kwargs: See `VideoFolder`.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lists = {"train": train, "val": val, **({} if test is None else {"test": test})}
        self.root = root

    def setup(self, stage: str) -> None:
        """Read the lists; the same whatever the stage."""
        if self.datasets:
            return
        for part, name in self.lists.items():
            rows = _read_list(Path(name), self.root)
            if part == "train":
                self.class_names = tuple(sorted({label for _, label, _ in rows}))
            numbers = {label: i for i, label in enumerate(self.class_names)}
            for _, label, line in rows:
                if label not in numbers:
                    raise ValueError(f"{name}, line {line}: class {label!r} is not in {self.lists['train']}")
            self.datasets[part] = _Clips(self, [(path, numbers[label]) for path, label, _ in rows], part == "train")

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": self.lists["train"], "license": "unknown", "split": ", ".join(self.lists.values())}


def _read_list(path: Path, root: str | None) -> list[tuple[Path, str, int]]:
    """Path, class and line number of every video in a list."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of videos")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name:
            raise ValueError(f"{path}, line {number}: {line!r} must be a path, a space and a class")
        rows.append((Path(root or path.parent) / name.strip(), label, number))
    if not rows:
        raise ValueError(f"{path} names no videos")
    return rows
