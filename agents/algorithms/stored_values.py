"""Values as JSON and arrays, and back again, without running anything.

JSON holds what it can; a value that it has no word for is an object with one key that begins with a
colon: ``{":array": "3"}`` is the array of that name, ``{":object": "module:Class", ...}`` an object
of `agents.algorithms.known_objects`. Values of a user's own, such as a function, are pickled, and
are only unpickled for those who trust the file.
"""

from __future__ import annotations

import base64
import math
import pickle
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import numpy as np
import torch as th

from agents.algorithms.known_objects import CLASSES, OBJECTS, find_class, name_of
from agents.archive import Archive, Array, DamageError
from agents.errors import TrustError

_PLAIN = (str, bool, int, type(None))


@dataclass
class Writer:
    """Takes values apart.

    Attributes:
        policies: Policies of the algorithm, by name.
        arrays: The arrays of what was written so far, by name.
    """

    policies: Mapping[str, type[Any]] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    def write(self, value: Any) -> Any:
        """Return the JSON of a value; its arrays go to ``arrays``."""
        kind = type(value)
        if kind in _PLAIN or (kind is float and math.isfinite(value)):
            return value
        if kind is float:
            return {":float": str(value)}
        if kind is list:
            return [self.write(item) for item in value]
        if kind in (dict, OrderedDict):
            return self._write_dict(value)
        if kind is tuple:
            return {":tuple": [self.write(item) for item in value]}
        if kind is deque:
            return {":deque": [self.write(item) for item in value], "maxlen": value.maxlen}
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return {":number": self.write(value.item()), "dtype": value.dtype.name}
        if isinstance(value, th.Tensor) and value.layout is th.strided:
            return {":tensor": self._add(value.detach().cpu().numpy())}
        if kind is np.ndarray and value.dtype.kind in "biuf":
            return {":array": self._add(value)}
        return self._write_object(value)

    def _write_dict(self, value: Mapping[Any, Any]) -> Any:
        if all(type(key) is str and not key.startswith(":") for key in value):
            return {key: self.write(item) for key, item in value.items()}
        return {":dict": [[self.write(key), self.write(item)] for key, item in value.items()]}

    def _write_object(self, value: Any) -> Any:
        if isinstance(value, type):
            for name, policy in self.policies.items():
                if policy is value:
                    return {":policy": name}
            if name_of(value) in CLASSES:
                return {":class": name_of(value)}
            if issubclass(value, np.generic):
                return {":dtype": np.dtype(value).name}
        elif name_of(type(value)) in OBJECTS:
            taken = OBJECTS[name_of(type(value))].take(value)
            values = {name: self.write(item) for name, item in taken.items()}
            return {":object": name_of(type(value)), "values": values}
        elif isinstance(value, np.random.Generator) and _is_pcg64(value):
            return {":generator": self.write(value.bit_generator.state)}
        kind = value if isinstance(value, type) else getattr(value, "__qualname__", type(value))
        words = name_of(kind) if isinstance(kind, type) else f"{value.__module__}:{kind}"
        content = base64.b64encode(cloudpickle.dumps(value)).decode("ascii")
        return {":pickle": content, "of": words}

    def _add(self, array: Array) -> str:
        name = str(len(self.arrays))
        self.arrays[name] = array
        return name


@dataclass
class Reader:
    """Puts values together.

    Attributes:
        archive: Where the arrays are.
        path: Of the file, for errors.
        trust: Whether values of a user's own are unpickled.
        policies: Policies of the algorithm, by name.
    """

    archive: Archive
    path: str
    trust: bool = False
    policies: Mapping[str, type[Any]] = field(default_factory=dict)

    def read(self, where: str, value: Any) -> Any:
        """Return the value of its JSON.

        Args:
            where: Its name, for errors.
            value: The JSON.

        Raises:
            DamageError: If it is not what `Writer` writes.
            TrustError: If it would be unpickled, and the file is not trusted.
        """
        if isinstance(value, list):
            return [self.read(f"{where}[{index}]", item) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        tag = next((key for key in value if key.startswith(":")), None)
        if tag is None:
            return {key: self.read(f"{where}.{key}", item) for key, item in value.items()}
        rule = _RULES.get(tag)
        if rule is None:
            raise DamageError(f"{where} holds {tag!r}, which has no meaning")
        try:
            return rule(self, where, value[tag], value)
        except (DamageError, TrustError):
            raise
        except Exception as error:  # of constructors, which check what they are given
            words = f"{type(error).__name__}: {error}"
            raise DamageError(f"{where} is damaged ({words})") from error

    def _read_object(self, where: str, name: Any, value: Mapping[str, Any]) -> Any:
        form = OBJECTS[name]
        values = {
            key: self.read(f"{where}.{key}", item) for key, item in dict(value["values"]).items()
        }
        return form.make(**values)

    def _read_pickle(self, where: str, content: Any, value: Mapping[str, Any]) -> Any:
        if not self.trust:
            raise TrustError(
                f"{self.path}: {where} is {str(value.get('of'))[:80]!r}, which is not of this "
                "package and would be unpickled, which can run anything. Allow it if you trust the "
                "file: --trust, or trust=True."
            )
        return pickle.loads(base64.b64decode(content, validate=True))


def _is_pcg64(generator: np.random.Generator) -> bool:
    return type(generator.bit_generator).__name__ == "PCG64"


def _generator(reader: Reader, where: str, content: Any, _: Any) -> np.random.Generator:
    made = np.random.default_rng(0)
    made.bit_generator.state = reader.read(where, content)
    return made


def _dtype(_: Reader, __: str, content: Any, ___: Any) -> type[Any]:
    dtype = np.dtype(str(content))
    if dtype.kind not in "biuf" or dtype.name != content:
        raise ValueError(f"{content!r} is no kind of number")
    return dtype.type


def _number(reader: Reader, where: str, content: Any, value: Mapping[str, Any]) -> Any:
    return _dtype(reader, where, value["dtype"], value)(reader.read(where, content))


def _list(reader: Reader, where: str, content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError("it holds no list")
    return [reader.read(f"{where}[{index}]", item) for index, item in enumerate(content)]


def _deque(reader: Reader, where: str, content: Any, value: Mapping[str, Any]) -> deque[Any]:
    return deque(_list(reader, where, content), value["maxlen"])


def _dict(reader: Reader, where: str, content: Any, _: Any) -> dict[Any, Any]:
    pairs = [(reader.read(where, key), item) for key, item in content]
    return {key: reader.read(f"{where}.{key}", item) for key, item in pairs}


_RULES: dict[str, Callable[[Reader, str, Any, Mapping[str, Any]], Any]] = {
    ":float": lambda _, __, content, ___: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[
        content
    ],
    ":tuple": lambda reader, where, content, _: tuple(_list(reader, where, content)),
    ":deque": _deque,
    ":dict": _dict,
    ":number": _number,
    ":array": lambda reader, _, content, __: reader.archive.array(content),
    ":tensor": lambda reader, _, content, __: th.from_numpy(reader.archive.array(content)),
    ":class": lambda _, __, content, ___: find_class(content),
    ":dtype": _dtype,
    ":policy": lambda reader, _, content, __: reader.policies[content],
    ":generator": _generator,
    ":object": Reader._read_object,
    ":pickle": Reader._read_pickle,
}
