"""Files of models, replay buffers and statistics are data: damaged ones are named, none runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import BudgetToyEnv, PPOLagrangian, constrain, constrained
from agents.algorithms.stored_values import Reader, Writer
from agents.archive import open_archive, write_archive
from agents.errors import ModelFileError, TrustError
from agents.runs.normaliser import load_statistics, save_statistics

SMALL = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}
RAN = "AGENTS_TEST_WAS_RUN"


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return os.putenv, (RAN, "1")


def trap():
    return pickle.dumps(Trap())


def trapped(monkeypatch):
    """Fail where anything is unpickled."""

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(th, "load", refuse)


@pytest.fixture(scope="module")
def model():
    made = PPOLagrangian("MlpPolicy", BudgetToyEnv(), n_steps=16, batch_size=16, **SMALL)
    return made.learn(32)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    model.save(path)
    return path


def rewritten(path, target, change, arrays=None, skip=()):
    """Copy an archive; ``change`` gets its JSON, ``arrays`` replaces arrays by name."""
    arrays = arrays or {}
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content)
                change(data)
                content = json.dumps(data)
            if name.removesuffix(".npy") in arrays:
                content = arrays[name.removesuffix(".npy")]
            if name not in skip:
                new.writestr(name, content)
    return target


def settings(**values):
    return lambda data: data["settings"].update(values)


def header(shape, descr="<f4", data=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + data


def first_weight(path):
    return json.loads(zipfile.ZipFile(path).read("data"))["parameters"]["policy"]["log_std"][
        ":tensor"
    ]


CHANGES = {
    "kind": (settings(n_steps="many"), r"settings\.n_steps is 'many'"),
    "none": (settings(gamma=None), r"settings\.gamma is None"),
    "bool": (settings(n_epochs=True), r"settings\.n_epochs is True"),
    "nan": (settings(gae_lambda={":float": "nan"}), r"settings\.gae_lambda is nan"),
    "seed": (settings(seed="x"), r"settings\.seed is 'x'"),
    "method": (settings(predict=3), r"settings\.predict is no attribute"),
    "multiplier": (settings(multiplier=3), r"settings\.multiplier is 3"),
    "absurd layers": (
        settings(policy_kwargs={"net_arch": [10**6, 10**6]}),
        "networks that are far too large",
    ),
    "other layers": (settings(policy_kwargs={"net_arch": [9]}), r"parameters\.policy\..* shape"),
    "negative layers": (settings(policy_kwargs={"net_arch": [-9]}), "no saved model"),
    "policy": (settings(policy_class={":policy": "os.system"}), "policy_class is damaged"),
    "class": (settings(policy_class={":class": "os:system"}), "policy_class is damaged"),
    "object": (
        settings(multiplier={":object": "os:system", "values": {"command": "true"}}),
        "multiplier is damaged",
    ),
    "tag": (settings(gamma={":eval": "1"}), "':eval', which has no meaning"),
    "space": (settings(observation_space=3), r"settings\.observation_space is 3"),
    "no space": (lambda data: data["settings"].pop("action_space"), "action_space is missing"),
    "no parameters": (lambda data: data.pop("parameters"), "parameters is missing"),
    "fewer": (lambda data: data["parameters"].pop("policy"), r"parameters\.policy is missing"),
    "no optimiser": (
        lambda data: data["parameters"].update({"policy.optimizer": 1}),
        r"policy\.optimizer is int, not a dict",
    ),
    "no array": (
        lambda data: data["parameters"]["policy"].update(log_std={":tensor": "77"}),
        r"77\.npy is missing",
    ),
    "no tensor": (
        lambda data: data["parameters"]["policy"].update(log_std=1.0),
        r"parameters\.policy\.log_std is float",
    ),
    "format": (lambda data: data.update(_format="2"), "_format is '2'"),
    "deep": (settings(policy_kwargs={"net_arch": {":dict": [[1]]}}), "net_arch is damaged"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tampered_models_are_named_in_one_line(name, saved, tmp_path, monkeypatch):
    change, message = CHANGES[name]
    path = rewritten(saved, tmp_path / "tampered.zip", change)
    trapped(monkeypatch)
    with pytest.raises(ModelFileError, match=message) as error:
        PPOLagrangian.load(path)
    assert "tampered.zip" in str(error.value)
    assert "\n" not in str(error.value)


ARRAYS = {
    "absurd": (header((10**12,)), r"shape \(1000000000000,\)"),
    "overflow": (header((2**62, 4)), r"holds 0 bytes"),
    "negative": (header((-1,)), "no numbers"),
    "objects": (header((1,), "|O", trap()), "no numbers|no array"),
    "pickle": (trap(), "no array"),
    "nan": (header((1,), data=np.float32(np.nan).tobytes()), "not finite"),
    "other shape": (header((2,), data=bytes(8)), r"log_std is torch.float32 of shape \(2,\)"),
    "other kind": (header((1,), "<f8", bytes(8)), r"log_std is torch.float64"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_tampered_arrays_are_named_in_one_line(name, saved, tmp_path, monkeypatch):
    content, message = ARRAYS[name]
    arrays = {first_weight(saved): content}
    path = rewritten(saved, tmp_path / "tampered.zip", lambda _: None, arrays)
    trapped(monkeypatch)
    with pytest.raises(ModelFileError, match=message):
        PPOLagrangian.load(path)


def test_cut_off_and_compressed_files_are_named(saved, tmp_path):
    content = saved.read_bytes()
    for length in (10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.zip").write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"cut\.zip"):
            PPOLagrangian.load(tmp_path / "cut.zip")
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(ModelFileError, match=r"flipped\.zip"):
        PPOLagrangian.load(tmp_path / "flipped.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b" " * 10**7)
    with pytest.raises(ModelFileError, match="compressed"):
        PPOLagrangian.load(tmp_path / "bomb.zip")
    with pytest.raises(OSError, match="it is no file"):
        PPOLagrangian.load(tmp_path)


def test_nothing_is_unpickled(model, saved, monkeypatch):
    trapped(monkeypatch)
    loaded = PPOLagrangian.load(saved, env=BudgetToyEnv(), device="cpu")
    assert loaded.learn(16, reset_num_timesteps=False).num_timesteps == 48
    with open_archive(saved) as archive:
        assert ":pickle" not in json.dumps(archive.json())
    with np.load(saved, allow_pickle=False) as file:
        assert len(file.files) > 10


def test_models_of_earlier_versions_are_refused(tmp_path, monkeypatch):
    data = {"_made_by": "PPOLagrangian", "_format": 1, "policy_class": {":serialized:": "x"}}
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", trap())
    trapped(monkeypatch)
    with pytest.raises(ModelFileError, match=r"earlier version, as pickles, .*Train it anew"):
        PPOLagrangian.load(tmp_path / "old.zip", trust=True)


def test_names_in_a_model_move_no_cursor(tmp_path):
    path = tmp_path / "x.zip"
    write_archive(path, {"_made_by": "\x1b[2J", "_format": 2}, {})
    with pytest.raises(ModelFileError, match="it was made by") as error:
        PPOLagrangian.load(path)
    assert str(error.value).isprintable()


# -- values of a user's own -----------------------------------------------------------------------


def own_rate(left):
    return 1e-3 * left


def test_own_values_need_trust(tmp_path):
    kwargs = {**SMALL, "learning_rate": own_rate, "n_steps": 16, "batch_size": 16}
    PPOLagrangian("MlpPolicy", BudgetToyEnv(), **kwargs).save(tmp_path / "own")
    message = r"own: learning_rate is 'test_stored_models:own_rate', .*--trust, or trust=True"
    with pytest.raises(TrustError, match=message):
        PPOLagrangian.load(tmp_path / "own")
    loaded = PPOLagrangian.load(tmp_path / "own", trust=True)
    assert loaded.lr_schedule(0.5) == 5e-4
    given = {"learning_rate": 1e-3, "lr_schedule": None}  # what is given is not read
    assert PPOLagrangian.load(tmp_path / "own", custom_objects=given).lr_schedule(0.5) == 1e-3


@pytest.mark.parametrize(
    "value",
    [
        gym.spaces.Box(np.array([-1.0, -np.inf], np.float32), np.inf, dtype=np.float32),
        gym.spaces.Discrete(3, start=-1),
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.MultiBinary((2, 2)),
        gym.spaces.Dict([("z", gym.spaces.Discrete(2)), ("a", gym.spaces.MultiBinary(3))]),
        {1: (2.0, float("inf"), None), "deep": [True, {":odd": np.float32(0.1)}]},
        th.nn.ReLU,
        th.optim.RMSprop,
    ],
    ids=str,
)
def test_values_come_back(value):
    writer, file = Writer(), io.BytesIO()
    write_archive(file, {"value": writer.write(value)}, writer.arrays)
    assert b":pickle" not in file.getvalue()
    with open_archive(file) as archive:
        again = Reader(archive, "file").read("value", archive.json()["value"])
    assert again == value
    assert type(again) is type(value)
    if isinstance(value, gym.spaces.Dict):
        assert list(again.spaces) == list(value.spaces)


def test_noise_and_generators_come_back():
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))
    noise()
    rng = np.random.default_rng(3)
    rng.random(5)
    writer, file = Writer(), io.BytesIO()
    values = {"ou": noise, "normal": NormalActionNoise(np.zeros(1), np.ones(1)), "rng": rng}
    write_archive(file, writer.write(values), writer.arrays)
    with open_archive(file) as archive:
        again = Reader(archive, "file").read("", archive.json())
    np.testing.assert_array_equal(again["ou"].noise_prev, noise.noise_prev)
    assert repr(again["normal"]) == repr(values["normal"])
    assert again["rng"].random() == rng.random()


# -- replay buffers and statistics ----------------------------------------------------------------


@pytest.fixture(scope="module")
def off_policy(tmp_path_factory):
    kwargs = {**SMALL, "buffer_size": 20, "learning_starts": 4, "batch_size": 4}
    made = constrain(SAC, BudgetToyEnv(), **kwargs).learn(12)
    path = tmp_path_factory.mktemp("buffer") / "buffer"
    made.save_replay_buffer(path)
    return made, path.with_suffix(".npz")


BUFFERS = {
    "size": (lambda data: data.update(buffer_size=10**12), {}, r"buffer_size is 1000000000000"),
    "kind": (lambda data: data.update(buffer_size=True), {}, r"buffer_size is True"),
    "place": (lambda data: data.update(pos=20), {}, "pos is 20"),
    "negative": (lambda data: data.update(pos=-1), {}, "pos is -1"),
    "full": (lambda data: data.update(full=1), {}, "full is 1"),
    "absurd": (lambda _: None, {"actions": header((10**12, 1, 1))}, r"actions\.npy"),
    "shape": (lambda _: None, {"actions": header((1, 1, 1), data=bytes(4))}, "actions is float32"),
    "nan": (
        lambda _: None,
        {"costs": header((13, 1, 1), data=np.full(13, np.nan, np.float32).tobytes())},
        "costs holds NaN",
    ),
    "pickle": (lambda _: None, {"dones": trap()}, r"dones\.npy in it is no array"),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_tampered_buffers_are_named(name, off_policy, tmp_path, monkeypatch):
    model, path = off_policy
    change, arrays, message = BUFFERS[name]
    rewritten(path, tmp_path / "b.npz", change, arrays)
    kept = model.replay_buffer
    trapped(monkeypatch)
    with pytest.raises(ModelFileError, match=rf"b\.npz.*{message}"):
        model.load_replay_buffer(tmp_path / "b.npz")
    assert model.replay_buffer is kept


def test_pickled_buffers_are_refused(off_policy, tmp_path, monkeypatch):
    (tmp_path / "buffer.pkl").write_bytes(trap())
    trapped(monkeypatch)
    with pytest.raises(ModelFileError, match=r"buffer\.pkl' is no saved replay buffer"):
        off_policy[0].load_replay_buffer(tmp_path / "buffer.pkl")


def test_buffers_of_other_environments_are_refused(off_policy, tmp_path):
    _, path = off_policy
    kwargs = {**SMALL, "buffer_size": 20}
    other = constrain(SAC, DummyVecEnv([BudgetToyEnv] * 2), **kwargs)
    with pytest.raises(ValueError, match="filled by 1 environments, the model has 2"):
        other.load_replay_buffer(path)


def test_statistics_come_back_or_are_named(tmp_path, monkeypatch):
    envs = VecNormalize(DummyVecEnv([BudgetToyEnv]))
    envs.reset()
    envs.step([envs.action_space.sample()])
    save_statistics(envs, tmp_path / "s.npz")
    again = VecNormalize(DummyVecEnv([BudgetToyEnv]), training=False)
    load_statistics(again, tmp_path / "s.npz")
    np.testing.assert_array_equal(again.obs_rms.mean, envs.obs_rms.mean)
    assert again.ret_rms.count == envs.ret_rms.count
    (tmp_path / "old.pkl").write_bytes(trap())
    trapped(monkeypatch)
    damages = {
        "count": lambda data: data["statistics"]["obs_rms"]["values"].update(count="x"),
        "statistics is missing": lambda data: data.pop("statistics"),
        "do not fit": lambda data: data["statistics"].pop("obs_rms"),
    }
    for message, change in damages.items():
        rewritten(tmp_path / "s.npz", tmp_path / "t.npz", change)
        with pytest.raises(ModelFileError, match=rf"t\.npz.*{message}"):
            load_statistics(again, tmp_path / "t.npz")
    with pytest.raises(ModelFileError, match=r"old\.pkl"):
        load_statistics(again, tmp_path / "old.pkl")


def test_a_file_that_cannot_be_replaced_stays(saved, model, tmp_path, monkeypatch):
    path = tmp_path / "model.zip"
    path.write_bytes(b"before")
    monkeypatch.setattr("agents.algorithms.model_file.write_archive", partial(int, "x"))
    with pytest.raises((TypeError, ValueError)):
        model.save(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_constrained_classes_are_made_of_what_the_caller_names(tmp_path):
    kind = constrained(SAC)
    made = kind("MlpPolicy", BudgetToyEnv(), buffer_size=20, **SMALL)
    made.save(tmp_path / "model")
    assert type(kind.load(tmp_path / "model")) is kind


def test_a_model_of_before_units_goes_on_in_the_environment_s(saved, tmp_path):
    def as_before(data):
        data["_format"] = 2
        for name in ("units", "unit_free", "_episode_returns"):
            data["settings"].pop(name)

    rewritten(saved, tmp_path / "old.zip", as_before)
    loaded = PPOLagrangian.load(tmp_path / "old.zip", env=BudgetToyEnv(), device="cpu")
    assert loaded.unit_free is False
    before = loaded.multiplier.value
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.multiplier.value == pytest.approx(before + loaded.violation[0])
    assert loaded.prices == loaded.multiplier.value
