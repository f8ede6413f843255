"""Folders of images with something in them that is none."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def _noise(size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    return image.convert(mode)


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _png(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is so large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000)
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _bomb(file: Path) -> None:
    """Hundreds of megapixels, all black, in a small file."""
    Image.new("1", (30_000, 10_000)).save(file, "PNG")


def _cut(kind: str) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        _noise((200, 200)).save(file, kind)
        file.write_bytes(file.read_bytes()[:900])

    return make


def _socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


def _saved(mode: str, kind: str) -> Callable[[Path], None]:
    return lambda file: _noise(mode=mode).save(file, kind)


PICTURES: dict[str, Callable[[Path], object]] = {
    "no bytes": lambda file: file.write_bytes(b""),
    "one byte": lambda file: file.write_bytes(b"\x89"),
    "text": lambda file: file.write_text("no image"),
    "a cut PNG": _cut("PNG"),
    "a cut JPEG": _cut("JPEG"),
    "a cut GIF": _cut("GIF"),
    "a PNG that says it is large": lambda file: file.write_bytes(_png(40_000, 40_000)),
    "a PNG without size": lambda file: file.write_bytes(_png(0, 0)),
    "hundreds of megapixels": _bomb,
    "EPS": lambda file: file.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n(canary) (w) file closefile\nshowpage\n"
    ),
    "PDF": lambda file: file.write_text("%PDF-1.4\n"),
    "SVG": lambda file: file.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "a dangling link": lambda file: file.symlink_to("nowhere.png"),
    "a loop of links": lambda file: file.symlink_to(file.name),
    "a link to a folder above": lambda file: file.symlink_to("../.."),
    "a link to an endless device": lambda file: file.symlink_to("/dev/zero"),
    "a pipe": lambda file: os.mkfifo(file),
    "a socket": _socket,
    "a folder": lambda file: file.mkdir(),
    "one pixel": lambda file: _noise((1, 1)).save(file, "PNG"),
    "one row": lambda file: _noise((1, 4000)).save(file, "PNG"),
    "CMYK": _saved("CMYK", "JPEG"),
    "a palette": _saved("P", "PNG"),
    "transparency": _saved("RGBA", "PNG"),
    "one bit": _saved("1", "PNG"),
    "sixteen bits": lambda file: Image.fromarray(
        np.arange(400, dtype=np.uint16).reshape(20, 20)
    ).save(file, "PNG"),
    "TIFF": _saved("RGB", "TIFF"),
    "GIF": _saved("P", "GIF"),
}


def make_images(photos: Path, kinds: list[str]) -> None:
    """A folder of images for ``folder:PATH``, with these in its first class.

    Args:
        photos: the folder to make.
        kinds: of `PICTURES`.
    """
    for part, n in (("train", 8), ("test", 3)):
        for label in ("ants", "bees"):
            folder = photos / part / label
            folder.mkdir(parents=True)
            for index in range(n):
                _noise().save(folder / f"{index}.png")
    for index, kind in enumerate(kinds):
        PICTURES[kind](photos / "train" / "ants" / f"odd-{index}.png")
