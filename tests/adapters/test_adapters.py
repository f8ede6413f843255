"""The adapters: what can be told without the guests, and each guest where it is installed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

import prune_gym
from prune_gym.adapters import fsrl, omnisafe, rllib, safety_gymnasium, torchrl
from prune_gym.adapters.base import cost_limit_of, registered_ids, require
from prune_gym.adapters.tensors import TensorEnvs

GUESTS = ("omnisafe", "tianshou", "ray", "torchrl", "safety_gymnasium")
ENV_ID = "PruneVGG-v0"
N_STEPS = 3  # filter groups of the tiny problem


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    monkeypatch.setattr(gym, "registry", gym.envs.registration.registry)
    monkeypatch.setattr(omnisafe, "ARGUMENTS", {})
    return gym.registry


def episode(env, seed=0):
    """Actions, and what Gymnasium gives for them."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    actions, seen = [], [(observation, 0.0, False, False, info)]
    while not seen[-1][2]:
        actions.append(env.action_space.sample())
        seen.append(env.step(actions[-1]))
    return actions, seen


# -- what all have in common ----------------------------------------------------------------------


def test_no_guest_is_imported():
    modules = ["prune_gym.envs", *(f"prune_gym.adapters.{name}" for name in ("fsrl", "omnisafe"))]
    modules += [f"prune_gym.adapters.{name}" for name in ("rllib", "torchrl", "safety_gymnasium")]
    code = f"import sys, {', '.join(modules)}; print(sorted({{*{GUESTS}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "function", "message"),
    [
        ("omnisafe.envs.core", omnisafe.register, "OmniSafe .*pip install --no-deps omnisafe"),
        (
            "omnisafe.algorithms",
            lambda: omnisafe.configure("PPOLag", ENV_ID),
            "OmniSafe .*pip install --no-deps omnisafe",
        ),
        (
            "tianshou.env",
            lambda: fsrl.vector_env(ENV_ID),
            "FSRL .*pip install --no-deps fast-safe-rl tianshou==0.5.1",
        ),
        ("ray.tune.registry", rllib.register, r'Ray .*pip install "ray\[rllib\]"'),
        ("torchrl.envs", lambda: torchrl.make_env(ENV_ID), "TorchRL .*pip install torchrl"),
        (
            "safety_gymnasium",
            safety_gymnasium.register,
            "Safety-Gymnasium .*pip install safety-gymnasium",
        ),
    ],
)
def test_a_missing_guest_says_how_to_install_it(module, function, message, monkeypatch, registry):
    monkeypatch.setitem(sys.modules, module, None)  # as if it was not installed
    with pytest.raises(ImportError, match=f"(?s){message}"):
        function()
    assert "safety_gymnasium" not in sys.modules or sys.modules["safety_gymnasium"] is None


def test_require_gives_the_module():
    assert require("json", "JSON", "json") is importlib.import_module("json")


def test_registered_ids(registry, tiny_problem):
    assert set(prune_gym.ENVIRONMENTS) <= set(registered_ids())
    assert "CartPole-v1" not in registered_ids()
    gym.register("Mine-v0", entry_point="prune_gym.envs:make_env", kwargs={"problem": tiny_problem})
    assert "Mine-v0" in registered_ids()


def test_cost_limit_of(tiny_problem):
    assert cost_limit_of(gym.make("Prune-v0", problem=tiny_problem)) == 0.5
    with pytest.raises(ValueError, match="has no cost_limit"):
        cost_limit_of(gym.make("CartPole-v1"))


# -- OmniSafe -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_one_environment_in_tensors(tiny_problem, cost_mode):
    arguments = {"problem": tiny_problem, "cost_mode": cost_mode}
    actions, seen = episode(gym.make("Prune-v0", **arguments))
    envs = TensorEnvs("Prune-v0", **arguments)
    assert envs.need_auto_reset_wrapper
    observation, info = envs.reset(seed=0)
    assert torch.equal(observation, torch.from_numpy(seen[0][0]))
    assert not {"final_observation", "final_info"} & set(info)
    for action, expected in zip(actions, seen[1:], strict=True):
        *tensors, info = envs.step(torch.from_numpy(action))
        values = [expected[0], expected[1], expected[4]["cost"], expected[2], expected[3]]
        for tensor, value in zip(tensors, values, strict=True):
            assert tensor.shape == np.shape(value)
            torch.testing.assert_close(tensor, torch.as_tensor(value, dtype=tensor.dtype))
        assert info["cost"] == expected[4]["cost"]
    assert tensors[3].dtype == torch.bool
    envs.close()


def test_many_environments_in_tensors(tiny_problem):
    arguments = {"problem": tiny_problem, "cost_mode": "terminal"}
    envs = TensorEnvs("Prune-v0", num_envs=2, **arguments)
    assert not envs.need_auto_reset_wrapper
    observations, _ = envs.reset(seed=5)
    played = [episode(gym.make("Prune-v0", **arguments), seed=5 + index) for index in range(2)]
    first = torch.from_numpy(np.stack([seen[0][0] for _, seen in played]))
    assert torch.equal(observations, first)
    for step in range(N_STEPS):
        actions = torch.from_numpy(np.stack([actions[step] for actions, _ in played]))
        observations, rewards, costs, terminated, truncated, info = envs.step(actions)
        expected = [seen[step + 1] for _, seen in played]
        assert rewards.tolist() == pytest.approx([row[1] for row in expected])
        assert costs.tolist() == pytest.approx([row[4]["cost"] for row in expected])
        assert terminated.tolist() == [row[2] for row in expected]
        assert not truncated.any()
        ended = step == N_STEPS - 1
        assert ("final_observation" in info) == ended
        last = torch.from_numpy(np.stack([row[0] for row in expected]))
        assert torch.equal(info["final_observation"] if ended else observations, last)
    assert info["_final_observation"].tolist() == [True, True]
    assert torch.equal(observations, first)  # new episodes began at once
    assert min(costs.tolist()) > 0.0  # the terminal cost is not lost


def test_an_environment_that_has_not_ended_has_no_final_observation(tiny_problem):
    envs = TensorEnvs("Prune-v0", num_envs=2, problem=tiny_problem)
    envs.reset(seed=0)
    envs.envs[0].step(envs.envs[0].action_space.sample())  # one is ahead of the other
    for _ in range(N_STEPS - 1):
        *_, info = envs.step(torch.zeros(2, 1))
    assert info["_final_observation"].tolist() == [True, False]
    assert not info["final_observation"][1].any()
    assert info["final_observation"][0].any()


def test_set_seed_reproduces_an_episode(tiny_problem):
    envs = TensorEnvs("Prune-v0", num_envs=2, problem=tiny_problem, render_mode="ansi")
    states = []
    for _ in range(2):
        envs.set_seed(3)
        states.append([env.unwrapped.np_random.bit_generator.state for env in envs.envs])
    assert states[0] == states[1]
    assert states[0][0] != states[0][1]
    assert isinstance(envs.render(), str)


def test_tensors_take_boxes_only(registry, tiny_problem):
    gym.register(
        "Discrete-v0",
        entry_point=lambda **kwargs: prune_gym.DiscreteRatios(gym.make("Prune-v0", **kwargs)),
    )
    with pytest.raises(ValueError, match="OmniSafe deals with Box only"):
        TensorEnvs("Discrete-v0", problem=tiny_problem)
    with pytest.raises(ValueError, match="num_envs=0"):
        TensorEnvs("Prune-v0", num_envs=0, problem=tiny_problem)


def test_one_action_for_many_environments_is_refused(tiny_problem):
    envs = TensorEnvs("Prune-v0", num_envs=2, problem=tiny_problem)
    envs.reset()
    with pytest.raises(ValueError, match="use vector_env_nums=1"):
        envs.step(torch.zeros(1, 1))


def fake_omnisafe(folder):
    """A package that imports `safety_gymnasium`, as OmniSafe does, and knows two algorithms."""
    files = {
        "omnisafe/__init__.py": "import safety_gymnasium\n",
        "omnisafe/envs/__init__.py": "",
        "omnisafe/envs/core.py": """
class CMDP: pass
class Registry:
    _class = {}
ENV_REGISTRY = Registry()
def env_register(cls):
    if cls.__name__ in ENV_REGISTRY._class:
        raise ValueError(f'{cls} has been registered')
    ENV_REGISTRY._class[cls.__name__] = cls
""",
        "omnisafe/algorithms/__init__.py": "ALGORITHM2TYPE = {'PPOLag': 'on', 'CPO': 'on'}",
        "omnisafe/utils/__init__.py": "",
        "omnisafe/utils/config.py": """
class Config(dict):
    todict = dict.copy
def get_default_kwargs_yaml(algo, env_id, kind):
    if algo == 'CPO':
        return Config(seed=0, algo_cfgs={'gamma': 0.99, 'cost_limit': 25})
    return Config(seed=0, env_cfgs={}, lagrange_cfgs={'cost_limit': 25.0, 'lambda_lr': 0.035})
""",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def omnisafe_module(tmp_path, monkeypatch, registry):
    fake_omnisafe(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "safety_gymnasium", None)
    monkeypatch.delitem(sys.modules, "safety_gymnasium")
    monkeypatch.setattr(sys, "meta_path", [_NoSafetyGymnasium(), *sys.meta_path])
    names = [name for name in sys.modules if name.split(".")[0] == "omnisafe"]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "omnisafe"]:
        del sys.modules[name]


class _NoSafetyGymnasium:
    """An old library that stumbles over a new Python."""

    def find_spec(self, name, path=None, target=None):
        if name == "safety_gymnasium":
            raise ValueError("mutable default")


def test_register_with_omnisafe(omnisafe_module, tiny_problem):
    omnisafe.register("Prune-v0", problem=tiny_problem, cost_mode="dense")
    omnisafe.register()  # the rest, and nothing twice
    core = importlib.import_module("omnisafe.envs.core")
    (cmdp,) = core.ENV_REGISTRY._class.values()
    assert issubclass(cmdp, core.CMDP)
    assert set(prune_gym.ENVIRONMENTS) <= set(cmdp._support_envs)
    assert "safety_gymnasium" not in sys.modules  # the stand-in is gone
    env = cmdp("Prune-v0").envs[0].unwrapped
    assert env.problem is tiny_problem
    assert env.cost_mode == "dense"
    assert cmdp("Prune-v0", cost_mode="terminal").envs[0].unwrapped.cost_mode == "terminal"


def test_configure_omnisafe(omnisafe_module, tiny_problem):
    omnisafe.register("Prune-v0", problem=tiny_problem)
    given = {"seed": 3, "lagrange_cfgs": {"lambda_lr": 0.1}}
    assert omnisafe.configure("PPOLag", "Prune-v0", given) == {
        "seed": 3,
        "lagrange_cfgs": {"cost_limit": 0.5, "lambda_lr": 0.1},
    }
    assert given == {"seed": 3, "lagrange_cfgs": {"lambda_lr": 0.1}}
    assert omnisafe.configure("CPO", "Prune-v0") == {"algo_cfgs": {"cost_limit": 0.5}}
    own = {"algo_cfgs": {"cost_limit": 0.7}}
    assert omnisafe.configure("CPO", "Prune-v0", own) == own
    with pytest.raises(ValueError, match=r"CPO has no env_cfgs; .* register\('Prune-v0'"):
        omnisafe.configure("CPO", "Prune-v0", {"env_cfgs": {"cost_mode": "dense"}})
    with pytest.raises(ValueError, match=r"unknown algo 'PPOLAg'.*PPOLag"):
        omnisafe.configure("PPOLAg", "Prune-v0")


@pytest.mark.skipif(find_spec("omnisafe") is None, reason="OmniSafe is not installed")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("algo", "num_envs"), [("PPOLag", 1), ("PPOLag", 2), ("CPO", 1)])
def test_omnisafe_learns(tiny_problem, tmp_path, algo, num_envs):
    omnisafe.register("Prune-v0", problem=tiny_problem)
    import omnisafe as library

    cfgs = omnisafe.configure(
        algo,
        "Prune-v0",
        {
            "train_cfgs": {"total_steps": 24, "vector_env_nums": num_envs, "torch_threads": 1},
            "algo_cfgs": {"steps_per_epoch": 12},
            "logger_cfgs": {"log_dir": str(tmp_path), "use_tensorboard": False},
        },
    )
    _, cost, length = library.Agent(algo, "Prune-v0", custom_cfgs=cfgs).learn()
    assert 0.0 < cost <= 1.0
    assert length == N_STEPS


# -- FSRL -----------------------------------------------------------------------------------------


def test_fsrl_n_envs():
    with pytest.raises(ValueError, match="n_envs=0"):
        fsrl.vector_env(ENV_ID, 0)


@pytest.mark.skipif(find_spec("fsrl") is None, reason="FSRL is not installed")
@pytest.mark.filterwarnings("default")
def test_fsrl_collects_the_cost(tiny_problem):
    from fsrl.agent import PPOLagAgent

    env = gym.make("Prune-v0", problem=tiny_problem)
    agent = PPOLagAgent(env, cost_limit=cost_limit_of(env), thread=1)
    envs = fsrl.vector_env("Prune-v0", 2, problem=tiny_problem)
    _, length, cost = agent.evaluate(envs, eval_episodes=2)
    assert length == N_STEPS
    assert 0.0 < cost <= 1.0


# -- RLlib ----------------------------------------------------------------------------------------


class Logger(dict):
    """The part of RLlib's metrics logger that is used."""

    def log_value(self, name, value, window):
        self[name] = value


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_rllib_logs_the_cost(tiny_problem, cost_mode, cut):
    env = rllib.make_env("Prune-v0", {"problem": tiny_problem, "cost_mode": cost_mode})
    infos = [step[4] for step in episode(env)[1]]
    # a chunk that RLlib cuts off goes on with the last info of the one before
    chunks = [infos] if cut is None else [infos[: cut + 1], infos[cut:]]
    *before, last = [SimpleNamespace(get_infos=lambda chunk=chunk: chunk) for chunk in chunks]
    logger = Logger()
    vector = SyncVectorEnv([lambda: gym.make("Prune-v0", problem=tiny_problem)] * 2)
    rllib.log_cost(
        episode=last, metrics_logger=logger, env=vector, env_index=1, prev_episode_chunks=before
    )
    true = sum(env.unwrapped.last_outcome().costs.values())
    assert logger["episode_cost"] == pytest.approx(true)
    assert logger["episode_cost_over_limit"] == pytest.approx(true / 0.5)
    assert logger["episode_violation"] == float(true > 0.5)


def test_rllib_registration(registry, monkeypatch):
    known = {}
    module = ModuleType("ray.tune.registry")
    module.register_env = known.__setitem__
    for name in ("ray", "ray.tune"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "ray.tune.registry", module)
    rllib.register()
    assert set(known) == set(registered_ids())
    env = known[ENV_ID]({"cost_mode": "dense", "budgets": {"params": 0.25}})
    assert env.unwrapped.cost_mode == "dense"
    assert env.unwrapped.cost_limit == 0.25


@pytest.mark.skipif(
    find_spec("ray") is None or find_spec("tree") is None, reason="RLlib is not installed"
)
@pytest.mark.filterwarnings("default")
def test_rllib_learns(tiny_problem):
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig

    rllib.register("Prune-v0")
    config = (
        PPOConfig()
        .environment("Prune-v0", env_config={"problem": prune_gym.share(tiny_problem)})
        .env_runners(num_env_runners=0)
        .training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=1)
        .callbacks(on_episode_end=rllib.log_cost)
    )
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        metrics = config.build_algo().train()["env_runners"]
    finally:
        ray.shutdown()
    assert 0.0 < metrics["episode_cost"] <= 1.0
    assert metrics["episode_cost_over_limit"] == pytest.approx(metrics["episode_cost"] / 0.5)


# -- TorchRL --------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("torchrl") is None, reason="TorchRL is not installed")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_torchrl_rollout(tiny_problem, cost_mode):
    from torchrl.envs.utils import check_env_specs

    env = torchrl.make_env("Prune-v0", problem=tiny_problem, cost_mode=cost_mode)
    check_env_specs(env)
    rollout = env.rollout(10)
    costs = rollout["next", "cost"]
    assert costs.shape == rollout["next", "reward"].shape == (N_STEPS, 1)
    true = sum(env.unwrapped.last_outcome().costs.values())
    assert float(costs.sum()) == pytest.approx(true)
    assert float(env.reset()["cost"].sum()) == 0.0


# -- Safety-Gymnasium -----------------------------------------------------------------------------


def test_steps_of_six_values(tiny_problem):
    actions, seen = episode(gym.make("Prune-v0", problem=tiny_problem))
    env = safety_gymnasium.make_six(problem=tiny_problem)
    env.reset(seed=0)
    for action, expected in zip(actions, seen[1:], strict=True):
        observation, reward, cost, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(observation, expected[0])
        assert (reward, terminated, truncated) == expected[1:4]
        assert cost == info["cost"] == expected[4]["cost"]
    assert cost > 0.0


def test_registration_with_safety_gymnasium(registry, monkeypatch, tiny_problem):
    library = ModuleType("safety_gymnasium")
    library.register = lambda **kwargs: gym.register(**kwargs)
    monkeypatch.setitem(sys.modules, "safety_gymnasium", library)
    names = safety_gymnasium.register()
    assert f"Safety{ENV_ID}" in names
    assert safety_gymnasium.register() == names
    factory = gym.spec("SafetyPruneVGGFilters-v0").entry_point
    env = factory(problem=tiny_problem)
    assert env.unwrapped.granularity == "filter"
    env.reset()
    assert len(env.step(env.action_space.sample())) == 6


@pytest.mark.skipif(find_spec("safety_gymnasium") is None, reason="it is not installed")
@pytest.mark.filterwarnings("default")
def test_safety_gymnasium_vector(tiny_problem):
    library = pytest.importorskip("safety_gymnasium")
    (name,) = safety_gymnasium.register("Prune-v0")
    envs = library.vector.make(name, num_envs=2, asynchronous=False, problem=tiny_problem)
    envs.reset(seed=0)
    for _ in range(N_STEPS):
        _, _, costs, terminated, _, _ = envs.step(envs.action_space.sample())
    assert terminated.all()
    assert (costs > 0.0).all()
