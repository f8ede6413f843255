"""What users bring is run in here: their errors become one line, the state of all is put back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from prune_gym.errors import PruneGymError
from prune_gym.utils.global_state import StateKeeper
from prune_gym.utils.words import error_in_words


@contextlib.contextmanager
def user_code(
    who: str, error_type: type[PruneGymError], keeper: StateKeeper | None = None
) -> Iterator[None]:
    """Run what a user wrote in the block.

    Args:
        who: e.g. ``"budget 'mine'"``.
        error_type: of the error that names whoever raised another one, ``sys.exit()`` included.
        keeper: of what they leave changed, if they run more than once.

    Raises:
        PruneGymError: ``error_type``, or what the block raised if it is of this tree already.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        with (keeper or StateKeeper()).keeping(who):
            yield
    except PruneGymError:
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise error_type(f"{who} raised {error_in_words(error)}") from error


def is_interrupt(error: BaseException) -> bool:
    """Whether an error is Ctrl-C, which Python raises in the main thread only, or one of those."""
    is_main = threading.current_thread() is threading.main_thread()
    return isinstance(error, KeyboardInterrupt) and is_main
