"""Datasets by name, and the cache that decoded ones are kept in."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import prune_gym
from prune_gym.datasets import Dataset, Split, file_name, load_dataset
from prune_gym.datasets.store import (
    Facts,
    images_file,
    pixel_statistics,
    stored,
    write_facts,
    write_labels,
)
from prune_gym.errors import DatasetError
from prune_gym.utils.cache import cache_dir

PIXELS = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)


def cli_number() -> int:
    return 3


def beyond() -> Dataset:
    images, labels = tiny.data_of(6, 0)
    split = Split(images, labels)
    return Dataset("beyond", split, Split(images, labels - 1), None, n_classes=3)


def short() -> Dataset:
    images, labels = tiny.data_of(6, 0)
    return Dataset("short", Split(images, labels), Split(images[:4], labels), None, n_classes=3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


def write(folder):
    for part in ("train", "validation"):
        np.save(images_file(folder, part), PIXELS)
        write_labels(folder, part, np.array([1, 0], dtype=np.uint8))
    write_facts(folder, Facts(2, [0.25, 0.5, 0.75], [1.0, 2.0, 4.0]))


def test_names_functions_and_datasets():
    assert load_dataset("digits").name == "digits"
    made = load_dataset("tiny:cli_dataset")
    assert made.name == "cli"
    assert load_dataset(made) is made
    with pytest.raises(
        prune_gym.utils.registry.UnknownNameError, match=r"unknown dataset 'digts'.* mean"
    ):
        load_dataset("digts")
    with pytest.raises(ValueError, match="unknown dataset 3"):
        load_dataset(3)


def test_something_else_than_a_dataset():
    with pytest.raises(TypeError, match=r"'test_load_dataset:cli_number' gave int; expected a Dat"):
        load_dataset("test_load_dataset:cli_number")


@pytest.mark.parametrize("how", ["by name", "by object"])
def test_labels_and_lengths_of_a_dataset_are_checked(how):
    for make, message in (
        (beyond, r"'beyond': validation holds label -1, but n_classes=3; labels are 0 to 2"),
        (short, r"'short': validation holds 4 images and 6 labels; expected as many of both"),
    ):
        given = make() if how == "by object" else f"test_load_dataset:{make.__name__}"
        with pytest.raises(ValueError, match=message):
            load_dataset(given)
    images, labels = tiny.data_of(6, 0)
    split = Split(images, labels)
    with pytest.raises(ValueError, match=r"test holds label 4, but n_classes=3; labels are 0 to 2"):
        load_dataset(Dataset("x", split, split, Split(images, labels + 2), n_classes=3))
    with pytest.raises(ValueError, match=r"train holds 0 images and 0 labels.*at least one"):
        load_dataset(Dataset("x", split.first(0), split, None, n_classes=3))


def test_the_folder_form_is_listed():
    words = prune_gym.DATASETS.describe()["folder"]
    assert "`folder:PATH`" in words
    assert "`folder:PATH@64`" in words
    with pytest.raises(
        DatasetError, match=r"'folder' needs a path: write folder:PATH or folder:PA"
    ):
        load_dataset("folder")


def test_file_names():
    assert file_name("cifar10") == "cifar10"
    assert file_name("a.b:c") == "a.b.c"
    assert file_name("folder:/data/my birds@64").startswith("folder.my_birds-")


def test_the_cache_folder(cache, monkeypatch):
    assert cache_dir() == cache.parent
    assert prune_gym.networks.checkpoints.cache_dir is cache_dir
    monkeypatch.setenv("PRUNE_GYM_CACHE", "")
    assert cache_dir().name == "prune_gym"


# -- the store -------------------------------------------------------------------------------------


def test_what_is_stored_is_read_back(cache):
    facts, splits = stored("x", "1", write)
    assert facts == Facts(2, [0.25, 0.5, 0.75], [1.0, 2.0, 4.0])
    assert list(splits) == ["train", "validation"]
    train = splits["train"]
    assert train.images.dtype == torch.uint8
    assert np.array_equal(train.images.numpy(), PIXELS)
    assert train.labels.tolist() == [1, 0]
    assert train.labels.dtype == torch.int64
    expected = (torch.from_numpy(PIXELS).float() / 255 - torch.tensor(facts.mean).view(3, 1, 1)) / (
        torch.tensor(facts.std).view(3, 1, 1)
    )
    torch.testing.assert_close(train.batch(slice(2)), expected)


def test_it_is_made_once_and_memory_mapped(cache):
    def never(folder):
        raise AssertionError("made twice")

    stored("x", "1", write)
    _, splits = stored("x", "1", never)
    maps = Path("/proc/self/maps")  # of Linux
    if maps.exists():
        assert str(cache / "x-v1-1" / "train-images.npy") in maps.read_text()
    splits["train"].images[0] = 7  # a process may change its own pages ...
    _, again = stored("x", "1", never)
    assert np.array_equal(again["train"].images.numpy(), PIXELS)  # ... and nobody else's


def test_older_ones_of_the_same_name_are_removed(cache):
    stored("x", "1", write)
    stored("xy", "1", write)
    stored("x", "2", write)
    assert sorted(path.name for path in cache.iterdir()) == ["x-v1-2", "xy-v1-1"]


def test_nothing_half_written_is_left_or_read(cache):
    def fails(folder):
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored("x", "1", fails)
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(cache):
    for name, hours in ((".partial-old", 25), (".partial-new", 1)):
        (cache / name / "complete").mkdir(parents=True)
        changed = time.time() - 3600 * hours
        os.utime(cache / name, (changed, changed))
    stored("x", "1", write)
    assert sorted(path.name for path in cache.iterdir()) == [".partial-new", "x-v1-1"]


def test_another_process_may_be_first(cache):
    def raced(folder):
        write(folder)
        stored("x", "1", write)

    _, splits = stored("x", "1", raced)
    assert np.array_equal(splits["train"].images.numpy(), PIXELS)
    assert [path.name for path in cache.iterdir()] == ["x-v1-1"]


@pytest.mark.parametrize("damage", ["cut", "no labels", "no facts", "strange facts"])
def test_damaged_files_are_made_anew(cache, damage):
    stored("x", "1", write)
    folder = cache / "x-v1-1"
    if damage == "cut":
        path = folder / "train-images.npy"
        path.write_bytes(path.read_bytes()[:150])
    elif damage == "strange facts":
        (folder / "facts.json").write_text('{"colour": "red"}')
    else:
        (folder / ("train-labels.npy" if damage == "no labels" else "facts.json")).unlink()
    _, splits = stored("x", "1", write)
    assert np.array_equal(splits["train"].images.numpy(), PIXELS)


def test_a_cache_that_cannot_be_written(cache, monkeypatch):
    cache.parent.write_text("a file where a folder should be")
    with pytest.raises(
        DatasetError, match=r"'x': decoded images cannot be kept in .*PRUNE_GYM_CAC"
    ):
        stored("x", "1", write)


def test_statistics_are_those_of_all_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 2, 3, 5), dtype=np.uint8)
    mean, std = pixel_statistics(pixels)
    exact = pixels.transpose(1, 0, 2, 3).reshape(2, -1) / 255.0
    np.testing.assert_allclose(mean, exact.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std, exact.std(axis=1), rtol=1e-9)
    assert pixel_statistics(np.full((3, 1, 2, 2), 51, dtype=np.uint8)) == ([0.2], [1 / 255])
