"""One problem for many processes: the same outcomes, around arrays that nobody copied."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torch import nn

import prune_gym
from prune_gym.errors import SharingError
from prune_gym.problem.sharing import SharedProblem, _read, share

RUN = """
import pickle, sys
import cloudpickle
function, arguments = cloudpickle.load(open(sys.argv[1], "rb"))
pickle.dump(function(*arguments), open(sys.argv[2], "wb"))
"""


class Tied(nn.Module):
    """Two layers with one weight, behind one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 400, 3)
        self.classifier, self.twin = (nn.Linear(400, tiny.N_CLASSES) for _ in range(2))
        self.twin.weight = self.classifier.weight
        self.conv.weight.requires_grad_(False)

    def forward(self, images):
        hidden = self.conv(images).relu().mean(dim=(2, 3))
        return self.classifier(hidden) + self.twin(hidden)


def elsewhere(tmp_path: Path, function, *arguments):
    """What a function gives in a new process."""
    given, found = tmp_path / "given.pkl", tmp_path / "found.pkl"
    given.write_bytes(cloudpickle.dumps((function, arguments)))
    tests = Path(__file__).parent
    paths = [str(Path(prune_gym.__file__).parents[1]), str(tests), str(tests.parent)]
    program = f"import sys; sys.path[:0] = {paths!r}\n{RUN}"
    subprocess.run([sys.executable, "-c", program, str(given), str(found)], check=True)
    return pickle.loads(found.read_bytes())


def as_elsewhere(shared: SharedProblem) -> prune_gym.PruningProblem:
    """What another process reads, in this one."""
    return _read(shared._rest, shared._path, shared._n_bytes)


def rows(problem, decisions) -> list:
    outcomes = [problem.evaluate(masks) for masks in decisions]
    return [
        (o.accuracy, o.costs, o.values, o.kept.tolist(), tensors_of(o.network)) for o in outcomes
    ]


def tensors_of(network) -> list:
    return [tensor.tolist() for tensor in network.state_dict().values()]


def judge(shared, decisions):
    return [rows(handle.open(), decisions) for handle in shared]


def look(shared):
    problem = shared.open()
    arrays = [
        problem.data.train.images,
        problem.evaluator.validation.images,
        *problem.network.parameters(),
    ]
    large = [a for a in arrays if a.untyped_storage().nbytes() >= 4096]
    return {
        "same": shared.open() is problem,
        "threads": torch.get_num_threads(),
        "storages": {array.untyped_storage().data_ptr() for array in large},
        "n_large": len(large),
        "n_bytes": {array.untyped_storage().nbytes() for array in large},
        "remembered": len(problem.evaluator.memory),
    }


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where this test's files go: other tests make some at the same time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_outcomes_are_the_same_in_another_process(tmp_path):
    weight = 3.0
    own = prune_gym.Budget(  # written on the spot: no module has it
        "own", lambda network: weight * sum(p.numel() for p in network.parameters())
    )
    problems = [
        tiny.make_tiny("residual", recovery=recovery, recovery_steps=2, batch_size=40, **budgets)
        for recovery, budgets in (("bn", {}), ("finetune", {}), ("bn", {"budgets": {own: 0.9}}))
    ]
    shared = [share(problem) for problem in problems]
    decisions = [tiny.random_masks(problems[0], seed) for seed in range(3)]
    found = elsewhere(tmp_path, judge, shared, decisions)
    assert found == [rows(problem, decisions) for problem in problems]
    assert found[2][0][2]["own"] == 3 * found[0][0][2]["params"]


def test_arrays_are_mapped_not_copied(tmp_path):
    problem = tiny.make_tiny(Tied().eval())
    problem.evaluate(tiny.random_masks(problem, 0))
    shared = share(problem)
    seen = elsewhere(tmp_path, look, shared)
    assert seen["n_large"] >= 4
    assert len(seen["storages"]) == 1
    assert seen["n_bytes"] == {shared._path.stat().st_size}
    assert seen["same"]
    assert seen["threads"] == 1
    assert seen["remembered"] == 0


def test_what_is_handed_over_is_small():
    images, labels = torch.randn(2000, 1, 8, 8), torch.arange(2000) % 3
    problem = prune_gym.make_problem(
        network=tiny.build("vgg"), train=(images, labels), validation=(images, labels)
    )
    shared = share(problem)
    assert len(pickle.dumps(shared)) < 100_000
    assert shared._path.stat().st_size > images.nbytes


def test_the_own_process_opens_the_very_problem(tiny_problem):
    shared, n_threads = share(tiny_problem, threads=7), torch.get_num_threads()
    assert shared.open() is tiny_problem
    for twin in (pickle.loads(pickle.dumps(shared)), copy.deepcopy(shared)):
        assert twin.open() is tiny_problem
    assert torch.get_num_threads() == n_threads


def test_environments_take_a_handle(tiny_problem):
    shared = share(tiny_problem)
    env = gym.make("Prune-v0", problem=shared)
    assert env.unwrapped.problem is tiny_problem
    expected = tiny.rollout(gym.make("Prune-v0", problem=tiny_problem), 2)
    tiny.assert_identical(tiny.rollout(env, 2), expected)
    with pytest.raises(ValueError, match=r"problem is given, so budgets cannot be"):
        gym.make("Prune-v0", problem=shared, budgets={"params": 0.5})


def test_sharing_changes_nothing(tiny_problem):
    before, masks = tiny.snapshot(tiny_problem.network), tiny.random_masks(tiny_problem, 0)
    outcome = tiny_problem.evaluate(masks)
    shared = share(tiny_problem)
    tiny.assert_unchanged(tiny_problem.network, before)
    assert tiny_problem.evaluate(masks).accuracy == outcome.accuracy
    assert as_elsewhere(shared).limits == tiny_problem.limits


def test_the_file_goes_with_the_handle(tiny_problem, place):
    shared = share(tiny_problem)
    twin, other = (pickle.loads(pickle.dumps(shared)) for _ in range(2))
    del other
    gc.collect()
    assert list(place.iterdir()) == [shared._path]
    del shared
    gc.collect()
    assert list(place.iterdir()) == []
    with pytest.raises(SharingError, match=r"is gone: .*Keep the handle as long as"):
        twin.open()


def test_a_process_that_opened_it_does_not_remove_the_file(tmp_path, tiny_problem):
    shared = share(tiny_problem, threads=2)
    assert elsewhere(tmp_path, look, shared)["threads"] == 2
    assert shared._path.is_file()


def test_a_forked_process_does_not_remove_the_file(tiny_problem, monkeypatch):
    shared = share(tiny_problem)
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)
        shared._close()
    assert shared._path.is_file()
    shared._path.unlink()


def gone(shared):
    try:
        shared.open()
    except SharingError as error:
        return str(error)
    return "opened"


def test_another_process_is_told_that_it_is_gone(tmp_path, tiny_problem):
    shared = share(tiny_problem)
    twin = pickle.loads(pickle.dumps(shared))
    del shared
    gc.collect()
    assert "the process that shared the problem has ended" in elsewhere(tmp_path, gone, twin)


def test_what_cannot_be_pickled(place):
    stream = (number for number in range(3))  # generators belong to their process
    problem = tiny.make_tiny(budgets={lambda network: 1.0 if stream else 2.0: 1.0})
    with pytest.raises(SharingError, match=r"cannot be pickled: .*generator.*Is a budget, a reco"):
        share(problem)
    gc.collect()
    assert list(place.iterdir()) == []


def test_parameters_stay_what_they_are():
    network = Tied().eval()
    problem = tiny.make_tiny(network)
    shared = share(problem)
    found = as_elsewhere(shared).network
    assert found.twin.weight is found.classifier.weight
    for name, tensor in problem.network.named_parameters():
        twin = found.get_parameter(name)
        assert type(twin) is nn.Parameter
        assert twin.requires_grad == tensor.requires_grad
        assert torch.equal(twin, tensor)
        assert twin.stride() == tensor.stride()
    assert not found.conv.weight.requires_grad
    assert found.twin.weight.untyped_storage().nbytes() == shared._n_bytes


def test_arrays_of_every_kind_come_back():
    generator = np.random.default_rng(0)
    base = generator.random((40, 50))
    held = {
        "floats": base,
        "transposed": base.T,
        "strided": base[::2, ::5],
        "halves": torch.randn(80, 60).half(),
        "bits": generator.random(9000) < 0.5,
        "pixels": torch.randint(256, (5000,), dtype=torch.uint8),
        "rows": torch.randn(90, 70)[3:50, 1::2],
        "flipped": torch.randn(90, 70).t(),
        "last": torch.randn(2, 16, 9, 9).to(memory_format=torch.channels_last),
        "small": np.arange(3),
    }
    held["again"] = held["floats"]
    problem = tiny.make_tiny(budgets={Holding(held): 1.0})
    shared = share(problem)
    found = as_elsewhere(shared).budgets[0].measure.held
    assert found["again"] is found["floats"]
    for name, value in held.items():
        assert type(found[name]) is type(value), name
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value), err_msg=name)
    assert found["last"].stride() == held["last"].stride()


def test_views_of_one_storage_stay_views_of_one():
    whole = torch.randn(4000)
    problem = tiny.make_tiny(budgets={Holding({"whole": whole, "part": whole[100:200]}): 1.0})
    shared = share(problem)
    found = as_elsewhere(shared).budgets[0].measure.held
    found["whole"][150] = 7.0
    assert found["part"][50] == 7.0
    assert whole[150] != 7.0


class Holding:
    """A budget that holds things."""

    def __init__(self, held) -> None:
        self.held = held

    def __call__(self, network) -> float:
        return 1.0


def sb3_steps(venv) -> list:
    try:
        venv.seed(3)
        seen = [venv.reset()]
        generator = np.random.default_rng(0)
        for _ in range(7):
            actions = generator.uniform(-1, 1, (2, 1)).astype(np.float32)
            observations, rewards, ends, infos = venv.step(actions)
            costs = [info["cost"] for info in infos]
            seen += [observations, rewards.astype(np.float32), ends, np.array(costs)]
        return seen
    finally:
        venv.close()


def test_subprocesses_of_stable_baselines3(tiny_problem):
    shared = share(tiny_problem)

    def make():
        return gym.make("prune_gym:Prune-v0", problem=shared, cost_mode="dense")

    found = sb3_steps(SubprocVecEnv([make, make], start_method="forkserver"))
    expected = sb3_steps(DummyVecEnv([make, make]))
    assert any(array.dtype == bool and array.all() for array in found)
    tiny.assert_identical(found, expected)


def test_asynchronous_vector_environments(tiny_problem):
    shared = share(tiny_problem)
    seen = []
    for mode, settings in (("async", {"context": "forkserver"}), ("sync", {})):
        venv = gym.make_vec(
            "prune_gym:Prune-v0",
            num_envs=2,
            vectorization_mode=mode,
            vector_kwargs=settings,
            problem=shared,
        )
        venv.action_space.seed(0)
        steps = [venv.reset(seed=1)]
        steps += [venv.step(venv.action_space.sample()) for _ in range(5)]
        venv.close()
        seen.append(steps)
    tiny.assert_identical(seen[0], seen[1])
    assert seen[0][3][2].all()


def test_arrays_that_begin_alike_and_end_apart():
    whole = np.arange(10_000.0)
    for first, second in ((whole[:600], whole), (whole, whole[:600])):
        held = tiny.make_tiny(budgets={prune_gym.Budget("held", Lengths(first, second)): 1.0})
        found = next(iter(as_elsewhere(share(held)).budgets)).measure
        tiny.assert_identical((found.first, found.second), (first, second))


class Lengths:
    def __init__(self, first, second) -> None:
        self.first, self.second = first, second

    def __call__(self, network) -> float:
        return float(len(self.first))


def test_arrays_that_are_more_than_numbers_come_back_whole():
    masked = np.ma.MaskedArray(np.arange(1000.0), mask=np.arange(1000) % 2 == 0)
    dated = np.arange("2000-01-01", "2005-01-01", dtype="datetime64[D]")
    held = tiny.make_tiny(budgets={prune_gym.Budget("held", Lengths(masked, dated)): 1.0})
    found = next(iter(as_elsewhere(share(held)).budgets)).measure
    assert (found.first.mask == masked.mask).all()
    tiny.assert_identical(found.second, dated)


@pytest.mark.parametrize("threads", [0, -1, "a", True])
def test_wrong_threads(tiny_problem, threads):
    with pytest.raises(ValueError, match=r"threads=.* must be a whole number of at least 1"):
        share(tiny_problem, threads)


def test_what_is_no_problem():
    with pytest.raises(TypeError, match="problem='digits': expected a PruningProblem; build one"):
        share("digits")


def test_copies_of_a_handle_in_its_process_are_the_handle(tiny_problem):
    shared = share(tiny_problem)
    copied = copy.deepcopy({"problem": shared})["problem"]
    del shared
    gc.collect()
    assert copied.open() is tiny_problem
