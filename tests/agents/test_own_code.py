"""Code of one's own is pickled by value, that of installed packages by name."""

from __future__ import annotations

import importlib
import pickle
import sys

import cloudpickle
import numpy as np
import pytest

from agents.own_code import by_value


@pytest.fixture
def function(tmp_path, monkeypatch):
    """A function of a module whose file is there no more."""
    file = tmp_path / "only_here.py"
    file.write_text("def double(x):\n    return factor() * x\n\n\ndef factor():\n    return 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("only_here").double
    sys.modules.pop("only_here", None)


def elsewhere(pickled: bytes):
    """What another machine makes of it, which has no such module."""
    sys.modules.pop("only_here")
    sys.path.pop(0)
    return pickle.loads(pickled)


def test_own_modules_go_along(function):
    with by_value():
        pickled = cloudpickle.dumps(function)
    assert elsewhere(pickled)(3) == 6
    assert not cloudpickle.list_registry_pickle_by_value() & {"only_here", "numpy"}


def test_without_it_the_module_has_to_be_there(function):
    pickled = cloudpickle.dumps(function)
    with pytest.raises(ModuleNotFoundError, match="only_here"):
        elsewhere(pickled)


def test_installed_packages_are_named():
    with by_value():
        assert len(cloudpickle.dumps(np.linalg.lstsq)) < 200
