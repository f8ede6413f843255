"""Data as it comes: loaders, streams, ragged items, several inputs, random transforms."""

from __future__ import annotations

import pickle

import pytest
import torch
from jobs import JOBS, Regressor, Segmenter, curves, discs, pairs, splits, trained
from torch import nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

import prune_gym
from prune_gym.datasets import as_split, own, own_dataset, streamed
from prune_gym.datasets.streamed import StreamedSplit
from prune_gym.training import trainer


class Items(TorchDataset):
    """Counts how often it is read."""

    def __init__(self, items):
        self.items, self.n_read = list(items), 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        self.n_read += 1
        return self.items[row]


class Stream(IterableDataset):
    def __init__(self, items, n=None):
        self.items, self.n = list(items), n

    def __len__(self):
        return len(self.items) if self.n is None else self.n

    def __iter__(self):
        return iter(self.items)


MASKS = discs(40, 0)
SINGLE = list(zip(*MASKS, strict=True))


@pytest.mark.parametrize(
    "data",
    [
        MASKS,
        TensorDataset(*MASKS),
        Items(SINGLE),
        Stream(SINGLE),
        DataLoader(TensorDataset(*MASKS), batch_size=7, shuffle=True),
        DataLoader(Stream(SINGLE), batch_size=7),
    ],
    ids=["arrays", "tensors", "map", "stream", "loader", "loader of a stream"],
)
def test_every_source_gives_the_same(data):
    split = as_split("train", data, classes=False)
    assert len(split) == 40
    rows = torch.tensor([3, 39, 0])
    inputs, targets = split.read(rows)
    assert torch.equal(inputs, MASKS[0][rows])
    assert torch.equal(targets, MASKS[1][rows])
    assert targets.dtype == torch.int64


def test_a_sampler_says_which_examples_there_are():
    loader = DataLoader(TensorDataset(*MASKS), batch_size=4, sampler=SubsetRandomSampler([5, 2, 9]))
    split = as_split("train", loader, classes=False)
    assert torch.equal(split.batch(slice(None)), MASKS[0][[2, 5, 9]])


@pytest.mark.parametrize("n_drawn", [40, 10])
def test_a_sampler_that_weighs_examples_is_warned_of(n_drawn):
    weights = [0.0] * 10 + [1.0] * 29 + [20.0]
    sampler = WeightedRandomSampler(weights, n_drawn, replacement=n_drawn == 40)
    loader = DataLoader(TensorDataset(*MASKS), batch_size=4, sampler=sampler)
    message = r"train: WeightedRandomSampler draws examples several times, or others in each epoch"
    with pytest.warns(UserWarning, match=message):
        split = as_split("train", loader, classes=False)
    assert 25 <= len(split) <= 30
    assert any(torch.equal(image, MASKS[0][39]) for image in split.batch(slice(None)))
    assert not any(torch.equal(image, MASKS[0][0]) for image in split.batch(slice(None)))


def test_classes_are_known_however_they_come():
    images, labels = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    items = Items(zip(images, labels, strict=True))
    loader = DataLoader(items, collate_fn=lambda items: default_collate(items))
    data = [own_dataset(given, given) for given in ((images, labels), items, loader)]
    assert isinstance(data[2].train, StreamedSplit)
    assert [one.n_classes for one in data] == [3, 3, 3]
    assert torch.equal(torch.tensor(data[2].train.of(torch.tensor([4, 1])).classes), labels[[4, 1]])
    assert as_split("train", Items(ragged(5, 0)), collate=padded).classes is None


@pytest.mark.parametrize("in_memory", [True, False])
def test_streamed_targets_that_are_all_one_number(in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr(streamed, "IN_MEMORY", 1_000)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 2))
    images, labels = torch.randn(150, 1, 8, 8), torch.zeros(150, dtype=torch.int64)

    def problem():
        items = Items(zip(images, labels, strict=True))
        given = {"train": items, "validation": items, "collate": default_collate}
        return prune_gym.make_problem(network, budgets={"params": 0.5}, **given)

    with pytest.raises(ValueError, match=r"train: every target is 0: any network that says so"):
        problem()
    labels[131] = 1  # beyond the first batches
    assert problem().judge(network) <= 1.0


def ragged(n, seed):
    """Signals of different lengths, and how long each is."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, 20, (n,), generator=draw)
    return [(torch.ones(1, int(k)), {"length": float(k)}) for k in lengths]


def padded(items):
    longest = max(signal.shape[1] for signal, _ in items)
    signals = [nn.functional.pad(s, (0, longest - s.shape[1])) for s, _ in items]
    return torch.stack(signals), torch.tensor([target["length"] for _, target in items])


def test_ragged_items_through_a_collate():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU())
    network = nn.Sequential(network, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 1))
    arguments = {"validation": Items(ragged(24, 1)), "test": Items(ragged(24, 2))}
    with pytest.raises(ValueError, match=r"train: image 1 is .* or give collate=, a function"):
        prune_gym.make_problem(network, metric="mae", train=Items(ragged(30, 0)), **arguments)
    train = DataLoader(Items(ragged(30, 0)), collate_fn=padded)
    problem = prune_gym.make_problem(
        network, metric="mae", train=train, collate=padded, budgets={"params": 0.7}, **arguments
    )
    assert isinstance(problem.data.train, StreamedSplit)
    tuned = prune_gym.search(problem, "random", evaluations=4).best.fine_tune(4)
    assert tuned.test_accuracy > 0
    again = pickle.loads(pickle.dumps(problem.data.train))
    assert torch.equal(again.batch(slice(3)), problem.data.train.batch(slice(3)))


def listed(items):
    return tuple(zip(*items, strict=True))  # as torchvision's detection does


class Boxes(nn.Module):
    """Takes a list of images of any size, and gives a dict each; in training its losses."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, images, targets=None):
        found = [self.head(self.body(image[None]).relu().mean((2, 3)))[0] for image in images]
        if self.training and targets is not None:
            wanted = torch.stack([target["box"] for target in targets])
            return {"box": (torch.stack(found) - wanted).abs().mean()}
        return [{"box": box} for box in found]


def boxes(n, seed):
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(6, 12, (n, 2), generator=draw)
    return [(torch.rand(1, int(h), int(w)), {"box": torch.rand(4)}) for h, w in sizes]


def box_error(outputs, targets):
    pairs = zip(outputs, targets, strict=True)
    return sum(float((o["box"] - t["box"]).abs().mean()) for o, t in pairs) / len(targets)


def train_boxes(network, train, steps, generator):
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(steps):
        rows = train.order(generator)[:8]
        images, targets = train.fresh(rows, generator)
        loss = network(images, targets)["box"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_detection_with_a_trainer_of_ones_own():
    torch.manual_seed(0)
    problem = prune_gym.make_problem(
        Boxes(),
        train=Items(boxes(20, 0)),
        validation=Items(boxes(12, 1)),
        collate=listed,
        metric=prune_gym.Metric(box_error, higher_is_better=False, lowest=0.0),
        fine_tune=train_boxes,
        recovery="none",
        budgets={"params": 0.8},
    )
    assert isinstance(problem.example, list)
    assert problem.task.metric.name == "box_error"
    best = prune_gym.search(problem, "random", evaluations=4).best
    tuned = best.fine_tune(12)
    assert tuned.validation_accuracy <= best.validation_accuracy  # an error: lower is better


def test_a_set_larger_than_memory_is_read_as_it_is_used(monkeypatch):
    for module in (own, streamed):
        monkeypatch.setattr(module, "IN_MEMORY", 10_000)
    items = Items(zip(*discs(200, 0), strict=True))
    data = own_dataset(items, discs(40, 1), classes=False)
    assert isinstance(data.train, StreamedSplit)
    assert data.train.held is None
    before = items.n_read
    data.train.batch(torch.arange(5))
    assert items.n_read == before + 5
    data.train.calibration(16)
    data.train.calibration(16)
    assert items.n_read == before + 21
    stream = as_split("train", Stream(zip(*discs(200, 0), strict=True)), classes=False)
    assert torch.equal(stream.batch(torch.tensor([4, 190, 2])), discs(200, 0)[0][[4, 190, 2]])
    assert torch.equal(stream.order(torch.Generator()), torch.arange(200))


def test_streams_that_are_not_what_they_say():
    with pytest.raises(ValueError, match=r"train: Stream says that it holds 60 items, but ends af"):
        as_split("train", Stream(SINGLE, n=60), classes=False)
    with pytest.raises(ValueError, match=r"train: a DataLoader with batch_size=None gives what"):
        as_split("train", DataLoader(Items(SINGLE), batch_size=None), classes=False)
    with pytest.raises(ValueError, match=r"a batch is \{'a': .*; expected a pair.*collate="):
        as_split("train", Items(SINGLE), collate=lambda items: {"a": torch.zeros(3)}).batch(
            slice(2)
        )
    with pytest.raises(ValueError, match=r"train: collate raised ZeroDivisionError"):
        as_split("train", Items(SINGLE), collate=lambda items: 1 / 0).batch(slice(2))
    with pytest.raises(
        TypeError, match=r"train: collate= makes batches of the items of a torch Da"
    ):
        as_split("train", MASKS, classes=False, collate=padded)


def test_random_items_are_read_anew_and_judged_the_same():
    class Noisy(TorchDataset):
        def __len__(self):
            return 30

        def __getitem__(self, row):
            image, mask = SINGLE[row]
            flip = bool(torch.rand(()) < 0.5)
            return (image.flip(-1), mask.flip(-1)) if flip else (image, mask)

    split = as_split("train", Noisy(), collate=torch.utils.data.default_collate)
    assert split.is_random
    rows = torch.arange(30)
    one, other, again = (
        split.fresh(rows, torch.Generator().manual_seed(seed)) for seed in (0, 1, 0)
    )
    assert torch.equal(one[0], again[0])
    assert not torch.equal(one[0], other[0])
    brightest = one[0].flatten(1).argmax(1), one[1].flatten(1)
    assert all(mask[place] == 1 for place, mask in zip(*brightest, strict=True))  # both are flipped
    assert torch.equal(split.batch(rows), split.batch(rows))


def test_dicts_are_arguments_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = trained("two_inputs", 5)

        def forward(self, picture, facts):
            return self.inner(picture, facts)

    class Whole(Named):
        def forward(self, batch):
            return self.inner(batch["picture"], batch["facts"])

    (images, facts), labels = pairs(60, 0)
    data = {"picture": images, "facts": facts}, labels
    for kind in (Named, Whole):
        problem = prune_gym.make_problem(
            kind(), train=data, validation=data, budgets={"params": 0.6, "macs": 0.9}
        )
        assert problem.data.n_classes == 4
        assert problem.evaluate(problem.masks_of(problem.sizes)).accuracy > 0.25


def test_inputs_that_are_not_as_many_as_targets():
    inputs, targets = curves(20, 0)
    message = r"train: inputs \(20, 1, 32\) and targets \(19, 2\) do not fit; the first axis"
    with pytest.raises(ValueError, match=message):
        prune_gym.make_problem(
            Regressor(), metric="mae", train=(inputs, targets[:19]), validation=(inputs, targets)
        )


# -- trainers --------------------------------------------------------------------------------------


def nothing(network, steps):
    pass


def statistics(network, steps):
    network(MASKS[0])  # in training mode


def another(network, steps):
    return Regressor()


def raising(network, steps):
    raise RuntimeError("no more GPUs")


def no_network():
    pass


TRAINERS = {
    "nothing": (nothing, r"fine_tune trained nothing: every parameter of the network is as it was"),
    "statistics": (statistics, r"fine_tune trained nothing: every parameter of .*BatchNorm, aside"),
    "another": (another, r"fine_tune gave another network: '.*' is .*, and was"),
    "another, whole": (lambda network: Segmenter(), r"fine_tune gave another network: '.*' is"),
    "nothing, whole": (lambda network: None, r"fine_tune trained nothing"),
    "raising": (raising, r"fine_tune raised RuntimeError: no more GPUs"),
    "number": (lambda network, steps: 3, r"fine_tune gave int; expected the trained network"),
    "no network": (no_network, r"fine_tune cannot be called with a network"),
}


@pytest.mark.parametrize("case", TRAINERS)
def test_a_trainer_that_cannot_be_is_named(case):
    function, message = TRAINERS[case]
    with pytest.raises(ValueError, match=message):
        prune_gym.make_problem(
            Segmenter(),
            metric="mean_iou",
            output="out",
            fine_tune=function,
            **splits("segmentation"),
        )


def by_discs(network, steps, first_rate=3e-3):
    """Trains, with a learning rate of its own in the first step."""
    optimizer = torch.optim.SGD(network.parameters(), first_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(MASKS[0])["out"], MASKS[1]).backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 3e-3


WRAPPERS = {
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "of several devices": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_trainer_may_give_back_the_network_in_a_wrapper(wrapper):
    def function(network, steps):
        by_discs(network, steps)
        return WRAPPERS[wrapper](network)

    problem = problem_trained_by(function)
    network, before = Segmenter(), Segmenter()
    network.load_state_dict(before.state_dict())
    trainer.train_by(function, network, problem.data.train, steps=2, seed=0)
    after = network.state_dict()
    assert list(after) == list(before.state_dict())
    assert any(not torch.equal(after[n], held) for n, held in before.state_dict().items())


def by_discs_for_hours(network):
    by_discs(network, 10_000_000)


def problem_trained_by(trainer):
    return prune_gym.make_problem(
        Segmenter(),
        metric="mean_iou",
        output="out",
        fine_tune=trainer,
        budgets={"params": 0.9},
        **splits("segmentation"),
    )


def test_a_learning_rate_may_begin_at_zero():
    def warming_up(network, steps):
        by_discs(network, steps, first_rate=0.0)

    assert problem_trained_by(warming_up).task.fine_tune is warming_up


def test_a_training_without_steps_is_tried_for_a_while_only(monkeypatch):
    monkeypatch.setattr(trainer, "TRIED_S", 0.05)
    problem = problem_trained_by(by_discs_for_hours)
    assert problem.task.fine_tune is by_discs_for_hours


# -- export ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["text", "two_inputs", "segmentation"])
def test_a_pruned_network_is_exported_and_checked_on_its_examples(job, tmp_path):
    problem = prune_gym.make_problem(
        trained(job, 5), budgets={"params": 0.9}, **splits(job), **JOBS[job][2]
    )
    best = prune_gym.search(problem, "random", evaluations=4).best
    best.save(tmp_path)
    assert (tmp_path / "examples.safetensors").is_file()
    inputs = problem.data.train.batch(slice(3))
    assert prune_gym.export_network(best.network, inputs, tmp_path / "network.pt2") <= 1e-4
    assert prune_gym.export_network(best.network, inputs, tmp_path / "network.onnx") <= 1e-4


def test_nan_is_equal_to_nan(tmp_path):
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, values):
            return self.last(values).log()

    torch.manual_seed(0)
    network = Log().eval()
    assert bool(network(torch.ones(2, 4).cumsum(1)).isnan().any())
    given = torch.ones(2, 4).cumsum(1)
    assert prune_gym.export_network(network, given, tmp_path / "log.pt2") <= 1e-4
