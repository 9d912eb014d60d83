"""The agent networks that `agent.network` and `agent.sharing` ask for."""

from __future__ import annotations

from phalanx.algorithms.common.agents import RecurrentAgents
from phalanx.algorithms.common.networks.base import AgentNetworks
from phalanx.algorithms.common.networks.entities import EntityLayout
from phalanx.algorithms.common.networks.mlp import MLPAgents
from phalanx.algorithms.common.networks.view import AgentView
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AgentSettings
from phalanx.envs.team import TeamSpec


def make_agent_networks(spec: TeamSpec, members: int, settings: AgentSettings) -> AgentNetworks:
    """K = `members` networks for the team. Initial weights come from torch's global generator.

    UserError where the network needs entities and the environment does not say what they are.
    """
    view = AgentView.of(spec, settings)
    sizes = (members, view.size, settings.hidden, spec.n_actions)
    base = settings.hyper.base if settings.network.startswith("hyper_") else settings.network
    if base == "gru":
        return RecurrentAgents(*sizes, view, settings)
    if base == "mlp":
        return MLPAgents(*sizes, settings.depth, view, settings)
    if spec.entities is None:
        raise UserError(
            f"agent.network={settings.network} looks at the entities of an observation, but env.name={spec.env_name}"
            " does not say which there are: choose agent.network=gru, mlp, hyper_linear or hyper_mlp, or an"
            " environment that does (simple_tag, simple_spread, stag_hunt, dispersion, smax, or your own with"
            " TeamSpec.entities)"
        )
    layout = EntityLayout.of(spec.entities, view)
    if base == "asn":
        from phalanx.algorithms.common.networks.asn import ASNAgents

        return ASNAgents(*sizes, layout, view)
    if base == "updet":
        from phalanx.algorithms.common.networks.updet import UPDeTAgents

        heads, blocks = settings.attention.heads or 3, settings.attention.blocks
        return UPDeTAgents(*sizes, layout, heads, blocks, view)
    from phalanx.algorithms.common.networks.atm import ATMAgents

    return ATMAgents(*sizes, layout, settings.attention.heads or 4, settings.attention.slots, view)
