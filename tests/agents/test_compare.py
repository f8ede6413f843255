import csv
import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("rliable")

from typer.testing import CliRunner

from agents.compare import app, compare, compare_scores
from agents.comparison.report import plot_intervals, plot_return_cost, save, table
from agents.comparison.statistics import interquartile_mean, probability_of_improvement


@pytest.fixture
def write(tmp_path):
    """Write the folder of a run; keywords change its configuration or its result."""

    def write(algo="ppo_lag", seed=0, best=0.8, *, final=(0.7, 0.2, 0.0), limit=0.3, **changes):
        episode_return, cost, violation_rate = final
        folder = tmp_path / "runs" / f"{len(list(tmp_path.glob('runs/*')))}_{algo}_{seed}"
        folder.mkdir(parents=True)
        config = {"algo": algo, "env": "Toy-v0", "seed": seed, "timesteps": 1000}
        result = {
            "final": {
                "return_mean": episode_return,
                "cost_mean": cost,
                "cost_limit": limit,
                "cost_ratio": cost / limit,
                "violation_rate": violation_rate,
                "mean_excess": max(0.0, cost - limit),
                "episodes": 20,
            },
            "best_feasible_return": best,
            "episodes_to_first_feasible": None if best is None else 10 + seed,
            "episodes": 125,
            "violations": 30,
            "wall_s": 60.0,
        }
        for data in (config, result):
            data.update({key: value for key, value in changes.items() if key in data})
        for key in {"env_kwargs", "overrides"} & changes.keys():
            config[key] = changes[key]
        for name, data in (("config", config), ("result", result)):
            (folder / f"{name}.json").write_text(json.dumps(data))
        return folder

    return write


def by_algorithm(comparison, task=None):
    rows = [row for row in comparison.rows if task in (None, row.task)]
    return {row.algorithm: row for row in rows}


# -- statistics --------------------------------------------------------------------------------


def test_interquartile_mean_drops_a_quarter_at_either_end():
    scores = np.array([-100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])[:, None]
    assert interquartile_mean(scores).value == 3.5


def test_interquartile_mean_of_one_run_has_no_width():
    assert interquartile_mean(np.array([[0.4]])) == (0.4, 0.4, 0.4)


@pytest.mark.parametrize("shape", [(4, 1), (5, 1), (7, 3), (10, 2)])
def test_bootstrap_samples_are_scored_as_rliable_scores_them(shape):
    from rliable import metrics

    scores = np.random.default_rng(0).normal(size=shape)
    estimate = interquartile_mean(scores, reps=200, seed=5)
    rows = np.random.default_rng(5).integers(shape[0], size=(200, *shape))
    samples = [metrics.aggregate_iqm(np.take_along_axis(scores, row, axis=0)) for row in rows]
    np.testing.assert_allclose(estimate[1:], np.quantile(samples, [0.025, 0.975]))
    assert estimate.low < estimate.value < estimate.high


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        estimate = interquartile_mean(rng.normal(size=(30, 1)), reps=300, seed=seed)
        hits += estimate.low <= 0.0 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.99


def test_tasks_are_resampled_by_themselves():
    # One task varies, the other does not: no sample may mix their scores.
    scores = np.column_stack([np.full(6, 10.0), np.arange(6.0)])
    estimate = interquartile_mean(scores)
    assert estimate.low > 3.0


@pytest.mark.parametrize(
    ("scores", "others", "probability"),
    [
        ([2.0, 3.0], [0.0, 1.0, 1.0], 1.0),
        ([0.0, 1.0], [2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.0, 2.0], (0.5 + 1.0 + 0.5 + 0.5) / 6),
        ([1.0, 1.0, 1.0], [1.0, 1.0], 0.5),
    ],
)
def test_probability_of_improvement_counts_pairs(scores, others, probability):
    one, other = np.array(scores)[:, None], np.array(others)[:, None]
    estimate = probability_of_improvement(one, other)
    assert estimate.value == pytest.approx(probability)
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
    back = probability_of_improvement(other, one)
    assert back.value == pytest.approx(1.0 - probability)


def test_probability_of_improvement_counts_tasks_alike():
    one, other = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert probability_of_improvement(one, other) == (0.5, 0.5, 0.5)


def test_seed_makes_intervals_repeatable():
    scores = {"a": np.random.default_rng(0).random(6), "b": np.random.default_rng(1).random(4)}
    np.random.seed(3)  # noqa: NPY002 - the global generator must not matter, nor be touched
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = compare_scores(scores, seed=1)
    np.random.seed(4)  # noqa: NPY002
    second, third = (compare_scores(scores, seed=seed) for seed in (1, 2))
    assert first == second
    assert first.rows != third.rows
    np.random.seed(3)  # noqa: NPY002
    compare_scores(scores)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_other_algorithms_do_not_move_an_interval():
    alone = compare_scores({"a": [1.0, 2.0, 4.0]})
    together = compare_scores({"b": [0.0, 1.0], "a": [1.0, 2.0, 4.0]})
    assert by_algorithm(alone)["a"] == by_algorithm(together)["a"]


# -- scores by hand ----------------------------------------------------------------------------


def test_rows_come_best_first_with_any_number_of_seeds():
    comparison = compare_scores({"low": [1.0, 2.0, 3.0], "high": [5.0], "middle": [3.0, 3.0]})
    assert [(row.algorithm, row.seeds) for row in comparison.rows] == [
        ("high", 1),
        ("middle", 2),
        ("low", 3),
    ]
    assert by_algorithm(comparison)["low"].median == 2.0


def test_several_tasks_are_reported_alone_and_together():
    comparison = compare_scores(
        {"a": [[1.0, 4.0], [3.0, 4.0]], "b": [[0.0, 9.0]]}, tasks=["easy", "hard"]
    )
    assert by_algorithm(comparison, "easy")["a"].score.value == 2.0
    assert by_algorithm(comparison, "hard")["b"].score.value == 9.0
    assert by_algorithm(comparison, "all tasks")["a"].score.value == 3.5
    chances = {(one.task, one.algorithm): one.probability for one in comparison.improvements}
    assert chances["easy", "a"] == chances["hard", "b"] == (1.0, 1.0, 1.0)
    assert chances["easy", "b"] == chances["hard", "a"] == (0.0, 0.0, 0.0)
    assert chances["all tasks", "a"] == (0.5, 0.5, 0.5)


def test_few_seeds_are_marked():
    text = table(compare_scores({"two": [1.0, 2.0], "three": [0.0, 0.1, 0.2]}))
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("| two")).count(" * ") == 1
    assert "*" not in next(line for line in lines if line.startswith("| three"))
    assert "fewer than 3 seeds: the interval says nothing" in text
    assert "fewer" not in table(compare_scores({"three": [0.0, 0.1, 0.2]}))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "scores is empty"),
        ({"a": []}, r"scores\['a'\] has shape \(0,\)"),
        ({"a": [1.0, float("nan")]}, r"scores\['a'\] has shape .* finite numbers"),
        ({"a": [[1.0], [1.0, 2.0]]}, r"scores\['a'\] are no numbers of equally long rows"),
        ({"a": ["x"]}, r"scores\['a'\] are no numbers"),
        ({"a": [1.0], "b": [[1.0, 2.0]]}, "columns for .* tasks, expected 1"),
    ],
)
def test_bad_scores(scores, message):
    with pytest.raises(ValueError, match=message):
        compare_scores(scores)


def test_tasks_must_fit():
    with pytest.raises(ValueError, match="expected 2: all algorithms need a column"):
        compare_scores({"a": [1.0]}, tasks=["one", "two"])


def test_bad_reps():
    with pytest.raises(ValueError, match="reps is 0; it must be an integer >= 1"):
        compare_scores({"a": [1.0]}, reps=0)


def test_missing_rliable_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rliable.metrics", None)
    with pytest.raises(ImportError, match=r'pip install "prune-gym\[agents\]"'):
        compare_scores({"a": [1.0]})


# -- run folders -------------------------------------------------------------------------------


def test_runs_are_scored_by_their_best_feasible_policy(write):
    runs = [write(seed=seed, best=best) for seed, best in enumerate([0.9, None, 0.5, 0.7])]
    (row,) = compare(runs).rows
    assert (row.seeds, row.feasible_runs) == (4, 3)
    assert row.score.value == pytest.approx(0.6)  # of 0, 0.5, 0.7, 0.9
    assert row.median == pytest.approx(0.6)
    assert row.episodes_to_feasible == 12.5  # of 10, never, 12, 13
    assert row.wall_s == 60.0


def test_runs_can_be_scored_by_their_final_policy(write):
    finals = [(0.7, 0.2, 0.0), (0.9, 0.2, 0.05), (0.5, 0.3, 0.0)]
    runs = [write(seed=seed, final=final) for seed, final in enumerate(finals)]
    comparison = compare(runs, score="final", infeasible_score=-1.0)
    assert comparison.scores == {"Toy-v0": {"ppo_lag": (0.7, -1.0, 0.5)}}
    assert comparison.rows[0].feasible_runs == 2
    assert comparison.rows[0].violation_rate == pytest.approx(0.05 / 3)


def test_never_feasible_is_said(write):
    text = table(compare([write(best=None)]))
    assert "0 of 1" in text
    assert "never" in text


def test_folders_of_runs_and_names_of_ones_own(write, tmp_path):
    runs = [write(seed=0), write(seed=0, best=0.6)]
    renamed = compare({"tuned": runs[:1], "plain": [runs[1]]})
    assert [row.algorithm for row in renamed.rows] == ["tuned", "plain"]
    runs[1].joinpath("config.json").write_text(
        runs[1].joinpath("config.json").read_text().replace("ppo_lag", "cpo")
    )
    assert by_algorithm(compare([tmp_path])).keys() == {"ppo_lag", "cpo"}


def test_other_environments_and_limits_are_other_tasks(write):
    runs = [
        write(seed=0, best=0.9),
        write(seed=1, best=0.7, limit=0.1),
        write(seed=0, best=0.5, env="Other-v0", timesteps=5),
        write(seed=0, best=0.4, env="Other-v0", timesteps=5, env_kwargs={"size": 3}),
    ]
    tasks = compare(runs).scores
    assert {task: scores["ppo_lag"] for task, scores in tasks.items()} == {
        "Other-v0": (0.5,),
        "Other-v0, size 3": (0.4,),
        "Toy-v0, cost_limit 0.1": (0.7,),
        "Toy-v0, cost_limit 0.3": (0.9,),
    }


def test_all_tasks_together_only_with_equally_many_seeds(write):
    runs = [write("a", seed, limit=limit) for seed in (0, 1) for limit in (0.1, 0.3)]
    runs += [write("b", 0, limit=0.1), write("b", 0), write("b", 1), write("c", 0)]
    comparison = compare(runs)
    assert by_algorithm(comparison, "all tasks").keys() == {"a"}
    assert by_algorithm(comparison, "all tasks")["a"].feasible_runs == 4
    assert "4 of 4" in table(comparison)
    assert "Not among all tasks, for want of equally many seeds on each: b, c." in table(comparison)


def test_runs_of_other_lengths_are_not_mixed(write):
    runs = [write("a"), write("b", timesteps=500)]
    with pytest.raises(ValueError, match=r"timesteps differ .* Toy-v0: 1000 in .*, 500 in .*_b_0"):
        compare(runs)


def test_a_seed_counts_once(write):
    with pytest.raises(ValueError, match=r"seed 0 of ppo_lag on Toy-v0 occurs twice, in .*0_ppo"):
        compare([write(), write()])


def test_settings_are_not_mixed(write):
    runs = [write(seed=0, overrides={"gamma": 0.9}), write(seed=1, overrides={})]
    with pytest.raises(ValueError, match=r"settings of ppo_lag on Toy-v0 differ: .*'gamma': 0.9"):
        compare(runs)
    assert len(compare({"short": runs[:1], "default": runs[1:]}).rows) == 2


def test_returns_below_the_score_of_nothing_are_refused(write):
    run = write(best=-3.0)
    with pytest.raises(ValueError, match=r"feasible return of -3, below infeasible_score=0"):
        compare([run])
    assert compare([run], infeasible_score=-5.0).rows[0].score.value == -3.0


def test_bad_choice_of_score(write):
    with pytest.raises(ValueError, match="score is 'last'; it must be one of best_feasible, final"):
        compare([write()], score="last")


def test_bad_folders_are_named(write, tmp_path):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        compare([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no config.json, nor has a folder below"):
        compare([tmp_path / "empty"])
    with pytest.raises(ValueError, match="runs is empty"):
        compare([])
    with pytest.raises(ValueError, match=r"must be a list of folders: \['runs'\]"):
        compare("runs")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("result.json", None, r"0_ppo_lag_0 has no result.json: it did not finish"),
        ("config.json", "{", r"0_ppo_lag_0: config.json is not JSON"),
        ("config.json", "[]", r"0_ppo_lag_0: config.json holds no keys"),
        ("config.json", '{"env": "A"}', r"'algo' is None; it must be of type str"),
        ("result.json", '{"final": {"return_mean": "x"}}', r"'return_mean' is 'x'.* type Real"),
        ("result.json", '{"final": {"return_mean": NaN}}', r"'return_mean' is nan.* finite"),
    ],
)
def test_broken_files_are_named(write, file, content, message):
    path = write() / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        compare([path.parent])


def test_missing_best_is_not_the_same_as_none(write):
    path = write() / "result.json"
    path.write_text(path.read_text().replace("best_feasible_return", "best"))
    with pytest.raises(ValueError, match="'best_feasible_return' is None; it must be of type Real"):
        compare([path.parent])


# -- what is written ---------------------------------------------------------------------------


def test_command_line_writes_everything(write, tmp_path):
    for seed in range(3):
        write("ppo_lag", seed, best=0.7 + 0.1 * seed)
        write("ppo", seed, best=None, final=(0.9, 0.8, 1.0))
    out = tmp_path / "out" / "here"
    arguments = [str(tmp_path / "runs"), "--out", str(out), "--reps", "100", "--seed", "3"]
    printed = CliRunner().invoke(app, arguments).stdout
    text = (out / "comparison.md").read_text()
    assert printed.startswith(text)
    assert f"wrote {out / 'return_cost.png'}" in printed
    assert "A run of ppo_lag scores higher than one of\n- ppo: with probability 1.00" in text
    with (out / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["algorithm"] for line in lines] == ["ppo_lag", "ppo"]
    assert float(lines[0]["iqm"]) == pytest.approx(0.8)
    record = json.loads((out / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert record["settings"] == {
        "score": "best_feasible",
        "infeasible_score": 0.0,
        "reps": 100,
        "seed": 3,
    }
    assert record["rows"][1]["episodes_to_feasible"] is None
    assert record["scores"]["Toy-v0"]["ppo"] == [0.0, 0.0, 0.0]
    assert len(record["runs"]) == 6
    assert {path.name for path in out.iterdir()} == {
        "comparison.md",
        "comparison.csv",
        "comparison.json",
        "intervals.png",
        "return_cost.png",
    }
    assert (out / "intervals.png").read_bytes().startswith(b"\x89PNG")


def test_command_line_names_bad_folders(tmp_path):
    done = CliRunner().invoke(app, [str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: run ")


def test_command_line_names_a_folder_that_cannot_be_written(write, tmp_path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, [str(write()), "--out", str(tmp_path / "file" / "out")])
    assert done.exit_code == 2
    assert "file/out cannot be written (Not a directory); give another folder" in done.stderr


def test_module_runs(write):
    command = [sys.executable, "-W", "error", "-m", "agents.compare", str(write())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| ppo_lag   | 1     | 0.800 [0.800, 0.800] *" in done.stdout


def test_scores_by_hand_have_no_costs_to_plot(tmp_path):
    files = save(compare_scores({"a": [1.0, 2.0, 3.0]}), tmp_path)
    assert [file.name for file in files if file.suffix == ".png"] == ["intervals.png"]
    assert "wall" not in (tmp_path / "comparison.md").read_text()


def test_plots_show_every_run_and_the_limit(write):
    runs = [write("a", seed, limit=limit) for seed in range(3) for limit in (0.1, 0.3)]
    runs += [write("b", 0, best=0.9, final=(0.9, 0.5, 1.0))]
    comparison = compare(runs)
    panels = plot_return_cost(comparison).axes
    assert [panel.get_title() for panel in panels] == list(comparison.scores)
    *points, limit = panels[1].lines
    assert len(points) == 4
    assert list(limit.get_xdata()) == [0.3, 0.3]
    assert [point.get_markerfacecolor() == "none" for point in points] == [False] * 3 + [True]
    intervals = plot_intervals(comparison).axes
    assert [label.get_text() for label in intervals[0].get_yticklabels()] == ["a", "b"]
    assert len(intervals[1].patches) == 2


def test_many_algorithms_and_tasks_still_fit():
    rng = np.random.default_rng(0)
    scores = {f"algorithm {index}": rng.random((3, 4)) for index in range(10)}
    comparison = compare_scores(scores, reps=20)
    visible = [panel for panel in plot_intervals(comparison).axes if panel.get_visible()]
    assert len(visible) == 4
