"""Frames of video files, decoded by PyAV (FFmpeg's libraries)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.labelled_files import UnreadableFileError

__all__ = ["VIDEO_SUFFIXES", "VideoInfo", "probe", "read_frames", "require_pyav"]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm")

_CONTAINERS = "asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,ogg"
"""Formats of FFmpeg that are read, whatever a file is called; others (playlists, lists of files) open further files."""

_MAX_PIXELS = 1 << 26
"""Largest frame, about twice that of 8K: a damaged file of some kB can claim frames of gigabytes."""

_SEEK_FROM = 64
"""Frames that are rather decoded than jumped over."""


@dataclass(frozen=True)
class VideoInfo:
    """Facts about the first video stream of a file.

    Attributes:
        frames: Number of frames.
        height: Height of a frame, in pixels.
        width: Width of a frame, in pixels.
        fps: Frames per second; 0 if the file does not say.
    """

    frames: int
    height: int
    width: int
    fps: float


def require_pyav() -> Any:
    """Import PyAV.

    Raises:
        MissingPackageError: It is not installed; the message says how to install it.
    """
    return needs("av", "video", "reading video files")


class _Opened:
    """A file's container and its first video stream; errors of the library name the file."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.av = path, require_pyav()

    def __enter__(self) -> tuple[Any, Any]:
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        try:
            options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
            self.container = self.av.open(str(self.path), options=options)
        except (self.av.FFmpegError, ValueError) as error:
            raise UnreadableFileError(f"{self.path} is not a readable video: {error}") from error
        if not self.container.streams.video:
            self.container.close()
            raise UnreadableFileError(f"{self.path} has no video stream")
        stream = self.container.streams.video[0]
        if stream.codec_context is None:
            self.container.close()
            raise UnreadableFileError(f"{self.path} is damaged, or no decoder is installed for its video stream")
        if stream.height * stream.width > _MAX_PIXELS:
            self.container.close()
            raise UnreadableFileError(
                f"{self.path} has frames of {stream.width} x {stream.height} px, at most {_MAX_PIXELS:,} are read"
            )
        return self.container, stream

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.container.close()
        if isinstance(error, self.av.FFmpegError):
            raise UnreadableFileError(f"{self.path} is damaged: {error}") from error


def probe(path: str | Path) -> VideoInfo:
    """Count the frames of a file without decoding them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a video, has no frames, or is damaged; the message names it.
        ImportError: PyAV is not installed.
    """
    with _Opened(path) as (container, stream):
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        info = VideoInfo(frames, stream.height, stream.width, float(stream.average_rate or 0))
    if info.frames < 1:
        raise UnreadableFileError(f"{path} has no frames")
    return info


def read_frames(path: str | Path, indices: torch.Tensor) -> torch.Tensor:
    """Decode some frames of a file.

    Args:
        path: The file.
        indices: Numbers of the frames, from 0, in any order and with repetitions.

    Returns:
        RGB frames (len(indices), H, W, 3), uint8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be decoded as far as the last of these frames; the message names it.
        ImportError: PyAV is not installed.
    """
    wanted = set(indices.tolist())
    if not wanted or min(wanted) < 0:
        raise ValueError(f"indices={indices.tolist()} must be frame numbers of {path}, from 0")
    found: dict[int, np.ndarray] = {}
    with _Opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        number = _jump(container, stream, min(wanted))
        for frame in container.decode(stream):
            if number is None:  # after a jump, time stamps say where we are
                number = _number(stream, frame)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
            number += 1
    if missing := wanted - set(found):
        raise UnreadableFileError(f"{path} is too short or damaged: frame {min(missing)} cannot be decoded")
    sizes = sorted({(frame.shape[1], frame.shape[0]) for frame in found.values()})
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height} px" for width, height in sizes)
        raise UnreadableFileError(f"{path} has frames of several sizes: {shown}")
    return torch.from_numpy(np.stack([found[i] for i in indices.tolist()]))


def _jump(container: Any, stream: Any, first: int) -> int | None:
    """Go to the last key frame before `first` if that is far and frames come at a constant rate.

    Returns:
        The number of the next frame; None if its time stamp gives it.
    """
    rate, base = stream.average_rate, stream.time_base
    if first < _SEEK_FROM or not rate or not stream.frames or stream.duration is None or stream.guessed_rate != rate:
        return 0
    if abs(float(stream.duration * base * rate) - stream.frames) > 0.5:
        return 0
    container.seek(int((stream.start_time or 0) + (first - 1) / rate / base), stream=stream)
    return None


def _number(stream: Any, frame: Any) -> int:
    return round(float((frame.pts - (stream.start_time or 0)) * stream.time_base * stream.average_rate))
