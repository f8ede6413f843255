"""The agent of a run folder, saved and loaded together with what it learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune_gym.errors import RunFolderError
from prune_gym.searches.run_folder import RunFolder
from prune_gym.utils.files import replacing

if TYPE_CHECKING:
    from agents import Constrained
    from prune_gym.searches.thread_vec_env import ThreadVecEnv


def save_agent(model: Any, folder: RunFolder) -> None:
    """Save an agent and what it learns from, each file whole or not at all."""
    # the buffer first: if this is cut off between both, an agent goes on with steps that it has
    # not learned from yet, and never with a buffer that lacks what it counts as collected
    if getattr(model, "replay_buffer", None) is not None:
        with replacing(folder.replay_buffer) as partial, partial.open("wb") as file:
            model.save_replay_buffer(file)
    with replacing(folder.agent) as partial, partial.open("wb") as file:
        model.save(file)


def load_agent(folder: RunFolder, algo: str, venv: ThreadVecEnv) -> Constrained:
    """The agent that `save_agent` has saved.

    Args:
        folder: of the run.
        algo: name of the agent.
        venv: the environments on which it goes on.

    Raises:
        RunFolderError: a file that is damaged, or of another agent.
    """
    from agents import AGENTS, AgentsError
    from agents.runs.checkpoint import break_off

    try:
        model: Constrained = AGENTS[algo].constructor.load(folder.agent, env=venv)
        if folder.replay_buffer.is_file():
            model.load_replay_buffer(folder.replay_buffer)  # type: ignore[attr-defined]
            break_off(model.replay_buffer)  # type: ignore[attr-defined]
    except AgentsError as error:
        raise RunFolderError(
            f"{folder.agent} cannot be used ({error}) Delete it, and {folder.replay_buffer.name} "
            "if it is there, to go on with a new one."
        ) from error
    return model
