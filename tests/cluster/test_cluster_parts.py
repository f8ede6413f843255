"""Workers that do not come up, measuring that is over, candidates that fail: with no cluster."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
import tiny
from fake_ray import FakeRay, exceptions

from agents import ray_tasks, train
from agents.benchmark import program
from agents.errors import AgentsError
from agents.errors import ClusterError as AgentsClusterError
from agents.ray_tasks import Cluster
from agents.stopping import Stopped
from agents.sweep import report
from agents.sweep.runs import sweep_runs
from agents.toy import BudgetToyEnv
from prune_gym import Budget, RayWorkers, search
from prune_gym.cli import pick
from prune_gym.cluster.measuring import Measurer, check_measured
from prune_gym.cluster.workers import _answered
from prune_gym.errors import ClusterError, InvalidValueError, WorkerError
from prune_gym.searches import several
from prune_gym.searches.thread_vec_env import ThreadVecEnv
from prune_gym.utils.threads import Workers


def measurer_of(ray):
    return Measurer(ray, "phone", 60.0, 3, None, None)


def size(network):
    return float(sum(p.numel() for p in network.parameters()))


def test_a_measuring_process_that_does_not_come_up_is_named():
    def happens(name, *given):
        raise exceptions.ActorDiedError

    with pytest.raises(ClusterError, match=r"measure_on='phone': no process came up on that mach"):
        measurer_of(FakeRay(happens=happens))


def test_nobody_is_hired_once_measuring_is_over():
    def happens(name, *given):
        if name == "call":  # it is closed while it measures, which ends the process
            measurer.close()
            raise exceptions.ActorDiedError

    ray = FakeRay(happens=happens)
    measurer = measurer_of(ray)
    budget = measurer.placed(Budget("size", size))
    with pytest.raises(ClusterError, match=r"'size' is measured .* the session with it is over"):
        measurer.measure(Budget("size", size), "__call__", tiny.make_tiny().network, None)
    assert ray.calls.count("versions") == 1
    with pytest.raises(ClusterError, match="the session with it is over: keep to `with workers"):
        check_measured([budget])


def test_what_is_measured_outside_of_its_session_is_told_of_before_training(monkeypatch):
    measurer = measurer_of(FakeRay())
    result = search(tiny.make_tiny(batch_size=40), "random", evaluations=4)
    object.__setattr__(result.problem, "budgets", (measurer.placed(Budget("size", size)),))
    measurer.close()
    for cluster in (None, 1):
        with pytest.raises(ClusterError, match="the session with it is over"):
            result.fine_tune(10, candidates=2, workers=cluster)


def test_workers_without_cores_are_refused_beside_what_is_measured():
    with pytest.raises(InvalidValueError, match=r"cpus_per_worker=0 with measure_on: .* beside"):
        RayWorkers(2, cpus_per_worker=0.0, measure_on="phone")


# -- candidates ------------------------------------------------------------------------------------


def test_one_bad_candidate_costs_the_others_nothing(monkeypatch):
    plain, trained = several.fine_tune, []

    def fine_tune(network, problem, **how):
        trained.append(network)
        if len(trained) in bad:
            raise WorkerError("no worker could")
        return plain(network, problem, **how)

    monkeypatch.setattr(several, "fine_tune", fine_tune)
    result = search(tiny.make_tiny(batch_size=40), "random", evaluations=12)
    bad = {1}
    with pytest.warns(UserWarning, match="candidate 1 could not be fine-tuned, and is left out: n"):
        tuned = result.fine_tune(2, candidates=3)
    assert tuned.number != result.best.number
    bad = {4, 5, 6}
    with pytest.raises(WorkerError, match="no worker could"):
        result.fine_tune(2, candidates=3)


@pytest.mark.parametrize(
    ("error", "is_raised"),
    [(WorkerError("one"), False), (ValueError("one"), False), (ClusterError("all"), True)],
)
def test_errors_of_one_answer_and_of_the_whole_cluster(error, is_raised):
    answer: Future[None] = Future()
    answer.set_exception(error)
    if is_raised:
        with pytest.raises(ClusterError, match="all"):
            _answered(answer)
    else:
        assert not _answered(answer)


@pytest.mark.parametrize("threads", [1, 2])
def test_networks_judged_beside_one_that_fails_are_recorded(threads):
    import gymnasium as gym

    class Failing(gym.Env):
        observation_space = action_space = gym.spaces.Box(0.0, 1.0, (1,))

        def __init__(self, number):
            self.number = number

        def reset(self, *, seed=None, options=None):
            return self.observation_space.low, {}

        def step(self, action):
            if self.number == 1:
                raise WorkerError("the second")
            return self.observation_space.low, 0.0, True, False, {}

    found = []
    with Workers(threads) as workers:
        envs = ThreadVecEnv(
            [lambda n=n: Failing(n) for n in range(4)],
            workers,
            lambda env: found.append(env.number),
        )
        envs.reset()
        with pytest.raises(WorkerError, match="the second"):
            envs.step([[0.5]] * 4)
    # a single thread begins nothing after what failed
    assert found == ([0] if threads == 1 else [0, 2, 3])


# -- what is said ----------------------------------------------------------------------------------


def test_gpus_that_agents_on_the_cpu_hold_are_told_of(monkeypatch, tmp_path):
    said: list[str] = []
    monkeypatch.setattr(report, "say", said.append)
    grid = {"algo": "ppo_lag", "env": "agents.toy:BudgetToy-v0", "device": ["cpu", "auto"]}
    monkeypatch.setattr(report, "read_sweep", lambda file: sweep_runs(grid))

    def none(*arguments, **options):
        raise Stopped

    monkeypatch.setattr(report, "sweep", none)
    for gpus, lines in ((0.0, 1), (0.5, 2)):
        said.clear()
        with pytest.raises(Stopped):
            report.run_sweep(tmp_path / "grid.json", tmp_path, Cluster(1, gpus=gpus))
        assert len(said) == lines
    assert said[1].startswith("--gpus-per-worker 0.5: 1 of the runs learn on the CPU")


def test_gpus_of_workers_go_where_tasks_and_environments_run(monkeypatch):
    cluster = program._cluster(3, "auto", 0.5, 1)
    assert cluster == Cluster(3, "auto", gpus=0.5)
    ray = FakeRay()
    ray.lent = [{"CPU": 2.0, "GPU": 1.0}]
    monkeypatch.setattr(ray_tasks, "connected", ray.connected)
    with train._stepping(2, "auto", 0.5) as vector:
        envs = vector([BudgetToyEnv] * 2)
    envs.close()
    assert [one["num_gpus"] for one in ray.options] == [0.5, 0.5]


def test_a_training_that_no_machine_has_gpus_for_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(ray_tasks, "connected", FakeRay().connected)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        train._stepping(2, None, 1.0) as vector,
        pytest.raises(AgentsClusterError, match="no machine of the cluster has"),
    ):
        vector([BudgetToyEnv] * 2)


@pytest.mark.parametrize("given", [(None, "auto", 0.0), (None, None, 0.5)])
def test_options_of_a_cluster_go_with_workers(given):
    name = "--ray-address" if given[1] else "--gpus-per-worker"
    with pytest.raises(AgentsError, match=f"{name} goes with --workers N"):
        train._stepping(*given).__enter__()
    with pytest.raises(AgentsError, match=f"{name} goes with --workers N"):
        program._cluster(*given, 1)


@pytest.mark.parametrize(
    ("candidates", "measure_on", "lines"), [(1, None, 1), (2, None, 0), (1, "phone", 0)]
)
def test_workers_without_work_are_told_of(monkeypatch, candidates, measure_on, lines):
    said: list[str] = []
    monkeypatch.setattr(pick, "say", lambda words, console: said.append(words))
    pick._say_of_idle(RayWorkers(2, measure_on=measure_on), candidates, None)
    assert len(said) == lines
    assert all(words.startswith("--workers have nothing to do: one network") for words in said)
