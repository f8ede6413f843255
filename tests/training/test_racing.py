"""Racing: its error rate, whole scores, and what a search makes of networks that were dropped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
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
    return make_problem(budgets={"params": 0.25}, recovery="none")


def dropped_at(race, right, bar):
    """After how many examples a network with these right ones is dropped; None = it is not."""
    for stage in race.stages[:-1]:
        if race.is_lost(int(right[: stage.stop].sum()), stage.stop, bar):
            return stage.stop
    return None


@pytest.mark.parametrize("places", ["anywhere", "by class"])
@pytest.mark.parametrize(("n", "bar"), [(400, 0.9), (1000, 0.5), (6400, 0.7)])
def test_networks_above_the_bar_are_dropped_as_rarely_as_stated(n, bar, places):
    generator = np.random.default_rng(n)
    classes = generator.integers(10, size=n)
    race, draws = Race.over(classes, torch.device("cpu")), 1500
    right = np.zeros(n, dtype=bool)
    right[: round(bar * n) + 1] = True  # the hardest: one more than the bar
    wrong = 0
    for seed in range(draws):
        if places == "anywhere":
            drawn = generator.permutation(right)
        else:
            drawn = right[np.argsort(classes, kind="stable").argsort()]
            drawn = drawn[balanced_order(classes, seed).numpy()]
        wrong += dropped_at(race, drawn, bar) is not None
    spread = np.sqrt(draws * ERROR_RATE * (1 - ERROR_RATE))
    assert wrong <= draws * ERROR_RATE + 3 * spread


@given(st.integers(60, 2000), st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_nothing_is_dropped_by_luck_alone_where_it_cannot_be(n, bar, seed):
    race = Race.over(np.arange(n) % 5, torch.device("cpu"))
    everything, nothing = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    assert dropped_at(race, everything, bar) is None or round(bar * n) == n
    if bar > 0.5 and race.looks:
        assert dropped_at(race, nothing, bar) is not None
    for stop in race.looks:  # it cannot pass the bar any more
        assert race.is_lost(max(0, round(bar * n) - (n - stop)), stop, bar) or round(bar * n) < (
            n - stop
        )


def test_stages_cover_every_example_once():
    race = Race.over(np.arange(3210) % 7, torch.device("cpu"))
    assert race.order.sort().values.equal(torch.arange(3210))
    assert race.looks == (100, 401, 1605)
    stages = [range(3210)[stage] for stage in race.stages]
    assert [row for stage in stages for row in stage] == list(range(3210))
    assert Race.over(np.zeros(2 * FEWEST - 1), torch.device("cpu")).stages == [slice(0, 99)]


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
    problem = make_problem(budgets={"params": 0.25}, recovery="none", metric="f1")
    masks = problem.masks_of(problem.kept_counts(np.full(len(problem.groups), 0.9)))
    assert problem.evaluator.validation.race is None
    assert problem.racing(lambda masks, values: 0.95).evaluate(masks).judged == 1.0


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
    plain = search(problem, "random", evaluations=48, seed=5)
    problem.evaluator.memory.__init__()
    raced = search(problem, "random", evaluations=48, seed=5, racing=True, out=tmp_path / "run")
    dropped = raced.networks["judged"] < 1.0
    assert dropped.sum() > 5
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
    longer = search(problem, evaluations=64, out=tmp_path / "run", resume=True)
    np.testing.assert_allclose(longer.networks["judged"][:48], raced.networks["judged"])
    assert not any(longer.networks["judged"][c.number - 1] < 1.0 for c in longer.front)
    assert (longer.networks["judged"][48:] < 1.0).any()


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


def test_an_agent_races_too_and_a_partial_score_is_never_the_best(problem):
    found = search(problem, "ppo_lag", evaluations=40, seed=1, racing=True)
    rows = found.networks
    assert found.archive.best is None or not found.archive.best.is_partial
    again = search(problem, "ppo_lag", evaluations=40, seed=1, racing=True)
    assert rows["cost"][0] == again.networks["cost"][0]
