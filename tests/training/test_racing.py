"""Racing: its error rate, whole scores, and what a search makes of networks that were dropped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_gym import make_problem, search
from prune_gym.errors import RunFolderError
from prune_gym.problem.archive import Archive
from prune_gym.problem.rivals import Rivals
from prune_gym.searches.run_folder import RunFolder
from prune_gym.training.racing import ERROR_RATE, FEWEST, Race, balanced_order


@pytest.fixture(scope="module")
def problem():
    return make_problem(budgets={"params": 0.25}, recovery="none", batch_size=50)


def dropped_at(race, right, bar):
    """After how many examples a network with these right ones is dropped; None = it is not."""
    for stage in race.stages[:-1]:
        if race.is_lost(int(right[: stage.stop].sum()), stage.stop, bar):
            return stage.stop
    return None


@pytest.mark.parametrize("places", ["anywhere", "by class"])
@pytest.mark.parametrize(("n", "bar"), [(400, 0.9), (1000, 0.5), (3200, 0.7)])
def test_networks_above_the_bar_are_dropped_as_rarely_as_stated(n, bar, places):
    generator = np.random.default_rng(n)
    classes = generator.integers(10, size=n)
    race, draws = Race.over(classes, torch.device("cpu")), 400
    right = np.zeros(n, dtype=bool)
    right[: round(bar * n) + 1] = True  # the hardest: one more than the bar
    of_classes = right[np.argsort(classes, kind="stable").argsort()]  # some all right, some never
    wrong = 0
    for seed in range(draws):
        drawn = generator.permutation(right)
        if places == "by class":
            drawn = of_classes[balanced_order(classes, seed).numpy()]
        wrong += dropped_at(race, drawn, bar) is not None
    spread = np.sqrt(draws * ERROR_RATE * (1 - ERROR_RATE))
    assert wrong <= draws * ERROR_RATE + 3 * spread


@given(st.integers(60, 1000), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_what_is_certain_is_certain(n, bar):
    race = Race.over(np.arange(n) % 5, torch.device("cpu"))
    best = round(bar * n)
    for stop in race.looks:
        assert race.is_lost(stop, stop, bar) == (best == n)  # all right so far
        if best - (n - stop) >= 0:  # it could not pass the bar with all others right
            assert race.is_lost(best - (n - stop), stop, bar)


def test_stages_cover_every_example_once():
    race = Race.over(np.arange(3210) % 7, torch.device("cpu"))
    assert race.order.sort().values.equal(torch.arange(3210))
    assert race.looks == (401, 1605)
    stages = [range(3210)[stage] for stage in race.stages]
    assert [row for stage in stages for row in stage] == list(range(3210))
    assert Race.over(np.zeros(2 * FEWEST - 1), torch.device("cpu")).stages == [slice(0, 399)]


def test_every_part_of_the_order_holds_each_class_by_its_share():
    classes = np.repeat([3, 0, 7], [600, 300, 100])
    part = classes[balanced_order(classes)[:100].numpy()]
    counts = [(part == one).sum() for one in (3, 0, 7)]
    assert np.abs(np.array(counts) - [60, 30, 10]).max() <= 1


def test_a_network_that_is_not_dropped_has_the_same_score(problem):
    raced = problem.racing(lambda masks, values: 0.0)
    for seed in range(8):
        ratios = np.random.default_rng(seed).random(len(problem.groups)) * 0.6
        masks = problem.masks_of(problem.kept_counts(ratios))
        found, plain = raced.evaluate(masks), problem.accuracy(problem.compact(masks))
        assert (found.accuracy, found.judged) == (plain, 1.0)


def test_a_dropped_network_has_the_score_of_its_part_and_is_not_remembered(problem):
    masks = problem.masks_of(problem.kept_counts(np.full(len(problem.groups), 0.9)))
    raced = problem.racing(lambda masks, values: 0.95)
    before = len(problem.evaluator.memory)
    found = raced.evaluate(masks)
    race = problem.evaluator.validation.race
    part = problem.data.validation.of(race.order[: race.looks[0]])
    assert found.judged == race.looks[0] / len(race.order)
    assert found.accuracy == problem.accuracy(problem.compact(masks), part)
    assert len(problem.evaluator.memory) == before
    whole = problem.evaluate(masks)
    assert whole.judged == 1.0
    assert whole.cost == found.cost
    assert raced.evaluate(masks).judged == 1.0  # by now it is known


def test_other_metrics_are_judged_whole():
    problem = tiny.make_tiny(metric="f1")
    masks = tiny.random_masks(problem, 0)
    assert problem.evaluator.validation.race is None
    assert problem.racing(lambda masks, values: 0.95).evaluate(masks).judged == 1.0


@pytest.mark.parametrize("batch_size", [100, 250, 400])
def test_looks_do_not_depend_on_the_batches(problem, batch_size):
    other = make_problem(budgets={"params": 0.25}, recovery="none", batch_size=batch_size)
    race = other.evaluator.validation.race
    assert race.looks == problem.evaluator.validation.race.looks == (200,)
    masks = problem.masks_of(problem.kept_counts(np.full(len(problem.groups), 0.9)))
    found = other.racing(lambda masks, values: 0.95).evaluate(masks)
    part = problem.data.validation.of(race.order[:200])
    assert (found.judged, found.accuracy) == (0.5, problem.accuracy(problem.compact(masks), part))


def test_rivals_are_those_that_cost_no_more_in_anything(problem):
    archive = Archive(further=lambda masks: {"first": float(masks[0].sum())})
    rivals = Rivals(problem, archive.further)
    ratios = np.full(len(problem.groups), 0.5)
    masks = problem.masks_of(problem.kept_counts(ratios))
    outcome = problem.evaluate(masks)
    archive.add(masks, dataclasses.replace(outcome, accuracy=0.8))
    assert rivals.bar(masks, outcome.value_array) is None  # nobody was taken yet
    rivals.take(archive.front)
    assert rivals.bar(masks, outcome.value_array) == 0.8
    for cut in (0, -1):  # cheaper in one of both costs
        less = problem.kept_counts(ratios)
        less[cut] -= 1
        less[1] += 4 * (cut == 0)
        other = problem.masks_of(less)
        assert rivals.bar(other, problem.values(other)) is None


def test_a_race_finds_the_same_best_and_front_and_says_who_was_dropped(problem, tmp_path):
    plain = search(problem, "random", evaluations=80, seed=5)
    problem.evaluator.memory.__init__()
    raced = search(problem, "random", evaluations=80, seed=5, racing=True, out=tmp_path / "run")
    dropped = raced.networks["judged"] < 1.0
    assert dropped.sum() > 2
    assert (plain.networks["judged"] == 1.0).all()
    np.testing.assert_array_equal(raced.networks["cost"], plain.networks["cost"])
    whole = raced.networks["accuracy"] == plain.networks["accuracy"]
    assert whole[~dropped].all()
    assert [c.number for c in raced.front] == [c.number for c in plain.front]
    assert raced.archive.best.accuracy == plain.archive.best.accuracy

    folder, config = RunFolder.open(tmp_path / "run")
    assert config.racing
    rows = folder.read_episodes()
    assert [float(row["judged"]) < 1.0 for row in rows] == dropped.tolist()
    problem.evaluator.memory.__init__()
    longer = search(problem, evaluations=120, out=tmp_path / "run", resume=True)
    np.testing.assert_allclose(longer.networks["judged"][:80], raced.networks["judged"])
    assert not any(longer.networks["judged"][c.number - 1] < 1.0 for c in longer.front)
    assert (longer.networks["judged"][80:] < 1.0).any()


def test_without_a_race_rows_have_no_share(problem, tmp_path):
    search(problem, "random", evaluations=2, out=tmp_path / "run")
    folder, config = RunFolder.open(tmp_path / "run")
    assert not config.racing
    assert "judged" not in folder.read_episodes()[0]


def test_a_share_that_cannot_be_is_refused(problem, tmp_path):
    search(problem, "random", evaluations=2, out=tmp_path / "run", racing=True)
    log = tmp_path / "run" / "episodes.csv"
    head, first, *rest = log.read_text().splitlines()
    place = head.split(",").index("judged")
    cells = first.split(",")
    cells[place] = "1.5"
    log.write_text("\n".join([head, ",".join(cells), *rest, ""]))
    with pytest.raises(RunFolderError, match=r"in row 1 judged is '1.5', which cannot be"):
        RunFolder.open(tmp_path / "run")[0].read_episodes()


def test_an_agent_races_too_the_same_way_each_time(problem):
    found = []
    for _ in range(2):
        problem.evaluator.memory.__init__()
        result = search(problem, "ppo_lag", evaluations=24, seed=1, racing=True)
        assert result.archive.best is None or not result.archive.best.is_partial
        found.append(result.networks)
    np.testing.assert_array_equal(*found)
