"""The options of ``python -m agents.train``: types, limits and help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Algo = Annotated[str | None, typer.Option(help="Name of the agent; see --list.")]
Env = Annotated[
    str | None, typer.Option(help="Environment id, MODULE:ID where it has to be imported.")
]
EnvKwargs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Argument of the environment; may be repeated."),
]
Wrapper = Annotated[
    list[str] | None,
    typer.Option(metavar="MODULE:CLASS", help="Put around each environment; may be repeated."),
]
Timesteps = Annotated[int | None, typer.Option(min=1, help="Environment steps; default 12000.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1)]
NEnvs = Annotated[
    int | None, typer.Option(min=1, help="Environments at once; default: the agent's.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Argument of the algorithm, e.g. learning_rate=1e-3, or of its multiplier, e.g. "
        "multiplier.initial=1.0; may be repeated.",
    ),
]
CostLimit = Annotated[
    float | None, typer.Option(help="Limit on the mean episodic cost; default: env's.")
]
Normalize = Annotated[
    bool, typer.Option("--normalize", help="Normalise observations by running statistics.")
]
EvalFreq = Annotated[
    int | None,
    typer.Option(min=1, help="Steps between evaluations, which keep the best feasible model."),
]
EvalEpisodes = Annotated[int, typer.Option(min=1, help="Episodes of an evaluation.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; default runs/ALGO-ENV-SEED.")]
Resume = Annotated[Path | None, typer.Option(help="Continue the run in this folder.")]
NewEpisodes = Annotated[
    bool,
    typer.Option(
        "--new-episodes",
        help="With --resume: begin new episodes, for environments that cannot be brought back "
        "to the middle of one.",
    ),
]
CheckpointEvery = Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")]
Progress = Annotated[bool, typer.Option("--progress", help="Show a progress bar.")]
ShowList = Annotated[
    bool, typer.Option("--list", help="List the agents and the action spaces they take.")
]
