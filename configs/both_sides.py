"""What a run whose opponents learn, too, asks of its algorithm: that each side is paid for itself."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phalanx.configs.settings import RunSettings

TEAM = "team"


def problem(run: RunSettings) -> str | None:
    """The sentence on a method that would have the opponents learn from the team's reward, and so to lose; None where
    there is no such."""
    algorithm, key = run.algorithm, run.algorithm.rewards_key
    paid: Any = TEAM if key is None else reduce(getattr, key.split("."), algorithm)
    if not run.env.learning_opponents or paid != TEAM:
        return None
    if key is None:
        return (
            f"env.opponents=learning pays each side of {run.env.name} for itself, but algorithm.name={algorithm.name}"
            " learns from the team's reward alone, so that the opponents would learn to lose: choose a method that"
            " learns from each agent's own, such as maddpg with algorithm.critic.rewards=groups or mappo with"
            " algorithm.rewards=agents, or opponents that do not learn"
        )
    return (
        f"env.opponents=learning pays each side of {run.env.name} for itself, but with algorithm.{key}=team the"
        f" opponents would learn from the team's reward, and so to lose: set algorithm.{key} to another value"
        " (agents: each agent's own reward), or choose opponents that do not learn"
    )
