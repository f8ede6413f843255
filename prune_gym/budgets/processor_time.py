"""Latency by the processor's clock: what others do on the machine meanwhile does not count."""

from __future__ import annotations

import time

from prune_gym.budgets.latency import latency_ms

processor_ms = latency_ms(name="processor_ms", clock=time.thread_time)
