"""What a function of a user has to leave as it was: the state that all code of a process shares.

Settings that are left changed are put back, and whoever changed them is named, once for each.
Random numbers come from streams of its own, so that it neither repeats nor moves those of others.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.modules import module as modules

_UNREADABLE = object()
_SHOWN = (bool, int, float, str, torch.dtype, torch.device)


class _Setting(NamedTuple):
    """A setting: its words (empty: it is put back without any), how it is read and set."""

    words: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


def _attribute(words: str, owner: Any, name: str) -> _Setting:
    return _Setting(words, lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


# -- of each thread --------------------------------------------------------------------------------


def _put_device(device: torch.device) -> None:
    torch.set_default_device(None)  # as where nobody chose one, which costs nothing
    if _device() != device:
        torch.set_default_device(device)


def _device() -> torch.device:
    return torch.empty(0).device  # quicker than to ask for it


def _flushes_denormal() -> bool:
    return float(torch.tensor(1e-40, dtype=torch.float32, device="cpu") * 1.0) == 0.0  # no getter


def _autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _put_print_options(state: dict[str, Any]) -> None:
    np.set_printoptions(**state)


def _put_errors(state: dict[str, Any]) -> None:
    np.seterr(**state)


_OF_THREAD = (
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("torch's default device", _device, _put_device),
    _Setting("torch's flushing of denormal numbers", _flushes_denormal, torch.set_flush_denormal),
    _Setting("numpy's handling of errors", np.geterr, _put_errors),
    _Setting("", np.get_printoptions, _put_print_options),
)

# -- of the process --------------------------------------------------------------------------------


def _matmul_precision() -> str | None:
    with contextlib.suppress(RuntimeError):  # it was chosen in torch's newer words, see below
        return torch.get_float32_matmul_precision()
    return None


def _put_matmul_precision(precision: str | None) -> None:
    if precision is not None:
        torch.set_float32_matmul_precision(precision)


def _float32() -> list[_Setting]:
    words, matmul, cudnn = "torch's float32", torch.backends.cuda.matmul, torch.backends.cudnn
    newer = ((matmul, "fp32_precision"), (getattr(cudnn, "conv", None), "fp32_precision"))
    older = ((matmul, "allow_tf32"), (cudnn, "allow_tf32"))
    owners = newer if all(hasattr(*one) for one in newer) else older
    plain = _Setting(words, _matmul_precision, _put_matmul_precision)
    return [plain, *(_attribute(words, owner, name) for owner, name in owners)]


def _folder() -> str:
    with contextlib.suppress(OSError):  # it has been removed
        return os.getcwd()
    return ""


def _path() -> tuple[Any, list[str]]:
    return sys.path, list(sys.path)


def _put_path(state: tuple[Any, list[str]]) -> None:
    sys.path, held = state
    sys.path[:] = held


def _umask() -> int:
    mask = os.umask(0o077)  # it cannot be read without being set
    os.umask(mask)
    return mask


def _hooks() -> list[dict[int, Any]]:
    """Hooks on every module of the process: they change what each network computes."""
    return [dict(held) for held in _held_hooks()]


def _held_hooks() -> list[dict[int, Any]]:
    names = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")
    held = (getattr(modules, f"_global_{name}", None) for name in names)
    return [hooks for hooks in held if hooks is not None]


def _put_hooks(state: list[dict[int, Any]]) -> None:
    for held, was in zip(_held_hooks(), state, strict=True):
        held.clear()
        held.update(was)


def _variables() -> dict[Any, Any]:
    # the mapping beneath holds them as the system does: to copy it decodes none
    return dict(getattr(os.environ, "_data", os.environ))


def _put_variables(state: dict[Any, Any]) -> None:
    decode = os.environ.decodekey, os.environ.decodevalue
    if not hasattr(os.environ, "_data"):
        decode = str, str
    before = {decode[0](key): decode[1](value) for key, value in state.items()}
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _filters() -> tuple[Any, list[Any]]:
    return warnings.filters, list(warnings.filters)


def _put_filters(state: tuple[Any, list[Any]]) -> None:
    warnings.filters, held = state
    warnings.filters[:] = held  # type: ignore[index]


def _put_interop(n: int) -> None:
    torch.set_num_interop_threads(n)  # an error once work has begun


_OF_PROCESS = (
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting(
        "torch's deterministic algorithms",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    *_float32(),
    _attribute("torch.backends.cudnn.benchmark", torch.backends.cudnn, "benchmark"),
    _attribute("torch.backends.cudnn.deterministic", torch.backends.cudnn, "deterministic"),
    _attribute("torch.backends.cudnn.enabled", torch.backends.cudnn, "enabled"),
    _attribute("torch.backends.mkldnn.enabled", torch.backends.mkldnn, "enabled"),
    _Setting("torch's search for anomalies", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    _Setting("torch's number of interop threads", torch.get_num_interop_threads, _put_interop),
    _Setting("hooks on every module", _hooks, _put_hooks),
    _Setting("the mode of new files (umask)", _umask, os.umask),
    _Setting("", _filters, _put_filters),
    _Setting("the working folder", _folder, os.chdir),
    _Setting("", _variables, _put_variables),  # libraries set some when they are imported
    _Setting("sys.path", _path, _put_path),
    _attribute("sys.stdout", sys, "stdout"),
    _attribute("sys.stderr", sys, "stderr"),
    _Setting("Python's limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
    _Setting(
        "Python's garbage collection",
        gc.isenabled,
        lambda is_on: gc.enable() if is_on else gc.disable(),
    ),
)
_OF_MAIN_THREAD = tuple(  # elsewhere Python lets nobody change them
    _Setting(
        f"the handler of {number.name}",
        lambda number=number: signal.getsignal(number),  # type: ignore[misc]
        lambda handler, number=number: signal.signal(number, handler),  # type: ignore[misc]
    )
    for number in (signal.SIGINT, signal.SIGTERM)
)
_BUSY = threading.Lock()  # held by whoever keeps what all threads share

# -- random numbers --------------------------------------------------------------------------------


@dataclass
class _Streams:
    """Torch's, numpy's and Python's global random numbers, as one function has left them."""

    python: Any
    numpy: np.random.BitGenerator
    cpu: torch.Tensor
    cuda: torch.Tensor | None

    @classmethod
    def now(cls) -> _Streams:
        """Where they stand; numpy's are a copy."""
        numpy = copy.deepcopy(np.random.get_bit_generator())  # type: ignore[attr-defined]
        return cls(random.getstate(), numpy, *_torch_streams())


def _torch_streams() -> tuple[torch.Tensor, torch.Tensor | None]:
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), on_gpu


def _put_torch_streams(cpu: torch.Tensor, cuda: torch.Tensor | None) -> None:
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)


# -- keeping ---------------------------------------------------------------------------------------


@dataclass
class StateKeeper:
    """Runs what one function of a user does, and puts back what it leaves changed.

    While several run at once, what all threads share is kept by the first of them.
    """

    _named: set[str] = field(default_factory=set)
    _streams: _Streams | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in another process too, begins anew."""
        return StateKeeper, ()

    @contextlib.contextmanager
    def keeping(self, who: str) -> Iterator[None]:
        """Keep the state of this thread and process while the block runs.

        Args:
            who: runs in it, for the words.

        Warns:
            RuntimeWarning: something was left changed that would have spoiled what follows; once
                for each.
        """
        is_first = _BUSY.acquire(blocking=False)
        settings: Sequence[_Setting] = _OF_THREAD
        if is_first:
            is_main = threading.current_thread() is threading.main_thread()
            settings = (*_OF_THREAD, *_OF_PROCESS, *(_OF_MAIN_THREAD if is_main else ()))
        changed: list[str] = []
        try:
            with self._own_streams(changed) if is_first else contextlib.nullcontext():
                before = [setting.get() for setting in settings]
                try:
                    with _modes(changed):
                        yield
                finally:
                    for setting, was in zip(settings, before, strict=True):
                        _put_back(setting, was, changed)
        finally:
            if is_first:
                _BUSY.release()
        self._name(who, changed)

    @contextlib.contextmanager
    def _own_streams(self, changed: list[str]) -> Iterator[None]:
        """Draw global random numbers of one's own, which go on from call to call."""
        outer_numpy = np.random.get_bit_generator()  # type: ignore[attr-defined]
        outer_python, (cpu, cuda) = random.getstate(), _torch_streams()
        if self._streams is None:
            self._streams = _Streams.now()
        own = self._streams
        np.random.set_bit_generator(own.numpy)  # type: ignore[attr-defined]
        random.setstate(own.python)
        _put_torch_streams(own.cpu, own.cuda)
        seed = torch.initial_seed()
        try:
            yield
        finally:
            if torch.initial_seed() != seed:
                changed.append("torch's seed")
            own.python, (own.cpu, own.cuda) = random.getstate(), _torch_streams()
            np.random.set_bit_generator(outer_numpy)  # type: ignore[attr-defined]
            random.setstate(outer_python)
            _put_torch_streams(cpu, cuda)

    def _name(self, who: str, changed: list[str]) -> None:
        fresh = [words for words in dict.fromkeys(changed) if words not in self._named]
        if fresh:
            self._named.update(fresh)
            warnings.warn(
                f"{who} leaves changed what all code here shares: {', '.join(fresh)}. It was put "
                "back; let it do so itself, e.g. `with torch.no_grad():` or "
                "`with torch.random.fork_rng():`.",
                RuntimeWarning,
                stacklevel=4,
            )


_MODES = {  # a block of inference mode puts them all back when it is left
    "torch's inference mode": torch.is_inference_mode_enabled,
    "torch's grad mode": torch.is_grad_enabled,
    "torch's autocast": _autocast,
}


@contextlib.contextmanager
def _modes(changed: list[str]) -> Iterator[None]:
    """Leave torch's modes as they are, also where a block in it was entered and never left."""
    learns, infers = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    with torch.inference_mode(infers):
        torch.set_grad_enabled(learns)
        before = [get() for get in _MODES.values()]
        try:
            yield
        finally:
            now = [get() for get in _MODES.values()]
            rows = zip(_MODES, before, now, strict=True)
            # inference mode brings another grad mode with it: the first one that differs is meant
            changed += [words for words, was, is_now in rows if was != is_now][:1]


def _put_back(setting: _Setting, was: Any, changed: list[str]) -> None:
    try:
        now = setting.get()
    except Exception:  # e.g. a device that there is not: it was put to something that is none
        now = _UNREADABLE
    if now is was or now == was:
        return
    with contextlib.suppress(AttributeError, OSError, RuntimeError, TypeError, ValueError):
        setting.put(was)
    if setting.words or now is _UNREADABLE:
        shown = f" ({now!r}, was {was!r})" if isinstance(now, _SHOWN) else ""
        changed.append(f"{setting.words or 'a setting of the process'}{shown}")
