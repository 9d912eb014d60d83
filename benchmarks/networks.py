"""Updates with each agent network, on one thread, against the same network stepped in Python.

`python -m benchmarks.networks [--rounds 5] [--networks gru,mlp]` prints one JSON line per network: milliseconds of one
QMIX update on a SMAC-like batch as it is, and where online and target networks are stepped one step at a time under
autograd, with the same parameters: the GRU as PyMARL does and networks of entities as their papers write them
(`benchmarks.plain_networks`), the others by `AgentNetworks.step`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.learner import ENVIRONMENT, SMAC_LIKE, medians_ms, one_core, random_batch, team_spec
from benchmarks.plain_networks import asn_step, atm_step, gru_step, updet_step
from phalanx.algorithms.common.agents import RecurrentAgents
from phalanx.algorithms.common.networks.asn import ASNAgents
from phalanx.algorithms.common.networks.atm import ATMAgents
from phalanx.algorithms.common.networks.base import AgentNetworks
from phalanx.algorithms.common.networks.updet import UPDeTAgents
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.cluster.learner import Learner
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import run_from_dict
from phalanx.envs.mpe.task import consecutive
from phalanx.envs.team import EntityView, TeamSpec

NETWORKS = ("gru", "mlp", "hyper_linear", "hyper_mlp", "asn", "updet", "atm")
PLAIN = {RecurrentAgents: gru_step, ASNAgents: asn_step, UPDeTAgents: updet_step, ATMAgents: atm_step}
# 80 numbers: the agent itself 9, four allies 9 each, five enemies 7 each; six basic actions and five attacks.
ENTITIES = EntityView(
    own=tuple(range(9)), allies=consecutive(9, 4, 9), enemies=consecutive(45, 5, 7), enemy_actions=(6, 7, 8, 9, 10)
)


def learner(spec: TeamSpec, agent: dict[str, Any]) -> Learner:
    run = {"env": {"name": "simple_spread"}, "algorithm": {"name": "qmix"}, "agent": agent}
    return Learner(run_from_dict({**run, "learner": {"device": "cpu"}}, catalogue=CATALOGUE), spec)


def step_by_step(agents: AgentNetworks) -> Callable[..., Tensor]:
    """What `agents.forward` computes, one step after the other."""

    def forward(inputs: Tensor, members: Tensor | None = None) -> Tensor:
        layers, state, values = agents.chosen(), agents.initial_state(inputs.shape[1]), []
        for x in inputs.unbind(0):
            each, state = agents.step(x, state, layers)
            values.append(each)
        return torch.stack(values, 1)

    def plain(inputs: Tensor, members: Tensor | None = None) -> Tensor:
        assert agents.view is not None
        state, values = agents.initial_state(inputs.shape[1])[0], []
        for x in inputs.unbind(0):
            each, state = plain_step(agents, agents.view.cut(x), state)
            values.append(each)
        return torch.stack(values).unsqueeze(0)

    plain_step: Any = PLAIN.get(type(agents))
    return forward if plain_step is None else plain


def against_steps(network: str, sharing: str, rounds: int) -> dict[str, Any]:
    spec = replace(team_spec(**SMAC_LIKE), entities=ENTITIES)
    batch = random_batch(spec)
    ours, theirs = (learner(spec, {"network": network, "sharing": sharing}) for _ in range(2))
    algorithm = theirs.algorithm
    assert isinstance(algorithm, ValueMixing)
    for agents in (algorithm.agents, algorithm.target_agents):
        agents.forward = step_by_step(agents)  # type: ignore[method-assign]
    times = medians_ms({"ours": lambda: ours.update([batch]), "steps": lambda: theirs.update([batch])}, rounds)
    row = {"row": "network", "network": network, "sharing": sharing, "ms": times["ours"]}
    return {**row, "per_step_loop_ms": times["steps"], "ratio": times["ours"] / times["steps"]}


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        command = [sys.executable, "-m", "benchmarks.networks", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ENVIRONMENT)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--sharing", default="full_id")
    arguments = parser.parse_args()
    one_core()
    for network in arguments.networks.split(","):
        row = against_steps(network, arguments.sharing, arguments.rounds)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
