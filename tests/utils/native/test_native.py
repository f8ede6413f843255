"""No backward, and no forward, of the package corrupts the heap.

Corruption often shows later and elsewhere, or never. So what is suspicious runs in processes of
its own, in which glibc looks at the whole heap with every call and fills what is freed.
"""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from prune_gym.pruning.inference import trains_channels_last
from prune_gym.utils.onednn import SoundConvolutions

CHECKER = "libc_malloc_debug.so.0"
WITHOUT_MORE = ("DEFAULT", "NO AVX", "AVX2")  # as torch names them


def checked(what: str, threads: int, isa: str | None = None) -> tuple[int, list[str]]:
    """Exit code of ``convolutions.py`` under heap checks, and what it printed."""
    environment = {
        **os.environ,
        "LD_PRELOAD": CHECKER,
        "MALLOC_CHECK_": "3",
        "MALLOC_PERTURB_": "165",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # two threads that share a core do not spin
        **({} if isa is None else {"ONEDNN_MAX_CPU_ISA": isa}),
    }
    script = Path(__file__).with_name("convolutions.py")
    done = subprocess.run(
        [sys.executable, str(script), what, str(threads)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout.splitlines() or [done.stderr]


def has_checker() -> bool:
    try:
        ctypes.CDLL(CHECKER)
    except OSError:
        return False
    return True


def instruction_sets() -> list[str | None]:
    """The machine's own, and AVX2 where it has more."""
    capability = torch.backends.cpu.get_cpu_capability()
    return [None] if capability in WITHOUT_MORE else [None, "AVX2"]


heap_checked = pytest.mark.skipif(not has_checker(), reason="needs glibc's heap checks")


@heap_checked
@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("what", ["shapes", "networks"])
def test_nothing_corrupts_the_heap(what, isa, threads):
    code, printed = checked(what, threads, isa)
    assert (code, printed[-1]) == (0, "survived")


@heap_checked
def test_the_checks_see_corruption():
    code, printed = checked("harm", 1)
    assert code < 0
    assert printed[-1] != "survived"


@pytest.mark.parametrize("n_inputs", [1, 2, 7, 15])
@pytest.mark.parametrize("weights_too", [False, True])
def test_what_could_be_struck_is_computed_contiguous(n_inputs, weights_too):
    layer = nn.Conv2d(n_inputs, 8, 1, stride=2)
    images = torch.randn(4, n_inputs, 6, 6)
    expected = layer(images)
    if weights_too:
        layer.to(memory_format=torch.channels_last)
    last = torch.empty_like(images, memory_format=torch.channels_last).copy_(images)
    with SoundConvolutions():
        outputs = layer(last)
        by_name = functional.conv2d(weight=layer.weight, input=last, bias=layer.bias, stride=2)
    for found in (outputs, by_name):
        assert found.stride() == expected.stride()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("n_inputs", "kernel", "stride"), [(16, 1, 2), (4, 3, 2), (4, 1, 1)])
def test_all_others_stay_channels_last(n_inputs, kernel, stride):
    layer = nn.Conv2d(n_inputs, 8, kernel, stride=stride).to(memory_format=torch.channels_last)
    images = torch.randn(4, n_inputs, 6, 6).to(memory_format=torch.channels_last)
    with SoundConvolutions():
        outputs = layer(images)
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_what_needs_no_gradients_stays_channels_last():
    layer = nn.Conv2d(4, 8, 1, stride=2).to(memory_format=torch.channels_last)
    images = torch.randn(4, 4, 6, 6).to(memory_format=torch.channels_last)
    with SoundConvolutions(), torch.no_grad():
        outputs = layer(images)
    assert outputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_layers_are_not_trained_channels_last():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2), nn.Flatten(), nn.Linear(36, 2))
    scripted = nn.Sequential(torch.jit.script(plain[0]), *plain[1:])
    example = torch.randn(2, 3, 6, 6)
    assert trains_channels_last(plain, example)
    assert not trains_channels_last(scripted, example)
