"""Watch a trained agent: ``python -m agents.enjoy RUN``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.arguments import MOST_EPISODES, MOST_SEED
from agents.console import plain_warnings, say, user_errors
from agents.errors import AgentsError, InvalidValueError
from agents.files import user_path
from agents.options import Command, Version, command_app, whole_option
from agents.runs.folder import EVALUATION_SEED, RunConfig, RunFolder

if TYPE_CHECKING:
    from agents.evaluation import Evaluation

app = command_app(add_completion=False)


@app.command(cls=Command, no_args_is_help=True)
def enjoy(
    run: Annotated[Path, typer.Argument(help="A folder that python -m agents.train wrote.")],
    episodes: Annotated[
        int, whole_option(least=1, most=MOST_EPISODES, help="How many to play.")
    ] = 5,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Sample actions, as in the training.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="final, best (feasible; needs --eval-freq), or a file.",
        ),
    ] = "final",
    seed: Annotated[
        int | None,
        whole_option(least=0, most=MOST_SEED, help="Of the episodes; default: result.json's."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Run code that files of the folder name, such as modules of yours."
        ),
    ] = False,
    render: Annotated[bool, typer.Option("--render", help="Show the environment.")] = False,
    version: Version = False,
) -> None:
    """Play episodes with the policy of a run; print what they earn and cost."""
    with user_errors(AgentsError):
        folder, config = RunFolder.open(user_path(run))
        result = play(folder, config, model, episodes, not stochastic, seed, render, trust=trust)
        for number, (earned, cost, length) in enumerate(
            zip(result.returns, result.costs, result.lengths, strict=True), start=1
        ):
            verdict = "feasible" if cost <= result.cost_limit else "over the limit"
            say(
                f"episode {number}: return {earned:.4g}, cost {cost:.4g} (limit "
                f"{result.cost_limit:.4g}), {length} steps, {verdict}"
            )
        say(result.summary())


def play(
    folder: RunFolder,
    config: RunConfig,
    which: str = "final",
    n_episodes: int = 5,
    deterministic: bool = True,
    seed: int | None = None,
    render: bool = False,
    *,
    trust: bool = False,
) -> Evaluation:
    """Evaluate the policy of a run on a new environment of it.

    Args:
        folder: The folder of the run.
        config: Its configuration.
        which: ``"final"``, ``"best"``, or the path of a model.
        n_episodes: How many episodes.
        deterministic: Whether the policy takes its most likely action.
        seed: Of the environment; that of the run's evaluations if left out.
        render: Whether the environment shows itself.
        trust: Whether code that files of the folder name may be run.

    Raises:
        AgentsError: If there is no such model, it cannot be shown, or code would be run without
            ``trust``.
    """
    from stable_baselines3.common.vec_env import VecNormalize

    from agents.evaluation import evaluate
    from agents.runs.make import load_model, make_env, make_envs
    from agents.runs.normaliser import load_statistics
    from agents.runs.trust import check_trusted

    if not trust:
        check_trusted(folder.config, config)
    path = _model_path(folder, which)
    if render:
        modes = make_env(config).metadata.get("render_modes") or []
        if "human" not in modes:
            raise InvalidValueError(f"{config.env} cannot be shown: its render modes are {modes}.")
    render_mode = "human" if render else None
    made: Any = make_envs(config, n_envs=1, training=False, render_mode=render_mode)
    with closing(made) as envs:
        if isinstance(envs, VecNormalize):
            statistics = folder.normaliser("best" if path == folder.model("best") else "final")
            if not statistics.exists():
                raise InvalidValueError(
                    f"{path} needs the statistics that its observations were normalised by, and "
                    f"{statistics} is missing. Finish the run."
                )
            load_statistics(envs, statistics)
        return evaluate(
            load_model(config, path, trust=trust),
            envs,
            n_episodes,
            deterministic=deterministic,
            seed=config.seed + EVALUATION_SEED if seed is None else seed,
            cost_limit=config.cost_limit,
        )


def _model_path(folder: RunFolder, which: str) -> Path:
    path = folder.model(which) if which in ("final", "best") else user_path(which)
    if path.exists():
        return path
    if which == "final":
        cure = f"the run is not finished: python -m agents.train --resume {folder.path}"
    elif which == "best":
        cure = "the run was not evaluated while it trained: train with --eval-freq"
    else:
        cure = "pass final, best, or a file that save() wrote"
    raise InvalidValueError(f"model {which!r}: there is no {path}; {cure}.")


if __name__ == "__main__":
    plain_warnings()
    app(prog_name="python -m agents.enjoy")
