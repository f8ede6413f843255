"""Saved models: settings as JSON, parameters as arrays, and nothing that runs when they are loaded.

`StoredAlgorithm` gives an algorithm of Stable-Baselines3 a ``save`` and a ``load`` of the same
arguments that write and read such files. What is loaded is checked before it is used: names, kinds
and shapes are those of a model that is made anew, and every number is finite.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TypeAlias

import gymnasium as gym
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info
from stable_baselines3.common.vec_env import VecEnv

from agents.algorithms.state_checks import (
    bounded_memory,
    check_parameters,
    check_settings,
    most_elements,
)
from agents.algorithms.stored_values import Reader, Writer
from agents.archive import Archive, DamageError, Source, open_archive, write_archive
from agents.errors import AgentsError, InvalidTypeError, ModelFileError
from agents.files import replacing, shown

FORMAT = 3  # of saved models; a larger one was written by a later version of this package
_WITH_UNITS = 3  # the first whose multipliers have no unit
_AS_DATA = 2  # the first that holds no pickles
SavedModel: TypeAlias = str | pathlib.Path | IO[bytes]
_MADE_ANEW = ("_last_lstm_states", "batch_norm_stats")  # by _setup_model, from what is saved


class StoredAlgorithm(BaseAlgorithm):
    """Mixin: an algorithm of Stable-Baselines3 whose files hold data, and no pickles of its own."""

    made_by: str  # names what a model file may be loaded by; the class, where it does not say

    def save(  # type: ignore[override]  # files of all kinds
        self,
        path: SavedModel,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the model, and who can load it.

        Values of your own that JSON cannot hold, such as a function as ``learning_rate`` or a class
        of yours in ``policy_kwargs``, are pickled; `load` refuses them without ``trust=True``.

        Args:
            path: The file, ``.zip`` if it has no suffix, or an open file.
            exclude: Attributes to leave out, beside those that can be made anew.
            include: Attributes to save that are left out otherwise.
        """
        modules, variables = self._get_torch_save_params()
        left_out = {*(exclude or ()), *self._excluded_save_params()} - set(include or ())
        left_out |= {name.partition(".")[0] for name in (*modules, *variables)}
        settings = {
            name: value
            for name, value in vars(self).items()
            if name not in left_out and not any(part in name for part in _MADE_ANEW)
        }
        writer = Writer(self.policy_aliases)
        data = {
            "_made_by": self.made_by,
            "_format": FORMAT,
            "settings": writer.write(settings),
            "parameters": writer.write(_plain(self.get_parameters())),
            "variables": writer.write({name: recursive_getattr(self, name) for name in variables}),
        }
        with writing(path, ".zip") as file:
            write_archive(file, data, writer.arrays)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: SavedModel,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model; nothing of the file is run.

        Args:
            path: The file, or one that is open.
            env: An environment to go on with.
            device: Of the model.
            custom_objects: Values by name that replace those of the file, which are not read then.
            print_system_info: Whether to print the versions of this machine.
            force_reset: Whether the next ``learn`` resets the environment.
            trust: Whether values of a user's own in it may be unpickled, which can run anything.
            **kwargs: Arguments of the constructor that replace those of the file.

        Raises:
            ModelFileError: If the file is damaged, was made by another algorithm or by another
                version, or does not fit the environment.
            TrustError: If it holds pickled values, and is not trusted.
            MissingFileError: If there is none.
        """
        if print_system_info:
            get_system_info()
        if custom_objects is not None and not isinstance(custom_objects, dict):
            raise InvalidTypeError(f"custom_objects is {custom_objects!r}; it must be a dict.")
        given = {**(custom_objects or {}), **kwargs}
        with reading(path) as archive:
            data = _checked(path, archive, cls.made_by)
            reader = Reader(archive, str(path), trust, cls.policy_aliases)
            settings = {
                name: given[name] if name in given else reader.read(name, value)
                for name, value in _part(data, "settings").items()
            }
            parameters = reader.read("parameters", _part(data, "parameters"))
            variables = reader.read("variables", _part(data, "variables"))
            if data["_format"] < _WITH_UNITS:  # its multiplier is a price: it goes on as it was
                settings["unit_free"] = False
            settings = {**settings, **given}
            try:
                return _assemble(cls, settings, parameters, variables, env, device, force_reset)
            except (AgentsError, DamageError):
                raise
            except MemoryError as error:
                raise DamageError("it asks for more memory than there is") from error
            except Exception as error:  # of Stable-Baselines3 and torch, about what they were given
                raise DamageError(f"{type(error).__name__}: {error}") from error


def _assemble(
    cls: type[Any],
    settings: dict[str, Any],
    parameters: dict[str, Any],
    variables: dict[str, Any],
    env: GymEnv | None,
    device: th.device | str,
    force_reset: bool,
) -> Any:
    """Make a model as Stable-Baselines3's ``load`` does, and check each value on the way."""
    for name in ("policy_class", "observation_space", "action_space"):
        kind = type if name == "policy_class" else gym.Space
        if not isinstance(settings.get(name), kind):
            words = str(settings.get(name, "missing"))
            raise DamageError(f"settings.{name} is {words[:80]}")
    if env is not None:
        vector: VecEnv = cls._wrap_env(env, 0)
        check_for_correct_spaces(vector, settings["observation_space"], settings["action_space"])
        env, settings["n_envs"] = vector, vector.num_envs
        if force_reset:
            settings["_last_obs"] = None
    model = cls(policy=settings["policy_class"], env=env, device=device, _init_setup_model=False)
    check_settings(model, settings)
    vars(model).update(settings)
    with bounded_memory(most_elements(parameters)):
        model._setup_model()
    check_parameters(model, parameters)
    model.set_parameters(parameters, exact_match=True, device=device)
    names = model._get_torch_save_params()[1]
    for name in names:
        own, saved = recursive_getattr(model, name), variables.get(name)
        if own is None and saved is None:
            continue
        if not isinstance(saved, th.Tensor) or (saved.shape, saved.dtype) != (own.shape, own.dtype):
            raise DamageError(f"variables.{name} is no tensor like {tuple(own.shape)}, {own.dtype}")
        recursive_setattr(model, f"{name}.data", saved.to(own.device))
    if model.use_sde:
        model.policy.reset_noise()  # so that it is on this device
    return model


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """State dicts as plain dicts, without what modules note about their versions."""
    return {name: dict(state) for name, state in parameters.items()}


def _part(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = data.get(name)
    if not isinstance(part, dict):
        raise DamageError(f"{name} is missing in it")
    return part


# -- files -----------------------------------------------------------------------------------------


@contextmanager
def writing(path: SavedModel, suffix: str) -> Iterator[Any]:
    """Open a file for writing: one that takes its place whole, or the one that was handed in."""
    if not isinstance(path, str | pathlib.Path):
        yield path
        return
    target = pathlib.Path(path)
    target = target if target.suffix else target.with_name(target.name + suffix)
    with replacing(target) as partial, partial.open("wb") as file:
        yield file


@contextmanager
def reading(
    path: SavedModel,
    suffix: str = ".zip",
    what: str = "saved model",
    cure: str = "Pass a file written by save().",
) -> Iterator[Archive]:
    """Open a file; what is wrong with it becomes one error that names it.

    Raises:
        ModelFileError: If it is damaged.
        MissingFileError: If there is none.
    """
    source: Source = path
    if isinstance(path, str | pathlib.Path):
        found = pathlib.Path(path)
        source = found if found.exists() else found.with_name(found.name + suffix)
    try:
        with open_archive(source) as archive:
            yield archive
    except DamageError as error:
        words = shown(" ".join(str(error).split()))
        raise ModelFileError(f"path={str(path)!r} is no {what} ({words[:400]}). {cure}") from error


def read_origin(path: SavedModel) -> tuple[str, int]:
    """Return what made a saved model (empty for models of others) and its format.

    Raises:
        ModelFileError: If the file is not a saved model.
        MissingFileError: If there is none.
    """
    with reading(path) as archive:
        return _origin(archive.json())


def _origin(data: Mapping[str, Any]) -> tuple[str, int]:
    version = data.get("_format", 0)
    if not isinstance(version, int):
        raise DamageError(f"_format is {version!r}")
    return shown(" ".join(str(data.get("_made_by", "")).split())[:80]), version


def _checked(path: SavedModel, archive: Archive, made_by: str) -> dict[str, Any]:
    """Return the JSON of a model that ``made_by`` made, in a format known here."""
    data = archive.json()
    origin, version = _origin(data)
    if origin != made_by:
        whose = f"it was made by {origin}; load it with that" if origin else "it is not ours"
        raise ModelFileError(f"path={str(path)!r} cannot be loaded by {made_by}: {whose}.")
    if version > FORMAT:
        raise ModelFileError(
            f"path={str(path)!r} has format {version}; this version knows up to {FORMAT}. "
            "Upgrade the package to load it."
        )
    if version < _AS_DATA:
        raise ModelFileError(
            f"path={str(path)!r} was saved by an earlier version, as pickles, which can run "
            "anything and are not read any more. Train it anew."
        )
    return data
