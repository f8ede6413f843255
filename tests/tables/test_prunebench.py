"""The suite of the benchmark, held against its tables, and the searches that are its entries."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from agents.benchmark import EvaluationsSpent, load_suite
from agents.benchmark.entries import find_entry
from agents.benchmark.leaderboard_rows import check_row
from agents.benchmark.ledger import Ledger
from agents.benchmark.networks import table_digest
from agents.benchmark.run import Runner
from agents.errors import BenchmarkError, UnfitEnvError
from prune_gym.budgets.accelerator import count_cycles
from prune_gym.tables.files import load_table
from prune_gym.tables.problem import TabularProblem

SUITE = load_suite()
EVERY = {**SUITE.tasks, **SUITE.tuning_tasks}
ON_TABLES = {
    name: task for name, task in EVERY.items() if all("table" in one for one in task.problems)
}
N_JUDGED = 40


@pytest.fixture(scope="module")
def tables():
    names = {one["table"] for task in ON_TABLES.values() for one in task.problems}
    return {name: load_table(name) for name in names}


def test_every_kind_of_task_has_three_difficulties():
    kinds: dict[str, list[str]] = {}
    for task in SUITE.tasks.values():
        kinds.setdefault(task.category, []).append(task.difficulty)
    assert len(kinds) == 11
    for difficulties in kinds.values():
        assert len({*difficulties}) == 3


def test_seeds_are_many_and_those_for_tuning_are_others():
    judged = {seed for task in SUITE.tasks.values() for seed in task.seeds}
    assert judged.isdisjoint(s for task in SUITE.tuning_tasks.values() for s in task.seeds)
    for name, task in SUITE.tasks.items():
        assert len(task.seeds) >= (20 if name in ON_TABLES else 10)
        assert task.known


def test_tuning_tasks_judge_a_table_that_no_judged_task_has():
    judged, tuned = (
        {
            task.problems[part.get("problem", task.training[0])].get("table")
            for task in tasks.values()
            for part in task.judged
        }
        for tasks in (SUITE.tasks, SUITE.tuning_tasks)
    )
    assert tuned == {"tiny_vgg-digits-taylor"}
    assert tuned.isdisjoint(judged)


def test_tables_are_those_that_the_references_were_measured_on(tables):
    for name, table in tables.items():
        assert SUITE.tables[name] == table_digest(table)


@pytest.mark.parametrize("name", ON_TABLES)
def test_references_are_the_exact_optima(name, tables):
    task = ON_TABLES[name]
    for part, reference in zip(task.judged, task.references, strict=True):
        given = task.problems[part.get("problem", task.training[0])]
        table = tables[given["table"]]
        limits = part.get("limits") or given["budgets"]
        plain = {key.rpartition(":")[2]: limit for key, limit in limits.items()}
        assert reference.best == table.optimum(plain).accuracy
        assert reference.optimum
        assert reference.random < reference.best
        assert len(table.levels) == task.steps


def test_the_black_box_is_no_monotone_function(tables):
    table = tables["tiny_vgg-digits-l1-measured"]
    assert (np.diff(table.costs("accelerator_cycles"), axis=1) < 0).any()
    problem = TabularProblem.load(table, budgets={"latency_ms": 0.6})
    for number in (0, 12_345, len(table) - 1):
        entry = table.entry(number)
        live = count_cycles(problem.compact(problem.masks_of(entry.counts)))
        assert live == table.values("accelerator_cycles").flat[number]


# -- rows ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def row():
    """Of a true run."""
    task = SUITE.tasks["table-vgg-shapes-10"]
    found = Runner(SUITE, task).run(find_entry("evolution", SUITE)[1], "mine", 0)
    return {**found, "code": {"train": "mine:train", "sha256": None}}


def forge(row, **changes):
    forged = copy.deepcopy(row)
    forged["parts"][0].update(changes)
    forged["best"].update({key: changes[key] for key in changes if key in forged["best"]})
    forged["curve"][-1][1] = forged["parts"][0]["accuracy"]
    return forged


def test_a_true_row_is_what_its_table_says(row, tables):
    checked = check_row(row, SUITE, "x")
    table = tables["tiny_vgg-shapes-taylor"]
    assert checked.accuracy == table.accuracy(row["parts"][0]["counts"])
    assert checked.policy.feasible


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 0.3674}, r"parts\[0\].accuracy is 0.3674; it must be .*, that of the table"),
        ({"test_accuracy": 1.0}, r"parts\[0\].test_accuracy is 1.0; .*that of the table"),
        ({"costs": {"params": 1e-7}}, r"parts\[0\].costs.params is 1e-07; .*that of the table"),
        ({"costs": {"params": 0.05, "x": 0.1}}, r"parts\[0\].costs.* it must be"),
        ({"counts": None}, r"parts\[0\].counts is None; it must be the kept filters of each of"),
        ({"counts": [1, 2, 3]}, r"parts\[0\].counts is \[1, 2, 3\]; it must be the kept filters"),
        ({"counts": [16, 32, 32, 64, 64, 64]}, r"parts\[0\].accuracy is .*, that of the table"),
    ],
)
def test_networks_are_looked_up(row, changes, message):
    with pytest.raises(BenchmarkError, match=message):
        check_row(forge(row, **changes), SUITE, "x")


def test_points_of_a_curve_are_shares_of_the_images(row):
    forged = copy.deepcopy(row)
    forged["curve"][0][1] = 0.00123
    with pytest.raises(
        BenchmarkError, match=r"curve is .*\[.*0.00123\] does not follow \[0, 0.0\]"
    ):
        check_row(forged, SUITE, "x")


# -- entries ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner():
    task = SUITE.tuning_tasks["tune-table-10"]
    return Runner(SUITE, replace(task, evaluations=N_JUDGED))


@pytest.mark.parametrize("name", [name for name in SUITE.entries if name != "optimum"])
def test_searches_spend_all_and_play_their_best_plan(runner, name):
    row = runner.run(find_entry(name, SUITE)[1], name, 10_000)
    assert row["evaluations"] == {"scan": 20, "equal_width": 1, "lamp": 1}.get(name, N_JUDGED)
    fixed = row["policy"]["deterministic"]
    assert (fixed["accuracy"], fixed["test_accuracy"]) == (
        row["best"]["accuracy"],
        row["best"]["test_accuracy"],
    )
    assert fixed["feasible"]
    repeated = runner.run(find_entry(name, SUITE)[1], name, 10_000)
    assert {**row, "wall_s": 0} == {**repeated, "wall_s": 0}


def test_a_search_that_finds_nothing_within_the_limits_plays_the_cheapest():
    task = replace(SUITE.tasks["transfer-3"], evaluations=4)
    row = Runner(SUITE, task).run(find_entry("random", SUITE)[1], "random", 4)
    assert row["policy"] is not None
    assert row["evaluations"] == 4


def test_the_optimum_has_a_score_of_one(runner):
    row = runner.run(find_entry("optimum", SUITE)[1], "optimum", 10_000)
    assert (row["score"], row["regret"], row["evaluations"]) == (1.0, 0.0, 1)
    live = Runner(SUITE, SUITE.tasks["live-layers-10"])
    with pytest.raises(UnfitEnvError, match="optimum: task 'live-layers-10' has no table"):
        live.run(find_entry("optimum", SUITE)[1], "optimum", 0)


def test_discrete_agents_of_the_zoo_get_ratios(runner):
    row = runner.run(find_entry("dqn_lag", SUITE)[1], "dqn_lag", 10_000)
    assert row["evaluations"] == N_JUDGED
    assert row["policy"]["deterministic"]["accuracy"] > 0.0


def test_vectors_of_tables_and_of_environments_in_turn():
    task = replace(SUITE.tasks["transfer-10"], evaluations=9)

    def train(make_env, seed, budget):
        envs = make_env(num_envs=3)
        assert envs.cost_limits.tolist() == [0.1] * 3
        envs.reset()
        with suppress(EvaluationsSpent):
            while True:
                envs.step(np.zeros((3, 1), dtype=np.float32))
        return lambda observation: [0.9]

    row = Runner(SUITE, task).run(train, "mine", 0)
    assert (row["evaluations"], len(row["parts"]), row["curve"]) == (9, 2, [])
    assert all(part["evaluation"] == 1 for part in row["parts"])


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_networks_in_turn_are_known_after_the_turn(mode, monkeypatch):
    task = replace(SUITE.tasks["transfer-10"], evaluations=9)
    found = []
    monkeypatch.setattr(Ledger, "add", lambda self, network: found.append(network))

    def train(make_env, seed, budget):
        envs = make_env(num_envs=2, autoreset_mode=mode)
        envs.reset()
        problems = [one.unwrapped.problem for one in envs.unwrapped.envs]
        while not found:
            envs.step(np.zeros((2, 1), dtype=np.float32))
        for one, problem in zip(found, problems, strict=True):
            assert dict(one.costs) == pytest.approx(
                dict(zip(problem.names, problem.counted_costs(np.array(one.choice)), strict=True))
            )
        return lambda observation: [0.9]

    with suppress(BenchmarkError):  # nothing was counted
        Runner(SUITE, task).run(train, "mine", 0)
    assert len(found) >= 2


def test_any_limit_is_judged_at_each_limit():
    task = replace(SUITE.tasks["any-limit-10"], evaluations=30)
    row = Runner(SUITE, task).run(find_entry("evolution", SUITE)[1], "evolution", 0)
    assert [list(part["costs"]) for part in row["parts"]] == [["params"]] * 3
    for part, judged in zip(row["parts"], task.judged, strict=True):
        assert part["costs"]["params"] <= judged["limits"]["params"]
    assert row["score"] > 0.0
