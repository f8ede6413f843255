"""The benchmark's harness, on a toy; its own suite is looked at in tests/tables."""

from __future__ import annotations

import itertools
import json
import linecache
import pickle
import random
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from gymnasium import Wrapper
from typer.testing import CliRunner

import agents
from agents.benchmark import EvaluationsSpent, Plan, Suite, load_suite, read_row
from agents.benchmark.entries import code_of, find_entry, imported
from agents.benchmark.ledger import Ledger
from agents.benchmark.program import app, parse_seeds
from agents.benchmark.suite import Reference, hash_of
from agents.benchmark.whole import in_words
from agents.errors import BenchmarkError, InvalidValueError, UnknownNameError
from agents.toy import BudgetToyEnv

BUDGET, STEPS = 20, 8
TASK = {
    "name": "toy-10",
    "title": "a toy",
    "category": "toy",
    "difficulty": "easy",
    "environment": "agents.toy:BudgetToy-v0",
    "kwargs": {"cost_limit": 0.5},
    "problems": [{}],
    "steps": STEPS,
    "evaluations": BUDGET,
    "seeds": {"first": 0, "count": 3},
    "references": [{"random": 0.2, "best": 0.8, "optimum": False}],
}
CONTENT = {
    "protocol": "toy-v1",
    "policy_episodes": 3,
    "discrete_wrappers": [],
    "entries": {},
    "tables": {},
    "tasks": [TASK, {**TASK, "name": "toy-policy", "by_policy": True}],
    "tuning_tasks": [{**TASK, "name": "tune-toy", "seeds": {"first": 100, "count": 2}}],
}


@pytest.fixture
def suite(tmp_path) -> Suite:
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(CONTENT), encoding="utf-8")
    return load_suite(path)


@pytest.fixture
def bench(suite, tmp_path):
    """Runs a training on the toy with one seed; gives its row."""

    def run(train, task="toy-10", **arguments):
        arguments = {"seeds": 0, "name": "mine", "out": tmp_path / "rows", **arguments}
        return agents.benchmark(train, suite=suite, tasks=task, **arguments)[0]

    return run


def forever(make_env, seed, budget):
    """A plain infinite loop."""
    env = make_env()
    while True:
        env.reset()
        ended = False
        while not ended:
            *_, ended, _, _ = env.step(env.action_space.sample())


# -- evaluations -----------------------------------------------------------------------------------


def test_an_infinite_loop_ends_when_all_is_spent(bench):
    row = bench(forever)
    assert (row["evaluations"], row["budget"], row["policy"]) == (BUDGET, BUDGET, None)
    assert row["score"] == pytest.approx((row["best"]["accuracy"] - 0.2) / 0.6)
    assert row["curve"][-1] == [row["best"]["evaluation"], row["best"]["accuracy"]]


def test_equal_seeds_give_equal_rows(bench, tmp_path):
    one, other = (bench(forever, out=tmp_path / name) for name in "ab")
    assert {**one, "wall_s": 0} == {**other, "wall_s": 0}


def test_a_broad_except_does_not_keep_a_loop_going(bench):
    def stubborn(make_env, seed, budget):
        while True:
            try:
                forever(make_env, seed, budget)
            except Exception:
                continue

    assert bench(stubborn)["evaluations"] == BUDGET


def test_nothing_is_lost_at_the_end(bench):
    """The last network is seen by whoever trains; only the step after it raises."""
    seen = []

    def train(make_env, seed, budget):
        with suppress(EvaluationsSpent):
            while True:
                seen.append(make_env.judge(np.zeros((STEPS, 1))))
        assert make_env.evaluations_left == 0
        make_env().reset()
        with pytest.raises(EvaluationsSpent, match="all 20 evaluations are spent"):
            make_env().step(np.zeros(1, dtype=np.float32))

    bench(train)
    assert len(seen) == BUDGET


def test_episodes_that_are_given_up_count(bench):
    def train(make_env, seed, budget):
        env = make_env()
        while True:
            env.reset()
            env.step(env.action_space.sample())

    row = bench(train)
    assert (row["evaluations"], row["given_up_episodes"], row["best"]) == (BUDGET, BUDGET, None)
    assert row["score"] == pytest.approx(-0.2 / 0.6)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_vectors_count_like_single_environments(bench, mode):
    def train(make_env, seed, budget):
        envs = make_env(num_envs=3, autoreset_mode=mode)
        assert envs.cost_limits.tolist() == [make_env().cost_limit] * 3 == [0.5] * 3
        envs.reset()
        while True:
            ended = envs.step(np.full((3, 1), -0.5, dtype=np.float32))[2]
            if mode == "Disabled" and ended.any():
                envs.reset(options={"reset_mask": ended})

    def alone(make_env, seed, budget):
        while True:
            make_env.judge(np.full((STEPS, 1), -0.5))

    many, one = bench(train), bench(alone, name="alone")
    for name in ("evaluations", "curve", "infeasible_evaluations", "given_up_episodes"):
        assert many[name] == one[name]
    assert many["cumulative_violation"] == pytest.approx(one["cumulative_violation"])


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_vectors_count_each_environment_by_itself(bench, monkeypatch, mode):
    judged, add = [], Ledger.add
    monkeypatch.setattr(Ledger, "add", lambda own, one: (judged.append(one), add(own, one)))
    kept = np.array([0.25, 0.75, 0.5])  # within the limit, above it, within it

    def train(make_env, seed, budget):
        envs = make_env(num_envs=3, autoreset_mode=mode)
        actions = (2.0 * kept[:, None] - 1.0).astype(np.float32)
        envs.reset()
        for step in itertools.count():
            ended = envs.step(actions)[2]
            if mode == "Disabled" and step == 2:
                envs.reset(options={"reset_mask": np.array([False, True, False])})
            if mode == "Disabled" and ended.any():
                envs.reset(options={"reset_mask": ended})
            if mode == "NextStep" and ended.any():
                envs.reset()  # in place of the step that would

    row = bench(train)
    judged = judged[: row["evaluations"] - row["given_up_episodes"]]
    shares = [one.accuracy**2 for one in judged]
    assert row["given_up_episodes"] == (mode == "Disabled")
    if mode != "Disabled":
        assert shares == pytest.approx(np.resize(kept, BUDGET))
    assert {round(share, 6) for share in shares} == set(kept)
    assert [one.cost for one in judged] == pytest.approx(shares)
    assert [one.feasible for one in judged] == [share < 0.6 for share in shares]
    above = sum(share > 0.6 for share in shares)
    assert row["infeasible_evaluations"] == above > 3
    assert row["cumulative_violation"] == pytest.approx(0.25 * above)


def test_a_vector_is_no_larger_than_the_evaluations(bench):
    def train(make_env, seed, budget):
        with pytest.raises(
            InvalidValueError, match="num_envs is 21; it must be at least 1 and at most 20"
        ):
            make_env(num_envs=BUDGET + 1)

    bench(train)


def test_a_plan_is_checked_before_it_is_played(bench):
    def train(make_env, seed, budget):
        plan = np.zeros(make_env.plan_shape)
        assert plan.shape == (STEPS, 1)
        plan[-1] = np.nan
        with pytest.raises(InvalidValueError, match="must be finite numbers"):
            make_env.judge(plan)

    row = bench(train)
    assert (row["evaluations"], row["given_up_episodes"]) == (0, 0)


def test_no_run_depends_on_those_before_it(bench, tmp_path):
    def train(make_env, seed, budget):
        with suppress(EvaluationsSpent):
            while True:
                drawn = np.random.uniform(-1.0, random.random(), (STEPS, 1))  # noqa: NPY002
                make_env.judge(drawn)
        return lambda observation: env.action_space.sample()

    env = BudgetToyEnv()
    before = random.getstate()
    one, other = (bench(train, out=tmp_path / name) for name in "ab")
    assert one["curve"] == other["curve"]
    assert random.getstate() == before


def begin(env):
    env.reset()
    env.step(env.action_space.sample())


def test_episodes_that_are_left_at_the_end_count(bench):
    def train(make_env, seed, budget):
        begin(make_env())
        begin(make_env(num_envs=3))

    row = bench(train)
    assert (row["evaluations"], row["given_up_episodes"]) == (4, 4)


def test_a_run_has_no_evaluations_of_another(bench):
    kept = []

    def carry(make_env, seed, budget):
        kept.append(make_env())
        begin(kept[0])

    with pytest.raises(BenchmarkError, match="of a training that has ended; nothing more is jud"):
        bench(carry, seeds=[0, 1])


def test_inner_environments_are_not_stepped_uncounted(bench):
    def train(make_env, seed, budget, num_envs=None):
        env = make_env(num_envs=num_envs)
        begin(env)
        inner = env.unwrapped.envs[0] if num_envs else env
        inner.unwrapped.step(np.zeros(1, dtype=np.float32))

    for number in (None, 2):
        with pytest.raises(BenchmarkError, match=r"env.unwrapped is not stepped by itself"):
            bench(partial(train, num_envs=number), name=f"n{number}")


def test_what_is_judged_cannot_be_changed_by_a_training(bench, suite):
    def train(make_env, seed, budget):
        make_env.judged[0]["limits"] = {"params": 1.0}

    bench(train)
    assert suite.tasks["toy-10"].judged == ({},)


def test_a_loop_that_catches_everything_is_ended(tmp_path):
    (tmp_path / "toy.json").write_text(json.dumps(CONTENT), encoding="utf-8")
    (tmp_path / "loopy.py").write_text(
        "def train(make_env, seed, budget):\n"
        "    while True:\n"
        "        try:\n"
        "            make_env.judge([[0.0]] * 8)\n"
        "        except BaseException:\n"
        "            pass\n"
    )
    words = ["loopy:train", "--suite", "toy.json", "--tasks", "toy-10"]
    done = subprocess.run(
        [sys.executable, "-m", "agents.benchmark", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130
    assert "error: the training goes on although all 20 evaluations are spent" in done.stderr


def test_environments_stay_in_their_process(bench):
    def train(make_env, seed, budget):
        pickle.dumps(make_env())

    with pytest.raises(BenchmarkError, match=r"counted in one process .* use make_env\(num_envs"):
        bench(train)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"autoreset_mode": "SameStep"}, "autoreset_mode is 'SameStep' without num_envs"),
        ({"num_envs": 2, "autoreset_mode": "x"}, "autoreset_mode is 'x'; it must be one of"),
    ],
)
def test_environments_that_cannot_be_made(bench, arguments, words):
    with pytest.raises(InvalidValueError, match=words):
        bench(lambda make_env, seed, budget: make_env(**arguments))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (np.zeros((3, 1)), "plan holds 3 actions; it must hold 8, an action for each step"),
        (0.5, "plan is 0.5; it must hold 8, an action for each step"),
        (np.zeros((STEPS, 2)), r"plan holds actions such as .*; each must be one of Box"),
    ],
)
def test_plans_that_are_none(bench, plan, words):
    with pytest.raises(InvalidValueError, match=words):
        bench(lambda make_env, seed, budget: make_env.judge(plan))


def test_a_training_that_raises_is_seen_as_it_is_and_the_run_is_named(bench):
    def broken(make_env, seed, budget):
        if seed == 1:
            raise KeyError("mine")

    def leaving(make_env, seed, budget):
        raise SystemExit(3)

    with pytest.raises(BenchmarkError, match=r"mine on toy-10, seed 0: it ended .*SystemExit\(3\)"):
        bench(leaving)
    said: list[str] = []
    with pytest.raises(KeyError, match="mine"):
        bench(broken, seeds=None, report=said.append)
    assert said[1] == "2/3 mine toy-10 seed 1: failed, KeyError; the rows before it are kept"


# -- policies --------------------------------------------------------------------------------------


class Half:
    """With the predict of Stable-Baselines3."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.array([0.0 if deterministic else -1.0]), state


POLICIES = [Half(), lambda observation: [0.0], Plan([[0.0]] * STEPS)]


@pytest.mark.parametrize("policy", POLICIES)
def test_final_policies_are_judged(bench, policy):
    shows = bench(lambda make_env, seed, budget: policy)["policy"]
    assert shows["deterministic"]["accuracy"] == pytest.approx(0.5**0.5, abs=0.01)
    assert shows["sampled"]["episodes"] == 3
    assert 0.0 <= shows["sampled"]["violation_rate"] <= 1.0


def test_a_policy_comes_with_its_wrapper(bench):
    from gymnasium.wrappers import TransformAction

    def wrap(env):
        return TransformAction(env, lambda action: action - 10.0, env.action_space)

    row = bench(lambda make_env, seed, budget: (lambda observation: [10.0], wrap))
    assert row["policy"]["deterministic"]["accuracy"] == pytest.approx(0.5**0.5, abs=0.01)


class Searching(Wrapper):
    """Plays as many episodes as it likes in each reset."""

    def reset(self, **given):
        for _ in range(5):
            self.env.reset()
            for _ in range(STEPS):
                self.env.step(self.action_space.sample())
        return self.env.reset(**given)


class Peeking(Wrapper):
    """Looks at the costs of one decision before it decides."""

    def reset(self, **given):
        self.env.reset()
        self.env.step(self.action_space.sample())
        return self.env.reset(**given)


@pytest.mark.parametrize("wrap", [Searching, Peeking])
@pytest.mark.parametrize("task", ["toy-10", "toy-policy"])
def test_a_final_policy_plays_no_further_episodes(bench, wrap, task):
    with pytest.raises(BenchmarkError, match="the final policy is judged by one episode at a time"):
        bench(lambda make_env, seed, budget: (POLICIES[1], wrap), task)


def test_a_final_policy_judges_nothing(bench):
    def train(make_env, seed, budget):
        def policy(observation):
            make_env.judge([[0.0]] * STEPS)

        return policy

    with pytest.raises(BenchmarkError, match="of a training that has ended"):
        bench(train)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (7, "train returned 7; it must return None, an object with predict"),
        (Half, "train returned <class .*Half'>; it must return None"),
        (lambda observation: [np.nan], r"action is array\(\[nan\].*must be finite numbers"),
        (lambda observation: "left", "the policy gave the action 'left'; it must be one of Box"),
        (lambda observation: [0.0, 0.0], "the policy gave the action"),
        ((POLICIES[1], lambda env: None), r"wrap\(env\) gave None; it must give an environment"),
    ],
)
def test_what_is_no_policy_is_named(bench, returned, words):
    with pytest.raises(InvalidValueError, match=words):
        bench(lambda make_env, seed, budget: returned)


def test_a_predict_gets_what_it_takes(bench):
    class Bare:
        def predict(self, observation):
            return [0.0], None

    shows = bench(lambda make_env, seed, budget: Bare())["policy"]
    assert shows["deterministic"]["accuracy"] == pytest.approx(0.5**0.5, abs=0.01)


def test_a_predict_of_another_form_is_named(bench):
    class Odd:
        def predict(self, observation, **_):
            return 0.5

    with pytest.raises(BenchmarkError, match=r"predict gave 0.5; it must give a pair"):
        bench(lambda make_env, seed, budget: Odd())


def test_tasks_that_score_the_policy(bench):
    row = bench(lambda make_env, seed, budget: POLICIES[1], "toy-policy")
    assert (row["curve"], row["evaluations"]) == ([], 0)
    with pytest.raises(BenchmarkError, match=r"scores the final policy.*ended by EvaluationsSpent"):
        bench(forever, "toy-policy", name="forever")
    with pytest.raises(BenchmarkError, match=r"train returned None\. Return a policy"):
        bench(lambda make_env, seed, budget: None, "toy-policy", name="none")


def test_agents_of_the_zoo_are_entries(bench):
    row = bench("ppo_lag", name=None)
    assert (row["algorithm"], row["evaluations"]) == ("ppo_lag", BUDGET)
    assert row["policy"]["sampled"]["episodes"] == 3


# -- rows ------------------------------------------------------------------------------------------


def test_finished_rows_are_not_run_again(bench, suite, tmp_path):
    first = bench(forever)
    said: list[str] = []

    assert bench(forever, report=said.append) == first
    assert said == ["1 of 1 runs are there already."]
    rows = agents.benchmark(
        forever, suite=suite, tasks="toy-10", out=tmp_path / "rows", name="mine", jobs=2
    )
    assert [row["seed"] for row in rows] == [0, 1, 2]


CHANGES = [
    ({"protocol": "toy-v2"}, "protocol is 'toy-v2'; it must be 'toy-v1'"),
    ({"suite_hash": "00"}, "suite_hash is '00'; it must be .*Its tasks are others"),
    ({"budget": 100_000}, "budget is 100000"),
    ({"evaluations": 100_000}, "evaluations is 100000; it must be .* at most 20"),
    ({"seed": 77}, "seed is 77; it must be one of toy-10, 0 to 2"),
    ({"best": None}, "best is None"),
    ({"algorithm": "other"}, "holds the row of other/toy-10/0.json"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_rows_that_break_the_protocol_are_refused(bench, suite, tmp_path, change, words):
    bench(forever)
    path = tmp_path / "rows/mine/toy-10/0.json"
    assert read_row(path, suite)["algorithm"] == "mine"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BenchmarkError, match=words):
        read_row(path, suite)


def test_a_folder_with_rows_of_another_suite_is_refused(bench, tmp_path):
    bench(forever)
    path = tmp_path / "rows/mine/toy-10/0.json"
    path.write_text(path.read_text().replace("toy-v1", "toy-v2"))
    with pytest.raises(BenchmarkError, match=r"out: .*protocol is 'toy-v2'; .*another --out"):
        bench(forever, seeds=1)


def test_rows_of_other_code_are_not_taken_for_ones_own(bench):
    def other(make_env, seed, budget):
        return None

    row = bench(forever)
    assert row["code"]["train"].endswith("test_benchmark:forever")
    assert len(row["code"]["sha256"]) == 16
    with pytest.raises(BenchmarkError, match=r"out: .*is of other code \(.*forever, .*--name or"):
        bench(other)
    bench(other, name="other")


def test_what_is_published_is_never_overwritten(bench):
    from agents.benchmark.suite import DATA

    with pytest.raises(BenchmarkError, match="which is never overwritten; choose another folder"):
        bench(forever, out=DATA / "rows")


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tasks": "toy-1"}, "tasks: 'toy-1' is no task of toy-v1. Did you mean 'toy-10'"),
        ({"seeds": 3}, "seeds: 3 is none of task 'toy-10', which has 0 to 2"),
        ({"seeds": "0-4"}, r"seeds is '0-4'; it must be whole numbers, such as 3 or range\(5\)"),
        ({"seeds": 1.0}, "seeds is 1.0; it must be whole numbers"),
        (
            {"seeds": []},
            r"seeds is \[\]; it must be whole numbers, .*leave it out for all of a task",
        ),
        ({"tasks": []}, r"tasks is \[\]; it must be names of tasks, categories or patterns"),
        ({"tasks": 7}, "tasks is 7; it must be names of tasks, categories or patterns"),
        ({"out": 7}, "out is 7; it must be a folder"),
        ({"suite": 7}, "suite is 7; it must be a name, or a JSON file"),
        ({"train": lambda a, b, c: None, "jobs": 2}, "jobs is 2, but train is .*module:function"),
        ({"train": "mine.py:train"}, "'mine.py' cannot be imported .*Leave out '.py': mine:train"),
        ({"name": "../x"}, "name is '../x'; it must be letters"),
        ({"jobs": 0}, "jobs is 0; it must be at least 1"),
        ({"suite": "prunebench-v9"}, "suite is 'prunebench-v9'; it must be one of prunebench-v1"),
        ({"train": "ppo_lga"}, "algorithm is 'ppo_lga'; .* Did you mean 'ppo_lag'"),
        ({"train": "nothing_here:train"}, "module 'nothing_here' cannot be imported"),
        ({"train": "json:dmps"}, "'json' has no 'dmps'. Did you mean json:dumps"),
        ({"train": "json:decoder"}, r"it must be a function train\(make_env, seed, budget\)"),
        ({"train": lambda env: None}, r"train takes \(env\); it must be a function"),
    ],
)
def test_what_there_is_not_is_named(suite, tmp_path, arguments, words):
    given = {"suite": suite, "tasks": "toy-10", "out": tmp_path / "rows", **arguments}
    train = given.pop("train", forever)
    with pytest.raises((BenchmarkError, InvalidValueError, UnknownNameError), match=words):
        agents.benchmark(train, **given)


def test_a_module_that_raises_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "leaving_entry.py").write_text("raise SystemExit(3)")
    (tmp_path / "broken_entry.py").write_text("raise RuntimeError('no\\nway')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BenchmarkError, match=r"cannot be imported \(RuntimeError: no\)") as caught:
        imported("broken_entry:train")
    with pytest.raises(BenchmarkError, match=r"cannot be imported \(SystemExit: 3\)"):
        imported("leaving_entry:train")
    assert "\n" not in str(caught.value)


def test_rows_are_named_after_the_module_of_a_train(suite, tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text("def train(make_env, seed, budget): ...\nother = train")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_entry("my_method:train", suite)[0] == "my_method"
    assert find_entry("my_method:other", suite)[0] == "other"
    assert find_entry("my_method:other", suite, "x")[0] == "x"


def test_names_of_the_package_are_taken(bench, suite, tmp_path, monkeypatch):
    words = r"name is 'ppo_lag', that of an algorithm of the package; .* --name ppo_lag-mine"
    with pytest.raises(BenchmarkError, match=words):
        bench(forever, name="ppo_lag")
    with pytest.raises(BenchmarkError, match=words):
        find_entry("a2c_lag", suite, "ppo_lag")
    (tmp_path / "their_entry.py").write_text("def random(make_env, seed, budget): ...")
    monkeypatch.syspath_prepend(tmp_path)
    entries = replace(suite, entries={"random": "their_entry:random"})
    assert find_entry("random", entries)[0] == "random"
    with pytest.raises(BenchmarkError, match=r"name is 'random'"):
        find_entry("their_entry:random", entries)


def test_a_run_says_how_many_parts_have_no_network():
    row = {"best": None, "parts": [{}, None, {}], "score": -0.5, "evaluations": 20, "wall_s": 1.0}
    found = "1 of 3 parts without a network within the limits, score -0.500, 20 evaluations, 1.0 s"
    assert in_words(row) == found
    assert in_words({**row, "parts": [None]}).startswith("nothing within the limits, score")


def test_a_judged_network_knows_its_problem_and_the_task_what_may_be_known(bench, suite, tmp_path):
    found = []

    def train(make_env, seed, budget):
        found.append((make_env.costs_known, make_env.judge(np.zeros((STEPS, 1))).problem))

    own = json.loads((tmp_path / "toy.json").read_text())
    own["tasks"][0]["costs_known"] = True  # says what may be known, and defines nothing
    (tmp_path / "toy.json").write_text(json.dumps(own))
    known = load_suite(tmp_path / "toy.json")
    assert known.hash == suite.hash
    agents.benchmark(train, suite=known, tasks="toy-10", seeds=1, out=tmp_path / "rows", name="x")
    agents.benchmark(train, suite=known, tasks="tune-toy", seeds=100, out=tmp_path / "y", name="y")
    assert found == [(True, None), (False, None)]
    of_package = load_suite()
    for task in [*of_package.tasks.values(), *of_package.tuning_tasks.values()]:
        assert task.costs_known == ("counted_costs" in task.known)


def test_code_without_a_file_and_what_is_bound_to_it_is_told_apart():
    def base(make_env, seed, budget, value=0.0): ...

    one, same, other = (code_of("x:y", partial(base, value=value)) for value in (0.9, 0.9, 0.3))
    assert one == same != other
    cell = "def train(make_env, seed, budget):\n    return {}\n"
    found = []
    for number in range(2):
        lines = cell.format(number)
        linecache.cache["<cell>"] = (len(lines), None, lines.splitlines(True), "<cell>")
        space = {"__name__": "notebook"}
        exec(compile(lines, "<cell>", "exec"), space)
        found.append(code_of("x:y", space["train"])["sha256"])
    assert len({*found, None}) == 3


def test_scores_in_rows_are_computed_again(bench, suite, tmp_path):
    row = bench(forever)
    path = tmp_path / "rows/mine/toy-10/0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "score": 0.99}))
    assert read_row(path, suite) == row


def test_seeds_of_numpy_are_numbers(bench, suite, tmp_path):
    given = {"suite": suite, "tasks": "toy-10", "out": tmp_path / "rows"}
    rows = agents.benchmark(forever, seeds=np.arange(2), name="mine", **given)
    assert [row["seed"] for row in rows] == [0, 1]
    assert bench(forever, seeds=np.int64(1)) == rows[1]


def test_categories_may_hold_commas(tmp_path):
    path = tmp_path / "toy.json"
    tasks = [{**TASK, "category": "live, toy"}, {**TASK, "name": "other", "category": "b"}]
    path.write_text(json.dumps({**CONTENT, "tasks": tasks}), encoding="utf-8")
    suite = load_suite(path)
    assert [one.name for one in suite.choose("live, toy")] == ["toy-10"]
    assert [one.name for one in suite.choose(["live, toy", "b"])] == ["toy-10", "other"]
    assert [one.name for one in suite.choose("b, toy-*")] == ["other", "toy-10"]
    said = CliRunner().invoke(app, ["--list", "--suite", str(path), "--tasks", "live, toy"]).stdout
    assert said.startswith("toy-10: ")


def test_too_many_seeds():
    with pytest.raises(BenchmarkError, match="--seeds '0-9999999': expected at most 100,000 seeds"):
        parse_seeds(["0-9999999"])


@pytest.mark.parametrize("text", ["a", "5-2", "-1", "1.5", ""])
def test_seeds_that_are_none(text):
    with pytest.raises(BenchmarkError, match=f"--seeds '{text}': expected"):
        parse_seeds([text])


# -- suites ----------------------------------------------------------------------------------------


def test_scores_have_a_lower_end():
    reference = Reference(random=0.7, best=0.9, optimum=True)
    assert [reference.score(x) for x in (0.0, 0.7, 0.8, 0.9)] == [-1.0, 0.0, 0.5, 1.0]


def test_the_hash_is_of_what_defines_the_tasks():
    same = {**CONTENT, "tasks": [{**TASK, "title": "x", "references": []}, CONTENT["tasks"][1]]}
    other = {**CONTENT, "tasks": [{**TASK, "evaluations": 21}, CONTENT["tasks"][1]]}
    assert hash_of(same) == hash_of(CONTENT) != hash_of(other)


def test_a_file_that_is_no_suite(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(BenchmarkError, match=r"x.json is no suite of tasks \(KeyError 'protocol'"):
        load_suite(path)


def test_the_command_runs_and_says_so(suite, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def train(make_env, seed, budget):\n"
        "    make_env(num_envs=2)  # before anything else has imported the environment\n"
        "    make_env.judge([[0.0]] * 8)\n"
    )
    words = ["mine:train", "--suite", "toy.json", "--tasks", "toy-10", "--seeds", "0-1"]
    done = subprocess.run(
        [sys.executable, "-m", "agents.benchmark", *words, "--out", "rows"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "2/2 mine toy-10 seed 1: " in done.stdout
    assert "2 rows in rows" in done.stdout


def test_the_command_lists_tasks_with_their_seeds():
    said = CliRunner().invoke(app, ["--list"]).stdout
    assert "table-small-digits-10: VGG on digits" in said
    assert "(exact table; 512 evaluations, seeds 0 to 49)" in said
    assert re.search(r"tune-table-10: .*seeds 10000 to 10019, for tuning\)", said)
    chosen = CliRunner().invoke(app, ["--list", "--tasks", "exact table"]).stdout.splitlines()
    assert len(chosen) == 9
    assert all(line.startswith("table-") for line in chosen)


def test_the_optimum_is_not_handed_to_an_algorithm(bench):
    def look(make_env, seed, budget):
        assert make_env.name == "toy-10"
        shown = {name: getattr(make_env, name) for name in dir(make_env) if name[0] != "_"}
        assert "optimum" not in repr(shown)
        assert not any(hasattr(value, "references") for value in shown.values())

    bench(look, seeds=0)


def test_the_command_shows_errors_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        app(["ppo_lag", "--tasks", "nothing"], prog_name="x")
    error = capsys.readouterr().err
    assert error.startswith("error: tasks: 'nothing' is no task of prunebench-v1.")
    assert error.count("\n") == 1
