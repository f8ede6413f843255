"""Recoveries by their closed form, the training loop, and accuracy by hand."""

from __future__ import annotations

import copy
import math

import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym.datasets import Split
from prune_gym.datasets.augment import shift_and_rotate
from prune_gym.errors import TrainingDivergedError
from prune_gym.training.evaluation import accuracy, logits, paired_latency_ms
from prune_gym.training.loop import Recipe, check_loss, fit, flat, one_cycle
from prune_gym.training.recovery import BN_IMAGES, bn


def tensors_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- recoveries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", prune_gym.RECOVERIES.names())
def test_every_recovery(name):
    problem = tiny.make_tiny(recovery=name, recovery_steps=2)
    masks = tiny.random_masks(problem, 0)
    state = torch.get_rng_state()
    outcomes = [problem.evaluate(masks, seed=1) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)  # no global randomness
    assert same(*(tensors_of(outcome.network) for outcome in outcomes))
    assert outcomes[0].accuracy == outcomes[1].accuracy
    assert not any(module.training for module in outcomes[0].network.modules())
    assert torch.isfinite(outcomes[0].network(tiny.images_of(2))).all()


def test_none_changes_nothing():
    problem = tiny.make_tiny(recovery="none")
    masks = tiny.random_masks(problem, 0)
    before = tensors_of(problem.compact(masks))
    assert same(before, tensors_of(problem.evaluate(masks).network))


@pytest.mark.parametrize("name", ["vgg", "residual", "mobile", "flat"])
def test_bn_statistics_are_those_of_the_calibration_images(name):
    images = tiny.images_of(BN_IMAGES + 40, seed=3)
    labels = torch.arange(len(images)) % 3
    problem = prune_gym.make_problem(
        tiny.build(name), train=(images, labels), validation=(images, labels), budgets={"params": 1}
    )
    network = problem.evaluate(tiny.random_masks(problem, 0)).network
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    seen = {}
    twin = copy.deepcopy(network).train()  # norms then use the statistics of the batch
    for place, norm in enumerate(
        m for m in twin.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ):
        norm.register_forward_hook(lambda m, x, y, place=place: seen.update({place: x[0]}))
    with torch.no_grad():
        twin(images[problem.data.train.spread(BN_IMAGES)])
    for place, norm in enumerate(norms):
        axes = [0, *range(2, seen[place].ndim)]
        variance = seen[place].double().var(dim=axes, unbiased=True)
        mean = seen[place].double().mean(dim=axes)
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-4, atol=1e-6)
        assert norm.momentum == 0.1


def test_bn_of_the_first_layer_in_closed_form(default_problem):
    masks = default_problem.masks_of(default_problem.sizes // 2)
    network = default_problem.evaluate(masks).network
    conv, norm = network.features[0], network.features[1]
    with torch.no_grad():
        train = default_problem.data.train
        maps = conv(train.images[train.spread(256)]).double()  # (256, 8, 16, 16)
    n = maps.numel() / maps.shape[1]
    mean = maps.sum(dim=(0, 2, 3)) / n
    variance = ((maps - mean.view(1, -1, 1, 1)) ** 2).sum(dim=(0, 2, 3)) / (n - 1)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-4, atol=1e-7)


def test_bn_changes_nothing_but_statistics():
    problem = tiny.make_tiny()
    masks = tiny.random_masks(problem, 0)
    before, after = (
        tensors_of(n) for n in (problem.compact(masks), problem.evaluate(masks).network)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)


def test_bn_without_norms_is_no_error():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    problem = tiny.make_tiny(network)
    masks = tiny.random_masks(problem, 0)
    assert same(tensors_of(problem.compact(masks)), tensors_of(problem.evaluate(masks).network))


def test_finetune_depends_on_the_seed_only():
    problem = tiny.make_tiny(recovery="finetune", recovery_steps=3)
    masks = tiny.random_masks(problem, 0)
    tensors = [tensors_of(problem.evaluate(masks, seed=seed).network) for seed in (5, 6, 5)]
    assert same(tensors[0], tensors[2])  # an optimizer with a memory would differ
    assert not same(tensors[0], tensors[1])


def test_steps_of_a_recovery():
    problem = tiny.make_tiny(recovery="finetune", recovery_steps=0)
    masks = tiny.random_masks(problem, 0)
    assert same(tensors_of(problem.compact(masks)), tensors_of(problem.evaluate(masks).network))
    three = problem.evaluate(masks, recovery_steps=3)
    direct = problem.compact(masks)
    fit(
        direct,
        problem.data.train,
        Recipe(batch_size=60, peak_lr=3e-4, schedule=flat),
        steps=3,
        generator=generator(),
    )
    bn(direct, problem.data.train, generator=generator(), steps=0)  # statistics lag behind weights
    assert same(tensors_of(direct), tensors_of(three.network))


def test_the_first_finetune_step_is_that_of_adam():
    problem = tiny.make_tiny(recovery="finetune", recovery_steps=1)
    masks = tiny.random_masks(problem, 0)
    before, after = problem.compact(masks), problem.evaluate(masks).network
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        step = (new - old).detach().abs()
        assert float(step.max()) <= 3e-4 * 1.001  # a fresh Adam moves by the learning rate at most


def test_zero_weights_stay_zero():
    problem = tiny.make_tiny(structure="weight", recovery="finetune", recovery_steps=4)
    masks = tiny.random_masks(problem, 0)
    network = problem.evaluate(masks).network
    before = problem.compact(masks)
    for group, mask in zip(problem.groups, masks, strict=True):
        weight = network.get_submodule(group.name).weight.detach().flatten().numpy()
        assert (weight[~mask] == 0.0).all()
        assert (weight[mask] != 0.0).all()
        old = before.get_submodule(group.name).weight.detach().flatten().numpy()
        assert (weight[mask] != old[mask]).any()


def test_frozen_parameters_are_not_trained():
    network = tiny.build("vgg")
    network.features[0].weight.requires_grad_(False)
    problem = tiny.make_tiny(network, recovery="finetune", recovery_steps=2)
    masks = tiny.random_masks(problem, 0)
    before, after = problem.compact(masks), problem.evaluate(masks).network
    assert torch.equal(before.features[0].weight, after.features[0].weight)
    assert not torch.equal(before.classifier.weight, after.classifier.weight)


def test_a_recovery_of_ones_own():
    seen = []

    def mine(network, train, *, generator, steps):
        seen.append((len(train), steps, int(torch.randint(10**6, (1,), generator=generator))))

    problem = tiny.make_tiny(recovery=mine, recovery_steps=9)
    for seed in (0, 0, 1):
        problem.recover(problem.compact(tiny.random_masks(problem, 0)), seed=seed)
    assert seen[0] == seen[1]
    assert seen[0][:2] == (64, 9)
    assert seen[2] != seen[0]


# -- the loop --------------------------------------------------------------------------------------


def test_one_cycle():
    assert one_cycle(0.0) == pytest.approx(0.05)
    assert one_cycle(0.15) == pytest.approx(0.525)
    assert one_cycle(0.3) == pytest.approx(1.0)
    assert one_cycle(0.3 - 1e-9) == pytest.approx(1.0)
    assert one_cycle(0.65) == pytest.approx(0.5)
    assert one_cycle(1.0) == pytest.approx(0.0)
    rising = [one_cycle(x / 100) for x in range(31)]
    falling = [one_cycle(x / 100) for x in range(30, 101)]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_progress_and_losses_of_fit():
    asked, told = [], []
    network = tiny.build("vgg")

    def schedule(progress):
        asked.append(progress)
        return one_cycle(progress)

    split = Split(*tiny.data_of(10, 0))
    fit(
        network,
        split,
        Recipe(schedule=schedule),
        steps=5,
        generator=generator(),
        on_step=lambda step, loss: told.append((step, loss)),
    )
    assert asked == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert [step for step, _ in told] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(loss) for _, loss in told)
    assert not network.training


class Helped(torch.nn.Module):
    """Gives its logits and an auxiliary classifier's while it is trained, as GoogLeNet does."""

    def __init__(self):
        super().__init__()
        self.main, self.auxiliary = torch.nn.Linear(2, 3), torch.nn.Linear(2, 5)

    def forward(self, inputs):
        logits = self.main(inputs)
        return (logits, self.auxiliary(inputs)) if self.training else logits


def test_auxiliary_outputs_are_no_hindrance():
    network, split = Helped(), Split(torch.randn(6, 2), torch.arange(6) % 3)
    before = network.main.weight.detach().clone()
    fit(network, split, Recipe(), steps=2, generator=generator())
    assert not torch.equal(network.main.weight, before)


def test_zeros_are_kept_where_the_recipe_says_so_and_never_whole_tensors_of_them():
    moved = {}
    for keep_zeros in (False, True):
        network = tiny.build("vgg")
        convolution, head = network.features[0], network.classifier
        with torch.no_grad():
            convolution.weight[0, 0, :2] = 0.0
            head.weight.zero_()  # as many heads begin
        split = Split(*tiny.data_of(12, 0))
        recipe = Recipe(keep_zeros=keep_zeros)
        fit(network, split, recipe, steps=3, generator=generator())
        moved[keep_zeros] = bool(convolution.weight[0, 0, :2].any())
        assert head.weight.any()
    assert moved == {False: True, True: False}


def test_a_frozen_network_is_trained_and_frozen_again():
    network = tiny.build("vgg")
    network.requires_grad_(False)
    before = network.classifier.weight.clone()
    fit(network, Split(*tiny.data_of(12, 0)), Recipe(), steps=2, generator=generator())
    assert not torch.equal(network.classifier.weight, before)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_fit_learns():
    images, labels = tiny.images_of(60, 4), torch.arange(60) % 3
    images = images + 2.0 * (labels.view(-1, 1, 1, 1) - 1)
    network, split = tiny.build("vgg"), Split(images, labels)
    before = accuracy(network, split)
    fit(network, split, Recipe(batch_size=20), steps=40, generator=generator())
    assert accuracy(network, split) > max(0.9, before)


def test_every_image_is_seen_once_per_epoch():
    seen = []

    def augment(images, generator):
        seen.extend(images[:, 0, 0, 0].tolist())
        return images

    images = tiny.images_of(12)
    images[:, 0, 0, 0] = torch.arange(12.0)
    split = Split(images, torch.arange(12) % 3)
    recipe = Recipe(batch_size=4)
    fit(tiny.build("vgg"), split, recipe, steps=6, generator=generator(), augment=augment)
    first, second = seen[:12], seen[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_augmentation():
    images = tiny.images_of(6)
    one = shift_and_rotate(images, generator(1))
    assert torch.equal(one, shift_and_rotate(images, generator(1)))
    assert not torch.equal(one, shift_and_rotate(images, generator(2)))
    assert one.shape == images.shape
    constant = torch.full((3, 1, 8, 8), 0.7)
    torch.testing.assert_close(shift_and_rotate(constant, generator()), constant)


# -- evaluation ------------------------------------------------------------------------------------


class Brightest(nn.Module):
    """Classifies by the brightest of three pixels."""

    def forward(self, images):
        return images.flatten(1)[:, :3]


def test_accuracy_by_hand():
    images = torch.zeros(5, 1, 8, 8)
    for row, pixel in enumerate((0, 1, 2, 2, 0)):
        images[row, 0, 0, pixel] = 1.0
    split = Split(images, torch.tensor([0, 1, 2, 0, 1]))
    assert accuracy(Brightest(), split) == 0.6
    assert accuracy(Brightest(), split, batch_size=2) == 0.6
    assert type(accuracy(Brightest(), split)) is float


def test_accuracy_equals_a_loop(default_problem):
    network, split = default_problem.network, default_problem.data.validation.first(60)
    right = 0
    with torch.no_grad():
        for image, label in zip(split.images, split.labels, strict=True):
            right += int(network(image[None]).argmax()) == int(label)
    assert accuracy(network, split) == right / 60


def test_logits_come_in_order_whatever_the_batch_size():
    network, split = tiny.build("vgg").train(), Split(*tiny.data_of(7, 0))
    whole = logits(network, split)
    assert whole.shape == (7, 3)
    torch.testing.assert_close(logits(network, split, batch_size=3), whole)
    assert not network.training


def test_latency_is_measured_in_turns():
    calls = []

    def probe(name):
        module = nn.Identity()
        module.register_forward_hook(lambda *_: calls.append((name, torch.get_num_threads())))
        return module

    before = torch.get_num_threads()
    times = paired_latency_ms({"a": probe("a"), "b": probe("b")}, tiny.images_of(1), repeats=4)
    assert calls == [("a", 1), ("b", 1)] * 7
    assert list(times) == ["a", "b"]
    assert all(time >= 0.0 for time in times.values())
    assert torch.get_num_threads() == before


# -- the order of the data -------------------------------------------------------------------------


def test_bn_does_not_mind_the_order_of_the_data(default_problem):
    """Images by class, descending, as a concatenation of the classes has them."""
    data, small = default_problem.data, default_problem.network
    order = data.train.labels.argsort(descending=True, stable=True)
    problem = prune_gym.make_problem(
        small,
        train=(data.train.images[order], data.train.labels[order]),
        validation=(data.validation.images, data.validation.labels),
    )
    masks = problem.masks_of(problem.sizes // 2)
    found = problem.evaluate(masks).accuracy
    assert found == pytest.approx(default_problem.evaluate(masks).accuracy, abs=0.03)


def test_a_loss_that_is_no_number_ends_the_training():
    message = r"the loss is nan at step 7. Lower the learning rate \(0.5 at its top\)"
    with pytest.raises(TrainingDivergedError, match=message):
        check_loss(float("nan"), 7, Recipe(peak_lr=0.5))
    assert check_loss(1.5, 7, Recipe(peak_lr=0.5)) == 1.5
