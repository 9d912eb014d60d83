"""Who plays against the team: `env.opponents=random|still|scripted|trained|checkpoint:DIR`, understood in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.configs.nearest import did_you_mean
from phalanx.envs.team import Bools, Floats, TeamPolicy

CHECKPOINT = "checkpoint:"


def checkpoint_path(text: str) -> str | None:
    """DIR of `checkpoint:DIR`, or None where `text` names another kind of opponent."""
    return text.removeprefix(CHECKPOINT) if text.startswith(CHECKPOINT) else None


def parse_opponents(text: str, allowed: Sequence[str]) -> str:
    """The kind of opponent: one of `allowed` or "checkpoint". A UserError says what is allowed.

    `allowed` holds plain kinds ("random", …) and "checkpoint" where a trained policy may play.
    """
    directory = checkpoint_path(text)
    if directory is not None and "checkpoint" in allowed:
        if not directory.strip():
            raise UserError("env.opponents=checkpoint: names no directory; write checkpoint:DIR, DIR being a run")
        return "checkpoint"
    if text in allowed and text != "checkpoint":
        return text
    shown = ["checkpoint:DIR" if kind == "checkpoint" else kind for kind in allowed]
    raise UserError(f"env.opponents={text} is not allowed here: choose {', '.join(shown)}{did_you_mean(text, shown)}")


class OneSide:
    """Some members of a team that was trained with both sides in it: they act on what they see, the others see
    zeros and nobody asks what they do."""

    def __init__(self, policy: TeamPolicy, spec: Any, members: slice) -> None:
        self._policy, self._spec, self._members = policy, spec, members

    def reset(self, num_envs: int) -> None:
        """All environments begin an episode."""
        self._policy.reset(num_envs)

    def reset_rows(self, rows: npt.NDArray[Any]) -> None:
        """The environments `rows` begin an episode."""
        self._policy.reset_rows(rows)

    def act(self, obs: Floats, avail: Bools) -> npt.NDArray[Any]:
        """Actions [E, n] of the members for what they see, [E, n, O], smaller agents' observations being padded."""
        envs, spec = len(obs), self._spec
        everyone = np.zeros((envs, spec.n_agents, spec.obs_dim), np.float32)
        everyone[:, self._members, : obs.shape[-1]] = obs
        allowed = np.ones((envs, spec.n_agents, spec.n_actions), np.bool_)
        allowed[:, self._members] = avail
        return np.asarray(self._policy.act(everyone, allowed)[:, self._members])


def load_opponents(
    load_policy: Callable[[str], TeamPolicy] | None,
    directory: str,
    n_agents: int,
    obs_dim: int,
    n_actions: int,
    names: tuple[str, ...] = (),
    opponents: slice = slice(0),
) -> TeamPolicy:
    """The policy trained in `directory`, checked to fit `n_agents` opponents that see `obs_dim` numbers and choose
    among `n_actions`; or those of a policy of all the agents `names`, the slice `opponents` of them.

    The policy's own `spec` (what `phalanx.load_policy` gives has one) is what is compared.
    """
    if load_policy is None:
        raise UserError(
            f"env.opponents=checkpoint:{directory} needs a way to load policies, and this caller gives none:"
            " pass load_policy to make_env"
        )
    policy = load_policy(directory)
    spec: Any = getattr(policy, "spec", None)
    if spec is None:
        return policy
    if (
        names
        and spec.agent_names == names
        and spec.n_actions == n_actions
        and spec.obs_dims[opponents.start] == obs_dim
    ):
        return OneSide(policy, spec, opponents)
    wanted = {"agents": n_agents, "observation size": obs_dim, "actions": n_actions}
    got = {"agents": spec.n_agents, "observation size": spec.obs_dim, "actions": spec.n_actions}
    wrong = [f"{key} {got[key]} instead of {wanted[key]}" for key in wanted if got[key] != wanted[key]]
    if wrong:
        raise UserError(
            f"env.opponents=checkpoint:{directory} holds a policy for {spec.env_name} that does not fit the opponents"
            f" here: {', '.join(wrong)}; train one with these sizes"
        )
    return policy
