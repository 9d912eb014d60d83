"""phalanx: distributed actor-learner training of cooperative teams of agents on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phalanx.cluster.policy import load_policy as load_policy

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import phalanx` (which every actor does) loads neither torch nor ray.
    if name == "load_policy":
        from phalanx.cluster.policy import load_policy

        return load_policy
    raise AttributeError(f"module 'phalanx' has no attribute {name!r}")
