"""The agent networks that `agent.network` and `agent.sharing` ask for."""

from __future__ import annotations

from phalanx.algorithms.common.agents import RecurrentAgents
from phalanx.algorithms.common.networks.base import AgentNetworks
from phalanx.algorithms.common.networks.entities import EntityLayout
from phalanx.algorithms.common.networks.mlp import MLPAgents
from phalanx.algorithms.common.networks.plan import VALUES, Initialisation, Plan
from phalanx.algorithms.common.networks.view import AgentView
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AgentSettings
from phalanx.envs.team import TeamSpec


def make_agent_networks(
    spec: TeamSpec,
    members: int,
    settings: AgentSettings,
    outputs: int | None = None,
    *,
    view: AgentView | None = None,
    initialisation: Initialisation = VALUES,
) -> AgentNetworks:
    """K = `members` networks for the team, with one output for each action or, if given, so many `outputs`; `view`:
    for some of the agents, or of something else than observations. Initial weights come from torch's global generator.

    UserError where the network needs entities and the environment does not say what they are.
    """
    view = AgentView.of(spec, settings) if view is None else view
    aimed = outputs is None
    outputs = spec.n_actions if outputs is None else outputs
    layout = None
    if settings.network in ("asn", "updet", "atm"):
        if spec.entities is None:
            raise UserError(
                f"agent.network={settings.network} looks at the entities of an observation, but"
                f" env.name={spec.env_name} does not say which there are: choose agent.network=gru, mlp, hyper_linear"
                " or hyper_mlp, or an environment that does (simple_*, stag_hunt, dispersion, smax, or your own with"
                " TeamSpec.entities)"
            )
        layout = EntityLayout.of(spec.entities, view, outputs, aim=aimed)
    plan = Plan(members, view.size, outputs, settings, view, layout, initialisation)
    base = settings.hyper.base if settings.network.startswith("hyper_") else settings.network
    return _network_class(base)(plan)


def _network_class(name: str) -> type[AgentNetworks]:
    if name == "gru":
        return RecurrentAgents
    if name == "mlp":
        return MLPAgents
    if name == "asn":
        from phalanx.algorithms.common.networks.asn import ASNAgents

        return ASNAgents
    if name == "updet":
        from phalanx.algorithms.common.networks.updet import UPDeTAgents

        return UPDeTAgents
    from phalanx.algorithms.common.networks.atm import ATMAgents

    return ATMAgents
