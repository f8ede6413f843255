"""Tables against live judgement, and what follows from them against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym import TabularProblem, load_table, make_problem, make_table, save_table
from prune_gym.errors import (
    InvalidTypeError,
    InvalidValueError,
    NothingFeasibleError,
    TableError,
)
from prune_gym.tables.make import levels_of
from prune_gym.tables.recipes import RECIPES
from prune_gym.tables.walk import Walk


def networks_of(table, n, seed=0):
    """Random networks of a table, as filters kept per group."""
    generator = np.random.default_rng(seed)
    return [np.array([own[generator.integers(len(own))] for own in table.levels]) for _ in range(n)]


# -- the walk against live judgement ---------------------------------------------------------------


def test_every_network_of_a_tiny_grid_is_judged_as_live(live, table):
    assert len(table) == 27
    for counts in itertools.product(*table.levels):
        outcome = live.evaluate(live.masks_of(counts))
        entry = table.entry(table.number(counts))
        assert entry.accuracy == outcome.accuracy
        assert entry.counts == counts
        assert entry.costs["params"] == outcome.costs["params"]
        assert entry.costs["macs"] == outcome.costs["macs"]


@pytest.mark.parametrize("network", ["residual", "flat"])
@pytest.mark.parametrize("recovery", ["bn", "none"])
def test_networks_of_other_kinds_are_judged_as_live(network, recovery):
    problem = tiny.make_tiny(network, recovery=recovery, criterion="l2")
    table = make_table(problem, (0.3, 0.6, 1.0))
    for counts in networks_of(table, 30):
        outcome = problem.evaluate(problem.masks_of(counts))
        assert table.accuracy(counts) == outcome.accuracy
        assert table.entry(table.number(counts)).costs["params"] == outcome.cost


@pytest.mark.parametrize("name", prune_gym.shipped_tables())
def test_shipped_tables_hold_what_live_judgement_gives(name):
    table = load_table(name)
    problem = make_problem(**table.arguments, batch_size=200)
    for stored, computed in zip(table.scores, problem.scores, strict=True):
        # gradients differ in their last digits from processor to processor
        np.testing.assert_allclose(computed, stored, rtol=0.0, atol=1e-5 * np.abs(stored).max())
        assert np.argsort(computed).tolist() == np.argsort(stored).tolist()
    different = 0
    for counts in networks_of(table, 6):
        outcome = problem.evaluate(problem.masks_of(counts))
        entry = table.entry(table.number(counts))
        test = problem.accuracy(outcome.network, problem.data.test)
        # two outputs that are equal to their last bits may change places
        different += entry.accuracy != outcome.accuracy or entry.test_accuracy != test
        assert abs(entry.accuracy - outcome.accuracy) < 0.01
        assert entry.costs["params"] == outcome.cost
    assert different <= 1


def test_shipped_tables_are_those_of_the_recipes():
    assert set(prune_gym.shipped_tables()) <= set(RECIPES)
    for name in prune_gym.shipped_tables():
        table, recipe = load_table(name), RECIPES[name]
        assert table.levels == levels_of(table.sizes.tolist(), recipe.levels)
        assert recipe.arguments.items() <= table.arguments.items()


# optimum within 10, 5 and 3 % of the parameters: validation accuracies
OPTIMA = {
    "small-digits-l1": (0.9, 0.63, 0.455),
    "tiny_vgg-digits-l1": (0.495, 0.295, 0.27),
    "tiny_vgg-digits-l1-measured": (0.495, 0.295, 0.27),
    "tiny_vgg-digits-taylor": (0.47, 0.2925, 0.2625),
    "tiny_vgg-shapes-taylor": (0.3675, 0.2825, 0.2275),
    "tiny_resnet-digits-taylor": (0.255, 0.2175, 0.2125),
    "tiny_resnet-shapes-l1": (0.235, 0.22, 0.1775),
}


def test_optima_of_the_shipped_tables():
    assert set(OPTIMA) == set(prune_gym.shipped_tables())
    for name, accuracies in OPTIMA.items():
        table = load_table(name)
        found = [table.optimum({"params": limit}).accuracy for limit in (0.1, 0.05, 0.03)]
        assert found == list(accuracies)


def test_walk_takes_prefixes_apart(live, table):
    walk = Walk(live, table.levels)
    assert np.array_equal(walk.right(), table.right)
    assert np.array_equal(walk.right((1, 2)), table.right[1, 2])
    outputs = walk.outputs((1, 2, 0))
    right = (outputs.argmax(dim=1) == live.data.validation.labels).sum()
    assert int(right) == table.right[1, 2, 0, 0]


class Mixing(nn.Module):
    """Layers that a walk does not know."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(1, 4) if kind == "norm" else nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=4 if kind == "depthwise" else 1)
        self.classifier = nn.Linear(8 if kind == "cat" else 4, tiny.N_CLASSES)

    def forward(self, images):
        hidden = self.norm(self.first(images)).relu()
        second = self.second(hidden)
        if self.kind == "cat":
            second = torch.cat([hidden, second], dim=1)
        if self.kind == "flip":
            second = second.flip(3)
        if self.kind == "branch" and images.sum() > 0:
            second = second * 2.0
        return self.classifier(second.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("depthwise", r"second .* is a grouped convolution"),
        ("cat", r"cat .* an operation that may mix channels|joins filters of several groups"),
        ("flip", r"flip .* an operation that may mix channels"),
        ("branch", r"Mixing cannot be traced by torch.fx"),
    ],
)
def test_a_network_that_cannot_be_followed_is_refused(kind, match):
    torch.manual_seed(0)
    problem = tiny.make_tiny(Mixing(kind))
    with pytest.raises(prune_gym.UnsupportedNetworkError, match=match):
        make_table(problem, (0.5, 1.0))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"recovery": "finetune"}, r"recovery='finetune': a table can be made with 'none' or 'bn'"),
        ({"structure": "weight"}, r"structure='weight': a table can be made with 'filter' only"),
        ({"precision": "bfloat16"}, r"precision='bfloat16': a table can be made with 'float32'"),
    ],
)
def test_a_problem_that_is_judged_otherwise_is_refused(arguments, match):
    with pytest.raises(InvalidValueError, match=match):
        make_table(tiny.make_tiny(**arguments), (0.5, 1.0))


@pytest.mark.parametrize("levels", [(), (0.5, 0.5), (0.0, 1.0), (1.5,), ("x",)])
def test_levels_are_checked(live, levels):
    with pytest.raises(InvalidValueError, match=r"levels=\[.*expected fractions of the filters"):
        make_table(live, levels)


def test_too_many_networks_are_refused(default_problem):
    levels = tuple(n / 16 for n in range(1, 17))
    with pytest.raises(InvalidValueError, match=r"are [\d,]+ networks; give fewer levels"):
        make_table(default_problem, levels)


# -- what follows from a table ---------------------------------------------------------------------


def test_budgets_of_the_whole_grid_are_those_of_each_network(live, table):
    model = live.cost_model.of_budgets([prune_gym.BUDGETS.get(n)() for n in table.budgets])
    for counts in itertools.product(*table.levels):
        place = np.unravel_index(table.number(counts), table.shape)
        expected = model.values(live.masks_of(counts))
        assert [table.values(name)[place] for name in table.budgets] == expected.tolist()


@pytest.mark.parametrize("limits", [{"params": 0.3}, {"params": 0.5, "macs": 0.3}, {"macs": 1.0}])
def test_optimum_and_regret_are_those_of_brute_force(table, limits):
    entries = [table.entry(number) for number in range(len(table))]
    within = [e for e in entries if all(e.costs[name] <= x for name, x in limits.items())]
    first = next(iter(limits))
    best = min(within, key=lambda e: (-e.accuracy, e.costs[first], e.number))
    assert table.optimum(limits) == best
    regrets = table.regret([e.counts for e in entries], limits)
    for entry, regret in zip(entries, regrets, strict=True):
        assert regret == best.accuracy - (entry.accuracy if entry in within else 0.0)
    assert table.regret(best.counts, limits) == 0.0


@pytest.mark.parametrize("names", [("params",), ("macs", "params"), None])
def test_front_is_that_of_brute_force(table, names):
    front = table.front(names)
    names = names or ("params",)

    def what(entry):
        return (-entry.accuracy, *(entry.costs[name] for name in names))

    entries = [table.entry(number) for number in range(len(table))]
    points = {what(entry) for entry in entries}
    expected = {
        point
        for point in points
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points
        )
    }
    assert {what(entry) for entry in front} == expected
    assert len(front) == len(expected)
    assert front == sorted(front, key=lambda entry: entry.accuracy)


def test_what_a_table_does_not_know_is_named(table):
    with pytest.raises(InvalidValueError, match=r"no network with 3 filters of group '.*'; its le"):
        table.accuracy([3, 2, 2])
    with pytest.raises(InvalidValueError, match=r"unknown budget of the table 'parms'.*params"):
        table.optimum({"parms": 0.1})
    with pytest.raises(
        InvalidValueError, match=r"limit of 'params' is 2.0; it must be in \(0, 1\]"
    ):
        table.optimum(2.0)
    with pytest.raises(InvalidValueError, match=r"unknown split of the table 'test'"):
        table.accuracies("test")
    with pytest.raises(NothingFeasibleError, match=r"no network .* smallest costs are params 0"):
        table.optimum(1e-6)


def test_measured_budgets_are_columns():
    problem = tiny.make_tiny(budgets={"activation_bytes": 0.8, "params": 0.9})
    table = make_table(problem, (0.5, 1.0))
    assert table.budgets[0] == "params"
    assert "activation_bytes" in table.measured
    tabular = TabularProblem.of(problem, table)
    for counts in itertools.product(*table.levels):
        masks = problem.masks_of(counts)
        assert tabular.evaluate(masks).values == problem.evaluate(masks).values
        assert tabular.costs(masks).tolist() == problem.costs(masks).tolist()


# -- files -----------------------------------------------------------------------------------------


def test_a_table_is_the_same_after_saving(table, tmp_path):
    save_table(table, tmp_path / "t.npz")
    again = load_table(tmp_path / "t.npz")
    assert np.array_equal(again.right, table.right)
    assert again.levels == table.levels
    assert again.optimum(0.4) == table.optimum(0.4)
    assert again.digest == table.digest
    assert repr(again) == repr(table)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda a: a.pop("right"), "it must hold facts"),
        (lambda a: a.update(right=a["right"].astype(np.int64)), "right is int64 of shape"),
        (lambda a: a.update(right=a["right"] + 1000), "more examples right than there are"),
        (lambda a: a.update(scores=a["scores"] * np.nan), "scores holds numbers that are not fin"),
        (lambda a: a.update(facts=a["facts"][:-9]), "damaged"),
        (lambda a: a.update(linear=a["linear"][:, :1]), r"linear is float64 of shape \(4, 1\)"),
        (lambda a: a.update(facts=np.frombuffer(b"[1]", np.uint8)), "its facts are no JSON object"),
        (
            lambda a: a.update(
                facts=np.frombuffer(a["facts"].tobytes().replace(b"format", b"farmot"), np.uint8)
            ),
            "format is missing",
        ),
        (
            lambda a: a.update(
                facts=np.frombuffer(
                    a["facts"].tobytes().replace(b'"levels": [1', b'"levels": [9'), np.uint8
                )
            ),
            "are not ascending filters of it",
        ),
    ],
)
def test_a_damaged_table_is_named(table, tmp_path, damage, match):
    path = tmp_path / "t.npz"
    save_table(table, path)
    arrays = dict(np.load(path))
    damage(arrays)
    np.savez(path, **arrays)
    with pytest.raises(TableError, match=match) as error:
        load_table(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pickle_is_not_opened(tmp_path):
    np.savez(tmp_path / "t.npz", facts=np.array([object()]))
    with pytest.raises(TableError, match="damaged"):
        load_table(tmp_path / "t.npz")


def test_tables_that_are_not_there_are_named(tmp_path):
    with pytest.raises(TableError, match=r"table='smal-digits-l1': no file, and no table of the"):
        load_table("smal-digits-l1")
    with pytest.raises(TableError, match="there is no file"):
        load_table(tmp_path / "none.npz")


# -- resuming --------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a process that is killed."""


def test_a_make_that_was_killed_goes_on(live, table, tmp_path, monkeypatch):
    monkeypatch.setattr("prune_gym.tables.make._CHUNK", 3)
    partial = tmp_path / "t.partial"

    def killed_at_12(done):
        if done >= 12:
            raise Killed

    with pytest.raises(Killed):
        make_table(live, (0.25, 0.5, 1.0), partial=partial, progress=killed_at_12)
    with partial.open("ab") as file:
        file.write(b"half a ch")  # what it was writing
    seen = []
    again = make_table(live, (0.25, 0.5, 1.0), partial=partial, progress=seen.append)
    assert seen[0] == 12
    assert seen[-1] == 27
    assert np.array_equal(again.right, table.right)
    whole = make_table(live, (0.25, 0.5, 1.0), partial=partial)
    assert np.array_equal(whole.right, table.right)


def test_a_damaged_chunk_is_made_anew(live, table, tmp_path, monkeypatch):
    monkeypatch.setattr("prune_gym.tables.make._CHUNK", 3)
    partial = tmp_path / "t.partial"
    make_table(live, (0.25, 0.5, 1.0), partial=partial)
    content = bytearray(partial.read_bytes())
    content[-1] ^= 255
    partial.write_bytes(content)
    seen = []
    again = make_table(live, (0.25, 0.5, 1.0), partial=partial, progress=seen.append)
    assert seen[0] == 24
    assert np.array_equal(again.right, table.right)


def test_a_file_of_another_table_is_not_gone_on_with(live, tmp_path):
    partial = tmp_path / "t.partial"
    make_table(live, (0.5, 1.0), partial=partial)
    with pytest.raises(TableError, match=r"t.partial was begun for another table"):
        make_table(live, (0.25, 1.0), partial=partial)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda table: table.number([4, 4, 4, 4]),
            r"counts=\[4, 4, 4, 4\]: expected \d numbers of filters",
        ),
        (lambda table: table.regret([4, 4], 0.5), r"counts=.*: expected \d numbers of filters"),
        (lambda table: table.regret("abc", 0.5), r"counts='abc': expected \d numbers of filters"),
        (lambda table: table.front([]), r"budgets=\[\]: give one at least"),
    ],
)
def test_arguments_that_fit_no_table(table, call, words):
    with pytest.raises(InvalidValueError, match=words):
        call(table)


def test_a_table_is_a_name_or_a_file():
    with pytest.raises(InvalidTypeError, match="table=3: expected a name, a file, or a PruneTable"):
        load_table(3)


def test_accuracies_cannot_be_changed(table):
    with pytest.raises(ValueError, match="read-only"):
        table.right_of(slice(None))[:] = 0
