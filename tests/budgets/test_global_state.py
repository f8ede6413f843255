"""What a budget leaves changed is put back, and named where it would have spoiled what follows."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
import tiny
import torch
from torch.nn.modules import module as modules

from prune_gym import Budget, BudgetError

OPEN: list[object] = []  # blocks that are entered and never left


def enter(block) -> None:
    block.__enter__()
    OPEN.append(block)


def more_threads() -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


def another_folder() -> None:
    os.chdir(os.path.dirname(os.getcwd()))


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def state() -> dict[str, object]:
    """All that is to be as it was."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.empty(0).dtype,
        "device": torch.empty(0).device,
        "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "benchmark": torch.backends.cudnn.benchmark,
        "autocast": torch.is_autocast_enabled("cpu"),
        "errors": np.geterr(),
        "print": np.get_printoptions(),
        "filters": list(warnings.filters),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "path": list(sys.path),
        "stdout": sys.stdout,
        "handler": signal.getsignal(signal.SIGINT),
        "hooks": dict(modules._global_forward_hooks),
        "denormal": torch.tensor(1e-40).mul(1.0).item(),
        "umask": umask(),
        "recursion": sys.getrecursionlimit(),
        "gc": gc.isenabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
    }


SPOILERS = {
    "torch's grad mode": lambda: torch.set_grad_enabled(False),
    "torch's inference mode": lambda: enter(torch.inference_mode()),
    "torch's default dtype (torch.float64, was torch.float32)": lambda: torch.set_default_dtype(
        torch.float64
    ),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's number of threads": more_threads,
    "torch's deterministic algorithms": lambda: torch.set_deterministic_debug_mode(1),
    "torch's float32": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's autocast": lambda: enter(torch.autocast("cpu", torch.bfloat16)),
    "torch's seed": lambda: torch.manual_seed(7),
    "numpy's handling of errors": lambda: np.seterr(all="raise"),
    "the working folder": another_folder,
    "sys.path": lambda: sys.path.insert(0, "mine"),
    "sys.stdout": lambda: setattr(sys, "stdout", io.StringIO()),
    "the handler of SIGINT": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "hooks on every module": lambda: modules.register_module_forward_hook(lambda *a: a[2] * 0),
    "torch's flushing of denormal numbers": lambda: torch.set_flush_denormal(True),
    "the mode of new files (umask)": lambda: os.umask(0o777),
    "Python's limit of recursion": lambda: sys.setrecursionlimit(5000),
    "Python's garbage collection": gc.disable,
}
HARMLESS = {
    "variables": lambda: os.environ.update(A_BUDGETS_OWN="1"),
    "draws": lambda: (torch.rand(3), np.random.rand(700), random.random()),  # noqa: NPY002
    "seeds": lambda: (np.random.seed(3), random.seed(3)),  # noqa: NPY002
    "prints": lambda: np.set_printoptions(precision=2),
    "filters": lambda: warnings.simplefilter("ignore"),
}


@pytest.mark.parametrize("words", SPOILERS)
def test_what_would_spoil_the_rest_is_put_back_and_named_once(words):
    def spoil(network):
        SPOILERS[words]()
        return 1.0

    budget, network = Budget("spoiling", spoil), tiny.build("vgg")
    before = state()
    with pytest.warns(RuntimeWarning) as warned:
        assert budget(network, tiny.images_of(1)) == 1.0
    (said,) = {str(warning.message) for warning in warned if warning.category is RuntimeWarning}
    assert said.startswith("budget 'spoiling' leaves changed what all code here shares: ")
    assert words in said
    assert "It was put back" in said
    assert "\n" not in said
    assert state() == before
    budget(network, tiny.images_of(1))  # a second warning would be an error
    assert state() == before
    if OPEN:
        OPEN.pop()


UNREADABLE = {
    "torch's default device": lambda: torch.set_default_device("xla"),
    "sys.path": lambda: setattr(sys, "path", None),
    "a setting of the process": lambda: setattr(warnings, "filters", None),
}


@pytest.mark.parametrize("words", UNREADABLE)
def test_what_cannot_be_read_any_more_is_put_back_with_all_that_follows(words):
    def spoil(network):
        torch.set_default_dtype(torch.float64)
        gc.disable()
        UNREADABLE[words]()
        return 1.0

    before, path = state(), sys.path
    with pytest.warns(RuntimeWarning, match=words):
        assert Budget("spoiling", spoil)(tiny.build("vgg"), tiny.images_of(1)) == 1.0
    assert state() == before
    assert sys.path is path


@pytest.mark.parametrize("words", HARMLESS)
def test_what_is_harmless_is_put_back_silently(words):
    def change(network):
        HARMLESS[words]()
        return 1.0

    before = state()
    assert Budget("harmless", change)(tiny.build("vgg"), tiny.images_of(1)) == 1.0
    assert state() == before


def test_it_is_put_back_after_an_error_and_in_other_threads():
    def spoil(network):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        raise KeyError("gone")

    before, seen = state(), []

    def judge():
        with pytest.raises(BudgetError, match="budget 'spoiling' raised KeyError: 'gone'"):
            Budget("spoiling", spoil)(tiny.build("vgg"), tiny.images_of(1))
        seen.append((torch.is_grad_enabled(), torch.get_default_dtype()))

    judge()
    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert seen == [(True, torch.float32)] * 2
    assert state() == before


def test_a_noisy_budget_draws_on_from_call_to_call():
    budget = Budget("noisy", lambda n: float(torch.rand(1)) + np.random.rand() + random.random())  # noqa: NPY002
    network = tiny.build("vgg")
    found = {budget(network, tiny.images_of(1)) for _ in range(5)}
    assert len(found) == 5


def test_a_seed_of_the_user_between_two_calls_is_no_fault_of_a_budget():
    budget, network = Budget("drawing", lambda n: float(torch.rand(1))), tiny.build("vgg")
    kept = torch.get_rng_state()
    budget(network, tiny.images_of(1))
    torch.manual_seed(torch.initial_seed() + 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        budget(network, tiny.images_of(1))
    torch.set_rng_state(kept)
    assert said == []


def test_a_budget_that_calls_another_one_is_put_back_as_well():
    inner = Budget("inner", lambda network: torch.set_default_dtype(torch.float64) or 1.0)

    def outer(network):
        return inner(network, tiny.images_of(1))

    before = state()
    with pytest.warns(RuntimeWarning, match="budget 'outer' leaves changed .* default dtype"):
        Budget("outer", outer)(tiny.build("vgg"), tiny.images_of(1))
    assert state() == before
