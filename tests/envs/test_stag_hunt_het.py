"""The stag hunt of hunters and beaters: what differs from the plain one, and all of it against a slow reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from phalanx.envs.check import check_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.stag_hunt import CATCH, RIGHT, STAY
from phalanx.envs.stag_hunt_het import HeterogeneousStagHunt
from phalanx.envs.team import Step
from tests.envs.test_stag_hunt import Cell, Reference, at, cells, compare


def placed(
    hunters: Sequence[Cell], beaters: Sequence[Cell], prey: Sequence[Cell], **settings: Any
) -> HeterogeneousStagHunt:
    """One environment with everybody where the test wants them, moving in the order of their numbers."""
    agents = [*hunters, *beaters]
    given = {"agents": len(agents), "beaters": len(beaters), "prey": len(prey), **settings}
    env = HeterogeneousStagHunt(HeterogeneousStagHunt.Settings(**given), 1)
    env.reset([EpisodeSeeds(5, Purpose.EPISODE, 0)])
    env._blocked[:] = env._wall
    env._agents[:, 0] = [at(env, cell) for cell in agents]
    env._prey[:, 0] = [at(env, cell) for cell in prey]
    env._blocked[env._agents[:, 0]] = env._blocked[env._prey[:, 0]] = True
    env._agent_order[:] = np.arange(len(agents))[:, None]
    env._prey_order[:] = np.arange(len(prey))[:, None]
    env._rolls[:] = 0
    return env


def act(env: HeterogeneousStagHunt, *actions: int) -> Step:
    return env.step(np.array([actions]))


def test_two_groups_with_sizes_of_their_own() -> None:
    spec = HeterogeneousStagHunt(HeterogeneousStagHunt.Settings(), 1).spec
    assert spec.group_names == ("hunter", "beater")
    assert spec.group_ids == (0, 0, 0, 0, 1, 1, 1, 1)
    assert spec.obs_dims == (75,) * 4 + (147,) * 4
    assert spec.action_dims == (6,) * 4 + (5,) * 4
    assert spec.agent_names[3:5] == ("hunter_3", "beater_0")


def test_a_hunter_catches_what_a_beater_stands_beside() -> None:
    step = act(placed([(4, 4), (0, 0)], [(4, 6)], [(4, 5), (9, 9)]), CATCH, STAY, STAY)
    assert step.reward.tolist() == [10]
    assert step.next.alive[0].tolist() == [False, True, True]  # the beater goes on
    assert step.info["captures"].tolist() == [1]


def test_without_a_beater_beside_the_stag_any_number_of_hunters_is_punished() -> None:
    env = placed([(4, 4), (4, 6)], [(2, 5)], [(4, 5), (9, 9)])
    step = act(env, CATCH, CATCH, STAY)
    assert step.reward.tolist() == [-2]
    assert step.next.alive.all()
    assert cells(env, env._prey)[0] == (5, 5)


def test_beaters_hold_where_they_are_after_moving_and_alone_cost_nothing() -> None:
    step = act(placed([(4, 4), (0, 0)], [(3, 4)], [(4, 5), (9, 9)]), CATCH, STAY, RIGHT)
    assert step.reward.tolist() == [10]
    step = act(placed([(4, 4), (0, 0)], [(4, 6)], [(4, 5), (9, 9)]), CATCH, STAY, RIGHT)
    assert step.reward.tolist() == [-2]
    step = act(placed([(0, 0)], [(4, 6), (4, 4)], [(4, 5)]), STAY, STAY, STAY)
    assert step.reward.tolist() == [0]


def test_one_beater_holds_two_stags_for_two_hunters() -> None:
    step = act(placed([(4, 4), (4, 8)], [(4, 6)], [(4, 5), (4, 7), (0, 0)]), CATCH, CATCH, STAY)
    assert step.reward.tolist() == [20]


def test_a_beater_that_catches_anyway_does_not() -> None:
    env = placed([(0, 0)], [(4, 4), (4, 6)], [(4, 5)])
    assert not env._observe().avail[0, 1:, CATCH].any()
    step = act(env, STAY, CATCH, CATCH)
    assert step.reward.tolist() == [0]
    assert step.next.alive.all()


def test_the_episode_ends_when_no_hunter_is_left() -> None:
    step = act(placed([(4, 4)], [(4, 6)], [(4, 5), (9, 9)]), CATCH, STAY)
    assert step.terminated.tolist() == [True]
    assert step.final is not None
    assert step.final.alive[0].tolist() == [False, True]


def test_the_best_return_of_the_default_team_is_40() -> None:
    rows = (1, 3, 5, 7)
    prey = [(r, 1) for r in rows] + [(9, c) for c in (3, 5, 7, 9)]
    env = placed([(r, 0) for r in rows], [(r, 2) for r in rows], prey)
    assert env._settings == HeterogeneousStagHunt.Settings()
    step = act(env, *[CATCH] * 4, *[STAY] * 4)
    assert step.reward.tolist() == [40]
    assert step.terminated.tolist() == [True]


def test_beaters_see_farther_and_everybody_tells_hunters_from_beaters() -> None:
    obs = placed([(5, 5)], [(5, 8)], [(8, 8)])._observe()
    hunter, beater = obs.obs[0, 0, :75].reshape(5, 5, 3), obs.obs[0, 1].reshape(7, 7, 3)
    assert np.argwhere(hunter).tolist() == [[2, 2, 0]]
    assert np.argwhere(beater).tolist() == [[3, 0, 0], [3, 3, 2], [6, 3, 1]]
    assert not obs.obs[0, 0, 75:].any()
    assert np.argwhere(obs.state[0].reshape(10, 10, 3)).tolist() == [[5, 5, 0], [5, 8, 2], [8, 8, 1]]


def test_the_picture_tells_them_apart() -> None:
    picture = placed([(4, 4)], [(4, 6)], [(4, 5)]).render(0)
    assert len({tuple(picture[35 * 4 + 7, 35 * c + 18]) for c in (3, 4, 5, 6)}) == 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beaters": 8}, r"env\.beaters=8 of env\.agents=8 leaves no hunter"),
        ({"catchers": 3, "holders": 2}, "do not fit around a stag"),
        ({"beaters": 1, "holders": 3}, r"env\.holders=3, but of env\.agents=8 only 1 are beaters, so no stag could"),
        ({"agents": 4, "beaters": 3, "catchers": 2}, r"env\.catchers=2, but of env\.agents=4 only 1 are hunters"),
    ],
)
def test_a_team_that_cannot_hunt_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        HeterogeneousStagHunt.Settings(**settings)


class TwoGroups(Reference):
    def hunters(self) -> Sequence[int]:
        return range(self.s.agents - self.s.beaters)

    def held(self, stag: Cell) -> bool:
        return sum(self.near(a, stag) for a in self.agents[self.s.agents - self.s.beaters :]) >= self.s.holders

    def state(self) -> npt.NDArray[np.float32]:
        grid = super().state()
        for cell in self.agents[self.s.agents - self.s.beaters :]:
            assert cell is not None
            grid[(*cell, 0)], grid[(*cell, 2)] = 0, 1
        return grid

    def obs(self) -> npt.NDArray[np.float32]:
        seen = np.zeros((self.s.agents, 3 * (2 * max(self.s.view, self.s.beater_view) + 1) ** 2), np.float32)
        for i, cell in enumerate(self.agents):
            view = self.s.view if i in self.hunters() else self.s.beater_view
            if cell is not None:
                padded = np.pad(self.state(), ((view, view), (view, view), (0, 0)))
                window = padded[cell[0] : cell[0] + 2 * view + 1, cell[1] : cell[1] + 2 * view + 1]
                seen[i, : window.size] = window.ravel()
        return seen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 5, "agents": 6, "beaters": 2, "prey": 5, "catchers": 2, "view": 3, "beater_view": 1},
        {"size": 4, "agents": 5, "beaters": 3, "prey": 6, "holders": 2, "max_steps": 40},
        {"size": 4, "agents": 4, "beaters": 1, "prey": 6, "holders": 0, "view": 1, "max_steps": 60},
    ],
)
def test_every_step_equals_the_slow_reference(settings: dict[str, Any]) -> None:
    assert compare(HeterogeneousStagHunt(HeterogeneousStagHunt.Settings(**settings), 3), TwoGroups) > 0


def test_a_variant_conforms() -> None:
    settings = HeterogeneousStagHunt.Settings(size=4, agents=5, beaters=2, prey=5, view=4, beater_view=1, max_steps=30)
    assert check_env(lambda count: HeterogeneousStagHunt(settings, count)) == []
