"""A trained team in three lines: `policy = phalanx.load_policy(DIR)`, then `policy.act(obs, avail)`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.algorithms.registry import make_policy
from phalanx.cluster import snapshot
from phalanx.cluster.checkpoint import MANIFEST, Intact, checkpoint_folders, inspect, newest_intact
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import Bools, Floats, TeamSpec


class TrainedTeam:
    """Drives a team greedily (a TeamPolicy). Recurrent state is kept inside, one row for each environment: call
    `reset()` at the beginning of every episode, or `reset_rows` where only some environments begin one."""

    def __init__(self, run: RunSettings, spec: TeamSpec, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.run = run
        self.spec = spec
        self.weights = weights
        self._policy = make_policy(run, spec)
        self._policy.load_weights(weights)
        self._rng = np.random.default_rng(0)  # greedy: nothing but noise (env.noise.demar) is drawn from it
        self._num_envs = 0
        self._memory: Any = None

    @property
    def networks(self) -> Any:
        """The networks that act, without gradients."""
        return getattr(self._policy, "agents", None)

    def reset(self, num_envs: int = 1) -> None:
        """All environments begin an episode."""
        self._rng = np.random.default_rng(0)
        self._num_envs = num_envs
        self._memory = self._policy.initial_state(num_envs)

    def reset_rows(self, rows: npt.NDArray[Any]) -> None:
        """The environments `rows` (integers or booleans over E) begin an episode."""
        rows = np.asarray(rows)
        if (rows.sum() if rows.dtype == np.bool_ else len(rows)) == self._num_envs:
            # As opponents, too, the team must not depend on how many episodes it has played in this process.
            self._rng = np.random.default_rng(0)
        self._policy.reset_rows(self._memory, rows)

    def act(self, obs: Floats, avail: Bools | None = None) -> npt.NDArray[Any]:
        """Actions [N] for obs [N, O], or [E, N] for [E, N, O]; avail (default: everything) alike with A at the end.

        Another number of environments than before begins anew. ValueError where the shapes are not the team's.
        """
        obs = np.asarray(obs, np.float32)
        spec = self.spec
        if obs.ndim not in (2, 3) or obs.shape[-2:] != (spec.n_agents, spec.obs_dim):
            raise ValueError(
                f"obs has shape {obs.shape}; this team of {spec.env_name} takes [N, O] = [{spec.n_agents},"
                f" {spec.obs_dim}], or [E, N, O] for E environments"
            )
        allowed = self._default_avail(obs) if avail is None else np.asarray(avail, np.bool_)
        if allowed.shape != (*obs.shape[:-1], spec.n_actions):
            raise ValueError(f"avail has shape {allowed.shape}, not {(*obs.shape[:-1], spec.n_actions)}")
        single = obs.ndim == 2
        if single:
            obs, allowed = obs[None], allowed[None]
        if len(obs) != self._num_envs:
            self.reset(len(obs))
        actions = self._policy.act(obs, self._memory, allowed, self._rng, 0.0)
        return actions[0] if single else actions

    def _default_avail(self, obs: Floats) -> Bools:
        """Each agent's own actions, for every environment."""
        spec = self.spec
        sizes = np.asarray(spec.action_dims if spec.discrete else [0] * spec.n_agents)
        own = np.arange(spec.n_actions) < sizes[:, None]
        return np.broadcast_to(own, (*obs.shape[:-1], spec.n_actions)).copy()


def load_policy(source: str | Path, *, checkpoint: str = "latest") -> TrainedTeam:
    """The team of a run folder (or of one checkpoint folder), from its newest intact checkpoint or from the named one
    (`step_000001200000`). UserError where nothing intact is there; a damaged newer one is warned of."""
    found = find_checkpoint(Path(source), checkpoint)
    for problem in found.problems:
        warnings.warn(f"{problem}; using {found.path.name}", RuntimeWarning, stacklevel=2)
    run = load_run(found.path / snapshot.CONFIG, catalogue=CATALOGUE)
    return TrainedTeam(run, snapshot.read_spec(found.path), snapshot.read_policy(found.path))


def find_checkpoint(source: Path, checkpoint: str = "latest") -> Intact:
    """The checkpoint that `load_policy` takes."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: give the folder of a run or of one of its checkpoints")
    root = source / "checkpoints"
    if (source / MANIFEST).is_file():
        path = source
    elif checkpoint == "latest":
        return newest_intact(root)
    else:
        path = root / checkpoint
        if not path.is_dir():
            there = ", ".join(each.name for each in checkpoint_folders(root)) or "none"
            raise UserError(f"{source} has no checkpoint {checkpoint}; there are: {there}")
    damage, manifest = inspect(path)
    if damage:
        raise UserError(f"checkpoint {path} is damaged: {damage}")
    return Intact(path, manifest, [])
