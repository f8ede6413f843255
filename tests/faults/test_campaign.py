"""The fault campaign: what is injected ends in a folder that goes on, or in one clear line.

A few faults of each kind in the ordinary suite; all of them by ``pytest tests/faults --all``, which
prints a table. The environment variable FAULTS_SEED draws others.
"""

from __future__ import annotations

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("processes are forked, and limited as Linux does it", allow_module_level=True)

from campaign import Fault


def test_what_is_promised(fault: Fault, scene, tally):
    tally.begin(fault)
    try:
        fault.happen(scene)
    except Exception as error:
        tally.failed(fault, error)
        raise
    tally.survived(fault)
