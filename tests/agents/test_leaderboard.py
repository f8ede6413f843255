import copy
import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import agents.benchmark.leaderboard as module
import agents.benchmark.leaderboard_files as files_module
from agents.benchmark.leaderboard import BUT_POLICY, Leaderboard, leaderboard
from agents.benchmark.leaderboard_figures import FIGURES, main_ranking
from agents.benchmark.leaderboard_files import pack, published_file, published_rows, read_rows
from agents.benchmark.leaderboard_report import record, show_leaderboard, text
from agents.benchmark.leaderboard_rows import check_row
from agents.benchmark.program import app
from agents.benchmark.suite import DATA, Reference, Suite, Task, load_suite
from agents.files import write_json

SEEDS = 8
OWN_BUDGET = ({"budgets": {"own.module:params": 0.1}},)  # by the name of its function in rows


def make_task(name, category, **changes):
    given = {
        "name": name,
        "title": name.title(),
        "category": category,
        "difficulty": "easy",
        "environment": "Toy-v0",
        "problems": ({"budgets": {"params": 0.1}},),
        "steps": 3,
        "evaluations": 500,
        "seeds": range(SEEDS),
        "references": (Reference(0.5, 0.9, True),),
    }
    return Task(**{**given, **changes})


@pytest.fixture
def suite():
    tasks = [
        make_task("table-a", "table"),
        make_task("table-b", "table", seeds=range(2 * SEEDS), problems=OWN_BUDGET),
        make_task(
            "limits",
            "any limit",
            judged=({"limits": {"params": 0.1}}, {"limits": {"params": 0.2}}),
            references=(Reference(0.5, 0.9, True), Reference(0.6, 0.8, False)),
        ),
        make_task("transfer", "transfer", by_policy=True),
    ]
    tuning = {"tune": make_task("tune", "table", tuning=True)}
    return Suite("bench-v1", {one.name: one for one in tasks}, tuning, {}, {}, (), 20, "0ff")


def make_row(suite, task="table-a", algorithm="mine", seed=0, skill=0.5, policy=True):
    one = {**suite.tasks, **suite.tuning_tasks}[task]
    found = [ref.random + skill * (ref.best - ref.random) for ref in one.references]
    accuracy = sum(found) / len(found)
    network = {"test_accuracy": 0.5, "counts": [4, 3]}
    limits = [part.get("limits", {"params": 0.1}) for part in one.judged]
    parts = [
        {**network, "accuracy": value, "costs": {"params": 0.9 * limit["params"]}, "evaluation": 20}
        for value, limit in zip(found, limits, strict=True)
    ]
    played = {"accuracy": 0.4, "test_accuracy": 0.3}
    final = [{**played, "counts": None, "costs": {"params": 0.5}} for _ in parts]
    shown = {
        "deterministic": {**played, "feasible": False, "parts": final},
        "sampled": {**played, "violation_rate": 0.25, "episodes": 20 * len(parts)},
    }
    return {
        "format": 2,
        "protocol": suite.protocol,
        "suite_hash": suite.hash,
        "task": task,
        "algorithm": algorithm,
        "seed": seed,
        "budget": one.evaluations,
        "evaluations": 500,
        "best": {"accuracy": accuracy, "test_accuracy": 0.5, "evaluation": 20},
        "parts": parts,
        "score": one.score(found),
        "regret": max(0.0, one.best - accuracy) if one.optimum else None,
        "curve": [] if one.by_policy else [[3, *(0.5 * value for value in found)], [20, *found]],
        "infeasible_evaluations": 100,
        "given_up_episodes": 2,
        "cumulative_violation": 3.5,
        "policy": shown if policy else None,
        "wall_s": 2.0,
        "versions": {"python": "3.11"},
        "code": {"train": "mine:train", "sha256": "0ff"},
    }


def make_rows(suite, skills, tasks=None, seed=0):
    rng = np.random.default_rng(seed)
    return [
        make_row(suite, task, name, number, float(np.clip(rng.normal(skill, 0.1), -0.9, 1.0)))
        for name, skill in skills.items()
        for task in tasks or suite.tasks
        for number in suite.tasks[task].seeds
    ]


@pytest.fixture
def write(tmp_path, suite):
    """Write rows as the benchmark does."""

    def write(rows, folder="out"):
        for row in rows:
            path = tmp_path / folder / row["algorithm"] / row["task"] / f"{row['seed']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row))
        return tmp_path / folder

    return write


# -- rows --------------------------------------------------------------------------------------


def test_a_row_says_what_it_holds(suite):
    row = check_row(make_row(suite, skill=0.5), suite, "x.json")
    assert (row.score, row.accuracy, row.regret) == pytest.approx((0.5, 0.7, 0.2))
    assert row.violation_rate == 100 / 498  # of the judged networks
    assert row.policy.violation_rate == 0.25


def test_scores_are_computed_and_not_believed(suite):
    row = check_row({**make_row(suite, skill=0.5), "score": 0.99, "regret": 0.0}, suite, "x")
    assert (row.score, row.regret) == pytest.approx((0.5, 0.2))


def test_a_run_that_found_nothing_counts(suite):
    row = make_row(suite)
    row.update(best=None, parts=[None], score=-1.0, regret=0.9, curve=[])
    checked = check_row(row, suite, "x.json")
    assert (checked.score, checked.accuracy, checked.regret) == (-1.0, None, 0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, r"format is 1; it must be 2, that of rows of this version of the package"),
        ({"protocol": "bench-v0"}, r"x.json: protocol is 'bench-v0'; it must be 'bench-v1'. Run"),
        ({"suite_hash": "abc"}, r"suite_hash is 'abc'; it must be '0ff', .* Its tasks are others"),
        ({"evaluations": 100_000}, r"evaluations is 100000; .* at most 500, the budget of table-a"),
        ({"budget": 100_000}, r"budget is 100000; it must be 500, the evaluations of table-a"),
        ({"evaluations": 10.5}, r"evaluations is 10.5; it must be a whole number"),
        ({"evaluations": True}, r"evaluations is True; it must be a whole number"),
        ({"algorithm": "a b"}, r"algorithm is 'a b'; it must be letters, digits and .*--name"),
        ({"task": "table-c"}, r"task is 'table-c'; it must be one of .* Did you mean 'table-"),
        ({"seed": 99}, r"seed is 99; it must be one of table-a, 0 to 7. Other seeds are for tun"),
        ({"score": float("nan")}, r"score is nan; it must be a number that is finite"),
        ({"regret": "none"}, r"regret is 'none'; it must be a number that is finite"),
        ({"infeasible_evaluations": 501}, r"infeasible_evaluations is 501; .* at most 500"),
        ({"infeasible_evaluations": 497}, r"infeasible_evaluations is 497; .* at most 496, as the"),
        ({"infeasible_evaluations": 0}, r"cumulative_violation is 3.5; it must be above 0 where"),
        ({"cumulative_violation": 0.0}, r"cumulative_violation is 0.0; it must be above 0 where"),
        ({"cumulative_violation": -1.0}, r"cumulative_violation is -1.0; .* at least 0"),
        ({"curve": [[20, 0.7], [3, 0.7]]}, r"curve is .*\[3, 0.7\] does not follow \[20, 0.7\]"),
        ({"curve": [[3, 0.7], [600, 0.7]]}, r"curve is .*\[600, 0.7\] does not follow"),
        (
            {"curve": [[3, 0.4]]},
            r"curve is \[\[3, 0.4\]\]; .* ends at parts\[0\], accuracy 0.7 at evaluation 20",
        ),
        ({"curve": [[1, 0.7]]}, r"curve is .*ends at parts\[0\], accuracy 0.7 at evaluation 20"),
        ({"curve": [[20, 0.7, 0.7]]}, r"curve is .*\[20, 0.7, 0.7\] does not follow"),
        ({"best": None}, r"best is None; it must be null where a part has no network"),
        ({"parts": []}, r"parts is \[\]; it must be a list of 1, one for each part of table-a"),
        ({"policy": {"deterministic": {}}}, r"policy.sampled is missing; every row has it"),
        ({"policy": {"deterministic": {}, "sampled": None}}, r"policy.sampled is None; .* an obj"),
        ({"wall_s": None}, r"wall_s is None; it must be a number of at least 0"),
        ({"versions": []}, r"versions is \[\]; it must be an object"),
        ({"versions": {}}, r"versions.python is missing"),
        ({"code": {"train": 7}}, r"code.train is 7; it must be a text"),
    ],
)
def test_what_is_not_possible_is_refused_in_one_line(suite, changes, message):
    row = {**make_row(suite), **changes}
    with pytest.raises(ValueError, match=message) as caught:
        check_row(row, suite, "x.json")
    assert "\n" not in str(caught.value)


def test_every_field_has_to_be_there(suite):
    row = make_row(suite)
    for key in row:
        rest = {name: value for name, value in row.items() if name != key}
        with pytest.raises(ValueError, match=rf"x.json: {key} is missing; every row has it. Rows"):
            check_row(rest, suite, "x.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("accuracy", 0.95, r"parts\[0\].accuracy is 0.95; it must be at most 0.9, the optimum of"),
        ("evaluation", 501, r"parts\[0\].evaluation is 501; .* at most 500"),
        ("costs", {}, r"parts\[0\].costs.params is missing; every row has it"),
        (
            "costs",
            {"params": 0.2},
            r"costs is {'params': 0.2}; .* within params 0.1, the limits of",
        ),
        ("costs", {"params": -5.0}, r"parts\[0\].costs.params is -5.0; .* at least 0"),
        ("counts", "all", r"parts\[0\].counts is 'all'; it must be the kept filters of each group"),
    ],
)
def test_networks_have_to_be_possible(suite, key, value, message):
    row = copy.deepcopy(make_row(suite))
    row["parts"][0][key] = value
    with pytest.raises(ValueError, match=message):
        check_row(row, suite, "x.json")


def test_limits_hold_for_budgets_of_a_module_too(suite):
    row = copy.deepcopy(make_row(suite, "table-b"))
    row["parts"][0]["costs"] = {"params": 0.2}
    with pytest.raises(ValueError, match=r"costs is {'params': 0.2}; .*the limits of table-b"):
        check_row(row, suite, "x.json")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "deterministic",
            {"feasible": True},
            r"policy.deterministic.feasible is True; .* as the c",
        ),
        ("deterministic", {"accuracy": 1.0}, r"accuracy is 1.0; it must be 0.4, the mean of its"),
        ("deterministic", {"parts": []}, r"policy.deterministic.parts is \[\]; .* a list of 1"),
        (
            "deterministic",
            {"parts": [None]},
            r"deterministic.parts is \[None\]; it must be objects",
        ),
        ("sampled", {"episodes": 1}, r"policy.sampled.episodes is 1; it must be 20, 20 for each"),
        ("sampled", {"violation_rate": 0.33}, r"violation_rate is 0.33; .* a share of 20 episodes"),
    ],
)
def test_policies_have_to_be_possible(suite, kind, change, message):
    row = copy.deepcopy(make_row(suite))
    row["policy"][kind].update(change)
    with pytest.raises(ValueError, match=message):
        check_row(row, suite, "x.json")


def test_a_task_of_policies_has_one_in_its_rows(suite):
    with pytest.raises(ValueError, match=r"policy is None; .* an object: transfer scores the fin"):
        check_row(make_row(suite, "transfer", policy=False), suite, "x.json")


def test_a_network_may_break_the_limit_of_its_episode_and_be_within_that_of_a_part(suite):
    row = make_row(suite, "limits")
    row["infeasible_evaluations"] = row["evaluations"] - row["given_up_episodes"]
    assert check_row(row, suite, "x.json").score == pytest.approx(0.5)


# -- files -------------------------------------------------------------------------------------


def test_folders_and_packed_files_hold_the_same(suite, write, tmp_path):
    rows = make_rows(suite, {"one": 0.3, "two": 0.7})
    rows[0].update(best=None, parts=[None], score=-1.0, regret=0.9, curve=[], policy=None)
    folder = write(rows)
    write([make_row(suite, "tune")])
    packed = pack([folder], tmp_path / "rows.jsonl.gz", suite)
    again = pack([packed], tmp_path / "again.jsonl.gz", suite)
    assert packed.read_bytes() == again.read_bytes()

    def values(found):
        return {
            (row.algorithm, row.task, row.seed): (row.score, row.regret, row.curve, row.policy)
            for row in found
        }

    one, other = values(read_rows([folder], suite)), values(read_rows([packed], suite))
    assert one.keys() == other.keys()
    for key in one:
        assert one[key][0] == pytest.approx(other[key][0], abs=1e-6)
        assert one[key][3] == other[key][3]
    assert packed.stat().st_size < 100 * len(rows)


def test_packed_files_are_not_replaced(suite, write, tmp_path):
    folder = write([make_row(suite)])
    path = pack([folder], tmp_path / "rows.jsonl.gz", suite)
    with pytest.raises(ValueError, match=r"rows.jsonl.gz is there already; rows are never overwr"):
        pack([folder], path, suite)
    with pytest.raises(ValueError, match=r"rows.json is no name of a packed file; give NAME.jso"):
        pack([folder], tmp_path / "rows.json", suite)


def test_a_seed_counts_once(suite, write):
    folder = write([make_row(suite)])
    write([make_row(suite)], "again")
    with pytest.raises(ValueError, match=r"seed 0 of mine on table-a is in .* too; a seed counts"):
        read_rows([folder, folder.parent / "again"], suite)


def test_rows_for_tuning_are_left_out(suite, write):
    folder = write([make_row(suite), make_row(suite, "tune")])
    assert [row.task for row in read_rows([folder], suite)] == ["table-a"]


def test_the_files_of_a_leaderboard_are_no_rows(suite, write, tmp_path):
    folder = write(make_rows(suite, {"one": 0.5, "two": 0.5}))
    write_json(folder / "leaderboard.json", record(leaderboard([folder], suite=suite, reps=20)))
    assert len(read_rows([folder], suite)) == 2 * 5 * SEEDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"0.json is not JSON"),
        (b"[]", r"0.json holds no keys"),
        (None, r"out holds no rows, which are files ALGORITHM/TASK/SEED.json"),
    ],
)
def test_bad_files_are_named(suite, tmp_path, content, message):
    folder = tmp_path / "out"
    folder.mkdir()
    if content is not None:
        (folder / "0.json").write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message):
        read_rows([folder], suite)


def test_bad_places_are_named(suite, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not there. Pass the folder"):
        read_rows([tmp_path / "nowhere"], suite)
    with pytest.raises(ValueError, match=r"it must be a list of folders: \['runs'\]"):
        read_rows("runs", suite)
    broken = tmp_path / "x.jsonl.gz"
    broken.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"x.jsonl.gz is no packed file of rows \(Not a gzip"):
        read_rows([broken], suite)


# -- rankings ----------------------------------------------------------------------------------


@pytest.fixture
def board(suite):
    rows = make_rows(suite, {"best": 0.9, "good": 0.5, "twin": 0.5})
    rows += make_rows(suite, {"searcher": 0.7}, ["table-a", "table-b", "limits"])
    rows += make_rows(suite, {"half": 0.7}, ["table-a"])[:-1]
    checked = [check_row(row, suite, "x") for row in rows]
    return Leaderboard.of(checked, suite, added=["half"], reps=200)


def test_the_better_is_ranked_higher_and_equals_are_not(board):
    ranking = board["all tasks"]
    ranks = {one.algorithm: one.ranks for one in ranking.standings}
    assert ranks == {
        "best": (1, 1),
        "good": (2, 3),
        "twin": (2, 3),
        "searcher": None,
        "half": None,
    }
    assert [set(pair) for pair in ranking.unranked_pairs] == [{"good", "twin"}]
    assert "1 of 3 pairs cannot be ranked: " in text(board)


def test_algorithms_without_a_policy_are_ranked_where_none_is_needed(board):
    assert board[BUT_POLICY].ranked[:2] == ("best", "searcher")
    assert board["transfer"].ranked[0] == "best"
    words = "Incomplete, and therefore not ranked: half (33 runs missing), searcher (8 runs miss"
    assert words in text(board)


def test_missing_seeds_and_tasks_are_said_and_not_ranked(board):
    (half,) = [one for one in board["table-a"].standings if one.ranks is None]
    assert (half.algorithm, half.runs, half.missing) == ("half", SEEDS - 1, 1)
    assert half.score is not None
    (over_all,) = [one for one in board["all tasks"].standings if one.algorithm == "half"]
    assert over_all.score is None


def test_numbers_are_means_over_tasks(board):
    best = board["table"].standings[0]
    assert best.score.value == pytest.approx(0.9, abs=0.06)
    assert best.score.low < best.score.value < best.score.high
    assert best.regret == pytest.approx(0.4 * 0.1, abs=0.03)
    assert best.violation_rate == pytest.approx(100 / 498)
    assert best.final_violation_rate == pytest.approx(0.25)
    assert best.final_infeasible == 1.0
    assert board["limits"].standings[0].regret is None


def test_curves_and_profiles_end_where_they_should(board):
    curves = board.curves(board["table"])
    assert (np.diff(curves["best"][0]) >= 0.0).all()
    assert curves["best"][0, -1] == pytest.approx(board["table"].standings[0].score.value)
    profiles = board.profiles(board["table"], np.array([-1.0, 2.0]))
    assert profiles["good"][0].tolist() == pytest.approx([1.0, 0.0])
    assert board.curves(board["transfer"]) == {}
    several = board["limits"]  # of which each has its own scale
    scores = {one.algorithm: one.score.value for one in several.standings}
    for name, curve in board.curves(several).items():
        assert curve[0, -1] == pytest.approx(scores[name])


def test_a_seed_makes_it_repeatable(suite):
    rows = [check_row(row, suite, "x") for row in make_rows(suite, {"a": 0.5, "b": 0.6})]
    first, again = (Leaderboard.of(rows, suite, reps=50, seed=1) for _ in range(2))
    other = Leaderboard.of(rows, suite, reps=50, seed=2)
    assert first.rankings == again.rankings != other.rankings


def test_what_is_detectable_stands_below_every_table(board):
    words = text(board)
    assert words.count("Detectable") == len({one.tasks for one in board.rankings})
    assert "Detectable, 80 times of 100 among 3 pairs: a probability of 0." in words


def test_what_is_detectable_is_told_for_runs_that_differ(suite):
    same = [{**row, "algorithm": name} for row in make_rows(suite, {"a": 0.5}) for name in "abc"]
    for row in same:
        if row["algorithm"] != "a":  # as of a search that draws nothing
            row.update(make_row(suite, row["task"], row["algorithm"], row["seed"]))
    board = Leaderboard.of([check_row(row, suite, "x") for row in same], suite, reps=20)
    assert 0.02 < board["table-b"].detectable.score < 0.5


def test_nothing_but_one_algorithm_is_not_tested(suite):
    rows = [check_row(row, suite, "x") for row in make_rows(suite, {"only": 0.5})]
    words = text(Leaderboard.of(rows, suite, reps=20))
    assert "cannot be ranked" not in words
    assert "Detectable" not in words


def test_tasks_are_chosen_by_name_category_and_pattern(suite):
    rows = [check_row(row, suite, "x") for row in make_rows(suite, {"one": 0.5})]

    def names(tasks):
        return [one.name for one in Leaderboard.of(rows, suite, tasks=tasks, reps=20).rankings]

    assert names(["table"]) == ["table", "table-a", "table-b"]
    assert names("limits") == ["any limit", "limits"]
    assert names("table-a,limits")[1:] == ["table", "any limit", "table-a", "limits"]
    assert names(["table-*"]) == ["table", "table-a", "table-b"]
    with pytest.raises(ValueError, match="'tabel' is no task of bench-v1"):
        names(["tabel"])
    with pytest.raises(ValueError, match="the leaderboard has no tasks for tuning"):
        names(["tune"])
    with pytest.raises(
        ValueError, match="tasks is 7; it must be names of tasks, categories or pat"
    ):
        names(7)


def test_bad_names_and_numbers(board, suite):
    with pytest.raises(ValueError, match="there is no ranking 'x'; there are all tasks, "):
        board["x"]
    with pytest.raises(ValueError, match="reps is 3; it must be at least 20"):
        Leaderboard.of([], suite, reps=3)


def test_the_optimum_is_the_end_of_the_scale_and_not_ranked(suite):
    rows = make_rows(suite, {"optimum": 1.0, "good": 0.5, "bad": 0.1}, ["table-a"])
    board = Leaderboard.of([check_row(row, suite, "x") for row in rows], suite, reps=20)
    ranking = board["table-a"]
    assert ranking.ranked == ("good", "bad")
    assert len(ranking.pairs) == 1
    assert "| scale" in text(board)
    assert "Incomplete" not in text(board, with_tasks=True).split("## table-a")[-1]


def test_a_category_of_one_task_has_one_table(suite):
    rows = [check_row(row, suite, "x") for row in make_rows(suite, {"one": 0.5})]
    words = text(Leaderboard.of(rows, suite, tasks=["table-a"], reps=20))
    assert words.count("IQM of scores") == 1


def test_tasks_without_reference_values_have_no_scores(suite):
    bare = make_task("bare", "table", references=())
    without = Suite("bench-v1", {"bare": bare}, {}, {}, {}, (), 20, "0ff")
    with pytest.raises(ValueError, match="bench-v1 has no reference values for bare"):
        Leaderboard.of([], without)


def test_tasks_without_reference_values_are_left_out_and_named(suite):
    tasks = {**suite.tasks, "bare": make_task("bare", "live", references=())}
    wider = Suite("bench-v1", tasks, {}, {}, {}, (), 20, "0ff")
    rows = [check_row(row, wider, "x") for row in make_rows(suite, {"one": 0.5})]
    board = Leaderboard.of(rows, wider, reps=20)
    assert board.without_score == ("bare",)
    assert "Without reference values yet, and therefore not here: bare." in text(board)
    assert "## all tasks (4 of 5 tasks)" in text(board)


def test_a_part_of_a_category_says_of_how_many(suite):
    rows = [check_row(row, suite, "x") for row in make_rows(suite, {"one": 0.5})]
    part = text(Leaderboard.of(rows, suite, tasks="table-a", reps=20))
    assert "## table (1 of 2 tasks)" in part
    assert "## table (2 tasks)" in text(Leaderboard.of(rows, suite, reps=20))


def test_a_submission_holds_rows_of_the_tasks_that_were_named(suite, write, tmp_path):
    folder, said = write(make_rows(suite, {"a": 0.2, "b": 0.9})), []
    packed = tmp_path / "mine.jsonl.gz"
    given = {"suite": suite, "tasks": ["limits"], "reps": 20, "packed": packed}
    show_leaderboard([folder], **given, say=said.append)
    rows = read_rows([packed], suite)
    assert {(row.algorithm, row.task) for row in rows} == {("a", "limits"), ("b", "limits")}
    assert said[-1] == f"wrote {packed}, rows of a, b"


def test_without_rows_there_is_no_leaderboard(suite):
    with pytest.raises(ValueError, match="there are no rows of table-a, table-b, limits and 1 mo"):
        leaderboard(suite=suite)


def test_one_name_stands_for_one_code(suite, write):
    rows = make_rows(suite, {"mine": 0.5}, ["table-a"])
    first = write(rows[:4], "first")
    second = write(
        [{**row, "code": {"train": "other:train", "sha256": "1"}} for row in rows[4:]], "b"
    )
    with pytest.raises(
        ValueError, match=r"b.*code is .*other:train.*; one name stands for one algo"
    ):
        leaderboard([first, second], suite=suite)


def test_published_algorithms_are_never_replaced(suite, write, monkeypatch, tmp_path):
    rows = make_rows(suite, {"published": 0.5}, ["table-a"])
    published = [check_row(row, suite, "x") for row in rows]
    monkeypatch.setattr(module, "published_rows", lambda suite: published)
    folder = write(make_rows(suite, {"published": 0.9}, ["table-a"]))
    with pytest.raises(ValueError, match=r"0.json: algorithm is 'published', a published one"):
        leaderboard([folder], suite=suite)
    alone = leaderboard([folder], suite=suite, published=False)
    assert alone.added == ("published",)
    monkeypatch.setattr(files_module, "published_rows", lambda suite: published)
    with pytest.raises(ValueError, match=r"'published', a published one, .* under another name\."):
        pack([folder], tmp_path / "mine.jsonl.gz", suite)
    board = leaderboard([write(make_rows(suite, {"mine": 0.9}), "mine")], suite=suite, reps=20)
    assert board["table-a"].ranked == ("mine", "published")
    assert board.added == ("mine",)


# -- what is printed, written and drawn --------------------------------------------------------


def test_everything_is_written(suite, write, tmp_path):
    said = []
    folder = write(make_rows(suite, {"a": 0.2, "b": 0.9, "c": 0.5}))
    out = tmp_path / "board"
    packed = tmp_path / "mine.jsonl.gz"
    given = {"suite": suite, "reps": 50, "out": out, "packed": packed, "say": said.append}
    board = show_leaderboard([folder], **given)
    assert len(read_rows([packed], suite)) == len(board.rows)
    files = list(out.iterdir())
    assert board["all tasks"].ranked == ("b", "c", "a")
    assert {path.name for path in files if path.suffix == ".png"} == {
        f"leaderboard_{name}.png" for name in FIGURES
    }
    with (out / "leaderboard.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["algorithm"] for line in lines[:3]] == ["b", "c", "a"]
    kept = json.loads((out / "leaderboard.json").read_text(), parse_constant=pytest.fail)
    assert kept["rankings"][0]["standings"][0]["rank_high"] == 1
    assert kept["rankings"][0]["pairs"][0]["p_holm"] < 0.05
    assert said[0].startswith("bench-v1 (0ff), 120 runs.")
    assert "## table-a" not in said[0]
    assert "## table-a: Table-A" in (out / "leaderboard.md").read_text()
    assert f"wrote {out / 'leaderboard_curves.png'}" in said


def test_figures_are_of_the_most_tasks_that_an_added_algorithm_is_ranked_on(suite):
    rows = [
        *make_rows(suite, {"one": 0.5, "other": 0.2}),
        *make_rows(suite, {"mine": 0.9}, ["table-a", "table-b"]),
    ]
    scored = [check_row(row, suite, "x") for row in rows]
    assert main_ranking(Leaderboard.of(scored, suite, reps=20)).name == "all tasks"
    board = Leaderboard.of(scored, suite, added=("mine",), reps=20)
    assert main_ranking(board).name == "table"


def test_the_folder_of_the_package_is_not_written(suite, write):
    folder = write(make_rows(suite, {"a": 0.2}))
    with pytest.raises(ValueError, match="holds what is published, which is never overwritten"):
        show_leaderboard([folder], suite=suite, out=DATA / "x", say=lambda words: None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--leaderboard", "random"], "--leaderboard runs nothing, but 'random' was given; run it"),
        (["--add", "rows", "random"], "--add and --pack are for the leaderboard: say --leaderboa"),
        (["--tasks", "table-*"], "no algorithm was given; say module:function or a name, or --le"),
        (["--leaderboard", "--pack", "x.jsonl.gz"], "x.jsonl.gz would hold no rows; add some"),
        (
            ["--leaderboard", "--jobs", "2"],
            "--leaderboard runs nothing, so that --jobs says nothing",
        ),
        (["--leaderboard", "--seeds", "0"], "runs nothing, so that --seeds says nothing there."),
        (["--leaderboard", "--tasks", "nothing"], "'nothing' is no task of prunebench-v1."),
        (["--leaderboard", "--add", "nowhere"], "nowhere is not there. Pass the folder that the"),
    ],
)
def test_the_command_says_what_cannot_be(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_many_algorithms_still_fit_and_added_ones_have_a_colour(suite):
    rows = make_rows(suite, {f"algorithm_{index:02}": index / 12 for index in range(12)})
    checked = [check_row(row, suite, "x") for row in rows]
    board = Leaderboard.of(checked, suite, added=["algorithm_00"], reps=20)
    figure = FIGURES["curves"](board)
    labels = [words.get_text() for words in figure.legends[0].get_texts()]
    assert "algorithm_00" in labels
    assert labels[-1] == "5 others"
    assert [panel.get_title() for panel in figure.axes if panel.get_visible()] == [
        "all tasks",
        BUT_POLICY,
        "table",
        "any limit",
    ]


def test_the_rows_of_the_package_are_possible_and_small():
    suite = load_suite()
    assert published_file(suite).stat().st_size < 1_500_000
    algorithms = {row.algorithm for row in published_rows(suite)}
    assert algorithms >= {"random", "uniform", "cem", "evolution", "cmaes", "ppo_lag"}
