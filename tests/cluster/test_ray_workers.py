"""Searches on a cluster of several nodes: the same networks, whatever happens to workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import tiny
from torch import nn

import prune_gym
from prune_gym import Budget, search
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import BudgetError, ClusterError, WorkerError

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*is out of date.*:DeprecationWarning"),
]
ONE = RayWorkers(1, cpus_per_worker=0.5)
TWO = RayWorkers(2, cpus_per_worker=0.5)


def rows(result) -> bytes:
    return result.networks.tobytes()


def problem_of(**arguments) -> prune_gym.PruningProblem:
    return tiny.make_tiny(batch_size=40, **arguments)


def own_budget(measure, name="own") -> Budget:
    return Budget(name, measure, deterministic=True)


def n_parameters(network: nn.Module) -> float:
    return float(sum(p.numel() for p in network.parameters()))


SLOW_ALGORITHMS = ("ppo_lag", "scan", "cem", "evolution", "cmaes", "pretrained")


@pytest.mark.parametrize(
    "algo", ["random", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_ALGORITHMS)]
)
def test_a_search_is_the_same_with_any_number_of_workers(cluster, algo):
    budgets = {"params": 0.5, own_budget(n_parameters): 0.9}
    if algo == "pretrained":  # it knows one limit
        budgets.pop("params")
    found = [
        rows(search(problem_of(budgets=budgets), algo, evaluations=24, workers=workers))
        for workers in (None, ONE, TWO)
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_eight_workers_find_what_one_finds(cluster):
    eight = RayWorkers(8, cpus_per_worker=0.25)
    found = [
        rows(search(problem_of(), "cem", evaluations=60, workers=workers))
        for workers in (None, eight)
    ]
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_worker_of_two_nodes_that_is_killed_changes_nothing(cluster, tmp_path):
    marks, run = tmp_path / "marks", tmp_path / "run"
    marks.mkdir()
    problem = problem_of(budgets={own_budget(killing(marks)): 0.9})
    alone = search(problem_of(budgets={own_budget(n_parameters): 0.9}), "random", evaluations=16)
    one_each = RayWorkers(2, cpus_per_worker=2.0)  # on each of two nodes, which have so many
    result = search(problem, "random", evaluations=16, workers=one_each, out=run)
    assert rows(result) == rows(alone)
    assert len((run / "episodes.csv").read_text().splitlines()) == 1 + 16
    assert len(os.listdir(marks)) == 2 + 1  # nodes, and the one death


def killing(folder):
    """A budget that waits for workers on two nodes, and then kills the process of one, once."""
    owner, folder = os.getpid(), str(folder)

    def measure(network: nn.Module) -> float:
        if os.getpid() != owner:
            import ray

            node = ray.get_runtime_context().get_node_id()
            open(os.path.join(folder, f"node-{node}"), "w").close()
            deadline = time.monotonic() + 60.0
            while len(os.listdir(folder)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            with suppress(FileExistsError):
                open(os.path.join(folder, "killed"), "x").close()
                os.kill(os.getpid(), signal.SIGKILL)
        return n_parameters(network)

    return measure


@pytest.mark.slow
def test_a_network_that_kills_every_worker_is_named(cluster):
    owner = os.getpid()

    def measure(network: nn.Module) -> float:
        if os.getpid() != owner:
            os.kill(os.getpid(), signal.SIGKILL)
        return n_parameters(network)

    problem = problem_of(budgets={own_budget(measure): 0.9})
    workers = RayWorkers(1, cpus_per_worker=0.5, retries=1)
    with pytest.raises(WorkerError, match="filters could not be judged: 2 workers failed over it"):
        search(problem, "random", evaluations=4, workers=workers)


@pytest.mark.slow
def test_a_network_that_hangs_is_named(cluster):
    owner = os.getpid()

    def measure(network: nn.Module) -> float:
        if os.getpid() != owner:
            time.sleep(3600)
        return n_parameters(network)

    problem = problem_of(budgets={own_budget(measure): 0.9})
    workers = RayWorkers(1, cpus_per_worker=0.5, retries=0, timeout_s=2.0)
    with pytest.raises(WorkerError, match="the last one: it took longer than 2 s"):
        search(problem, "random", evaluations=4, workers=workers)


@pytest.mark.slow
def test_errors_of_a_network_are_those_of_this_process(cluster):
    owner = os.getpid()

    def measure(network: nn.Module) -> float:
        return n_parameters(network) if os.getpid() == owner else float("nan")

    problem = problem_of(budgets={own_budget(measure): 0.9})
    with pytest.raises(BudgetError, match="budget 'own' returned nan"):
        search(problem, "random", evaluations=4, workers=ONE)


@pytest.mark.slow
def test_budgets_are_measured_on_one_machine(cluster):
    import ray

    seen: list[str] = []

    def where(network: nn.Module) -> float:
        context = ray.get_runtime_context()
        found = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
        return n_parameters(network) * (2.0 if "stopwatch" in found[context.get_node_id()] else 1.0)

    workers = RayWorkers(2, cpus_per_worker=0.5, measure_on="stopwatch")
    with workers.session():
        problem = problem_of(budgets={Budget("where", where): 0.9})
        assert problem.unpruned_values[0] == 2.0 * n_parameters(problem.network)
        result = search(problem, "random", evaluations=6, workers=workers)
        best = result.best
        assert result.archive.trials[best.number - 1].cost == problem.costs(best.masks)[0]
        twice = 2.0 * n_parameters(best.network)
        assert best.costs["where"] * problem.unpruned_values[0] == pytest.approx(twice)
    assert not seen
    with pytest.raises(ClusterError, match=r"'where' is measured .* the session with it is over"):
        problem.budgets[0](problem.network, problem.example)


@pytest.mark.slow
def test_noisy_budgets_and_unknown_resources_are_refused(cluster):
    problem = problem_of(budgets={Budget("noisy", n_parameters): 0.9})
    with pytest.raises(ClusterError, match="budget 'noisy' may differ from machine to machine"):
        search(problem, "random", evaluations=4, workers=ONE)
    with (
        pytest.raises(ClusterError, match=r"measure_on='phone': no machine .* judge, stopwatch"),
        RayWorkers(1, measure_on="phone").session(),
    ):
        pass


@pytest.mark.slow
def test_a_training_recovery_brings_its_network_back(cluster):
    arguments = {"recovery": "finetune", "recovery_steps": 2}
    alone = search(problem_of(**arguments), "random", evaluations=4)
    result = search(problem_of(**arguments), "random", evaluations=4, workers=TWO)
    assert rows(result) == rows(alone)
    pairs = zip(
        result.network.state_dict().values(), alone.network.state_dict().values(), strict=True
    )
    assert all(np.array_equal(one.numpy(), other.numpy()) for one, other in pairs)


@pytest.mark.slow
def test_networks_race_and_are_rounded_as_without_workers(cluster):
    def found(workers):
        problem = prune_gym.make_problem(budgets={"params": 0.2}, round_to=4, batch_size=60)
        return search(problem, "evolution", evaluations=40, racing=True, workers=workers).networks

    alone = found(None)
    assert (alone["judged"] < 1.0).any()
    assert alone.tobytes() == found(ONE).tobytes() == found(TWO).tobytes()


@pytest.mark.slow
def test_several_candidates_are_fine_tuned(cluster):
    problem = prune_gym.make_problem(budgets={"params": 0.2}, batch_size=60)
    result = search(problem, "random", evaluations=40)
    alone = result.fine_tune(10, candidates=3, ema=0.5)
    tuned = result.fine_tune(10, candidates=3, ema=0.5, workers=TWO)
    assert tuned.number == alone.number
    assert tuned.validation_accuracy == alone.validation_accuracy
    assert tuned.costs["params"] <= 0.2
    assert tuned.validation_accuracy >= result.fine_tune(10, ema=0.5).validation_accuracy
    assert result.fine_tune(10, workers=ONE).number == result.best.number
    with pytest.raises(ValueError, match="on_step and state go with one candidate"):
        result.fine_tune(10, candidates=3, on_step=print)


@pytest.mark.slow
def test_fast_numbers_of_filters_are_found_where_latency_is_measured(cluster, monkeypatch):
    import prune_gym.problem.fast_widths as fast_widths

    def refuse(*arguments):
        raise AssertionError("timed here")

    monkeypatch.setattr(fast_widths, "_measured", refuse)
    workers = RayWorkers(1, cpus_per_worker=0.5, measure_on="stopwatch")
    with workers.session():
        problem = problem_of(budgets={"latency_ms": 0.99}, round_to="auto")
        assert problem.round_to >= 1
        result = search(problem, "random", evaluations=4, workers=workers)
    assert len(result) == 4


@pytest.mark.slow
def test_a_stop_ends_the_search_and_leaves_the_cluster(cluster):
    import ray

    before = threading.active_count()
    stopped = search(
        problem_of(),
        "random",
        evaluations=2000,
        workers=TWO,
        on_progress=lambda progress: (
            signal.raise_signal(signal.SIGINT) if progress.evaluations == 5 else None
        ),
    )
    assert stopped.stopped
    assert 5 <= len(stopped) < 100
    assert not ray.is_initialized()
    assert threading.active_count() <= before + 1
    with RayWorkers(1).session():
        assert ray.cluster_resources()["CPU"] == 4.0


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", r"at '127\.0\.0\.1:9': .* refused\. Start one \(ray start --head\)"),
        ("nonsense.invalid:1", r"at 'nonsense\.invalid:1': .*\. Start one"),
        ("nonsense", r"at 'nonsense': it is no HOST:PORT\."),
        (":6379", r"at ':6379': it is no HOST:PORT\."),
    ],
)
def test_where_there_is_no_cluster(address, words):
    pytest.importorskip("ray")
    with (
        pytest.raises(ClusterError, match=f"no Ray cluster answers {words}"),
        RayWorkers(1, address=address).session(),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker=1.5"),
        ({"cpus_per_worker": -1.0}, "cpus_per_worker=-1.0"),
        ({"timeout_s": 0.0}, "timeout_s=0.0"),
        ({"retries": -1}, "retries"),
    ],
)
def test_arguments_that_are_not_allowed(arguments, words):
    with pytest.raises(ValueError, match=words):
        RayWorkers(**arguments)
