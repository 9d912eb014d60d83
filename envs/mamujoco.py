"""MaMuJoCo: MuJoCo's bodies moved by a team, each agent some of the joints (the version of gymnasium-robotics)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from phalanx.configs.errors import UserError
from phalanx.envs.importing import import_library
from phalanx.envs.mamujoco_views import quickened
from phalanx.envs.parallel import Source
from phalanx.envs.parallel_settings import ParallelSettings
from phalanx.envs.parallel_team import ParallelTeam
from phalanx.envs.team import TeamPolicy

NEEDS = "env.name=mamujoco needs gymnasium-robotics and mujoco: pip install '.[mujoco]' in a checkout of phalanx"
KINDS = {
    "hip": r"hip|thigh",
    "knee": r"knee|leg|shin",
    "ankle": r"ankle|foot",
    "abdomen": r"abdomen",
    "shoulder": r"shoulder",
    "elbow": r"elbow",
}
"""Kind of joint -> what is in the names of such joints."""


class MaMuJoCoSettings(ParallelSettings):
    """`env.name=mamujoco`."""

    name: Literal["mamujoco"] = Field(
        default="mamujoco", description="mamujoco: one body, moved by a team (continuous actions)"
    )
    scenario: str = Field(
        default="Walker2d", description="the body, by MaMuJoCo's names: Walker2d, Humanoid, HalfCheetah, Ant, …"
    )
    agent_conf: str = Field(
        default="6x1",
        description="who moves what: one of the library's partitions (2x3, 9|8, …), or Nx1 for one agent a joint, N"
        " being the number of joints (6x1 for Walker2d, 17x1 for Humanoid)",
    )
    agent_obsk: int = Field(default=1, ge=0, description="joints up to this far from an agent's own are observed")
    groups: Literal["joints", "none"] = Field(
        default="joints",
        description="joints: agents that move the same kinds of joints (hip, knee, ankle, …) are one group, as in"
        " Walker2d 6x1 Het; none: all are one",
    )
    reward: Literal["mean", "sum", "first"] = Field(
        default="first", description="the team's reward; all agents are paid the same, so first is that"
    )
    kwargs: dict[str, Any] = Field(
        default={},
        description="arguments of the Gymnasium environment; for films, render_mode: rgb_array is added, and where"
        " there is no display the environment variable MUJOCO_GL is set to egl, if it is not set",
    )


class MaMuJoCo(ParallelTeam):
    """E bodies in one process; actions in [-1, 1], stretched to the joints' bounds, padded where agents move unequally
    many joints. Observations are those of gymnasium-robotics, not of the older MAMuJoCo of HARL and MAPPO."""

    Settings = MaMuJoCoSettings

    def __init__(
        self, settings: MaMuJoCoSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        if settings.kwargs.get("render_mode") == "rgb_array" and "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")
        library, arguments, parts = library_arguments(settings)
        kinds = {f"agent_{i}": _kinds([node.label for node in part]) for i, part in enumerate(parts)}
        source = Source(
            name=f"mamujoco:{settings.scenario}-{settings.agent_conf}",
            label=f"env.scenario={settings.scenario} env.agent_conf={settings.agent_conf}",
            make=lambda: quickened(_keeping_state(library.parallel_env(**arguments))),
            arguments=settings.kwargs,
            packages=("gymnasium-robotics", "mujoco", "gymnasium", "pettingzoo"),
            groups=dict.fromkeys(kinds, "all") if settings.groups == "none" else kinds,
        )
        if settings.max_steps is None and "max_episode_steps" not in settings.kwargs:
            settings = settings.model_copy(update={"max_steps": 1000})
        super().__init__(source, settings, num_envs, load_policy)


def library_arguments(settings: MaMuJoCoSettings) -> tuple[Any, dict[str, Any], Sequence[Any]]:
    """The library's module, what its `parallel_env` is called with, and the joints of each agent."""
    import_library("mujoco", NEEDS)
    library = import_library("gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1", NEEDS)
    parts, factorization = _parts(library, settings)
    arguments = {
        "scenario": settings.scenario,
        "agent_conf": settings.agent_conf,
        "agent_obsk": settings.agent_obsk,
        "agent_factorization": factorization,
        "disable_env_checker": True,
        **settings.kwargs,
    }
    return library, arguments, parts


def _keeping_state(env: Any) -> Any:
    """state() computes anew what the body's reset or step has just returned: this hands that over instead."""
    body = env.single_agent_env  # its methods are replaced: a wrapper's look-ups would cost more than is saved
    seen: list[Any] = [None]

    def keeping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            seen[0] = result[0]
            return result

        return call

    body.step, body.reset = keeping(body.step), keeping(body.reset)
    env.state = lambda: seen[0]
    return env


def _parts(library: Any, settings: MaMuJoCoSettings) -> tuple[Sequence[Any], dict[str, Any] | None]:
    """The joints of each agent and, where the library does not know the partition, how to tell it."""
    scenario, wanted = settings.scenario, settings.agent_conf
    try:
        return library.get_parts_and_edges(scenario, wanted)[0], None
    except Exception as error:  # the library raises plain ones
        reason = f"{type(error).__name__}: {error}"
    try:
        parts, edges, common = library.get_parts_and_edges(scenario, None)
    except Exception:
        parts, edges, common = [], [], []
    joints = [(node,) for part in parts for node in part]
    if joints and wanted == f"{len(joints)}x1":
        return joints, {"partition": joints, "edges": edges, "globals": common}
    single = f" or {len(joints)}x1 for one agent a joint" if joints else ""
    raise UserError(
        f"env.scenario={scenario} env.agent_conf={wanted}: MaMuJoCo does not know it ({reason}); choose a scenario of"
        f" gymnasium-robotics, and one of its partitions for it{single}"
    )


def _kinds(joints: Sequence[str]) -> str:
    """The kinds of some joints, each once and in order."""
    found = []
    for joint in joints:
        known = (kind for kind, pattern in KINDS.items() if re.search(pattern, joint))
        found.append(next(known, re.sub(r"\d+$", "", joint)))
    return "+".join(sorted(set(found)))
