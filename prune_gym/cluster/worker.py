"""What a worker of a Ray cluster runs.

The class travels by value, as `agents.ray_machines` does, so that a machine without this package
can say so: other modules are imported where a worker needs them.
"""

from __future__ import annotations

import platform
from typing import Any

from agents.ray_machines import versions

PACKAGES = ("prune_gym", "torch", "numpy")


class Worker:
    """Judges networks of one problem, in a process of its own on some machine of the cluster."""

    def __init__(self) -> None:
        self._problem: Any = None

    def versions(self) -> dict[str, str]:
        """See `agents.ray_machines.versions`."""
        return versions(PACKAGES)

    def open(self, rest: bytes, arrays: Any, device: str, threads: int) -> str:
        """Take a problem up; gives a sentence on what is missing here, or nothing.

        Args:
            rest: the problem, pickled without its arrays.
            arrays: (n_bytes,) uint8, read-only: all its arrays, mapped once per machine.
            device: on which networks are to be judged.
            threads: of torch.
        """
        import torch

        from prune_gym.cluster.shipping import lacks_code, lacks_gpu, unpack

        if device == "cuda" and not torch.cuda.is_available():
            return lacks_gpu(platform.node())
        torch.set_num_threads(threads)
        try:
            self._problem = unpack(rest, arrays, device)
        except ImportError as error:
            return lacks_code(platform.node(), error)
        return ""

    def answers(self, questions: list[Any]) -> list[Any]:
        """What each question, such as `Question`, comes to, or the error that it raised."""
        return [question.answered(self._problem) for question in questions]

    def call(self, function: bytes, *arguments: bytes) -> Any:
        """What a pickled function of pickled arguments gives, or the error that it raised."""
        from prune_gym.cluster.shipping import called

        return called(function, arguments)
