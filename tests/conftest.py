"""What every test runs under: one thread per process, no display, no network service, repeatable examples."""

from __future__ import annotations

import os

# Before anything imports numpy or torch. Ray's actors inherit these: two cores shared by several processes with
# spinning threads are many times slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Nothing in the tests talks to a service, whatever the developer's own settings are.
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("RAY_ADDRESS", None)

from hypothesis import HealthCheck, settings

# Examples are the same in every run, and a busy machine fails no test for being slow.
settings.register_profile("phalanx", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("phalanx")
