"""HAPPO: agents learn one after the other, each from what those before it have changed (Kuba et al. 2022,
arXiv 2109.11251; Zhong et al. 2024, arXiv 2304.09870)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from phalanx.algorithms.base import OptimiserStep
from phalanx.algorithms.common.grouping import resolve_groups
from phalanx.algorithms.mappo import MAPPO
from phalanx.algorithms.on_policy_batch import Experience
from phalanx.algorithms.on_policy_settings import ClippedSettings, GroupedSettings
from phalanx.configs.settings import AlgorithmSettings
from phalanx.envs.team import TeamSpec


class HAPPOSettings(GroupedSettings, ClippedSettings):
    """What the sequential methods and PPO understand."""


class HAPPO(MAPPO):
    """MAPPO in turns, one for each agent, in an order drawn anew for every update. An agent's advantage is weighted
    with M, the product of the ratios π_new / π of all agents that had their turn before it. Each agent has an actor
    and an optimiser of its own.

    With `groups` agents share an actor, and a turn moves those of its group that are still to come: what M and the
    clipping take for their old policies is old no more. `baseline_drift` measures it, the mean |ratio − 1| of such
    agents just before their own turn, which is 0 where nobody shares. M is always relative to the policies at the
    update's beginning (the authors' code takes those just before a turn; without groups they are the same).
    """

    Settings: ClassVar[type[AlgorithmSettings]] = HAPPOSettings

    @classmethod
    def agent_groups(cls, spec: TeamSpec, settings: AlgorithmSettings) -> list[list[int]]:
        assert isinstance(settings, GroupedSettings)
        return resolve_groups(spec, settings.groups, settings.groups_seed)

    def turns(self) -> list[tuple[int, list[int]]]:
        return [(k, [slot]) for k, group in enumerate(self.actors.groups) for slot in range(len(group))]

    def take_turn(
        self, experience: Experience, group: int, slots: list[int], *, again: bool, last: bool
    ) -> Iterator[OptimiserStep]:
        somebody_shares = self.n_groups < self.spec.n_agents
        for number, step in enumerate(super().take_turn(experience, group, slots, again=again, last=last)):
            if number == 0 and (again or not somebody_shares):
                step.metrics["baseline_drift"] = step.metrics["ratio_deviation"]
            yield step
