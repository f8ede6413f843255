"""Latency by the processor's clock: what others do on the machine meanwhile does not count.

Of 32 images at once: of a single one, small networks take as long as what surrounds their layers.
"""

from __future__ import annotations

import time

from prune_gym.budgets.latency import latency_ms

processor_ms = latency_ms(32, name="processor_ms", clock=time.thread_time)
