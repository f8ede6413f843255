"""Image files to uint8 pixels: one array per split, decoded by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune_gym.errors import DatasetError, InvalidValueError
from prune_gym.utils.stopping import check_stop

if TYPE_CHECKING:
    from PIL import Image

_GREY = ("1", "L", "LA")
_CHUNK = 64  # files a task


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
    files: Sequence[Path],
    target: Path,
    *,
    size: int | None,
    report: Report,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Decode files into a ``.npy`` file of RGB pixels, (n, 3, height, width) uint8.

    Args:
        files: one image each.
        target: the file to write; rows of broken images are left black.
        size: resize the shorter side to so many pixels and crop the centre; None = as they are.
        report: what was met in other splits; extended.
        advance: called with the number of files done since the last call.

    Returns:
        (n,) bool, True = decoded.

    Raises:
        DatasetError: images of different sizes.
    """
    readable = np.zeros(len(files), dtype=bool)
    start = 0
    while report.shape is None and start < len(files):  # the first readable image tells the size
        pixels = _try(files[start], size, report)
        if pixels is not None:
            report.shape = (pixels.shape[1], pixels.shape[2]), files[start]
        else:
            start += 1
    if report.shape is None:
        return readable
    out = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.uint8, shape=(len(files), 3, *report.shape[0])
    )

    def work(rows: range) -> int:
        for row in rows:
            check_stop()
            pixels = _try(files[row], size, report)
            if pixels is not None:
                _check_size(pixels, files[row], report)
                out[row] = pixels
                readable[row] = True
        return len(rows)

    chunks = [
        range(first, min(first + _CHUNK, len(files))) for first in range(start, len(files), _CHUNK)
    ]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for done in pool.map(work, chunks):
                advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    out.flush()
    return readable


def _try(file: Path, size: int | None, report: Report) -> np.ndarray | None:
    """Pixels of a file, (3, height, width) uint8; None where it is broken."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode = image.mode
            if mode[0] in "IF":
                raise InvalidValueError(f"pixels of mode {mode}; expected 8 bits a channel")
            # by way of RGBA, or PIL warns of transparent colours in a palette
            pixels = (image.convert("RGBA") if mode[0] == "P" else image).convert("RGB")
    except Exception as error:  # PIL raises anything, SyntaxError and struct.error included
        report.broken[file] = str(error) or type(error).__name__
        return None
    if mode not in _GREY:
        report.grey = False
    if size is not None:
        pixels = _centre(pixels, size)
    return np.moveaxis(np.asarray(pixels), 2, 0)


def _centre(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image whose shorter side is resized to ``size`` pixels."""
    from PIL import Image

    width, height = image.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
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
def progress(n: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal; nothing where standard error is not one."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"decoding {n} images", total=n)
        yield lambda done: bar.update(task, advance=done)
