"""Image folders with what is no image in them: nothing hangs, starts a program or fills memory."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prune_gym.datasets import absolute_name, decode, load_dataset
from prune_gym.datasets.folders import parse
from prune_gym.errors import DatasetError, PruneGymError
from prune_gym.problem.checks import from_anywhere, written_down

pytestmark = pytest.mark.skipif(os.name == "nt", reason="named pipes and links")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


def save(path: Path, seed: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def birds(tmp_path):
    """120 good images, so that one broken one is less than a hundredth."""
    root = tmp_path / "birds"
    for label in ("kite", "wren"):
        for number in range(60):
            save(root / label / f"{number}.png", number + 1000 * len(label))
    return root


def blank_png(width: int, height: int) -> bytes:
    """A black image of any size, a few kilobytes long."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb(path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("x", "x" * (70 << 20), zip=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)


def make_odd(path: Path, how: str) -> None:
    if how == "pipe":
        os.mkfifo(path)
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))  # addresses are short
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "dangling":
        path.symlink_to("nowhere.png")
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "eps":
        Image.new("RGB", (8, 8)).save(path, format="EPS")
    elif how == "huge":
        path.write_bytes(blank_png(20_000, 20_000))
    elif how == "large":
        path.write_bytes(blank_png(10_000, 9_001))
    elif how == "long file":
        save(path, 1)
        os.truncate(path, 3 << 30)  # sparse
    elif how == "text bomb":
        text_bomb(path)
    else:
        path.touch()


ODD = {
    "pipe": "a named pipe",
    "socket": "a socket",
    "device": "a device",
    "dangling": "a link that leads nowhere: No such file",
    "loop": "a link that leads nowhere: Too many levels",
    "eps": "no image of the kinds BMP, GIF",
    "huge": "more than 90,000,000 pixels",
    "large": "90,010,000 pixels; at most 90,000,000",
    "long file": "3,221,225,472 bytes; at most",
    "text bomb": "",
    "empty": "no image of the kinds",
}


@pytest.mark.parametrize("how", ODD)
def test_what_is_no_image_is_skipped_and_counted(birds, monkeypatch, how):
    monkeypatch.chdir(birds)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    make_odd(birds / "kite" / "odd.png", how)
    with pytest.warns(UserWarning, match=rf"1 of 121 images .*odd\.png \({ODD[how]}.*skipped"):
        data = load_dataset(f"folder:{birds}")
    splits = (data.train, data.validation, data.test)
    assert sum(split.labels.bincount() for split in splits).tolist() == [60, 60]
    assert len(load_dataset(f"folder:{birds}").train) == len(data.train)  # from the cache


def test_a_file_that_is_a_pipe_only_when_it_is_opened(tmp_path):
    report = decode.Report()
    os.mkfifo(tmp_path / "x.png")
    assert decode._try(tmp_path / "x.png", None, report) is None
    assert report.broken == {tmp_path / "x.png": "no file"}


@pytest.mark.parametrize(
    "target", [".", "..", "../..", "inner"], ids=["itself", "up", "out", "twice"]
)
def test_links_that_lead_round_are_walked_once(birds, target):
    (birds / "kite" / "inner").mkdir()
    save(birds / "kite" / "inner" / "more.png", 5)
    (birds / "kite" / "way").symlink_to(target)
    with pytest.warns(UserWarning, match=r"1 of 122 images .*\(a folder that is read already"):
        data = load_dataset(f"folder:{birds}")
    splits = (data.train, data.validation, data.test)
    assert sum(split.labels.bincount() for split in splits).tolist() == [61, 60]


def test_links_to_files_and_folders_elsewhere_are_followed(birds, tmp_path):
    (birds / "wren").rename(tmp_path / "wrens")
    (birds / "wren").symlink_to(tmp_path / "wrens")
    save(tmp_path / "one.png", 7)
    (birds / "kite" / "one.PNG").symlink_to(tmp_path / "one.png")
    data = load_dataset(f"folder:{birds}")
    splits = (data.train, data.validation, data.test)
    assert sum(split.labels.bincount() for split in splits).tolist() == [61, 60]


def test_a_class_of_nothing_but_pipes_is_named(birds):
    (birds / "owl").mkdir()
    os.mkfifo(birds / "owl" / "x.png")
    message = r"holds no images of owl; .* Not read: .*owl/x\.png \(a named pipe\)"
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"folder:{birds}")


def test_a_class_folder_that_leads_nowhere_is_counted(birds):
    (birds / "owl").symlink_to("nowhere")
    (birds / "labels.csv").symlink_to("nowhere")  # surely no class
    with pytest.warns(UserWarning, match=r"1 of 121 .*birds/owl \(a link that leads nowhere"):
        assert load_dataset(f"folder:{birds}").n_classes == 2


def test_folders_that_may_not_be_read(birds, monkeypatch):
    (birds / "kite" / "inner").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith(f"/{refused}"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("prune_gym.datasets.listing.os.scandir", refuse)
    refused = "inner"
    with pytest.warns(UserWarning, match=r"1 of 121 .*inner \(Permission denied\)"):
        load_dataset(f"folder:{birds}")
    refused = "birds"
    with pytest.raises(DatasetError, match=r"birds cannot be read \(Permission denied\); give"):
        load_dataset(f"folder:{birds}")


def test_folders_within_folders_without_end(birds):
    here = os.open(birds / "kite", os.O_RDONLY)
    for _ in range(1200):  # deeper than Python calls itself
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        assert load_dataset(f"folder:{birds}").n_classes == 2
    finally:  # Python could not remove it either, once the folders of tests are cleared away
        subprocess.run(["rm", "-rf", birds / "kite" / "d"], check=True)


def test_a_first_frame_and_other_kinds_behind_an_ending(birds):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(birds / "kite" / "moving.png", "GIF", save_all=True, append_images=frames[1:])
    frames[1].save(birds / "wren" / "photo.PNG", "WEBP", lossless=True)
    data = load_dataset(f"folder:{birds}")
    splits = (data.train, data.validation, data.test)
    assert sum(len(split) for split in splits) == 122
    found = torch.cat([split.images[:, :, 0, 0] for split in splits]).tolist()
    assert [254, 0, 0] in found or [255, 0, 0] in found


def test_an_image_of_one_row_is_not_blown_up(birds):
    Image.new("L", (1_000_000, 1)).save(birds / "kite" / "line.png")
    with pytest.warns(UserWarning, match=r"1000000x1 pixels, which cannot be cut to 64x64"):
        load_dataset(f"folder:{birds}@64")


def test_memory_is_bounded(birds):
    for number in range(12):  # beside each other they would need gigabytes
        (birds / "wren" / f"{number}.png").write_bytes(blank_png(9_000, 9_000))
    with pytest.raises(DatasetError, match=r"12 of 120 images cannot be read"):
        load_dataset(f"folder:{birds}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 << 20  # kilobytes


def test_names_that_a_terminal_does_not_show(birds):
    odd = os.fsdecode(os.fsencode(birds / "kite") + b"/a\n\xff.png")
    Path(odd).touch()
    with pytest.warns(UserWarning, match=r"kite/a\\n\\udcff\.png \(no image"):
        load_dataset(f"folder:{birds}")


# -- paths -----------------------------------------------------------------------------------------


def test_absolute_names_mean_the_same_from_anywhere(birds, tmp_path, monkeypatch):
    birds.rename(tmp_path / "birds@64")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("birds@64")
    whole = f"folder:{tmp_path}/birds@64"
    assert absolute_name("folder:birds@64/") == f"{whole}/"
    assert absolute_name("folder:link") == f"{whole}/"
    assert absolute_name("folder:link/@16") == f"{whole}@16"
    assert absolute_name("folder:./birds@64@016") == f"{whole}@16"
    assert absolute_name("module:function") == "module:function"
    for name in ("folder:birds@64/", "folder:link@16"):
        again = absolute_name(name)
        assert absolute_name(again) == again
        assert load_dataset(again).name == load_dataset(name).name
    assert load_dataset("folder:link").train.images.shape[2:] == (8, 8)


def test_the_home_folder_of_somebody(birds, monkeypatch):
    monkeypatch.setenv("HOME", str(birds.parent))
    assert absolute_name("folder:~/birds@9") == f"folder:{birds}@9"
    monkeypatch.setattr("os.path.expanduser", lambda path: str(path).replace("~kim", "/home/kim"))
    assert parse("~kim/x")[0] == Path("/home/kim/x")
    with pytest.raises(DatasetError, match=r"there is no folder .*~nobody/x"):
        load_dataset("folder:~nobody/x")


def test_a_drive_of_windows_is_part_of_the_path():
    path, size = parse(r"C:\birds@64")
    assert (path.name, size) == (r"C:\birds", 64)


@pytest.mark.parametrize(
    "size", ["0", "-3", "7", "10**9", "64x48", "1e3", "64.0", "", "9" * 5000, "٦٤"]
)
def test_sizes_that_are_none(birds, size):
    with pytest.raises(DatasetError, match=r"size .* must be 8 to 1024 pixels") as caught:
        load_dataset(f"folder:{birds}@{size}")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("spec", ["", " ", "\0", "loop/x", "x" * 300])
def test_paths_that_are_none(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DatasetError, match=r"needs a path|is no path|there is no folder"):
        load_dataset(f"folder:{spec}")


def test_a_problem_notes_paths_that_mean_the_same_elsewhere(birds, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = {"dataset": "folder:birds@8", "weights": "~/w.safetensors", "budgets": {"params": 0.1}}
    noted = written_down(given)
    assert noted["dataset"] == f"folder:{birds}@8"
    assert noted["weights"] == str(tmp_path / "w.safetensors")
    assert written_down({**given, "weights": Path("~/w.safetensors")}) == noted
    assert from_anywhere({"dataset": "digits", "weights": None})["dataset"] == "digits"


# -- the cache -------------------------------------------------------------------------------------


def rewrite(folder: Path, how: str) -> None:
    images, facts = folder / "train-images.npy", folder / "facts.json"
    if how == "head":
        np.lib.format.open_memmap(images, mode="r")  # it is one
        content = images.read_bytes()
        images.write_bytes(content.replace(b"(96, 3, 8, 8)", b"(10**9, 3, 8)", 1))
        with images.open("wb") as file:
            shape = (10**12, 3, 8, 8)
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
    elif how == "labels head":
        with (folder / "train-labels.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
            )
    elif how == "pickle":
        np.save(folder / "train-labels.npy", np.array([print, None]), allow_pickle=True)
    elif how == "labels":
        np.save(folder / "train-labels.npy", np.load(folder / "train-labels.npy") + 7)
    elif how == "kind":
        np.save(images, np.load(images).astype(np.float32))
    elif how == "channels":
        np.save(images, np.load(images)[:, :1])
    elif how == "empty":
        images.write_bytes(b"")
    elif how == "zip":
        with images.open("wb") as file:
            np.savez(file, x=np.zeros(3))
    elif how == "missing":
        (folder / "validation-images.npy").unlink()
    else:
        written = json.loads(facts.read_text())
        written.update({"classes": {"n_classes": "2"}, "std": {"std": [0, 0, 0]}}[how])
        facts.write_text(json.dumps(written))


@pytest.mark.parametrize(
    "how",
    ["head", "labels head", "pickle", "labels", "kind", "channels", "empty", "zip", "missing",
     "classes", "std"],
)  # fmt: skip
def test_what_is_damaged_in_the_cache_is_made_anew(birds, cache, how):
    before = load_dataset(f"folder:{birds}")
    expected = before.train.images.clone(), before.train.labels.clone()
    del before
    rewrite(next(cache.iterdir()), how)
    again = load_dataset(f"folder:{birds}")
    assert torch.equal(again.train.images, expected[0])
    assert torch.equal(again.train.labels, expected[1])
    assert len(list(cache.iterdir())) == 1


def test_what_lies_in_the_place_of_the_cache_is_replaced(birds, cache, tmp_path):
    load_dataset(f"folder:{birds}")
    final = next(cache.iterdir())
    final.rename(tmp_path / "mine")
    (tmp_path / "mine" / "facts.json").write_text("{")
    final.symlink_to(tmp_path / "mine")
    load_dataset(f"folder:{birds}")
    assert not final.is_symlink()
    assert (tmp_path / "mine" / "facts.json").read_text() == "{"


def test_another_process_may_be_first(birds, cache, monkeypatch):
    load_dataset(f"folder:{birds}")
    final = next(cache.iterdir())
    kept = final.rename(final.with_name("kept"))
    rename = Path.rename

    def slower(self, target):
        if self.name == "complete":
            rename(kept, final)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slower)
    assert len(load_dataset(f"folder:{birds}").train) == 96
    assert list(cache.iterdir()) == [final]


def test_a_full_disk_is_named(birds, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(
            DatasetError, match=r"cannot be kept in .*\(File too large\); free space"
        ) as caught:
            load_dataset(f"folder:{birds}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value, PruneGymError)
    assert list(cache.iterdir()) == []
    assert len(load_dataset(f"folder:{birds}").train) == 96
