"""What a file names is not run: only what comes with this package, or is registered with it.

A run folder is data. A network, a dataset, a budget or a criterion of one's own is code, which the
folder only names; going on with such a folder runs that code, and so somebody has to trust it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from prune_gym.budgets import BUDGETS, BudgetKey, CommandSpec
from prune_gym.errors import TrustError

_NO_CODE = ("weights", "device", "precision", "structure", "ignore", "unpruned_values")
_IMAGES = "folder:"


def check_trust(where: Path | str, code: Collection[str], trust: bool, otherwise: str = "") -> None:
    """Raise unless there is no code, or the user trusts it.

    Args:
        where: the file that names it.
        code: what would be run; see `named_code`.
        trust: whether the user allows it.
        otherwise: another cure, a sentence.

    Raises:
        TrustError: says what would be run, and how to allow it.
    """
    if code and not trust:
        raise TrustError(
            f"{where} names code that is none of prune_gym's; going on would {', '.join(code)}. "
            "Nothing was run. If you trust whoever made the folder, allow it: --trust (in Python: "
            f"trust=True).{otherwise}"
        )


def named_code(arguments: Mapping[str, Any], given: Collection[BudgetKey] = ()) -> list[str]:
    """What `prune_gym.make_problem` would run for arguments of a file, in words.

    Every text with a colon counts as a ``module:function``, whatever the argument: an argument of
    later versions is not to become a way in.

    Args:
        arguments: as ``config.json`` holds them.
        given: budgets that the user named in this very call.
    """
    found: list[str] = []
    for name, value in arguments.items():
        if name == "budgets":
            found += _code_of_budgets(value or (), {_typed(key) for key in given})
        elif name not in _NO_CODE and not (name == "dataset" and _is_images(value)):
            found += [f"import and call {name} {text!r}" for text in _texts(value) if ":" in text]
    return found


def trust_option(arguments: Mapping[str, Any]) -> str:
    """What a command needs beside a file that names such arguments: `` --trust``, or nothing."""
    return " --trust" if named_code(arguments) else ""


def load_call(network: Any, folder: str = "folder") -> str:
    """What loads a pruned network in Python, where a plan names the unpruned one so."""
    trust = ", trust=True" if named_code({"network": network}) else ""
    return f"prune_gym.load_pruned({folder}{trust})"


def _code_of_budgets(keys: Iterable[BudgetKey], typed: Collection[Any]) -> list[str]:
    found = []
    for key in keys:
        if key in BUDGETS or _typed(key) in typed:
            continue
        if isinstance(key, CommandSpec):
            found.append(f"run the program {key.command!r} in {key.folder!r}")
        elif ":" in key:
            found.append(f"import and call budget {key!r}")
    return found


def _typed(key: BudgetKey) -> Any:
    """What a user types of a budget: of a program its words, and the folder where they mean it."""
    return (key.command, key.folder) if isinstance(key, CommandSpec) else key


def _is_images(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_IMAGES)


def _texts(value: Any) -> list[str]:
    """Every text in a value of JSON."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts(part)]
    return []
