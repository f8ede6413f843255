"""Controls, agents and threads: reproducible, on budget, and able to go on."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import tiny
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import AGENTS as ZOO
from prune_gym import Budget
from prune_gym.errors import UnknownNameError
from prune_gym.pruning.masks import kept_count, kept_per_group
from prune_gym.searches.algorithms import algorithms, check_algorithm, make_config_env
from prune_gym.searches.baselines import BASELINES, baseline, masks_of_ratios
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.finalize import finish
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.search import Search
from prune_gym.searches.thread_vec_env import ThreadVecEnv
from prune_gym.utils.threads import Workers, one_thread

AGENTS = sorted(set(algorithms()) - {*BASELINES, "pretrained"})
# networks that are judged at most, of three groups, however many evaluations there are
NO_SEARCH = {"equal_width": 1, "lamp": 1, "scan": 14}


def config_of(algo, timesteps, seed=0):
    return SearchConfig("PruneVGG-v0", algo, timesteps, seed, 2, {"network": None})


def search_in(path, problem, config, on_progress=lambda search: None):
    folder = RunFolder.open(path)[0] if path.exists() else RunFolder.create(path, config)
    search = Search(problem, config, folder)
    search.on_progress = lambda progress: on_progress(search)
    return search


def proposals(problem, name, evaluations, seed):
    """Filters kept, (n, n_groups), where what is removed below one half is free."""
    proposer = baseline(name, problem, evaluations, np.random.default_rng(seed))
    found = []
    batch = next(proposer, None)
    while batch is not None:
        counts = [kept_per_group(masks) for masks in batch]
        found.extend(counts)
        removed = [float(np.mean(1.0 - own / problem.sizes)) for own in counts]
        try:
            batch = proposer.send([(1.0 - share, share, share > 0.5) for share in removed])
        except StopIteration:
            batch = None
    return np.array(found)


@pytest.mark.parametrize("evaluations", [1, 2, 7, 40, 95])
@pytest.mark.parametrize("name", BASELINES.names())
def test_controls(tiny_problem, name, evaluations):
    counts = proposals(tiny_problem, name, evaluations, 0)
    if name in NO_SEARCH:
        assert 1 <= len(counts) <= min(evaluations, NO_SEARCH[name])
    else:
        assert len(counts) == evaluations
    assert ((counts >= 1) & (counts <= tiny_problem.sizes)).all()
    np.testing.assert_array_equal(counts, proposals(tiny_problem, name, evaluations, 0))
    if name not in ("uniform", *NO_SEARCH) and evaluations > 10:
        other = proposals(tiny_problem, name, evaluations, 1)
        assert (counts != other).any()


def test_uniform_is_an_even_grid(default_problem):
    counts = proposals(default_problem, "uniform", 4, 0)
    for row, ratio in zip(counts, [0.25, 0.5, 0.75, 1.0], strict=True):
        expected = default_problem.kept_counts(np.full(len(default_problem.groups), ratio))
        np.testing.assert_array_equal(row, expected)


def test_cem_moves_towards_feasible_accuracy(default_problem):
    counts = proposals(default_problem, "cem", 400, 0)  # the optimum is just above 0.5
    ratios = 1.0 - counts / default_problem.sizes
    assert abs(ratios[-40:].mean() - 0.5) < 0.06
    assert ratios[-40:].std(axis=0).mean() < 0.5 * ratios[:40].std(axis=0).mean()


def test_masks_of_ratios(tiny_problem):
    masks = masks_of_ratios(tiny_problem, np.array([0.0, 0.5, 1.0]))
    assert [int(mask.sum()) for mask in masks] == [4, kept_count(0.5, 6), 1]


@pytest.mark.parametrize("name", [*BASELINES.names(), *AGENTS])
def test_every_search_spends_its_evaluations_and_can_be_repeated(tmp_path, tiny_problem, name):
    logs = []
    for run in ("one", "two"):
        search = search_in(tmp_path / run, tiny_problem, config_of(name, 60))
        search.run()
        n_judged = len(search.archive.trials)
        assert search.evaluations == 20
        assert n_judged <= NO_SEARCH[name] if name in NO_SEARCH else n_judged == 20
        logs.append(search.folder.episodes.read_text())
    assert logs[0] == logs[1]
    assert search.archive.best is not None
    best = tiny_problem.evaluate(search.archive.feasible_masks())
    assert (best.accuracy, best.cost) == (search.archive.best.accuracy, search.archive.best.cost)
    assert best.feasible


def test_searches_say_what_they_are():
    assert {"ppo_lag", "random", "uniform", "cem", "evolution", "lamp"} <= set(algorithms())
    assert all(algorithms().values())
    with pytest.raises(UnknownNameError, match=r"unknown algorithm 'ppo_lga'. Did you mean 'ppo_l"):
        check_algorithm("ppo_lga")


@pytest.mark.parametrize("stop_after", [1, 17, 43])
@pytest.mark.parametrize("name", BASELINES.names())
def test_a_stopped_control_ends_as_if_it_had_not_been(tmp_path, tiny_problem, name, stop_after):
    config = config_of(name, 3 * 60)
    whole = search_in(tmp_path / "whole", tiny_problem, config)
    whole.run()

    def stop(search):
        search.stop = len(search.archive.trials) >= stop_after

    first = search_in(tmp_path / "stopped", tiny_problem, config, stop)
    first.run()
    n_judged = len(first.archive.trials)
    assert stop_after <= n_judged < 60 or name == "cem" or n_judged <= NO_SEARCH.get(name, 0)
    second = search_in(tmp_path / "stopped", tiny_problem, config)
    second.run()
    assert second.folder.episodes.read_bytes() == whole.folder.episodes.read_bytes()
    tiny.assert_identical(second.archive.feasible_masks(), whole.archive.feasible_masks())


@pytest.mark.parametrize("cut", [3, 40])
def test_a_control_whose_log_was_cut_off_ends_as_if_it_had_not_been(tmp_path, tiny_problem, cut):
    """As after a crash: the last row is not whole. Rows before it are told again, not judged."""
    config = config_of("cem", 3 * 50)
    whole = search_in(tmp_path / "run", tiny_problem, config)
    whole.run()
    expected = whole.folder.episodes.read_bytes()
    whole.folder.episodes.write_bytes(expected[:-cut])
    again = search_in(tmp_path / "run", tiny_problem, config)
    assert len(again.archive.trials) == 49
    again.run()
    assert again.folder.episodes.read_bytes() == expected


def rewards_in(replay_buffer):
    """Rewards that an agent learns from, (n_steps, n_envs): numpy alone can read them."""
    with np.load(replay_buffer, allow_pickle=False) as arrays:
        return arrays["raw_rewards"]


@pytest.mark.parametrize("name", AGENTS)
def test_a_stopped_agent_goes_on(tmp_path, tiny_problem, name):
    def stop(search):
        search.stop = len(search.archive.trials) >= 10

    config = config_of(name, 3 * 40)
    first = search_in(tmp_path / "run", tiny_problem, config, stop)
    first.run()
    held = len(first.archive.trials)
    assert 10 <= held < 40
    assert first.folder.agent.is_file()
    learned_from = first.folder.replay_buffer
    assert learned_from.is_file() == (ZOO[name].rollout_size is None)
    before = rewards_in(learned_from) if learned_from.is_file() else None
    second = search_in(tmp_path / "run", tiny_problem, config)
    second.run()
    if before is not None:  # it goes on with what it had
        after = rewards_in(learned_from)
        assert len(after) > len(before)
        np.testing.assert_array_equal(after[: len(before)], before)
    assert len(second.archive.trials) == 40
    assert [row.accuracy for row in second.archive.trials[:held]] == [
        row.accuracy for row in first.archive.trials
    ]
    assert second.archive.best.accuracy >= (first.archive.best or second.archive.best).accuracy
    assert np.isfinite(second.multiplier)
    third = search_in(tmp_path / "run", tiny_problem, config)
    third.run()  # nothing is left to do
    assert len(third.archive.trials) == 40


def test_finish(tmp_path):
    problem = tiny.make_tiny(budgets={"params": 0.5, "macs": 0.9})
    search = search_in(tmp_path / "run", problem, config_of("random", 60, seed=3))
    search.run()
    told = []
    metrics = finish(
        search.result,
        search.run_folder.path,
        wall_s=lambda: 1.5,
        on_step=lambda *step: told.append(step[0]),
    )
    assert told == [1, 2]
    assert metrics["feasible"] is True
    assert all(metrics["costs"][name] <= metrics["limits"][name] for name in ("params", "macs"))
    assert metrics["evaluations"] == 20
    assert metrics["accuracy"]["recovered_validation"] == search.archive.best.accuracy
    assert metrics["accuracy"]["finetuned_test"] is None  # there is no test split
    assert metrics["pruned"]["params"] == metrics["costs"]["params"] * metrics["dense"]["params"]
    assert (metrics["seed"], metrics["wall_s"], metrics["finetune_steps"]) == (3, 1.5, 2)


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("recovery", ["bn", "finetune"])
def test_threads_are_the_dummy_step_for_step(n_workers, recovery):
    problem = tiny.make_tiny(recovery=recovery, recovery_steps=2)

    def make():
        return gym.make("PruneVGG-v0", problem=problem, cost_mode="dense")

    dummy = DummyVecEnv([make] * 4)
    with Workers(n_workers) as workers:
        threads = ThreadVecEnv([make] * 4, workers)
        for venv in (dummy, threads):
            venv.seed(7)
        tiny.assert_identical(dummy.reset(), threads.reset())
        generator = np.random.default_rng(0)
        for _ in range(8):
            actions = generator.uniform(-1, 1, (4, 1)).astype(np.float32)
            tiny.assert_identical(dummy.step(actions), threads.step(actions))
            tiny.assert_identical(dummy.reset_infos, threads.reset_infos)
        threads.close()
    dummy.close()


def test_workers_leave_torch_its_threads():
    import torch

    before = torch.get_num_threads()
    with one_thread(), Workers(2) as workers:
        assert torch.get_num_threads() == 1
        assert list(workers.map(lambda item: item * item, [3, 1, 2])) == [9, 1, 4]
        assert set(workers.map(lambda _: torch.get_num_threads(), [0, 1])) == {1}
        with pytest.raises(ZeroDivisionError):
            list(workers.map(lambda item: 1 // item, [1, 0]))
    assert torch.get_num_threads() == before


def test_the_environment_of_a_search_is_dense_where_it_can_be(tiny_problem):
    config = config_of("ppo_lag", 10)
    assert make_config_env(config, tiny_problem).unwrapped.cost_mode == "dense"
    strange = tiny.make_tiny(budgets={(lambda network: 1.0): 1.0})
    assert make_config_env(config, strange).unwrapped.cost_mode == "terminal"
    measured = tiny.make_tiny(budgets={Budget("m", lambda network: 1.0, monotone=True): 1.0})
    assert make_config_env(config, measured).unwrapped.cost_mode == "dense"
    filters = replace(config, env="PruneVGGFilters-v0")
    assert make_config_env(filters, measured).unwrapped.cost_mode == "terminal"
    assert make_config_env(filters, tiny_problem).unwrapped.cost_mode == "dense"
