"""torchvision's sets: its own classes on small files in their formats, and failing downloads."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import sys
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from scipy.io import savemat

import prune_gym
from prune_gym.datasets import TORCHVISION, load_dataset, vision
from prune_gym.datasets.augment import flip_and_shift, shift
from prune_gym.errors import DatasetError

N_TRAIN, N_TEST, N_VALIDATION = 600, 50, 100
SIZES = {"cifar10": 10, "cifar100": 100, "mnist": 10, "fashion_mnist": 10, "svhn": 10}
GREY = ("mnist", "fashion_mnist")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vision, "N_VALIDATION", N_VALIDATION)
    return tmp_path / "cache" / "datasets"


def pixels_of(name: str, part: str) -> np.ndarray:
    """(n, channels, height, width) as the set is published."""
    shape = (1, 28, 28) if name in GREY else (3, 32, 32)
    n = N_TRAIN if part == "train" else N_TEST
    seed = sum(map(ord, name + part))
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def labels_of(name: str, part: str) -> np.ndarray:
    return np.arange(N_TRAIN if part == "train" else N_TEST) % SIZES[name]


class OldType:
    """A pickle of a dtype by a NumPy that wrote numbers for booleans, as CIFAR's files hold."""

    def __reduce__(self):
        return np.dtype, ("u1", 0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def publish_cifar(name: str, site: Path, url: str, patch) -> None:
    kind = getattr(torchvision.datasets, TORCHVISION[name].kind)
    key = "labels" if name == "cifar10" else "fine_labels"
    batches = {files[0]: "train" for files in kind.train_list}
    batches.update({files[0]: "test" for files in kind.test_list})
    trains = [file for file, part in batches.items() if part == "train"]
    with tarfile.open(site / kind.filename, "w:gz") as archive:

        def add(file, content):
            info = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            return [file, hashlib.md5(content, usedforsecurity=False).hexdigest()]

        known = {"train": [], "test": []}
        for file, part in batches.items():
            pixels, labels = pixels_of(name, part), labels_of(name, part)
            if part == "train":
                rows = np.array_split(np.arange(N_TRAIN), len(trains))[trains.index(file)]
                pixels, labels = pixels[rows], labels[rows]
            entry = {"data": pixels.reshape(len(pixels), -1), key: labels.tolist()}
            known[part].append(add(file, pickle.dumps({**entry, "old": OldType()})))
        meta = add(kind.meta["filename"], pickle.dumps({kind.meta["key"]: ["a", "b"]}))
    patch(kind, "url", url + kind.filename)
    patch(kind, "tgz_md5", md5(site / kind.filename))
    patch(kind, "train_list", known["train"])
    patch(kind, "test_list", known["test"])
    patch(kind, "meta", {**kind.meta, "md5": meta[1]})


def publish_mnist(name: str, site: Path, url: str, patch) -> None:
    kind = getattr(torchvision.datasets, TORCHVISION[name].kind)
    resources = []
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels, labels = pixels_of(name, part), labels_of(name, part).astype(np.uint8)
        head = struct.pack(">iiii", 2051, len(pixels), 28, 28)
        for file, content in (
            (f"{prefix}-images-idx3-ubyte.gz", head + pixels.tobytes()),
            (
                f"{prefix}-labels-idx1-ubyte.gz",
                struct.pack(">ii", 2049, len(labels)) + bytes(labels),
            ),
        ):
            (site / file).write_bytes(gzip.compress(content))
            resources.append((file, md5(site / file)))
    patch(kind, "mirrors", [url])
    patch(kind, "resources", resources)


def publish_svhn(name: str, site: Path, url: str, patch) -> None:
    known = {}
    for part in ("train", "test"):
        file = site / f"{part}_32x32.mat"
        labels = labels_of(name, part)[:, None]
        numbers = np.where(labels == 0, 10, labels).astype(np.uint8)  # 0 is written as 10
        savemat(file, {"X": pixels_of(name, part).transpose(2, 3, 1, 0), "y": numbers})
        known[part] = [url + file.name, file.name, md5(file)]
    patch(torchvision.datasets.SVHN, "split_list", known)


PUBLISH = {
    "cifar10": publish_cifar,
    "cifar100": publish_cifar,
    "mnist": publish_mnist,
    "fashion_mnist": publish_mnist,
    "svhn": publish_svhn,
}


class Response(io.BytesIO):
    """What ``urllib.request.urlopen`` gives."""

    def __init__(self, url: str, content: bytes):
        super().__init__(content)
        self.url = url
        self.length = len(content)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that stands for the web: small files in the formats of the sets."""
    folder = tmp_path / "web"
    folder.mkdir()

    def urlopen(request, *_, **__):
        url = getattr(request, "full_url", request)
        try:
            return Response(url, (folder / url.split("//web/")[1]).read_bytes())
        except OSError as error:
            raise urllib.error.URLError("no such host") from error

    monkeypatch.setattr("urllib.request.urlopen", urlopen)

    def publish(name: str) -> Path:
        (folder / name).mkdir()
        PUBLISH[name](name, folder / name, f"https://web/{name}/", monkeypatch.setattr)
        return folder / name

    return publish


def expected(name: str, part: str) -> dict[bytes, int]:
    """Pixels of each image as they should be, with its label."""
    pixels = pixels_of(name, part)
    if name in GREY:
        wide = np.zeros((len(pixels), 1, 32, 32), dtype=np.uint8)
        wide[:, :, 2:30, 2:30] = pixels
        pixels = wide
    pairs = zip(pixels, labels_of(name, part).tolist(), strict=True)
    return {image.tobytes(): label for image, label in pairs}


def seen(split: prune_gym.Split) -> dict[bytes, int]:
    pairs = zip(split.images, split.labels.tolist(), strict=True)
    return {image.numpy().tobytes(): label for image, label in pairs}


def test_every_set_is_tested():
    assert set(PUBLISH) == set(SIZES) == set(TORCHVISION)
    assert set(TORCHVISION) <= set(prune_gym.DATASETS)
    for name, row in TORCHVISION.items():
        assert hasattr(torchvision.datasets, row.kind)
        assert prune_gym.DATASETS.describe()[name] == row.words
        assert len(row.mean) == len(row.std) == (1 if name in GREY else 3)


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_set(name, site, cache):
    site(name)
    data = load_dataset(name)
    assert data.name == name
    assert data.n_classes == SIZES[name]
    assert data.augment is (shift if name in ("mnist", "svhn") else flip_and_shift)
    train, validation = seen(data.train), seen(data.validation)
    assert not train.keys() & validation.keys()
    assert {**train, **validation} == expected(name, "train")
    assert seen(data.test) == expected(name, "test")
    assert data.validation.labels.bincount().tolist() == [N_VALIDATION // SIZES[name]] * SIZES[name]
    assert len(data.train) == N_TRAIN - N_VALIDATION
    for split in (data.train, data.validation, data.test):
        assert split.images.dtype == torch.uint8
        assert split.mean == TORCHVISION[name].mean
        assert split.std == TORCHVISION[name].std
    assert [path.name for path in cache.iterdir()] == [f"{name}-v1-torchvision"]
    assert len(list(next(cache.iterdir()).iterdir())) == 7


def test_the_second_time_needs_neither_files_nor_torchvision(site, monkeypatch):
    folder = site("cifar10")
    first = load_dataset("cifar10")
    for file in folder.iterdir():
        file.unlink()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    again = load_dataset("cifar10")
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.validation.labels, again.validation.labels)


def test_the_statistics_of_padded_sets():
    # of the published 28x28 pixels: mean and standard deviation
    for name, mean, std in (("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)):
        row, share = TORCHVISION[name], 28**2 / 32**2
        assert row.mean[0] == pytest.approx(mean * share, abs=1e-4)
        variance = (std**2 + mean**2) * share - (mean * share) ** 2
        assert row.std[0] == pytest.approx(variance**0.5, abs=1e-4)


@pytest.mark.parametrize(("name", "unpacked"), [("cifar10", False), ("cifar10", True), ("svhn", 0)])
def test_files_that_the_user_put_there(name, unpacked, site, cache, monkeypatch):
    folder = site(name)
    place = cache / "downloads" / name
    place.mkdir(parents=True)
    for file in folder.iterdir():
        if unpacked:
            with tarfile.open(file) as archive:
                archive.extractall(place, filter="data")
        else:
            (place / file.name).write_bytes(file.read_bytes())
        file.unlink()
    assert seen(load_dataset(name).test) == expected(name, "test")
    assert list(place.iterdir())  # they are the user's


# -- failing downloads -----------------------------------------------------------------------------


def left(cache: Path) -> list[Path]:
    return list(cache.iterdir()) if cache.exists() else []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            urllib.error.URLError("Name or service not known"),
            r"<urlopen error Name or service not known>",
        ),
        (
            RuntimeError("Error downloading x:\nTried https://a.b/c"),
            r"Error downloading x: Tried h",
        ),
        (EOFError(), "EOFError"),
    ],
)
def test_a_download_that_fails(error, reason, cache, monkeypatch):
    class Fails:
        def __init__(self, root, *, train, download):
            assert download
            (Path(root) / "half").write_text("a part of the archive")
            raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fails)
    message = (
        rf"dataset 'cifar10': torchvision cannot load or download it \({reason}.*\)\. Try again; "
        rf"or put cifar-10-python\.tar\.gz into {cache / 'downloads' / 'cifar10'}; or .*folder:PATH"
    )
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset("cifar10")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
    assert left(cache) == []


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_site_that_is_down(name, site, cache):
    folder = site(name)
    hidden = folder.rename(folder.with_name("hidden"))
    message = rf"dataset '{name}': torchvision cannot load or download it \(.*no such host"
    with pytest.raises(DatasetError, match=message):
        load_dataset(name)
    assert left(cache) == []
    hidden.rename(folder)  # and up again
    assert len(load_dataset(name).test) == N_TEST


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_download_that_arrives_damaged(name, site, cache):
    folder = site(name)
    for file in folder.iterdir():
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=rf"'{name}': .*(corrupted|Error downloading)"):
        load_dataset(name)
    assert left(cache) == []


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
    class Interrupted:
        def __init__(self, root, *, train, download):
            (Path(root) / "half").write_text("a part of the archive")
            raise KeyboardInterrupt

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("cifar10")
    assert left(cache) == []


def test_a_torchvision_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DatasetError, match=r"'mnist': .*import of torchvision halted.*folder:PATH"):
        load_dataset("mnist")
