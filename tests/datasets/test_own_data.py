"""Tensors, arrays and torch datasets of the user's own."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import prune_gym
from prune_gym.datasets import as_split, check_splits, own_dataset
from prune_gym.searches.fine_tuning import fine_tune

FLOATS, LABELS = tiny.data_of(12, 0)
PIXELS = torch.randint(0, 256, (12, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator())


class Items(TorchDataset):
    """A torch dataset of a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(FLOATS, LABELS, strict=True)


def pairs(images, labels=LABELS) -> Items:
    return Items(list(zip(images, labels, strict=True)))


def same(split: prune_gym.Split, images: torch.Tensor, labels: torch.Tensor = LABELS) -> bool:
    assert split.labels.dtype == torch.int64
    assert split.images.dtype == images.dtype
    assert not split.images.requires_grad
    return torch.equal(split.images, images) and torch.equal(split.labels, labels)


# -- what is taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [FLOATS, PIXELS], ids=["float", "uint8"])
def test_tensors_arrays_and_datasets(images):
    for data in (
        (images, LABELS),
        [images.numpy(), LABELS.numpy()],
        (images.tolist() if images.is_floating_point() else images, LABELS.tolist()),
        TensorDataset(images, LABELS),
        pairs(images),
        pairs(images.numpy(), LABELS.tolist()),
        Subset(TensorDataset(images.flip(0), LABELS.flip(0)), range(11, -1, -1)),
    ):
        assert same(as_split("train", data), images)
    split = as_split("train", (images, LABELS))
    assert as_split("train", split) is split


def test_pixels_stay_bytes_and_are_divided_as_they_are_used():
    split = as_split("train", (PIXELS, LABELS))
    assert split.mean == split.std == ()
    torch.testing.assert_close(split.batch(slice(12)), PIXELS.float() / 255)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_other_inputs_keep_their_type(dtype):
    images = PIXELS.to(dtype)
    assert same(as_split("train", (images, LABELS)), images)
    assert same(as_split("train", (images.numpy(), LABELS)), images)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "u2", "u8", "i1", "i4", ">i4"])
def test_labels_of_any_type(dtype):
    assert same(as_split("train", (FLOATS, LABELS.numpy().astype(dtype))), FLOATS)
    two = LABELS > 0
    assert same(as_split("train", (FLOATS, two)), FLOATS, two.long())


def test_arrays_that_torch_does_not_take_as_they_are():
    read_only = PIXELS.numpy().copy()
    read_only.flags.writeable = False
    assert same(as_split("train", (read_only, LABELS)), PIXELS)
    backwards = FLOATS.numpy()[::-1]
    assert same(as_split("train", (backwards, LABELS)), FLOATS.flip(0))
    foreign = FLOATS.numpy().astype(">f8")
    assert same(as_split("train", (foreign, LABELS)), FLOATS.double())
    assert same(as_split("train", (FLOATS.clone().requires_grad_(), LABELS)), FLOATS)


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3)]
)
def test_pil_images_become_pixels(mode, channels):
    pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()).convert(mode) for p in PIXELS]
    split = as_split("train", pairs(pictures))
    assert split.images.shape == (12, channels, 8, 6)
    shown = [np.asarray(picture.convert("RGB"))[..., :channels] for picture in pictures]
    expected = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
    assert same(split, expected)


def test_a_sorted_dataset_is_shuffled_once(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(60):
            level = i + 100 * (name == "bee")
            Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / name / f"{i:02d}.png")
    folder = ImageFolder(str(tmp_path))
    split = as_split("train", folder)
    assert split.labels[:30].bincount(minlength=2).min() >= 8
    levels = split.images[:, 0, 0, 0].long()
    assert sorted(levels.tolist()) == [*range(60), *range(100, 160)]
    assert torch.equal(split.labels, (levels >= 100).long())
    assert same(as_split("train", folder), split.images, split.labels)
    one = (FLOATS, torch.zeros(12))
    assert same(as_split("train", one), FLOATS, torch.zeros(12).long())


def test_a_problem_on_pixels():
    train = (PIXELS[:, :1], LABELS)
    problem = prune_gym.make_problem(
        tiny.build("vgg"), train=train, validation=train, budgets={"params": 0.5}
    )
    assert problem.data.train.images.dtype == torch.uint8
    assert problem.data.n_classes == tiny.N_CLASSES


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, r"train: expected a pair \(inputs, targets\) or a torch Dataset, got int"),
        ((FLOATS, LABELS, LABELS), r"expected a pair \(inputs, targets\).*got tuple"),
        (
            (FLOATS, LABELS[:5]),
            r"images of shape \(12, 1, 8, 8\) and labels of shape \(5,\) do not",
        ),
        ((FLOATS[:0], LABELS[:0]), r"labels of shape \(0,\) do not fit; expected .* with n > 0"),
        (Items([]), r"labels of shape \(0,\) do not fit; expected .* with n > 0"),
        ((FLOATS[:, 0, 0, 0], LABELS), r"images of shape \(12,\) and labels"),
        ((FLOATS, LABELS[:, None]), r"labels of shape \(12, 1\) do not fit"),
        (
            (FLOATS, torch.nn.functional.one_hot(LABELS)),
            r"train: labels of shape \(12, 3\) look one-hot, or .*metric='multilabel_f1'",
        ),
        (pairs(FLOATS, torch.eye(12)), r"labels of shape \(12, 12\) look one-hot"),
        ((FLOATS, LABELS - 1), r"train: label 0 is -1; expected whole numbers from 0"),
        ((FLOATS, LABELS + 0.5), r"train: label 0 is 0\.5; expected whole numbers from 0"),
        ((FLOATS, LABELS * float("nan")), r"label 0 is nan; expected whole numbers"),
        ((FLOATS, torch.cat([LABELS[:11], torch.tensor([9.25])])), r"label 11 is 9\.25; expected"),
        ((FLOATS, LABELS + 1j), r"label 0 is 1j; expected whole numbers"),
        ((FLOATS, ["cat"] * 12), r"train: labels of type list cannot be made a tensor \(.*\); exp"),
        ((None, LABELS), r"train: images of type NoneType cannot be made a tensor"),
        ((FLOATS * float("inf"), LABELS), r"train: images hold NaN or infinity; clean them first"),
        (
            (PIXELS.permute(0, 2, 3, 1), LABELS),
            r"uint8 images of shape \(12, 8, 6, 3\) have their channels last; .*transpose\(0, 3",
        ),
        (
            (PIXELS[:, 0], LABELS),
            r"uint8 images of shape \(12, 8, 6\); .*images\[:, None\] of grey",
        ),
        (Stream(), r"train: Stream has no length; expected a map-style torch Dataset"),
        (Items([FLOATS[0]]), r"item 0 of Items is Tensor; expected an \(input, target\) pair"),
        (
            Items([(FLOATS[0], 1), (FLOATS[1], 1, 2)]),
            r"train: item 1 of Items is tuple of 3; expected an \(input, target\) pair",
        ),
        (Items([{"image": 1}]), r"item 0 of Items is dict of 1; expected an"),
        (TensorDataset(FLOATS), r"item 0 of TensorDataset is tuple of 1; expected an"),
        (
            Items([(FLOATS[0], 0), (FLOATS[0, :, 1:], 1)]),
            r"image 1 is torch.float32 of shape \(1, 7, 8\), but image 0 is torch.float32 of "
            r"\(1, 8, 8\); make them equal, e\.g\. by transforms\.Resize",
        ),
        (
            Items([(PIXELS[0], 0), (PIXELS[0].float(), 1)]),
            r"image 1 is torch.float32 of shape .*, but image 0 is torch.uint8",
        ),
        (Items([("a.png", 0)]), r"train: image 0 of type str cannot be made a tensor"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        as_split("train", data)


def split_of(labels, images=FLOATS) -> prune_gym.Split:
    labels = torch.tensor(labels)
    return prune_gym.Split(images[: len(labels)], labels)


def test_a_class_beyond_those_of_train():
    train = split_of([0, 1, 2])
    check_splits(train, split_of([0, 0]), None)
    check_splits(train, split_of([2, 0]), split_of([1]))
    message = r"validation: holds class 3, but the classes of train are 0 to 2; number both alike"
    with pytest.raises(ValueError, match=message):
        check_splits(train, split_of([0, 3]), None)
    with pytest.raises(ValueError, match=r"test: holds class 4, but the classes of train are 0 to"):
        check_splits(train, split_of([0, 1]), split_of([3, 4]))
    with pytest.raises(ValueError, match=r"test: holds class 4"):
        prune_gym.make_problem(
            tiny.build("vgg"),
            train=(FLOATS, LABELS),
            validation=(FLOATS, LABELS),
            test=(FLOATS, LABELS + 2),
        )


def test_a_class_that_train_leaves_out():
    train = split_of([0, 2, 3])
    with pytest.warns(UserWarning, match=r"test holds class 1, of which train has no images"):
        check_splits(train, split_of([0, 2]), split_of([1, 3]))


def test_images_of_other_shapes():
    train = split_of([0, 1])
    for images in (FLOATS[:, :, 1:], FLOATS.expand(-1, 3, -1, -1)):
        with pytest.raises(ValueError, match=r"validation: images of shape .* those of train are"):
            check_splits(train, split_of([0, 1], images), None)


# -- random transforms -----------------------------------------------------------------------------


class Noisy(TorchDataset):
    """Images with noise of their own at each reading, from the global generator that is named."""

    def __init__(self, images, draw):
        self.images, self.draw = images, draw

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return self.images[row] + float(self.draw()), int(LABELS[row])


DRAWS = {
    "torch": lambda: torch.rand(()),
    "numpy": lambda: np.random.rand(),  # noqa: NPY002
    "python": random.random,
}


@pytest.mark.parametrize("draw", DRAWS)
def test_random_examples_are_read_anew_in_training(draw):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    data = own_dataset(Noisy(FLOATS, DRAWS[draw]), (FLOATS, LABELS))
    rows = torch.tensor([3, 0, 3])
    one, other, again = (
        data.train.fresh(rows, torch.Generator().manual_seed(seed)) for seed in (0, 1, 0)
    )
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], LABELS[rows])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0][0], one[0][2])
    assert data.augment is None  # it is augmented already
    assert torch.equal(data.train.batch(rows), data.train.batch(rows))  # judged and scored the same
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert now[:2] == states[:2]
    assert torch.equal(now[2], states[2])


def test_random_examples_of_sorted_classes_keep_their_labels():
    split = as_split("train", Noisy(FLOATS[LABELS.argsort()], DRAWS["torch"]))
    images, labels = split.subset(9).fresh(torch.arange(9), torch.Generator())
    near = (images - split.subset(9).images).flatten(1)
    assert float((near - near[:, :1]).abs().max()) < 1e-5
    assert torch.equal(labels, split.subset(9).labels)


def test_what_is_always_the_same_is_read_once():
    data = own_dataset(pairs(FLOATS), (FLOATS, LABELS))
    assert data.train.reader is None
    assert data.augment is not None


def test_random_examples_are_no_measure():
    with pytest.warns(UserWarning, match=r"validation: its examples come out differently each ti"):
        data = own_dataset((FLOATS, LABELS), Noisy(FLOATS, DRAWS["torch"]))
    assert data.validation.reader is None


def test_fine_tuning_reads_anew():
    read = []

    def draw():
        read.append(1)
        return torch.rand(())

    problem = prune_gym.make_problem(
        tiny.build("vgg"),
        train=Noisy(FLOATS, draw),
        validation=(FLOATS, LABELS),
        budgets={"params": 0.5},
    )
    before = len(read)
    tuned = [problem.compact(problem.masks_of(problem.sizes)) for _ in range(2)]
    for network in tuned:
        fine_tune(network, problem, steps=3, seed=1)
    assert len(read) - before == 2 * 3 * len(FLOATS)
    pairs_of = zip(tuned[0].parameters(), tuned[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs_of)
