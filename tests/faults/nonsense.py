"""Nonsense for every option of every command, and for keywords of functions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

TEXTS = (
    "",
    "x",
    "-1",
    "0",
    "1.5",
    "nan",
    "inf",
    "1e400",
    "10**30",
    "1" + "0" * 30,
    "9" * 5000,
    "None",
    "../..",
    "/proc/self/mem",
    "x" * 300,
    "a\nb",
    "ünïcode",
    "\u0661\u0660",
    "[red]markup[/]",
    "os:system",
    "no.such.module:thing",
    "folder:",
    "folder:nowhere@0",
    "command:",
    "=",
    "params=",
    "params=0",
    "params=10**400",
    "params=1e400",
    "nothing=0.5",
    "=0.5",
    "learning_rate=",
    "learning_rate='x'",
    "__class__=1",
)
# a plain call of each command that fails or ends soon, and the template it runs in
_PLAIN: dict[str, tuple[list[str], str]] = {
    "prune": (["--timesteps", "24", "--algo", "random", "--finetune-steps", "0"], ""),
    "pick": (["run", "--budget", "params=0.5"], "finished"),
    "inspect": ([], ""),
    "evaluate": (["run"], "finished"),
    "export": (["run", "--format", "safetensors"], "finished"),
    "pretrain": (["small", "--epochs", "1"], ""),
    "agents.train": (
        ["--algo", "ppo_lag", "--env", "agents.toy:BudgetToy-v0", "--timesteps", "64"],
        "",
    ),
    "agents.enjoy": (["run"], "training"),
    "agents.compare": (["run"], "training"),
}
PER_COMMAND = 9


def _options(command: str) -> list[tuple[str, bool]]:
    """Options of a command, and whether each is a flag."""
    if command.startswith("agents."):
        from importlib import import_module

        click = get_command(import_module(command).app)
    else:
        from prune_gym.cli.main import app

        click = get_command(app).commands[command]
    options = [param for param in click.params if param.param_type_name == "option"]
    return [(param.opts[-1], bool(param.is_flag)) for param in options]


def command_lines(draw: random.Random) -> Iterator[tuple[list[str], str]]:
    """Words of commands with an option of nonsense, and the template to run them in."""
    for command, (plain, template) in _PLAIN.items():
        options = _options(command)
        is_agents = command.startswith("agents.")
        start = [command] if is_agents else ["prune_gym", command]
        for index in range(PER_COMMAND if options else 0):
            option, is_flag = options[(index + draw.randrange(len(options))) % len(options)]
            words = [*plain]
            if option in words:
                at = words.index(option)
                del words[at : at + 2]
            given = [option] if is_flag else [option, draw.choice(TEXTS)]
            yield [*start, *words, *given], template
        yield [*start, *plain, draw.choice(TEXTS)], template


_VALUES: tuple[Any, ...] = (
    None,
    -1,
    0,
    1.5,
    10**30,
    10**400,
    "",
    "x",
    "nonsense:nan",
    "nonsense:inf",
    "nonsense:object",
    "nonsense:array",
    True,
    [],
    {},
    (1, 2),
    {"params": 0},
    {"params": "10**400"},
    {"params": 1e-9},
    {"params": None},
    {1: 0.5},
    {"params": 0.5, "macs": -1},
    b"bytes",
)
_KEYWORDS = {
    "problem": "network dataset budgets criterion recovery recovery_steps structure round_to "
    "depth evaluation_samples precision batch_size device weights train validation test ignore "
    "unpruned_values seed",
    "search": "algo evaluations seed granularity hard out resume finetune_steps distillation",
    "env": "network budgets criterion recovery structure round_to cost_mode render_mode "
    "granularity limit_range evaluation_samples problem nothing_of_that_name",
}


def api_calls(draw: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Functions of `asked` and a keyword of nonsense."""
    for kind, text in _KEYWORDS.items():
        keywords = text.split()
        for keyword in [*keywords, *draw.choices(keywords, k=5)]:
            yield kind, {keyword: draw.choice(_VALUES)}
