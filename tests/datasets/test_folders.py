"""Image folders: layouts, splits, pixels, the cache, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prune_gym
from prune_gym.datasets import decode, load_dataset
from prune_gym.datasets.augment import flip_and_shift
from prune_gym.errors import DatasetError

REAL = os.environ.get("PRUNE_GYM_CIFAR10_JPEG", "")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


def pixels_of(seed: int, size: tuple[int, int] = (9, 8), mode: str = "RGB") -> np.ndarray:
    """Pixels of an image of (width, height)."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, seed: int, size: tuple[int, int] = (9, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(seed, size, mode)).save(path)


def fill(root: Path, **classes: int) -> Path:
    """``n`` images of each class below a folder; every image of a test folder differs."""
    for number, (name, n) in enumerate(classes.items()):
        for i in range(n):
            save(root / name / f"{i:03d}.png", seed=1000 * number + i + 100_000 * len(str(root)))
    return root


@pytest.fixture
def split_folder(tmp_path):
    fill(tmp_path / "set" / "train", cat=20, dog=30)
    fill(tmp_path / "set" / "test", cat=5, dog=6)
    return tmp_path / "set"


def load(path: Path, tail: str = "") -> prune_gym.Dataset:
    return load_dataset(f"folder:{path}{tail}")


def keys(split: prune_gym.Split) -> set[tuple[bytes, int]]:
    """What is in a split, whatever its order."""
    pairs = zip(split.images, split.labels.tolist(), strict=True)
    found = [(image.numpy().tobytes(), label) for image, label in pairs]
    assert len(set(found)) == len(found)
    return set(found)


def on_disk(root: Path) -> set[tuple[bytes, int]]:
    """The same, read one by one from ``root/<class>/*``."""
    found = set()
    for label, name in enumerate(sorted(p.name for p in root.iterdir())):
        for file in (root / name).rglob("*.png"):
            array = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
            found.add((array.tobytes(), label))
    return found


# -- layouts ---------------------------------------------------------------------------------------


def test_train_and_test(split_folder):
    data = load(split_folder)
    assert keys(data.train) | keys(data.validation) == on_disk(split_folder / "train")
    assert not keys(data.train) & keys(data.validation)
    assert keys(data.test) == on_disk(split_folder / "test")
    assert data.validation.labels.bincount().tolist() == [2, 3]
    assert data.train.images.shape == (45, 3, 8, 9)
    assert data.n_classes == 2
    assert data.augment is flip_and_shift
    assert re.fullmatch(r"folder\.set-[0-9a-f]{6}", data.name)


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_validation_folder_is_taken_as_it_is(split_folder, name):
    fill(split_folder / name, cat=3, dog=2)
    data = load(split_folder)
    assert keys(data.train) == on_disk(split_folder / "train")
    assert keys(data.validation) == on_disk(split_folder / name)
    assert keys(data.test) == on_disk(split_folder / "test")


def test_without_a_test_folder_there_is_no_test_split(split_folder):
    shutil.rmtree(split_folder / "test")
    assert load(split_folder).test is None
    fill(split_folder / "val", cat=3, dog=2)
    data = load(split_folder)
    assert data.test is None
    assert len(data.train) == 50


def test_one_folder_is_split_in_three(tmp_path):
    fill(tmp_path / "flat", ant=20, bee=41, cow=3)
    fill(tmp_path / "flat" / "ant", deeper=10)  # folders inside a class belong to it
    data = load(tmp_path / "flat")
    parts = [keys(split) for split in (data.train, data.validation, data.test)]
    assert parts[0] | parts[1] | parts[2] == on_disk(tmp_path / "flat")
    assert sum(map(len, parts)) == 74
    assert data.validation.labels.bincount().tolist() == [3, 4, 1]
    assert data.test.labels.bincount().tolist() == [3, 4, 1]
    assert data.train.labels.bincount().tolist() == [24, 33, 1]


def test_other_files_and_hidden_ones_are_left_out(split_folder):
    for name in ("notes.txt", ".hidden.png", "._000.png", "old.gif"):
        (split_folder / "train" / "cat" / name).write_text("no image")
    (split_folder / "labels.csv").write_text("")
    fill(split_folder / "train" / ".cache", x=1)
    fill(split_folder / "elsewhere", cat=1)
    data = load(split_folder)
    assert len(data.train) + len(data.validation) == 50
    assert data.n_classes == 2


def test_names_that_are_no_text(split_folder):
    strange = os.fsencode(split_folder / "train" / "cat") + b"/\xff.png"
    try:
        os.rename(split_folder / "train" / "cat" / "000.png", strange)
    except OSError:
        pytest.skip("file names of this system are text")
    data = load(split_folder)
    assert len(data.train) + len(data.validation) == 50


def test_the_home_folder_and_another_spelling(split_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(split_folder.parent))
    data = load(split_folder)
    assert load_dataset("folder:~/set").name == data.name
    assert load(split_folder / ".." / "set", "/").name == data.name
    monkeypatch.chdir(split_folder)
    assert load_dataset("folder:.").name == data.name
    assert load(split_folder, "@8").name != data.name


# -- order -----------------------------------------------------------------------------------------


def test_the_split_does_not_depend_on_the_file_system(split_folder, monkeypatch, cache):
    first = load(split_folder)
    shutil.rmtree(cache)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            return None

    monkeypatch.setattr("prune_gym.datasets.listing.os.scandir", Backwards)
    again = load(split_folder)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).images, getattr(again, part).images)
        assert torch.equal(getattr(first, part).labels, getattr(again, part).labels)


def test_the_first_images_hold_every_class(tmp_path):
    fill(tmp_path / "set" / "train", a=60, b=60)
    fill(tmp_path / "set" / "test", a=40, b=40)
    data = load(tmp_path / "set")
    for split in (data.train, data.test):
        assert split.labels[:20].bincount(minlength=2).min() >= 4


# -- pixels ----------------------------------------------------------------------------------------


def test_normalisation_is_that_of_the_training_pixels(split_folder):
    data = load(split_folder)
    inputs = data.train.batch(slice(len(data.train)))
    torch.testing.assert_close(inputs.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    spread = inputs.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(spread, torch.ones(3), atol=1e-5, rtol=0)
    assert data.validation.mean == data.test.mean == data.train.mean
    assert data.validation.std == data.test.std == data.train.std


def test_one_channel_where_every_image_is_grey(tmp_path, cache):
    root = tmp_path / "grey"
    for part in ("train", "test"):
        for label in ("a", "b"):
            for i in range(4):
                save(root / part / label / f"{i}.png", i + 10 * ord(label), mode="L")
    data = load(root)
    assert data.train.images.shape == (6, 1, 8, 9)
    expected = {pixels_of(i + 10 * ord(c), mode="L").tobytes() for i in range(4) for c in "ab"}
    assert {image.numpy().tobytes() for image in data.test.images} == expected
    assert len(data.train.mean) == 1
    assert len(list(next(cache.iterdir()).iterdir())) == 7
    save(root / "test" / "a" / "0.png", 0)  # one image in colour
    mixed = load(root)
    assert mixed.train.images.shape == (6, 3, 8, 9)
    assert torch.equal(mixed.train.images[:, 0], mixed.train.images[:, 2])


def test_palettes_transparency_and_rotation(split_folder):
    folder = split_folder / "test" / "cat"
    for file in folder.iterdir():
        file.unlink()
    colours = Image.fromarray(pixels_of(1)).convert("P", palette=Image.Palette.ADAPTIVE)
    colours.save(folder / "palette.png", transparency=bytes(range(256)))
    Image.fromarray(pixels_of(2)).convert("CMYK").save(folder / "cmyk.tif")
    clear = Image.fromarray(pixels_of(3))
    clear.putalpha(0)
    clear.save(folder / "clear.png")
    turned = Image.fromarray(pixels_of(4))
    turned.getexif()[0x0112] = 6  # by a quarter
    turned.save(folder / "turned.png", exif=turned.getexif())
    data = load(split_folder)
    found = data.test.images[data.test.labels == 0].numpy()
    assert found.shape == (4, 3, 8, 9)
    seen = {image.tobytes() for image in found}
    for expected in (colours.convert("RGB"), pixels_of(3), pixels_of(4)):
        assert np.asarray(expected).transpose(2, 0, 1).tobytes() in seen


def test_a_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path):
    root = tmp_path / "sizes"
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = (200, 100, 50)  # the middle third
    for part in ("train", "test"):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(wide).save(root / part / label / f"wide{i}.png")
                Image.fromarray(wide.transpose(1, 0, 2)).save(root / part / label / f"high{i}.png")
    data = load(root, "@10")
    assert data.train.images.shape == (6, 3, 10, 10)
    assert {tuple(image[:, 5, 5].tolist()) for image in data.train.images} == {(200, 100, 50)}
    assert bool((data.train.images == data.train.images[:, :, :1, :1]).all())
    assert load(root, "@20").train.images.shape == (6, 3, 20, 20)
    odd = decode._centre(Image.new("RGB", (333, 100)), 64)
    assert odd.size == (64, 64)
    assert decode._centre(Image.new("RGB", (64, 64)), 64).size == (64, 64)


def test_a_size_leaves_images_of_that_size_alone(split_folder, tmp_path):
    fill(tmp_path / "square", a=0)
    for label in ("a", "b"):
        for i in range(10):
            save(tmp_path / "square" / label / f"{i}.png", i, (8, 8))
    plain, sized = load(tmp_path / "square"), load(tmp_path / "square", "@8")
    assert torch.equal(plain.train.images, sized.train.images)


# -- the cache -------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """Every file that is decoded."""
    files, real = [], decode._try
    monkeypatch.setattr(decode, "_try", lambda file, *rest: files.append(file) or real(file, *rest))
    return files


def test_a_folder_is_decoded_once(split_folder, decoded, cache):
    first = load(split_folder)
    assert set(decoded) == {*split_folder.rglob("*.png")}
    decoded.clear()
    again = load(split_folder)
    assert not decoded
    assert torch.equal(first.train.images, again.train.images)
    assert first.name == again.name
    assert first.train.std == again.train.std
    assert len(list(cache.iterdir())) == 1
    assert sorted(path.name for path in next(cache.iterdir()).iterdir()) == [
        "facts.json",
        *(f"{part}-{what}.npy" for part in ("test", "train", "validation")
          for what in ("images", "labels")),
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["touched", "replaced", "added", "removed", "renamed"])
def test_a_changed_folder_is_decoded_anew(split_folder, decoded, cache, change):
    load(split_folder)
    before = [path.name for path in cache.iterdir()]
    decoded.clear()
    file = split_folder / "test" / "cat" / "000.png"
    if change == "touched":
        os.utime(file, ns=(1, 1))
    elif change == "replaced":
        stat = file.stat()
        save(file, 5, (9, 8), "L")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "added":
        save(split_folder / "test" / "cat" / "new.png", 6)
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("000a.png"))  # at the same place in the order
    load(split_folder)
    assert decoded
    after = [path.name for path in cache.iterdir()]
    assert len(after) == 1
    assert after != before


def test_two_folders_and_two_sizes_keep_their_own(split_folder, tmp_path, cache):
    shutil.copytree(split_folder, tmp_path / "other" / "set")
    names = {
        load(split_folder).name,
        load(split_folder, "@8").name,
        load(tmp_path / "other" / "set").name,
    }
    assert len(names) == 3
    assert len(list(cache.iterdir())) == 3


def test_nothing_is_printed_outside_a_terminal(split_folder, capfd):
    load(split_folder)
    assert capfd.readouterr() == ("", "")


def test_progress_counts_every_file(monkeypatch, split_folder):
    counted = []

    class Watched:
        def __init__(self, n):
            counted.append(-n)

        def __enter__(self):
            return counted.append

        def __exit__(self, *_):
            return None

    monkeypatch.setattr("prune_gym.datasets.folders.progress", Watched)
    load(split_folder)
    assert counted[0] == -61
    assert sum(counted) == 0


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "/no/such/place",
            r"'folder:/no/such/place': there is no folder /no/such/place. Write fol",
        ),
        ("", r"'folder' needs a path: write folder:PATH or folder:PATH@64"),
        ("/x@7", r"'folder:/x@7': size 7 must be 8 to 1024 pixels"),
        ("/x@2000", r"size 2000 must be 8 to 1024"),
        ("@32", r"there is no folder .*@32"),
    ],
)
def test_a_wrong_path_or_size(spec, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"folder:{spec}")


def test_a_file_is_no_folder(split_folder):
    with pytest.raises(DatasetError, match=r"there is no folder .*000\.png"):
        load(split_folder / "test" / "cat" / "000.png")


def test_no_images(tmp_path):
    with pytest.raises(
        DatasetError, match=r"no images in the folders below .*train/CLASS/\*.*\.png"
    ):
        load(tmp_path)
    save(tmp_path / "here.png", 0)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.gif").write_text("")
    with pytest.raises(DatasetError, match="no images in the folders below"):
        load(tmp_path)


def test_one_class_only(tmp_path):
    fill(tmp_path / "one" / "train", cat=5)
    with pytest.raises(DatasetError, match=r"one.train holds one class only \(cat\)"):
        load(tmp_path / "one")


@pytest.mark.parametrize("part", ["test", "val"])
def test_classes_that_differ(split_folder, part):
    fill(split_folder / part, cat=1, cow=1, ewe=1)
    shutil.rmtree(split_folder / part / "dog", ignore_errors=True)
    with pytest.raises(
        DatasetError, match=rf"class folders differ: cow, dog, ewe only.*train.*{part}"
    ):
        load(split_folder)


def test_many_classes_that_differ_are_not_all_named(split_folder):
    fill(split_folder / "test", **{f"c{i}": 1 for i in range(9)})
    with pytest.raises(DatasetError, match=r"differ: c0, c1, c2, c3, c4 and 4 more only"):
        load(split_folder)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_images(split_folder, part):
    for file in (split_folder / part / "dog").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match=rf"{part} holds no images of dog; every class folder"):
        load(split_folder)


def test_test_without_train(tmp_path):
    fill(tmp_path / "x" / "test", cat=3, dog=3)
    fill(tmp_path / "x" / "val", cat=3, dog=3)
    with pytest.raises(DatasetError, match=r"holds val and test but no train; add train/CLASS"):
        load(tmp_path / "x")


@pytest.mark.parametrize(("part", "name"), [("test", "Test"), ("train", "training")])
def test_folders_of_splits_that_are_named_otherwise(split_folder, part, name):
    (split_folder / part).rename(split_folder / "renamed")
    (split_folder / "renamed").rename(split_folder / name)
    with pytest.raises(DatasetError, match=rf"holds {name}; folders of splits are named train, te"):
        load(split_folder)


def test_two_validation_folders(split_folder):
    fill(split_folder / "val", cat=1, dog=1)
    fill(split_folder / "valid", cat=1, dog=1)
    with pytest.raises(DatasetError, match=r"holds val and valid; keep one of them"):
        load(split_folder)


def test_too_few_images_to_hold_out_any(tmp_path):
    fill(tmp_path / "flat", ant=3, bee=2)
    message = r"bee has 2; too few images to hold out validation and test\. At least 3 a class"
    with pytest.raises(DatasetError, match=message):
        load(tmp_path / "flat")
    fill(tmp_path / "split" / "train", ant=1, bee=2)
    fill(tmp_path / "split" / "test", ant=1, bee=1)
    with pytest.raises(
        DatasetError, match=r"ant has 1; too few images to hold out validation\. At"
    ):
        load(tmp_path / "split")
    fill(tmp_path / "split" / "val", ant=1, bee=1)
    assert len(load(tmp_path / "split").train) == 3


@pytest.mark.parametrize("where", ["train/cat/odd.png", "test/dog/odd.png"])
def test_images_of_different_sizes(split_folder, where, cache):
    save(split_folder / where, 0, (7, 12))
    with pytest.raises(
        DatasetError, match=r"different sizes: .*png is .*folder:PATH@7 to"
    ) as caught:
        load(split_folder)
    words = str(caught.value)
    assert re.search(r"\d+\.png is 9x8", words)
    assert "odd.png is 7x12" in words
    assert list(cache.iterdir()) == []
    assert load(split_folder, "@8").train.images.shape[2:] == (8, 8)


def breaks(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("no image")
    else:
        Image.fromarray(np.full((8, 9), 40_000, dtype=np.uint16)).save(path)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "16 bit"])
def test_a_few_broken_images_are_skipped(tmp_path, how):
    fill(tmp_path / "set" / "train", cat=60, dog=60)
    fill(tmp_path / "set" / "test", cat=50, dog=50)
    expected = on_disk(tmp_path / "set" / "train")
    bad = tmp_path / "set" / "train" / "cat" / "007.png"
    lost = (np.asarray(Image.open(bad)).transpose(2, 0, 1).tobytes(), 0)
    breaks(bad, how)
    with pytest.warns(
        UserWarning, match=r"1 of 220 images cannot be read, e\.g\. .*007\.png \(.+\)\. They"
    ):
        data = load(tmp_path / "set")
    assert keys(data.train) | keys(data.validation) == expected - {lost}
    assert keys(data.test) == on_disk(tmp_path / "set" / "test")


def test_a_broken_image_does_not_make_a_grey_folder_coloured(tmp_path):
    root = tmp_path / "grey"
    for label in ("a", "b"):
        for i in range(60):
            save(root / label / f"{i}.png", i, mode="L")
    save(root / "a" / "0.png", 0)
    breaks(root / "a" / "0.png", "cut")
    with pytest.warns(UserWarning, match="1 of 120 images cannot be read"):
        data = load(root)
    assert data.train.images.shape[1] == 1
    assert len(data.train) + len(data.validation) + len(data.test) == 119


def test_many_broken_images_are_refused(split_folder, cache):
    breaks(split_folder / "train" / "cat" / "003.png", "text")
    message = r"1 of 61 images cannot be read, e\.g\. .*003\.png.*At most 1% are skipped; repair"
    with pytest.raises(DatasetError, match=message):
        load(split_folder)
    for file in split_folder.rglob("*.png"):
        breaks(file, "empty")
    with pytest.raises(DatasetError, match=r"61 of 61 images cannot be read"):
        load(split_folder)
    assert list(cache.iterdir()) == []


def test_a_class_whose_only_image_is_broken(tmp_path):
    fill(tmp_path / "set" / "train", cat=100, dog=100)
    fill(tmp_path / "set" / "test", cat=1, dog=1)
    breaks(tmp_path / "set" / "test" / "dog" / "000.png", "cut")
    message = r"no image of class 'dog' can be read for the test split; repair"
    with pytest.warns(UserWarning, match="1 of 202"), pytest.raises(DatasetError, match=message):
        load(tmp_path / "set")


# -- in use ----------------------------------------------------------------------------------------


def test_a_problem_on_a_folder(split_folder):
    problem = prune_gym.make_problem(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(4, 2),
        ),
        f"folder:{split_folder}",
        budgets={"params": 0.9},
    )  # fmt: skip
    assert problem.data.name.startswith("folder.set-")
    assert 0.0 <= problem.accuracy(problem.network) <= 1.0


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="PRUNE_GYM_CIFAR10_JPEG names no folder")
def test_cifar10_as_jpeg():
    data = load_dataset(f"folder:{REAL}")
    sizes = [len(split) for split in (data.train, data.validation, data.test)]
    assert sizes == [45_000, 5_000, 10_000]
    assert data.train.images.shape[1:] == (3, 32, 32)
    for split, n in ((data.train, 4500), (data.validation, 500), (data.test, 1000)):
        assert split.labels.bincount().tolist() == [n] * 10
    assert data.train.mean == pytest.approx((0.4913, 0.4821, 0.4465), abs=1e-3)
    assert data.train.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=3e-3)
    cat = np.asarray(Image.open(Path(REAL) / "test" / "cat" / "0000.jpg")).transpose(2, 0, 1)
    assert (data.test.images.numpy() == cat).all(axis=(1, 2, 3)).sum() == 1
