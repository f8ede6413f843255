"""Stopping, as `agents.stopping` has it: one flag of the process, looked at in every step."""

from __future__ import annotations

from agents.stopping import Stopped as Stopped
from agents.stopping import check_stop as check_stop
from agents.stopping import ending as ending
from agents.stopping import finish_pieces as finish_pieces
from agents.stopping import finishing as finishing
from agents.stopping import stop_requested as stop_requested
from agents.stopping import stopping as stopping
