"""The vector environment is Gymnasium's `SyncVectorEnv`, whatever the threads do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch
from gymnasium.vector import SyncVectorEnv

from prune_gym import Budget, BudgetError
from prune_gym.envs.vector import PruneVectorEnv

GRANULARITIES = ["layer", "filter", "network"]


def make_vec(problem, num_envs=3, **arguments):
    return gym.make_vec("Prune-v0", num_envs=num_envs, problem=problem, **arguments)


def make_sync(problem, num_envs=3, **arguments):
    return make_vec(problem, num_envs, vectorization_mode="sync", **arguments)


def played(venv, n_steps=9, *, seed=0, reset_at=(), mask_at=None) -> list:
    """Everything that seeded steps give; resets in between where asked for."""
    try:
        venv.action_space.seed(seed)
        seen = [venv.reset(seed=seed)]
        for step in range(n_steps):
            if step in reset_at:
                seen.append(venv.reset())
            if step == mask_at:
                mask = np.arange(venv.num_envs) == 1
                seen.append(venv.reset(seed=seed, options={"reset_mask": mask}))
            seen.append(venv.step(venv.action_space.sample()))
        return seen
    finally:
        venv.close()


class Watched:
    """A black-box budget that notes calls that overlap, and can be told to raise."""

    def __init__(self) -> None:
        self.n_calls = self.n_inside = self.n_overlaps = self.to_raise = 0
        self._lock = threading.Lock()

    def __call__(self, network) -> float:
        with self._lock:
            self.n_calls += 1
            self.n_inside += 1
            self.n_overlaps += self.n_inside > 1
            if self.to_raise:
                self.to_raise -= 1
                self.n_inside -= 1
                raise RuntimeError("the scale broke")
        time.sleep(0.002)
        with self._lock:
            self.n_inside -= 1
        return float(sum(parameter.numel() for parameter in network.parameters()))


def watched(**arguments):
    scale = Watched()
    budget = Budget("scale", scale, **arguments)
    return tiny.make_tiny(budgets={budget: 0.9}), scale


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
@pytest.mark.parametrize("threads", [1, 3])
def test_it_is_the_sync_vector_env(tiny_problem, granularity, cost_mode, threads):
    arguments = {"granularity": granularity, "cost_mode": cost_mode}
    venv = make_vec(tiny_problem, threads=threads, **arguments)
    assert type(venv) is PruneVectorEnv
    found = played(venv)
    expected = played(make_sync(tiny_problem, **arguments))
    tiny.assert_identical(found, expected)
    ends = [step[2].tolist() for step in found[1:]]
    assert [True] * 3 in ends
    assert [False] * 3 in ends
    assert "_cost" in found[1][4]
    assert found[1][4]["_cost"].all()


@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_it_is_its_single_environments(tiny_problem, cost_mode):
    seen = played(make_vec(tiny_problem, cost_mode=cost_mode), 3, seed=5)
    venv = make_vec(tiny_problem)
    venv.action_space.seed(5)
    actions = [venv.action_space.sample() for _ in range(3)]
    venv.close()
    for index in range(3):
        env = gym.make("Prune-v0", problem=tiny_problem, cost_mode=cost_mode)
        observation, info = env.reset(seed=5 + index)
        np.testing.assert_array_equal(seen[0][0][index], observation)
        for action, step in zip(actions, seen[1:], strict=True):
            observation, reward, terminated, truncated, info = env.step(action[index])
            np.testing.assert_array_equal(step[0][index], observation)
            assert [part[index] for part in step[1:4]] == [reward, terminated, truncated]
            for key, value in info.items():
                np.testing.assert_array_equal(step[4][key][index], value)


@pytest.mark.parametrize("recovery", ["finetune", "none"])
def test_random_numbers_do_not_depend_on_threads(recovery):
    seen = []
    for threads in (1, 3, None):
        problem = tiny.make_tiny(recovery=recovery, recovery_steps=2)
        seen.append(played(make_vec(problem, threads=threads), 7))
    tiny.assert_identical(seen[0], seen[1])
    tiny.assert_identical(seen[0], seen[2])


@pytest.mark.parametrize("settings", [{"reset_at": (1, 3)}, {"mask_at": 1}, {"mask_at": 5}])
@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_resets_in_the_middle(tiny_problem, settings, cost_mode):
    found = played(make_vec(tiny_problem, cost_mode=cost_mode, threads=2), 9, **settings)
    expected = played(make_sync(tiny_problem, cost_mode=cost_mode), 9, **settings)
    tiny.assert_identical(found, expected)
    if "mask_at" in settings:  # out of step from there on
        assert any(step[2].any() and not step[2].all() for step in found if len(step) == 5)


def test_options_reach_every_environment(tiny_problem):
    venv = make_vec(tiny_problem)
    venv.reset(seed=0, options={"max_ratio": 0.75})
    for _ in range(3):
        infos = venv.step(np.ones((3, 1), dtype=np.float32))[4]
    np.testing.assert_allclose(infos["kept"], [[1 / 4, 2 / 6, 2 / 8]] * 3)
    venv.close()


def test_episodes_begin_anew_at_the_next_step(tiny_problem):
    venv = make_vec(tiny_problem)
    if hasattr(gym.vector, "AutoresetMode"):  # Gymnasium 1.0 has no other mode
        assert venv.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    first, _ = venv.reset(seed=0)
    actions = np.zeros((3, 1), dtype=np.float32)
    for _ in range(3):
        last = venv.step(actions)
    assert last[2].all()
    observations, rewards, ends, _, infos = venv.step(actions)
    np.testing.assert_array_equal(observations, first)
    assert not ends.any()
    assert not rewards.any()
    assert not infos["cost"].any()
    venv.close()


def test_one_problem_is_shared(tiny_problem):
    venv = make_vec(tiny_problem, cost_mode="dense", max_ratio=0.9)
    assert isinstance(venv, SyncVectorEnv)
    envs = [env.unwrapped for env in venv.envs]
    assert all(env.problem is tiny_problem for env in envs)
    assert {env.cost_mode for env in envs} == {"dense"}
    assert {env._schedule["max_ratio"] for env in envs} == {0.9}
    assert len({id(env) for env in envs}) == 3
    assert venv.cost_limit == tiny_problem.cost_limit
    venv.close()


def test_arguments_of_the_problem_build_one_problem():
    venv = gym.make_vec("PruneVGG-v0", num_envs=2, budgets={"params": 0.25, "macs": 0.5})
    problems = {id(env.unwrapped.problem) for env in venv.envs}
    assert len(problems) == 1
    assert venv.cost_limit == 1.0
    venv.close()


def test_what_one_environment_judged_the_others_know():
    problem = tiny.make_tiny()
    venv = make_vec(problem, threads=1)
    venv.reset(seed=0)
    for _ in range(3):
        venv.step(np.zeros((3, 1), dtype=np.float32))
    assert (problem.evaluator.memory.misses, problem.evaluator.memory.hits) == (1, 2)
    venv.close()


@pytest.mark.parametrize("num_envs", [0, -1, 1.5, True])
def test_wrong_numbers_of_environments(tiny_problem, num_envs):
    with pytest.raises(ValueError, match=rf"num_envs={num_envs} must be a whole number of at leas"):
        make_vec(tiny_problem, num_envs)


@pytest.mark.parametrize("threads", [0, -2, 1.5, True])
def test_wrong_numbers_of_threads(tiny_problem, threads):
    with pytest.raises(ValueError, match=rf"threads={threads} must be a whole number of at least"):
        make_vec(tiny_problem, threads=threads)


def test_wrong_arguments_of_environments(tiny_problem):
    with pytest.raises(ValueError, match=r"unknown granularity 'layers'. Did you mean 'layer'"):
        make_vec(tiny_problem, granularity="layers")
    with pytest.raises(ValueError, match=r"Prune-v0 prunes what you bring"):
        gym.make_vec("Prune-v0", num_envs=2)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_thread_surfaces_and_reset_mends_it(threads):
    problem, scale = watched()
    venv = make_vec(problem, threads=threads)
    actions = np.zeros((3, 1), dtype=np.float32)
    venv.reset(seed=0)
    for _ in range(2):
        venv.step(actions)
    scale.to_raise = 1
    with pytest.raises(BudgetError, match=r"budget 'scale' raised RuntimeError: the scale broke"):
        venv.step(actions)
    expected = played(make_sync(problem), 6, seed=3)
    tiny.assert_identical(played(venv, 6, seed=3), expected)


def test_a_wrong_action_surfaces_and_reset_mends_it(tiny_problem):
    venv = make_vec(tiny_problem)
    actions = np.zeros((3, 1), dtype=np.float32)
    actions[1] = np.nan
    venv.reset(seed=0)
    with pytest.raises(ValueError, match="action holds NaN"):
        venv.step(actions)
    tiny.assert_identical(played(venv, 4), played(make_sync(tiny_problem), 4))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_black_box_is_never_called_side_by_side(granularity):
    problem, scale = watched()
    venv = make_vec(problem, num_envs=4, granularity=granularity)
    n_before = scale.n_calls
    seen = played(venv, 9, mask_at=1)
    n_episodes = sum(int(step[2].sum()) for step in seen if len(step) == 5)
    assert scale.n_calls - n_before == n_episodes > 0
    assert scale.n_overlaps == 0


def test_threads_judge_side_by_side():
    meeting = threading.Barrier(2)

    def together(network, train, *, generator, steps):
        meeting.wait(timeout=60)  # breaks unless a second network is repaired at the same time

    problem = tiny.make_tiny(recovery=together)
    played(make_vec(problem, num_envs=4, threads=4), len(problem.groups))
    assert meeting.n_waiting == 0
    assert not meeting.broken


def test_close_ends_the_threads(tiny_problem):
    before = threading.active_count()
    venv = make_vec(tiny_problem, threads=3)
    venv.reset(seed=0)
    for _ in range(3):
        venv.step(np.zeros((3, 1), dtype=np.float32))
    assert threading.active_count() > before
    venv.close()
    assert threading.active_count() == before
    venv.close()  # again is fine


def test_too_few_actions_leave_nothing_behind(tiny_problem):
    venv = make_vec(tiny_problem, granularity="network")
    venv.reset(seed=0)
    actions = venv.action_space.sample()
    with pytest.raises(ValueError, match="zip"):
        venv.step(actions[:2])
    venv.reset(seed=0)
    for env in venv.envs:
        assert env.unwrapped.steps_left == 1
    assert venv.step(actions)[2].all()
    venv.close()


def test_a_black_box_is_alone_also_out_of_step():
    scale = Watched()
    problem = tiny.make_tiny(budgets={Budget("weight", scale, monotone=True): 0.9})
    venv = make_vec(problem, 4, cost_mode="dense")
    played(venv, 2 * len(problem.groups), mask_at=1)
    assert scale.n_calls > 4
    assert scale.n_overlaps == 0


def test_later_threads_begin_as_before(tiny_problem):
    def fresh() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        played(make_vec(tiny_problem, threads=2), 4)
        assert fresh() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_other_environments_are_refused():
    with pytest.raises(TypeError, match="PruneVectorEnv: expected a pruning environment"):
        PruneVectorEnv([gym.make("CartPole-v1")])


def test_one_problem_for_all():
    envs = [gym.make("Prune-v0", problem=tiny.make_tiny()).unwrapped for _ in range(2)]
    with pytest.raises(ValueError, match="expected environments around one problem"):
        PruneVectorEnv(envs)
