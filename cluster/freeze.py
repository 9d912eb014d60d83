"""From a trained run to a small policy in plain numpy: `phalanx freeze RUN FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from phalanx.cluster.policy import TrainedTeam, load_policy
from phalanx.configs.errors import UserError
from phalanx.envs.frozen import FrozenPolicy
from phalanx.envs.team import Floats


def freeze(source: Path, group: str | None = None) -> FrozenPolicy:
    """The network of the agents of `group` (None: of all), from the newest intact checkpoint of a run.

    UserError where they are no such agents, or not what a FrozenPolicy is: discrete actions, one feed-forward network
    (agent.network=mlp) that sees the observation alone and that all of them share.
    """
    team = load_policy(source)
    spec, agent = team.spec, team.run.agent
    lasting = spec.group_names if spec.group_ids else ()
    if group is not None and group not in lasting:
        names = ", ".join(lasting) or "none"
        raise UserError(f"{spec.env_name} in {source} has no group {group}: its groups are {names}")
    members = [i for i in range(spec.n_agents) if group is None or spec.group_names[spec.group_ids[i]] == group]
    wanted = {"agent.network": (agent.network, "mlp"), "agent.last_action": (agent.last_action, False)}
    for key, (got, needed) in wanted.items():
        if got != needed:
            here, there = (str(value).lower() for value in (got, needed))  # true and false, as they are written
            raise UserError(f"{source} was trained with {key}={here}: a frozen policy needs {key}={there}")
    if agent.sharing not in ("groups", "full"):
        raise UserError(
            f"{source} was trained with agent.sharing={agent.sharing}: a frozen policy needs agents that share one"
            " network and do not see who they are, agent.sharing=groups or full"
        )
    if not spec.discrete or len({spec.obs_dims[i] for i in members}) != 1:
        raise UserError(f"{source}: a frozen policy needs discrete actions and agents that see equally much")
    return FrozenPolicy(_layers(team, members, spec.obs_dims[members[0]]))


def _layers(team: TrainedTeam, members: list[int], seen: int) -> list[tuple[Floats, Floats]]:
    """Weight and bias of each layer, without the inputs that are padding to these agents."""
    networks: Any = team.networks
    layers: list[tuple[Floats, Floats]] = []
    for weight, bias in networks.chosen().values():
        own = [weight[i if len(weight) > 1 else 0].numpy() for i in members]
        if any(not np.array_equal(own[0], other) for other in own[1:]):
            raise UserError(
                "these agents have networks of their own, and a frozen policy has one: freeze one group, or train with"
                " agent.sharing=groups or full"
            )
        one = members[0] if len(weight) > 1 else 0
        layers.append((own[0] if layers else own[0][:, :seen], bias[one].numpy()))
    return layers
