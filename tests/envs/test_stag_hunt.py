"""The rules of the stag hunt, one by one on positions set by hand, and together against a slow reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.stag_hunt import BLOCK, CATCH, DOWN, LEFT, RIGHT, ROLLS, STAY, UP, StagHunt
from phalanx.envs.team import Obs, Step

Cell = tuple[int, int]
GONE = None
AROUND = ((0, 1), (1, 0), (0, -1), (-1, 0))


def hunt(num_envs: int = 1, first: int = 0, **settings: Any) -> tuple[StagHunt, Obs]:
    env = StagHunt(StagHunt.Settings(**settings), num_envs)
    return env, env.reset([EpisodeSeeds(5, Purpose.EPISODE, e) for e in range(first, first + num_envs)])


def at(env: StagHunt, cell: Cell) -> int:
    return (cell[0] + env._pad) * env._width + cell[1] + env._pad


def cells(env: StagHunt, places: npt.NDArray[Any]) -> list[Cell | None]:
    """Rows and columns of environment 0, GONE for who is off the grid."""
    rows, columns = places[:, 0] // env._width - env._pad, places[:, 0] % env._width - env._pad
    size = env.spec.state_dim // 3
    inside = (rows >= 0) & (columns >= 0) & (rows * rows < size) & (columns * columns < size)
    return [(int(r), int(c)) if i else GONE for r, c, i in zip(rows, columns, inside, strict=True)]


def placed(agents: Sequence[Cell], prey: Sequence[Cell], **settings: Any) -> StagHunt:
    """One environment with everybody where the test wants them; agents move in the order of their numbers, prey too,
    and every stag rolls 0: it goes to its first free neighbour in the order right, down, left, up."""
    env, _ = hunt(**{"agents": len(agents), "prey": len(prey), **settings})
    env._blocked[:] = env._wall
    env._agents[:, 0] = [at(env, cell) for cell in agents]
    env._prey[:, 0] = [at(env, cell) for cell in prey]
    env._blocked[env._agents[:, 0]] = env._blocked[env._prey[:, 0]] = True
    env._agent_order[:] = np.arange(len(agents))[:, None]
    env._prey_order[:] = np.arange(len(prey))[:, None]
    env._rolls[:] = 0
    return env


def act(env: StagHunt, *actions: int) -> Step:
    return env.step(np.array([actions]))


# ---- sizes and what is seen


def test_the_published_sizes() -> None:
    env, obs = hunt(3)
    assert (env.spec.n_agents, env.spec.n_actions, env.spec.obs_dim, env.spec.state_dim) == (8, 6, 75, 300)
    assert env.spec.episode_limit == 200
    grid = obs.state.reshape(3, 10, 10, 3)
    assert grid.sum(axis=(1, 2)).tolist() == [[8, 8, 0]] * 3
    assert grid.sum(axis=3).max() == 1  # one in a cell


def test_the_window_is_centred_on_the_agent_and_zero_off_the_grid() -> None:
    env = placed([(0, 0), (0, 2)], [(1, 1), (9, 9)])
    obs = env._observe()
    window = obs.obs[0, 0].reshape(5, 5, 3)
    expected = np.zeros((5, 5, 3))
    expected[2, 2, 0] = expected[2, 4, 0] = 1  # itself and the other
    expected[3, 3, 1] = 1  # the near stag
    np.testing.assert_array_equal(window, expected)
    state = obs.state[0].reshape(10, 10, 3)
    assert np.argwhere(state).tolist() == [[0, 0, 0], [0, 2, 0], [1, 1, 1], [9, 9, 1]]


def test_moves_off_the_grid_are_not_available_moves_into_others_are() -> None:
    env = placed([(0, 0), (0, 1), (5, 5)], [(5, 6), (9, 9)])
    avail = env._observe().avail[0]
    assert avail[0].tolist() == [True, True, False, False, True, False]
    assert avail[1].tolist() == [True, True, True, False, True, False]
    assert avail[2].tolist() == [True, True, True, True, True, True]  # a stag beside it: it may catch


def test_a_diagonal_stag_cannot_be_caught() -> None:
    env = placed([(4, 4), (5, 5)], [(3, 3), (9, 9)])
    assert not env._observe().avail[0, :, CATCH].any()


# ---- movement


@pytest.mark.parametrize(
    ("action", "cell"), [(RIGHT, (4, 5)), (DOWN, (5, 4)), (LEFT, (4, 3)), (UP, (3, 4)), (STAY, (4, 4))]
)
def test_agents_move(action: int, cell: Cell) -> None:
    env = placed([(4, 4)], [(9, 9)])
    act(env, action)
    assert cells(env, env._agents) == [cell]


def test_a_move_into_somebody_fails_without_cost() -> None:
    env = placed([(4, 4), (4, 5)], [(3, 4)])
    step = act(env, RIGHT, STAY)
    assert cells(env, env._agents) == [(4, 4), (4, 5)]
    assert step.reward.tolist() == [0]
    env = placed([(4, 4)], [(3, 4)])
    act(env, UP)
    assert cells(env, env._agents) == [(4, 4)]  # the stag moves only afterwards


def test_who_moves_first_frees_the_cell_for_who_comes_after() -> None:
    for order, expected in (([0, 1], [(4, 4), (4, 6)]), ([1, 0], [(4, 5), (4, 6)])):
        env = placed([(4, 4), (4, 5)], [(9, 9)])
        env._agent_order[:] = np.array(order)[:, None]
        act(env, RIGHT, RIGHT)
        assert cells(env, env._agents) == expected


def test_the_order_of_movement_is_random() -> None:
    """Two agents want the same cell: over many episodes each gets it about half of the time."""
    first = 0
    for e in range(200):
        env, _ = hunt(first=e, agents=2, prey=1)
        order = env._agent_order[0, :, 0].tolist()
        assert sorted(order) == [0, 1]
        first += order[0] == 0
    assert 70 < first < 130


# ---- stags


def test_a_stag_walks_to_each_free_neighbour_equally_often_and_never_rests() -> None:
    seen = []
    for roll in range(ROLLS):
        env = placed([(4, 5)], [(5, 5)])  # up is taken
        env._rolls[:] = roll
        act(env, STAY)
        seen += cells(env, env._prey)
    assert {cell: seen.count(cell) for cell in set(seen)} == {(5, 6): 4, (6, 5): 4, (5, 4): 4}


def test_a_stag_without_a_free_neighbour_rests() -> None:
    env = placed([(0, 1), (1, 0)], [(0, 0)])
    step = act(env, STAY, STAY)
    assert cells(env, env._prey) == [(0, 0)]
    assert step.reward.tolist() == [0]


def test_stags_move_one_after_the_other() -> None:
    env = placed([(9, 9)], [(0, 0), (0, 1)])
    act(env, STAY)
    assert cells(env, env._prey) == [(1, 0), (0, 2)]  # right was taken when the first one went
    env = placed([(9, 9)], [(0, 0), (0, 1)])
    env._prey_order[:] = np.array([1, 0])[:, None]
    act(env, STAY)
    assert cells(env, env._prey) == [(0, 1), (0, 2)]


# ---- hunting


def test_two_catchers_capture_and_are_frozen_and_removed() -> None:
    env = placed([(4, 4), (4, 6), (0, 0)], [(4, 5), (9, 9)])
    step = act(env, CATCH, CATCH, STAY)
    assert step.reward.tolist() == [10]
    assert step.info["captures"].tolist() == [1]
    assert step.info["failed_hunts"].tolist() == [0]
    assert not step.ended.any()
    assert step.next.alive[0].tolist() == [False, False, True]
    assert step.next.avail[0, :2].tolist() == [[False] * 4 + [True, False]] * 2  # only stay
    assert not step.next.obs[0, :2].any()
    state = step.next.state[0].reshape(10, 10, 3)
    assert state[..., 0].sum() == 1
    assert state[..., 1].sum() == 1


def test_who_stands_beside_without_catching_is_neither_counted_nor_frozen() -> None:
    env = placed([(4, 4), (4, 6), (3, 5)], [(4, 5), (9, 9)])
    step = act(env, CATCH, CATCH, STAY)
    assert step.next.alive[0].tolist() == [False, False, True]
    env = placed([(4, 4), (4, 6)], [(4, 5), (9, 9)])
    assert act(env, CATCH, STAY).reward.tolist() == [-2]


def test_a_lone_catcher_is_punished_and_the_stag_walks_on() -> None:
    env = placed([(4, 4), (0, 0)], [(4, 5), (9, 9)])
    step = act(env, CATCH, STAY)
    assert step.reward.tolist() == [-2]
    assert step.info["failed_hunts"].tolist() == [1]
    assert step.next.alive.all()
    assert cells(env, env._prey)[0] == (4, 6)


def test_a_lone_catcher_beside_two_stags_is_punished_for_both() -> None:
    env = placed([(4, 4), (0, 0)], [(4, 5), (4, 3)])
    step = act(env, CATCH, STAY)
    assert step.reward.tolist() == [-4]
    assert step.info["failed_hunts"].tolist() == [2]


def test_catching_beside_no_stag_costs_nothing() -> None:
    env = placed([(4, 4), (0, 0)], [(9, 9)])
    assert act(env, CATCH, CATCH).reward.tolist() == [0]


def test_agents_move_before_the_hunt() -> None:
    """The stag's neighbour steps aside in the step in which the other catches: a failed hunt."""
    env = placed([(4, 4), (4, 6)], [(4, 5), (9, 9)])
    assert act(env, CATCH, RIGHT).reward.tolist() == [-2]


def test_three_catchers_are_all_frozen_by_one_stag() -> None:
    env = placed([(4, 4), (4, 6), (3, 5), (0, 0)], [(4, 5), (9, 9)])
    step = act(env, CATCH, CATCH, CATCH, STAY)
    assert step.reward.tolist() == [10]
    assert step.next.alive[0].tolist() == [False, False, False, True]


def test_who_was_frozen_counts_for_no_other_stag_of_the_same_step() -> None:
    """0 and 1 capture the first stag; the second one has 1 and 2 beside it, but 1 is frozen by then."""
    agents, prey = [(4, 4), (4, 6), (4, 8)], [(4, 5), (4, 7)]
    step = act(placed(agents, prey), CATCH, CATCH, CATCH)
    assert step.reward.tolist() == [10 - 2]
    env = placed(agents, prey)
    env._prey_order[:] = np.array([1, 0])[:, None]
    step = act(env, CATCH, CATCH, CATCH)
    assert step.reward.tolist() == [10 - 2]
    assert step.next.alive[0].tolist() == [True, False, False]


def test_a_failed_hunt_before_a_capture_counts_the_agent_for_both() -> None:
    """Stag 0 sees agent 0 alone (-2); then stag 1 is captured by agents 0 and 1."""
    step = act(placed([(4, 4), (4, 6), (0, 0)], [(4, 3), (4, 5)]), CATCH, CATCH, STAY)
    assert step.reward.tolist() == [10 - 2]


def test_cells_of_the_frozen_are_free_for_stags_and_agents() -> None:
    env = placed([(4, 4), (4, 6), (3, 4)], [(4, 5), (5, 4)])
    env._rolls[:] = 3  # the second stag may go right, down, left, up: up is where agent 0 stood
    act(env, CATCH, CATCH, STAY)
    assert cells(env, env._prey) == [GONE, (4, 4)]


def test_frozen_agents_do_nothing_whatever_they_choose() -> None:
    env = placed([(4, 4), (4, 6), (0, 0)], [(4, 5), (9, 9)])
    act(env, CATCH, CATCH, STAY)
    for action in range(6):
        step = act(env, action, action, STAY)
        assert step.next.alive[0].tolist() == [False, False, True]
        assert cells(env, env._agents)[:2] == [GONE, GONE]
        assert step.reward.tolist() == [0]
    assert env._blocked[env._wall].all()  # walls are still walls


@pytest.mark.parametrize("catchers", [1, 3])
def test_the_number_of_catchers_needed_is_a_setting(catchers: int) -> None:
    agents = [(4, 4), (4, 6), (3, 5), (0, 0)]
    for hands in (1, 2, 3):
        actions = [CATCH] * hands + [STAY] * (4 - hands)
        step = act(placed(agents, [(4, 5), (9, 9)], catchers=catchers), *actions)
        assert step.reward.tolist() == [10 if hands >= catchers else -2]


def test_rewards_are_settings() -> None:
    rewards = {"capture_reward": 3.0, "punishment": -0.5}
    assert act(placed([(4, 4), (4, 6)], [(4, 5), (9, 9)], **rewards), CATCH, CATCH).reward.tolist() == [3]
    assert act(placed([(4, 4), (4, 6)], [(4, 5), (9, 9)], **rewards), CATCH, STAY).reward.tolist() == [-0.5]


# ---- ends


def test_the_episode_terminates_when_all_agents_are_frozen_or_all_stags_captured() -> None:
    for agents, prey in (([(4, 4), (4, 6)], [(4, 5), (9, 9)]), ([(4, 4), (4, 6), (0, 0)], [(4, 5)])):
        step = act(placed(agents, prey), *[CATCH, CATCH, STAY][: len(agents)])
        assert step.terminated.tolist() == [True]
        assert step.truncated.tolist() == [False]
        assert step.final is not None
        assert step.final.alive.sum() == len(agents) - 2
        assert step.next.alive.all()


def test_the_limit_truncates() -> None:
    env, _ = hunt(2, max_steps=3)
    for t in range(3):
        step = env.step(np.full((2, 8), STAY))
        assert step.truncated.all() == (t == 2)
        assert not step.terminated.any()


def test_the_best_return_of_eight_agents_is_40() -> None:
    agents = [(r, c) for r in (1, 3, 5, 7) for c in (0, 2)]
    prey = [(r, 1) for r in (1, 3, 5, 7)] + [(9, c) for c in (3, 5, 7, 9)]
    step = act(placed(agents, prey), *[CATCH] * 8)
    assert step.reward.tolist() == [40]
    assert step.terminated.tolist() == [True]


def test_metrics_are_those_of_the_spec() -> None:
    env, _ = hunt(2)
    assert set(env.step(np.full((2, 8), STAY)).info) == set(env.spec.metrics) == {"captures", "failed_hunts"}


def test_the_picture_shows_everybody() -> None:
    env = placed([(4, 4), (4, 6)], [(4, 5), (9, 9)])
    picture = env.render(0)
    assert picture.shape == (352 + 24, 352, 3)
    hunter, stag, nobody = (tuple(picture[35 * r + 7, 35 * c + 18]) for r, c in ((4, 4), (4, 5), (0, 0)))
    assert len({hunter, stag, nobody}) == 3
    assert tuple(picture[35 * 4 + 7, 35 * 6 + 18]) == hunter
    assert tuple(picture[35 * 9 + 7, 35 * 9 + 18]) == stag


def test_who_has_left_the_grid_is_not_in_the_picture() -> None:
    env = placed([(4, 4), (4, 6)], [(4, 5), (9, 9)])
    env.film(0)
    before = env.render(0)
    act(env, CATCH, CATCH)
    after = env.last_picture()  # both hunters are frozen: the episode is over, the next one has begun
    assert after is not None
    stag, nobody = (tuple(before[35 * r + 7, 35 * c + 18]) for r, c in ((9, 9), (0, 0)))
    assert {tuple(after[35 * 4 + 7, 35 * c + 18]) for c in (4, 5, 6)} == {nobody}
    assert stag in {tuple(pixel) for pixel in after[:350].reshape(-1, 3)}


def test_a_crowded_grid_is_refused() -> None:
    with pytest.raises(ValidationError, match="do not fit on 3 × 3 cells"):
        StagHunt.Settings(size=3)
    _, obs = hunt(size=4)
    assert obs.state.reshape(4, 4, 3).sum() == 16


# ---- all of it against a slow reference


class Reference:
    """One environment, one entity after the other, straight from the rules; draws the same random numbers."""

    def __init__(self, settings: Any, seed: int) -> None:
        self.s = settings
        self.rng = np.random.default_rng(seed)
        where = self.rng.choice(settings.size**2, settings.agents + settings.prey, replace=False)
        everybody = [divmod(int(w), settings.size) for w in where]
        self.agents: list[Cell | None] = list(everybody[: settings.agents])
        self.prey: list[Cell | None] = list(everybody[settings.agents :])
        self.block = min(settings.max_steps, BLOCK)
        self.t = 0
        self.captures = self.failed = 0

    def draw(self) -> None:
        self.agent_order = self.rng.random((self.block, self.s.agents)).argsort(axis=1)
        self.prey_order = self.rng.random((self.block, self.s.prey)).argsort(axis=1)
        self.rolls = self.rng.integers(ROLLS, size=(self.block, self.s.prey))

    def free(self, cell: Cell) -> bool:
        inside = all(0 <= x < self.s.size for x in cell)
        return inside and cell not in self.agents and cell not in self.prey

    @staticmethod
    def near(a: Cell | None, b: Cell | None) -> bool:
        return a is not None and b is not None and abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1

    def step(self, actions: Sequence[int]) -> tuple[float, bool]:
        if self.t % self.block == 0:
            self.draw()
        k = self.t % self.block
        self.t += 1
        for i in self.agent_order[k]:
            here = self.agents[i]
            if here is not None and actions[i] < 4:
                there = (here[0] + AROUND[actions[i]][0], here[1] + AROUND[actions[i]][1])
                if self.free(there):
                    self.agents[i] = there
        self.captures = self.failed = 0
        for turn, p in enumerate(self.prey_order[k]):
            here = self.prey[p]
            if here is None:
                continue
            hands = [i for i in self.hunters() if actions[i] == CATCH and self.near(self.agents[i], here)]
            if len(hands) >= self.s.catchers and self.held(here):
                self.captures += 1
                self.prey[p] = None
                for i in hands:
                    self.agents[i] = None
                continue
            self.failed += len(hands) > 0
            free = [c for c in ((here[0] + dr, here[1] + dc) for dr, dc in AROUND) if self.free(c)]
            if free:
                self.prey[p] = free[self.rolls[k, turn] % len(free)]
        reward = self.captures * self.s.capture_reward + self.failed * self.s.punishment
        return reward, all(p is None for p in self.prey) or all(self.agents[i] is None for i in self.hunters())

    def hunters(self) -> Sequence[int]:
        """Those who can catch."""
        return range(self.s.agents)

    def held(self, stag: Cell) -> bool:
        """Whether the stag could be caught if enough caught it."""
        return True

    def state(self) -> npt.NDArray[np.float32]:
        grid = np.zeros((self.s.size, self.s.size, 3), np.float32)
        for channel, who in enumerate((self.agents, self.prey)):
            for cell in who:
                if cell is not None:
                    grid[(*cell, channel)] = 1
        return grid

    def obs(self) -> npt.NDArray[np.float32]:
        v = self.s.view
        padded = np.pad(self.state(), ((v, v), (v, v), (0, 0)))
        windows = [
            np.zeros((2 * v + 1, 2 * v + 1, 3))
            if a is None
            else padded[a[0] : a[0] + 2 * v + 1, a[1] : a[1] + 2 * v + 1]
            for a in self.agents
        ]
        return np.stack(windows).reshape(len(self.agents), -1)

    def avail(self) -> npt.NDArray[np.bool_]:
        legal = np.zeros((self.s.agents, 6), np.bool_)
        legal[:, STAY] = True
        for i, a in enumerate(self.agents):
            if a is not None:
                for k, (dr, dc) in enumerate(AROUND):
                    legal[i, k] = 0 <= a[0] + dr < self.s.size and 0 <= a[1] + dc < self.s.size
                legal[i, CATCH] = i in self.hunters() and any(self.near(a, p) for p in self.prey)
        return legal


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 5, "view": 1},
        {"size": 4, "agents": 6, "prey": 10, "catchers": 1},
        {"size": 5, "agents": 8, "prey": 5, "catchers": 3, "punishment": -1.5, "view": 3},
        {"size": 3, "agents": 2, "prey": 3, "max_steps": 2 * BLOCK + 7, "catchers": 3},  # draws several blocks
    ],
)
def test_every_step_equals_the_slow_reference(settings: dict[str, Any]) -> None:
    captures = compare(StagHunt(StagHunt.Settings(**settings), 3), Reference)
    assert captures > 0 or settings.get("agents", 8) < settings.get("catchers", 2)


def compare(env: StagHunt, reference_of: Callable[[Any, int], Reference]) -> int:
    """Plays `env` beside references until several episodes have ended; how many stags were captured."""
    num_envs, rng = env.num_envs, np.random.default_rng(1)
    ours = [EpisodeSeeds(9, Purpose.EPISODE, e) for e in range(num_envs)]
    theirs = [EpisodeSeeds(9, Purpose.EPISODE, e) for e in range(num_envs)]
    obs = env.reset(ours)
    references = [reference_of(env._settings, next(seeds)) for seeds in theirs]
    captures = ends = 0
    for _ in range(max(400, env.spec.episode_limit + 20)):
        for e, reference in enumerate(references):
            np.testing.assert_array_equal(obs.obs[e], reference.obs())
            np.testing.assert_array_equal(obs.state[e], reference.state().ravel())
            np.testing.assert_array_equal(obs.avail[e], reference.avail())
            assert obs.alive[e].tolist() == [a is not None for a in reference.agents]
        eager = obs.avail * rng.random(obs.avail.shape)
        eager[..., CATCH] *= 2  # otherwise captures would be rare
        actions = eager.argmax(axis=2)
        step = env.step(actions)
        ended = np.flatnonzero(step.ended).tolist()
        for e, reference in enumerate(references):
            reward, over = reference.step(actions[e].tolist())
            assert step.reward[e] == np.float32(reward)
            assert step.terminated[e] == over
            assert step.truncated[e] == (not over and reference.t == env.spec.episode_limit)
            assert step.info["captures"][e] == reference.captures
            assert step.info["failed_hunts"][e] == reference.failed
            captures += reference.captures
            if e in ended:
                assert step.final is not None
                np.testing.assert_array_equal(step.final.state[ended.index(e)], reference.state().ravel())
                references[e] = reference_of(env._settings, next(theirs[e]))
        ends += len(ended)
        obs = step.next
    assert ends > 0
    return captures


def test_an_episode_depends_on_its_seed_alone() -> None:
    """Environment 1 of three and the same seeds alone, through several episodes of unequal length."""
    several, seen = hunt(3, size=4, agents=4, prey=4, max_steps=30)
    alone, alike = hunt(1, first=1, size=4, agents=4, prey=4, max_steps=30)
    generators = [np.random.default_rng(e) for e in range(3)]
    ends = 0
    for _ in range(200):
        np.testing.assert_array_equal(seen.obs[1], alike.obs[0])
        np.testing.assert_array_equal(seen.avail[1], alike.avail[0])
        actions = np.stack([(g.random((4, 6)) * seen.avail[e]).argmax(axis=1) for e, g in enumerate(generators)])
        step, other = several.step(actions), alone.step(actions[1:2])
        assert step.reward[1] == other.reward[0]
        assert step.ended[1] == other.ended[0]
        ends += int(other.ended[0])
        seen, alike = step.next, other.next
    assert ends > 5
