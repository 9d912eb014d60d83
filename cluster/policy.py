"""A trained team in three lines: `policy = phalanx.load_policy(DIR)`, then `policy.act(obs, avail)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from phalanx.configs.settings import RunSettings
from phalanx.envs.team import Bools, Floats, TeamSpec


class TrainedTeam:
    """Drives a team greedily (a TeamPolicy). Recurrent state is kept inside, one row for each environment."""

    spec: TeamSpec
    run: RunSettings

    def reset(self, num_envs: int = 1) -> None:
        """All environments begin an episode."""
        raise NotImplementedError

    def reset_rows(self, rows: npt.NDArray[Any]) -> None:
        """The environments `rows` (integers or booleans over E) begin an episode."""
        raise NotImplementedError

    def act(self, obs: Floats, avail: Bools | None = None) -> npt.NDArray[Any]:
        """Actions [N] for obs [N, O], or [E, N] for [E, N, O]; avail (default: all) alike with A at the end."""
        raise NotImplementedError


def load_policy(source: str | Path, *, checkpoint: str = "latest") -> TrainedTeam:
    """The team of a run folder (or of one checkpoint folder). UserError where nothing intact is there."""
    raise NotImplementedError
