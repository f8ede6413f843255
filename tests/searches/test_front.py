"""The front: what it holds, what it answers, and how it survives in a run folder."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import AGENTS
from prune_gym import Budget
from prune_gym.errors import NothingFeasibleError, RunFolderError
from prune_gym.problem.archive import Archive, Front, further_costs, measured_later
from prune_gym.searches.algorithms import make_config_env
from prune_gym.searches.baselines import masks_of_ratios
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.search import Search

MASKS = (np.array([True, False, True]), np.array([False, True]))
LEVELS = st.integers(0, 4).map(lambda level: level / 4.0)  # coarse: ties are common
ROWS = st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=1, max_size=25)


def front_of(rows):
    front = Front()
    for number, (accuracy, params, macs) in enumerate(rows, start=1):
        front.add(number, accuracy, {"params": params, "macs": macs}, MASKS)
    return front


@settings(max_examples=200)
@given(rows=ROWS, params=LEVELS, macs=LEVELS)
def test_the_front_answers_like_everything(rows, params, macs):
    """The best network within any limits is what a look at all rows finds."""
    limits = {"params": params or 0.1, "macs": macs or 0.1}
    front = front_of(rows)
    within = [row for row in rows if row[1] <= limits["params"] and row[2] <= limits["macs"]]
    if within:
        best = front.best_within(limits)
        assert best.accuracy == max(row[0] for row in within)
        assert best.is_within(limits)
        row = rows[best.number - 1]
        assert (best.accuracy, *best.costs.values()) == row
    else:
        nearest = min(max(r[1] / limits["params"], r[2] / limits["macs"]) for r in rows)
        with pytest.raises(NothingFeasibleError, match="no evaluated network is within params"):
            front.best_within(limits)
        assert min(one.distance(limits) for one in front) == nearest


@settings(max_examples=200)
@given(rows=ROWS)
def test_the_front_is_what_nothing_beats(rows):
    kept = {one.number: rows[one.number - 1] for one in front_of(rows)}

    def as_good(one, other):
        return one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]

    for one, other in itertools.permutations(kept.values(), 2):
        assert not as_good(one, other)
    for number, row in enumerate(rows, start=1):
        beaten = any(as_good(other, row) for n, other in kept.items() if n != number)
        assert beaten != (number in kept)
        if beaten:  # of equals the oldest stays
            assert all(n < number for n, other in kept.items() if other == row)


@settings(max_examples=30, deadline=None)
@given(rows=ROWS)
def test_a_saved_front_is_the_same(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("front") / "front.npz"
    front = front_of(rows)
    front.save(path)
    again = Front.load(path, RunFolderError)
    assert [(o.number, o.accuracy, o.costs, o.sizes) for o in again] == [
        (o.number, o.accuracy, o.costs, o.sizes) for o in front
    ]
    for one in again:
        tiny.assert_identical(one.masks, MASKS)
    assert (again.newest, again.names) == (front.newest, front.names)
    assert [path.name for path in path.parent.iterdir()] == ["front.npz"]


def test_words_of_the_front():
    with pytest.raises(NothingFeasibleError, match=r"nothing was evaluated yet"):
        Front().best_within({"params": 0.5})
    front = front_of([(0.5, 0.25, 0.5), (0.75, 0.5, 0.75)])
    for limits in ({"latency": 0.5}, {}, {"params": 0.5, "latency": 0.5}):
        with pytest.raises(ValueError, match=r"limits=.*: expected limits by budget.*params, macs"):
            front.best_within(limits)
    with pytest.raises(
        NothingFeasibleError,
        match=r"within params 0\.1\. The nearest is network 1: reward 0\.5000, params 0\.25\. Ra",
    ):
        front.best_within({"params": 0.1})
    assert [one.number for one in front] == [1, 2]
    assert [one.number for one in front.until(1)] == [1]


def test_candidates_come_in_order_of_merit():
    """From the most accurate on, of equals the one furthest within, then the oldest."""
    rows = [
        (0.5, 0.05, 0.4),
        (0.75, 0.2, 0.1),
        (0.75, 0.1, 0.19),
        (0.5, 0.3, 0.05),
        (1.0, 0.9, 0.9),
    ]
    limits = {"params": 0.4, "macs": 0.4}
    front = front_of(rows)
    assert [one.number for one in front.within(limits)] == [3, 2, 4, 1]
    assert front.best_within(limits).number == 3
    assert front.best_within({"params": 0.4, "macs": 0.2}).number == 2


def archive_of(problem, n=60):
    archive = Archive(further=further_costs(problem))
    generator = np.random.default_rng(0)
    for _ in range(n):
        masks = masks_of_ratios(problem, generator.random(len(problem.groups)))
        archive.add(masks, problem.evaluate(masks))
    return archive


def test_budgets_that_were_not_limited_are_counted(tiny_problem):
    archive = archive_of(tiny_problem)
    assert {"params", "macs", "size_bytes"} <= set(archive.front.names)
    other = tiny.make_tiny(budgets={"macs": 0.3, "size_bytes": 0.4})
    found = archive.best_within({"macs": 0.3, "size_bytes": 0.4})
    outcome = other.evaluate(found.masks)
    assert outcome.feasible
    assert outcome.accuracy == found.accuracy == archive.trials[found.number - 1].accuracy
    assert outcome.costs == {name: found.costs[name] for name in outcome.costs}


def test_the_best_feasible_network_is_on_the_front(tiny_problem):
    archive = archive_of(tiny_problem)
    best = archive.best_within({"params": 0.5})
    assert best.accuracy == archive.best.accuracy
    assert best.costs["params"] == archive.best.cost
    tiny.assert_identical(best.masks, archive.feasible_masks())


def test_costs_that_are_certain_can_be_measured_later(tiny_problem):
    front = archive_of(tiny_problem).front
    assert measured_later(tiny_problem, ["params", "latency_ms", "tiny:cli_lavish"]) is None
    further = measured_later(tiny_problem, ["activation_bytes", "macs"])
    measured = front.with_costs(further)
    assert measured.names == (*front.names, "activation_bytes")
    other = tiny.make_tiny(budgets={"activation_bytes": 1.0})
    for one, before in zip(measured, front, strict=True):
        assert one.costs["activation_bytes"] == other.costs(one.masks)[0]
        assert (one.number, one.accuracy) == (before.number, before.accuracy)
    limit = float(np.median([one.costs["activation_bytes"] for one in measured]))
    found = measured.best_within({"activation_bytes": limit})
    assert other.evaluate(found.masks).cost <= limit


def test_single_weights_have_one_cost_only():
    problem = tiny.make_tiny(structure="weight")
    assert further_costs(problem) is None
    assert archive_of(problem, 5).front.names == ("params",)


# -- in a run folder -------------------------------------------------------------------------------


def config_of(algo, networks, **arguments):
    problem = {"network": "small", "dataset": "digits"}
    return SearchConfig("PruneVGG-v0", algo, 3 * networks, 0, 2, problem, **arguments)


def search_in(path, problem, config, on_progress=lambda search: None):
    exists = (path / "config.json").is_file()
    folder = RunFolder.open(path)[0] if exists else RunFolder.create(path, config)
    search = Search(problem, config, folder)
    search.on_progress = lambda progress: on_progress(search)
    return search


def told(front):
    return [(one.number, one.accuracy, one.costs, one.bits.tolist()) for one in front]


@pytest.mark.parametrize("algo", ["random", "ppo_lag"])
def test_a_run_keeps_its_front(tmp_path, tiny_problem, algo):
    search = search_in(tmp_path / "run", tiny_problem, config_of(algo, 30))
    search.run()
    assert told(Front.load(search.folder.front, RunFolderError)) == told(search.archive.front)
    for one in search.archive.front:
        assert tiny_problem.evaluate(one.masks).accuracy == one.accuracy
    again = search_in(tmp_path / "run", tiny_problem, config_of(algo, 30))
    assert told(again.archive.front) == told(search.archive.front)


def test_ctrl_c_loses_nothing_of_the_front(tmp_path, tiny_problem):
    whole = search_in(tmp_path / "whole", tiny_problem, config_of("random", 40))
    whole.run()

    def interrupt(search):
        if len(search.archive.trials) == 13:
            raise KeyboardInterrupt

    first = search_in(tmp_path / "cut", tiny_problem, config_of("random", 40), interrupt)
    assert first.run().stopped
    second = search_in(tmp_path / "cut", tiny_problem, config_of("random", 40))
    assert told(second.archive.front) == told(first.archive.front)
    second.run()
    assert told(second.archive.front) == told(whole.archive.front)


def test_what_the_log_lost_is_no_candidate(tmp_path, tiny_problem):
    search = search_in(tmp_path / "run", tiny_problem, config_of("random", 20))
    search.run()
    newest = search.archive.front.newest
    lines = search.folder.episodes.read_text().splitlines(keepends=True)
    search.folder.episodes.write_text("".join(lines[:newest]))  # the head and newest - 1 rows
    again = search_in(tmp_path / "run", tiny_problem, config_of("random", 20))
    assert again.archive.front.newest < newest


@pytest.mark.parametrize("content", [b"", b"no zip", "half"])
def test_a_damaged_front_is_named(tmp_path, tiny_problem, content):
    search = search_in(tmp_path / "run", tiny_problem, config_of("random", 8))
    search.run()
    path = search.folder.front
    path.write_bytes(path.read_bytes()[:200] if content == "half" else content)
    with pytest.raises(RunFolderError, match=r"front\.npz is damaged"):
        search_in(tmp_path / "run", tiny_problem, config_of("random", 8))


# -- hard ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["PruneVGG-v0", "PruneVGGFilters-v0"])
@pytest.mark.parametrize("algo", ["random", "uniform", "cem", "ppo_lag"])
def test_a_hard_search_evaluates_nothing_over_a_limit(tmp_path, algo, env):
    problem = tiny.make_tiny(budgets={"params": 0.3, "macs": 0.4})
    runs = {}
    for hard in (True, False):
        config = replace(config_of(algo, 24, hard=hard), env=env)
        search = search_in(tmp_path / str(hard), problem, config)
        search.run()
        runs[hard] = [row.feasible for row in search.archive.trials]
        assert RunFolder.open(search.folder.path)[1].hard is hard
    assert len(runs[True]) == 24
    assert all(runs[True])
    assert not all(runs[False])


@pytest.mark.parametrize("algo", ["ppo_lag", "p3o", "cpo", "sac_lag"])
def test_agents_of_a_hard_search_pay_nothing(tmp_path, algo):
    """Limits hold anyway, and after a resume, too. CPO has no multiplier that could be set."""
    problem = tiny.make_tiny(budgets={"params": 0.3})
    for networks in (8, 16):
        config = config_of(algo, networks, hard=True)
        search = search_in(tmp_path / "run", problem, config)
        search.run()
        model = AGENTS[algo].constructor.load(search.folder.agent)
        assert type(model.multiplier).__name__ == (
            "SolvedMultiplier" if algo == "cpo" else "FixedMultiplier"
        )
        assert model.multiplier.value == search.multiplier == 0.0
        assert len(search.archive.trials) == networks
        assert all(row.feasible for row in search.archive.trials)
    soft = search_in(tmp_path / "soft", problem, config_of(algo, 8))
    soft.run()
    assert type(AGENTS[algo].constructor.load(soft.folder.agent).multiplier).__name__ != (
        "FixedMultiplier"
    )


def test_ratios_of_a_hard_search_are_scaled(tiny_problem):
    for env, mode in (("PruneVGG-v0", "scale"), ("PruneVGGFilters-v0", "clip")):
        config = replace(config_of("ppo_lag", 8, hard=True), env=env)
        assert make_config_env(config, tiny_problem).get_wrapper_attr("mode") == mode


def test_a_hard_search_asks_for_monotone_budgets(tmp_path):
    problem = tiny.make_tiny(budgets={Budget("odd", lambda network: 1.0): 1.0})
    search = search_in(tmp_path / "run", problem, config_of("ppo_lag", 8, hard=True))
    with pytest.raises(ValueError, match=r"ProjectionWrapper with budget 'odd'.*monotone=True"):
        search.run()
