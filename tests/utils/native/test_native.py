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
@pytest.mark.sampled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("what", ["shapes", "odd", "networks"])
def test_nothing_corrupts_the_heap(what, isa, threads):
    code, printed = checked(what, threads, isa)
    assert (code, printed[-1]) == (0, "survived")


@heap_checked
def test_the_checks_see_corruption():
    code, printed = checked("harm", 1)
    assert code < 0
    assert printed[-1] != "survived"


def slopes_of(layer, images):
    """Gradients of images and weights as training computes them."""
    outputs = layer(images)
    with SoundConvolutions():
        return torch.autograd.grad(outputs.square().sum(), [images, layer.weight])


def last(tensor):
    """The same values channels-last, also where one channel leaves the strides open."""
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


@pytest.mark.parametrize("n_inputs", [1, 2, 7, 15])
@pytest.mark.parametrize("weights_too", [False, True])
def test_what_could_be_struck_is_computed_contiguous(n_inputs, weights_too):
    layer = nn.Conv2d(n_inputs, 8, 1, stride=2)
    images = torch.randn(4, n_inputs, 6, 6)
    expected = slopes_of(layer, images.clone().requires_grad_())
    if weights_too:
        layer.to(memory_format=torch.channels_last)
    found = slopes_of(layer, last(images).requires_grad_())
    assert found[0].stride() == expected[0].stride()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("n_inputs", "kernel", "stride"), [(16, 1, 2), (4, 3, 2), (4, 1, 1)])
def test_all_others_stay_channels_last(n_inputs, kernel, stride):
    layer = nn.Conv2d(n_inputs, 8, kernel, stride=stride).to(memory_format=torch.channels_last)
    slopes, _ = slopes_of(layer, last(torch.randn(4, n_inputs, 6, 6)).requires_grad_())
    assert slopes.is_contiguous(memory_format=torch.channels_last)
    assert not slopes.is_contiguous()
