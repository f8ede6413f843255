"""Image files to uint8 pixels: one array per split, decoded by several threads."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from prune_gym.datasets.store import write_header
from prune_gym.errors import DatasetError, InvalidValueError
from prune_gym.utils.stopping import check_stop

if TYPE_CHECKING:
    from PIL import Image

_GREY = ("1", "L", "LA")
_CHUNK = 64  # files a task
# the kinds that Pillow decodes by itself: others start programs (EPS: Ghostscript)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 90_000_000  # an image of them needs about a gigabyte while it is decoded
_MOST_BYTES = 1 << 30  # some kinds are read as a whole
_LARGE = 1 << 26  # bytes, of the file or of its decoded pixels
_ALONE = threading.RLock()  # for large images


@dataclass
class Report:
    """What was met while files were decoded.

    Attributes:
        shape: (height, width) that every image has, and the first file that has it.
        grey: whether every image so far is grey.
        broken: files that cannot be decoded, with the reason.
    """

    shape: tuple[tuple[int, int], Path] | None = None
    grey: bool = True
    broken: dict[Path, str] = field(default_factory=dict)


def decode(
    root: Path,
    files: Sequence[str],
    target: Path,
    *,
    size: int | None,
    report: Report,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Decode files into a ``.npy`` file of RGB pixels, (n, 3, height, width) uint8.

    Args:
        root: the folder of the files.
        files: one image each, relative to it.
        target: the file to write; rows of broken images are left black.
        size: resize the shorter side to so many pixels and crop the centre; None = as they are.
        report: what was met in other splits; extended.
        advance: called with the number of files done since the last call.

    Returns:
        (n,) bool, True = decoded.

    Raises:
        DatasetError: images of different sizes.
        OSError: the target cannot be written.
    """
    readable = np.zeros(len(files), dtype=bool)
    start = 0
    while report.shape is None and start < len(files):  # the first readable image tells the size
        pixels = _try(root / files[start], size, report)
        if pixels is not None:
            report.shape = (pixels.shape[1], pixels.shape[2]), root / files[start]
        else:
            start += 1
    if report.shape is None:
        return readable
    with target.open("wb") as out:
        rows = _Rows(out, len(files), (3, *report.shape[0]))

        def work(some: range) -> int:
            for row in some:
                check_stop()
                pixels = _try(root / files[row], size, report)
                if pixels is not None:
                    _check_size(pixels, root / files[row], report)
                    rows.put(row, pixels)
                    readable[row] = True
            return len(some)

        chunks = [
            range(first, min(first + _CHUNK, len(files)))
            for first in range(start, len(files), _CHUNK)
        ]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                for done in pool.map(work, chunks):
                    advance(done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return readable


class _Rows:
    """A file of pixels that threads write row by row; what is not written is black."""

    def __init__(self, file: BinaryIO, n: int, shape: tuple[int, ...]) -> None:
        self._file, self._lock = file, threading.Lock()
        write_header(file, (n, *shape))
        self._start, self._bytes = file.tell(), math.prod(shape)
        file.truncate(self._start + n * self._bytes)

    def put(self, row: int, pixels: np.ndarray) -> None:
        content = pixels.tobytes()
        with self._lock:
            self._file.seek(self._start + row * self._bytes)
            self._file.write(content)


def _try(file: Path, size: int | None, report: Report) -> np.ndarray | None:
    """Pixels of a file, (3, height, width) uint8; None where it is broken."""
    try:
        with contextlib.ExitStack() as stack:
            image = _opened(file, stack)
            mode = image.mode
            # by way of RGBA, or PIL warns of transparent colours in a palette
            pixels = (image.convert("RGBA") if mode[0] == "P" else image).convert("RGB")
            if size is not None:
                pixels = _centre(pixels, size)
    except Exception as error:  # PIL raises anything, SyntaxError and struct.error included
        report.broken[file] = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return None
    if mode not in _GREY:
        report.grey = False
    return np.moveaxis(np.asarray(pixels), 2, 0)


def _opened(file: Path, stack: contextlib.ExitStack) -> Image.Image:
    """The image of a file, not decoded yet; large ones wait until they are the only one.

    Raises:
        InvalidValueError: it is no file, none of `_FORMATS`, or needs too much memory.
    """
    from PIL import Image, UnidentifiedImageError

    # what is no file must not be waited for: opening a named pipe does not return
    number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    facts = os.fstat(number)
    if not stat.S_ISREG(facts.st_mode):
        os.close(number)
        raise InvalidValueError("no file")
    content = stack.enter_context(os.fdopen(number, "rb"))
    if facts.st_size > _MOST_BYTES:
        raise InvalidValueError(f"{facts.st_size:,} bytes; at most {_MOST_BYTES:,} are read")
    if facts.st_size > _LARGE:
        stack.enter_context(_ALONE)
    try:
        image: Image.Image = stack.enter_context(Image.open(content, formats=_FORMATS))
    except UnidentifiedImageError as error:
        raise InvalidValueError(f"no image of the kinds {', '.join(_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise InvalidValueError(f"more than {_MOST_PIXELS:,} pixels") from error
    pixels = image.width * image.height
    if pixels > _MOST_PIXELS:
        raise InvalidValueError(f"{pixels:,} pixels; at most {_MOST_PIXELS:,} are decoded")
    if image.mode[0] in "IF":
        raise InvalidValueError(f"pixels of mode {image.mode}; expected 8 bits a channel")
    if pixels > _LARGE // 4:
        stack.enter_context(_ALONE)
    return image


def _centre(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image whose shorter side is resized to ``size`` pixels."""
    from PIL import Image

    width, height = image.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    if wide * high > _MOST_PIXELS:
        raise InvalidValueError(f"{width}x{height} pixels, which cannot be cut to {size}x{size}")
    resized = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (wide - size) // 2, (high - size) // 2
    return resized.crop((left, top, left + size, top + size))


def _check_size(pixels: np.ndarray, file: Path, report: Report) -> None:
    if report.shape is None or pixels.shape[1:] == report.shape[0]:
        return
    (height, width), first = report.shape
    smaller = min(height, width, *pixels.shape[1:])
    raise DatasetError(
        f"images of different sizes: {first} is {width}x{height}, {file} is "
        f"{pixels.shape[2]}x{pixels.shape[1]} pixels; write folder:PATH@{smaller} to resize and "
        f"crop every image to {smaller}x{smaller}, or another size."
    )


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns of images that are odd, such as those with damaged EXIF data; they are read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextmanager
def progress(n: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal; nothing where standard error is not one."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, emoji=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"decoding {n} images", total=n)
        yield lambda done: bar.update(task, advance=done)
