"""Videos by PyAV, an extra: frames read from one, and frames written to one."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lia_adapter.errors import LIAError
from lia_adapter.notes import say_once

__all__ = ["FOOTAGE", "Footage", "check_package", "footage_count", "is_footage", "write_footage"]

FOOTAGE = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg")
"""What videos end in that are read."""

# FFmpeg knows some 350 formats, play-lists among them that would have it open other files and addresses.
_READ = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo"
_CODECS = {"mp4": ("libx264", "libopenh264", "h264_videotoolbox", "mpeg4"), "webm": ("libvpx-vp9", "libvpx")}
_SOUND_CODECS = {"mp4": ("aac",), "webm": ("libopus", "libvorbis")}
_SOUND_RATE = 48_000  # samples a second, which all of them know
_OPTIONS = {"libx264": {"crf": "16"}, "libvpx-vp9": {"crf": "24", "b": "0"}}
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers


def is_footage(source: str | Path) -> bool:
    """Whether a source is a video, by its name."""
    return Path(source).suffix.lower() in FOOTAGE


def check_package(what: str, otherwise: str = "") -> None:
    """Refuses what needs PyAV where it is not installed.

    Raises:
        LIAError: It is not.
    """
    _av(what, otherwise)


class Footage:
    """A video that is read frame by frame, as often as it is asked for.

    Args:
        path: The file.

    Attributes:
        fps: Frames a second, of a video whose frames last differently on average.
        count: Frames, as far as the file says; None where it does not.
        has_sound: Whether it has some that can be read.

    Raises:
        LIAError: The package av is missing, or the file, or it is no video that can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._package = _av(f"to read {self.path.name}")
        if not self.path.is_file():
            raise LIAError(f"there is no video {path}. Check the path.")
        with self._opened() as (container, stream):
            self.has_sound = _heard(container) is not None
            rate = stream.average_rate or stream.guessed_rate
            if not rate or rate <= 0:
                raise LIAError(f"{self.path.name} does not say how many frames it shows a second. Convert it to .mp4 first.")
            self.fps = Fraction(rate)
            self.count: int | None = stream.frames or None

    def __iter__(self) -> Iterator[Image.Image]:
        """The frames, RGB, upright.

        Raises:
            LIAError: The video is damaged, or has no frame.
        """
        frame = None
        with self._opened() as (container, stream):
            for frame in container.decode(stream):
                image = frame.to_image()
                yield image.rotate(frame.rotation, expand=True) if frame.rotation else image
        if frame is None:
            raise LIAError(f"{self.path.name} holds no frame that can be read. Get the video again.")

    def sounds(self) -> Iterator[Any]:
        """PyAV's frames of sound, whose times count from the first picture; what is heard before it is left out.

        Where the sound ends in something that cannot be read, so do they, and a note says so.
        """
        with self._opened() as (container, stream):
            begin = (stream.start_time or 0) * stream.time_base
            try:
                for frame in container.decode(_heard(container)):
                    if frame.pts is not None:
                        frame.pts -= round(begin / frame.time_base)
                    if frame.pts is not None and frame.pts >= 0:
                        yield frame
            except self._package.FFmpegError as error:
                say_once(f"{self.path.name}: its sound ends in what cannot be read, {_reason(error)}; the rest has none")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        try:
            options = {"format_whitelist": _READ, "protocol_whitelist": "file"}
            # As an absolute path, which FFmpeg cannot take for an address.
            with self._package.open(str(self.path.resolve()), container_options=options) as container:
                if not container.streams.video:
                    raise LIAError(f"{self.path.name} holds no pictures. Give a video.")
                yield container, container.streams.video[0]
        except self._package.FFmpegError as error:
            raise LIAError(
                f"{self.path.name} is no video that can be read: {_reason(error)}. Get it again, or convert it to .mp4 first."
            ) from error


def footage_count(source: str | Path) -> int:
    """How many frames a video has, as it says.

    Raises:
        LIAError: It cannot be read, or does not say.
    """
    if (count := Footage(source).count) is None:
        raise LIAError(
            f"{Path(source).name} does not say how many frames it has, so that no time can be told. Convert it to .mp4."
        )
    return count


def write_footage(path: Path, frames: Iterator[Image.Image], fps: Fraction, kind: str, sound: Footage | None = None) -> None:
    """Writes a video: H.264 and AAC in mp4, VP9 and Opus in webm, as far as this FFmpeg has them.

    Args:
        path: The file, under whatever name.
        frames: At least one, RGB, all of one size; of odd sizes, the last row and column are there twice.
        fps: Frames a second.
        kind: mp4 or webm.
        sound: A video that has some, which is encoded anew beside the frames; it ends with them.

    Raises:
        LIAError: This FFmpeg cannot write it.
    """
    av = _av(f"to write .{kind}")
    codec = _first_of(av, _CODECS[kind])
    if codec is None:
        raise LIAError(f"the FFmpeg of the package av writes no video for .{kind}. Install av from PyPI, or write .webp.")
    # To begin with what a player needs, where the file comes over a network.
    options = {"movflags": "+faststart"} if kind == "mp4" else {}
    stream: Any = None
    heard: Any = None
    try:
        with av.open(str(path), "w", format=kind, container_options=options) as container:
            sounds: Iterator[Any] = iter(()) if sound is None else sound.sounds()
            for i, frame in enumerate(frames):
                if stream is None:
                    stream = _stream(container, codec, fps, frame.size)
                    heard = None if sound is None else _sound_stream(av, container, kind)
                pixels = np.pad(np.asarray(frame), ((0, frame.height % 2), (0, frame.width % 2), (0, 0)), mode="edge")
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                picture.pts, picture.time_base = i, 1 / fps
                container.mux(stream.encode(picture))
                if heard is not None:  # as far as the pictures are, so that no player has to look far ahead for it
                    for one in _until(sounds, (i + 1) / fps):
                        container.mux(heard.encode(one))
            container.mux(stream.encode())
            if heard is not None:
                container.mux(heard.encode())
    except av.FFmpegError as error:
        if isinstance(error, OSError):  # `atomic_write` knows what to say of a full disk
            raise
        raise LIAError(f"FFmpeg cannot write this as .{kind}: {_reason(error)}. Write .webp instead.") from error


def _stream(container: Any, codec: str, fps: Fraction, size: tuple[int, int]) -> Any:
    stream = container.add_stream(codec, rate=fps, options=_OPTIONS.get(codec, {}))
    stream.width, stream.height = (side + side % 2 for side in size)  # as its colours are of two pixels each way
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    return stream


def _sound_stream(av: Any, container: Any, kind: str) -> Any:
    """Stereo, as nearly all sound is; None where this FFmpeg has no codec for it, which a note says."""
    codec = _first_of(av, _SOUND_CODECS[kind])
    if codec is None:
        say_once(f"the FFmpeg of the package av writes no sound for .{kind}, which is left out. Install av from PyPI.")
        return None
    return container.add_stream(codec, rate=_SOUND_RATE, layout="stereo")


def _heard(container: Any) -> Any:
    """The first stream of sound whose codec this FFmpeg knows, as new cameras write some beside that it does not."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def _until(sounds: Iterator[Any], seconds: Fraction) -> Iterator[Any]:
    """The next frames of sound, to the first that lasts until a time."""
    for frame in sounds:
        yield frame
        if frame.pts * frame.time_base + Fraction(frame.samples, frame.sample_rate) >= seconds:
            return


def _first_of(av: Any, codecs: Sequence[str]) -> str | None:
    return next((name for name in codecs if name in av.codecs_available), None)


def _av(what: str, otherwise: str = "") -> Any:
    try:
        return importlib.import_module("av")  # by name: it is an extra and no dependency
    except ImportError as error:
        raise LIAError(f"{what}, the package av is needed. Run pip install 'lia-adapter[video]'{otherwise}.") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error).lower()
