from __future__ import annotations

import importlib
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs.check import check_env
from phalanx.envs.parallel import Bounds
from phalanx.envs.pettingzoo import PettingZooTeam
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs, Step
from tests.envs.toys import NAMES

TOYS = "tests.envs.toys"
REDS = ["red_*"]


def toy(kind: str, num_envs: int = 1, load_policy: Any = None, **settings: Any) -> PettingZooTeam:
    kwargs = {"kind": kind, **settings.pop("kwargs", {})}
    return PettingZooTeam(PettingZooTeam.Settings(module=TOYS, kwargs=kwargs, **settings), num_envs, load_policy)


def start(env: PettingZooTeam, seed: int = 0) -> Obs:
    return env.reset([EpisodeSeeds(seed, Purpose.EPISODE, e) for e in range(env.num_envs)])


def play(env: PettingZooTeam, steps: int, seed: int = 0) -> list[Step]:
    """Steps of random legal actions."""
    obs, rng, record = start(env, seed), np.random.default_rng(seed), []
    for _ in range(steps):
        record.append(env.step((rng.random(obs.avail.shape) * obs.avail).argmax(axis=2)))
        obs = record[-1].next
    return record


def orders(env: PettingZooTeam) -> list[dict[str, Any]]:
    """The actions that environment 0 was given since its last construction (without those of the probe)."""
    return env._envs[0].orders  # type: ignore[no-any-return]


def actions_of(env: PettingZooTeam, steps: int, seed: int = 0) -> list[dict[str, Any]]:
    before = len(orders(env))
    play(env, steps, seed)
    return orders(env)[before:]


# ---- every peculiarity passes the conformance test


@pytest.mark.parametrize(
    "kind",
    [
        "Toy", "NoState", "StateIsObservations", "MaskInObservation", "MaskInInfo", "ForbidsEverything", "Vanishing",
        "Silent", "TeamCut", "Goal", "NoPay", "Unequal", "Continuous", "SharedArray", "BoxOpponent", "Bounded",
    ],
)  # fmt: skip
@pytest.mark.parametrize("opponents", ["random", "still"])
@pytest.mark.parametrize("team", [None, REDS])
def test_conforms(kind: str, opponents: str, team: list[str] | None) -> None:
    if kind == "BoxOpponent" and team is None:
        team = ["red_1"]
    assert check_env(lambda n: toy(kind, n, team=team, opponents=opponents)) == []


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        ("mpe2.simple_spread_v3", {}),
        ("mpe2.simple_spread_v3", {"kwargs": {"continuous_actions": True}}),
        ("mpe2.simple_tag_v3", {"team": ["adversary_*"], "state": "env"}),
        ("mpe2.simple_tag_v3", {"team": ["agent_0"], "opponents": "still"}),
        ("mpe2.simple_adversary_v3", {"team": ["agent_*"], "state": "team_obs"}),
        ("mpe2.simple_speaker_listener_v4", {"reward": "sum"}),
        ("mpe2.simple_world_comm_v3", {"team": ["*adversary_*"], "kwargs": {"max_cycles": 7}}),
    ],
)
def test_mpe2_conforms(module: str, settings: dict[str, Any]) -> None:
    assert check_env(lambda n: PettingZooTeam(PettingZooTeam.Settings(module=module, **settings), n)) == []


def test_an_mpe2_episode_is_exactly_that_of_mpe2() -> None:
    """Observations, state and rewards of simple_tag's predators, with the prey's actions read from the seed."""
    module = "mpe2.simple_tag_v3"
    settings = PettingZooTeam.Settings(module=module, team=["adversary_*"], opponents="still", reward="first")
    env = PettingZooTeam(settings, 2)
    raw = importlib.import_module(module).parallel_env()
    obs = start(env)
    seen, _ = raw.reset(seed=next(EpisodeSeeds(0, Purpose.EPISODE, 1)))
    team, rng = raw.possible_agents[:3], np.random.default_rng(3)
    for t in range(25):
        np.testing.assert_array_equal(obs.obs[1], np.stack([seen[a] for a in team]))
        np.testing.assert_array_equal(obs.state[1], raw.state())
        actions = rng.integers(5, size=(2, 3))
        step = env.step(actions)
        orders = {**dict(zip(team, actions[1].tolist(), strict=True)), "agent_0": 0}
        seen, rewards, *_ = raw.step(orders)
        assert step.reward[1] == np.float32(rewards["adversary_0"])
        assert step.truncated.all() == (t == 24)
        assert not step.terminated.any()
        obs = step.next
    assert step.final is not None
    np.testing.assert_array_equal(step.final.obs[1], np.stack([seen[a] for a in team]))
    assert step.final.alive.all()


# ---- what the team sees


def test_the_spec_of_unequal_agents_and_their_padding() -> None:
    env = toy("Unequal")
    spec, obs = env.spec, start(env)
    assert (spec.obs_dims, spec.action_dims) == ((4, 5, 4), (2, 4, 3))
    assert (spec.obs_dim, spec.n_actions, spec.state_dim) == (5, 4, 13)
    assert spec.agent_names == NAMES
    assert spec.group_ids == (0, 1, 2)  # equal names, but unequal sizes
    np.testing.assert_array_equal(obs.obs[0], [[1, 2, 3, 0, 0], [0, 1, 0, 0, 0.25], [0, 0, 0, 1, 0]])
    np.testing.assert_array_equal(obs.avail[0].sum(axis=1), [2, 4, 3])
    np.testing.assert_array_equal(obs.state[0], [1, 2, 3, 0, 0, 1, 0, 0, 0.25, 0, 0, 0, 1])
    env.step(np.array([[1, 3, 2]]))
    assert orders(env)[-1] == {"red_0": 1, "red_1": 8, "blue_0": 2}  # red_1's actions start at 5


def test_groups_are_names_with_the_same_sizes() -> None:
    spec = toy("Toy").spec
    assert (spec.group_ids, spec.group_names) == ((0, 0, 1), ("red", "blue"))
    assert toy("Toy", team=REDS).spec.group_ids == ()
    unequal = toy("Unequal").spec
    assert (unequal.group_ids, unequal.group_names) == ((0, 1, 2), ("red_1", "red_2", "blue"))


@pytest.mark.parametrize(
    ("kind", "wanted", "size", "source"),
    [
        ("Toy", "auto", 2, "env"),
        ("Toy", "all_obs", 9, "all_obs"),
        ("Toy", "team_obs", 6, "team_obs"),
        ("NoState", "auto", 9, "all_obs"),
        ("BrokenState", "auto", 9, "all_obs"),
        ("StateIsObservations", "auto", 9, "all_obs"),  # the same numbers, for less
        ("StateIsObservations", "env", 9, "env"),
    ],
)
def test_where_the_state_comes_from(kind: str, wanted: str, size: int, source: str) -> None:
    env = toy(kind, 2, team=REDS, state=wanted)
    assert env.spec.state_dim == size
    start(env)
    for _ in range(3):
        seen = env.step(np.zeros((2, 2), np.int64)).next
        for e, raw in enumerate(env._envs):
            everyone = np.concatenate([raw.see(a) for a in NAMES])
            own = everyone if kind == "StateIsObservations" else np.array([raw.secret, raw.t])
            expected = {"env": own, "all_obs": everyone, "team_obs": everyone[:6]}[source]
            np.testing.assert_array_equal(seen.state[e], expected.astype(np.float32))


@pytest.mark.parametrize("kind", ["MaskInObservation", "MaskInInfo"])
def test_masks(kind: str) -> None:
    env = toy(kind, team=REDS)  # the toy asserts that its masks are kept, by the random opponent too
    obs = start(env)
    for t in range(9):
        expected = [i != (t % 4) % 3 for i in range(3)]
        assert obs.avail[0].tolist() == [expected] * 2
        obs = env.step(obs.avail.argmax(axis=2)).next
    assert toy(kind, opponents="still", team=REDS).spec.obs_dims == (3, 3)


def test_a_mask_that_forbids_everything_allows_the_first_action() -> None:
    assert start(toy("ForbidsEverything")).avail[0].tolist() == [[True, False, False]] * 3


@pytest.mark.parametrize("kind", ["Vanishing", "Silent"])
def test_agents_that_vanish(kind: str) -> None:
    env = toy(kind, state="all_obs")
    first, second, third, last = play(env, 4)
    assert first.next.alive[0].tolist() == [False, True, True]
    assert not first.next.obs[0, 0].any()
    assert not first.next.state[0, :3].any()
    assert first.next.avail[0].tolist() == [[True, False, False], [True] * 3, [True] * 3]
    assert second.next.alive[0].tolist() == [False, False, True]
    assert third.agent_reward is not None
    assert third.agent_reward[0, :2].tolist() == [0, 0]
    assert third.next.alive[0].tolist() == [False, False, True]
    assert [bool(s.ended[0]) for s in (first, second, third, last)] == [False, False, False, True]
    assert last.truncated[0] == (kind == "Vanishing")  # Silent tells of no end, which is then a real one
    assert last.next.alive.all()
    assert last.final is not None
    assert not last.final.alive[0, :2].any()


def test_the_reward_of_the_step_in_which_an_agent_vanishes_counts() -> None:
    env = toy("Vanishing")
    start(env)
    step = env.step(np.array([[2, 0, 0]]))
    assert step.agent_reward is not None
    assert step.agent_reward.tolist() == [[2, 10, 20]]
    assert step.next.alive[0].tolist() == [False, True, True]


def test_the_episode_ends_with_the_team_though_opponents_play_on() -> None:
    env = toy("Vanishing", team=REDS)
    first, second, third = play(env, 3)
    assert not first.ended[0]
    assert second.terminated[0]
    assert second.next.alive.all()
    assert not third.ended[0]
    cut = play(toy("TeamCut", team=REDS), 2)[1]
    assert cut.truncated[0]
    assert not cut.terminated[0]
    assert cut.final is not None
    assert cut.final.alive[0].tolist() == [False, True]  # who was cut off saw something


def test_a_terminated_episode_shows_its_last_observation() -> None:
    step = play(toy("Goal", 2), 2)[1]
    assert step.terminated.all()
    assert step.final is not None
    assert step.final.obs[:, :, 1].tolist() == [[2] * 3] * 2
    assert step.next.obs[:, :, 1].tolist() == [[0] * 3] * 2


def test_max_steps_cuts_off_what_does_not_end_before() -> None:
    for kind, settings, limit in (("Toy", {"max_steps": 2}, 2), ("Endless", {"max_steps": 5}, 5), ("Toy", {}, 4)):
        env = toy(kind, **settings)
        assert env.spec.episode_limit == limit
        record = play(env, limit)
        assert [bool(s.truncated[0]) for s in record] == [False] * (limit - 1) + [True]
        assert record[-1].final is not None
        assert record[-1].final.alive.all()
    assert toy("Toy", kwargs={"max_cycles": 9}).spec.episode_limit == 9
    mpe = PettingZooTeam.Settings(module="mpe2.simple_spread_v3", kwargs={"max_cycles": 11})
    assert PettingZooTeam(mpe, 1).spec.episode_limit == 11


# ---- rewards and actions


@pytest.mark.parametrize(("how", "expected"), [("mean", 11), ("sum", 33), ("first", 2)])
def test_team_rewards(how: str, expected: float) -> None:
    env = toy("Toy", reward=how)
    start(env)
    step = env.step(np.array([[2, 1, 0]]))
    assert step.agent_reward is not None
    assert step.agent_reward.tolist() == [[2, 11, 20]]
    np.testing.assert_allclose(step.reward, [expected])


def test_the_first_reward_is_that_of_the_first_agent_still_there() -> None:
    env = toy("Vanishing", reward="first")
    start(env)
    rewards = [float(env.step(np.array([[1, 1, 1]])).reward[0]) for _ in range(3)]
    assert rewards == [1, 11, 21]


def test_a_missing_reward_is_zero() -> None:
    env = toy("NoPay")
    start(env)
    assert env.step(np.array([[1, 1, 1]])).agent_reward.tolist() == [[1, 0, 21]]  # type: ignore[union-attr]


def test_continuous_actions_are_stretched_to_the_bounds() -> None:
    env = toy("Continuous")
    assert (env.spec.discrete, env.spec.n_actions, env.spec.action_dims) == (False, 0, (3, 3, 3))
    obs = start(env)
    assert obs.avail.shape == (1, 3, 0)
    env.step(np.array([[[-1, -1, -7], [0, 0, 0], [5, 0.5, 7]]], np.float32))
    given = np.stack([orders(env)[-1][name] for name in NAMES])
    np.testing.assert_allclose(given, [[0, -2, -1], [0.5, 0, 0], [1, 1, 1]])  # the third may be anything: -1 to 1
    assert given.dtype == np.float32


@pytest.mark.parametrize(
    ("low", "high", "least", "most"),
    [(0, np.inf, 0, 2), (-np.inf, 5, 3, 5), (-np.inf, np.inf, -1, 1), (-3.4e38, 3.4e38, -1, 1)],
)
def test_what_is_not_bounded_on_both_sides_moves_over_a_length_of_two(
    low: float, high: float, least: float, most: float
) -> None:
    bounds = Bounds.of([Box(low, high, (1,), np.float32), Box(-1, 3, (1,), np.float32)])
    stretched = bounds.stretch(np.array([[[-1], [-1]], [[1], [1]]], np.float32))
    np.testing.assert_array_equal(stretched, np.array([[[least], [-1]], [[most], [3]]], np.float32))


# ---- opponents


def test_random_opponents_depend_on_the_episode_alone() -> None:
    first, second = toy("Toy", team=REDS), toy("Toy", team=REDS)
    play(second, 3, seed=8)  # whatever happened before
    one, two = actions_of(first, 12), actions_of(second, 12)
    assert one == two
    blues = [order["blue_0"] for order in one]
    assert set(blues) == {0, 1, 2}
    assert blues[:4] != blues[4:8]  # the next episode is another one
    assert blues != [order["blue_0"] for order in actions_of(first, 12, seed=1)]


def test_random_opponents_with_continuous_actions_depend_on_the_episode_alone() -> None:
    runs = [actions_of(toy("BoxOpponent", team=REDS), 6) for _ in range(2)]
    blues = np.array([[order["blue_0"] for order in run] for run in runs])
    np.testing.assert_array_equal(blues[0], blues[1])
    assert blues.min() >= 1
    assert blues.max() <= 3
    assert np.unique(blues[0]).size == 12


def test_still_opponents() -> None:
    assert {order["blue_0"] for order in actions_of(toy("Toy", team=REDS, opponents="still"), 5)} == {0}
    masked = actions_of(toy("MaskInInfo", team=REDS, opponents="still"), 5)
    assert {order["blue_0"] for order in masked} == {2}
    box = actions_of(toy("BoxOpponent", team=REDS, opponents="still"), 2)
    assert [order["blue_0"].tolist() for order in box] == [[1, 1], [1, 1]]  # nearest to zero


def test_scripted_opponents_are_the_modules_own() -> None:
    given = actions_of(toy("Toy", team=REDS, opponents="scripted"), 8)
    assert [order["blue_0"] for order in given] == [0, 1, 2, 0, 0, 1, 2, 0]


class Recorder:
    """A policy that always takes its last legal action and remembers what it was shown."""

    def __init__(self, n_agents: int = 1, obs_dim: int = 3, n_actions: int = 3) -> None:
        self.spec = SimpleNamespace(env_name="toy", n_agents=n_agents, obs_dim=obs_dim, n_actions=n_actions)
        self.log: list[Any] = []

    def reset(self, num_envs: int) -> None:
        self.log.append(("reset", num_envs))

    def reset_rows(self, rows: Any) -> None:
        self.log.append(("rows", np.asarray(rows).tolist()))

    def act(self, obs: Any, avail: Any) -> Any:
        self.log.append(("act", obs.copy(), avail.copy()))
        return np.full(obs.shape[:2], 2)


def test_trained_opponents_see_their_own_side_and_are_reset_with_their_episode() -> None:
    policy, asked = Recorder(), []

    def load(directory: str) -> Recorder:
        asked.append(directory)
        return policy

    env = toy("MaskInInfo", 2, load, team=REDS, opponents="checkpoint:runs/blue")
    assert asked == ["runs/blue"]
    record = play(env, 5)
    assert orders(env)[-1]["blue_0"] == 2
    assert policy.log[:3] == [("reset", 2), ("rows", [0]), ("rows", [1])]
    acts = [entry for entry in policy.log if entry[0] == "act"]
    assert len(acts) == 5
    assert [entry[1][:, 0, 1:].tolist() for entry in acts] == [[[t % 4, 2]] * 2 for t in range(5)]
    assert acts[0][1][0, 0, 0] != acts[0][1][1, 0, 0]  # each environment's own secret
    assert acts[0][2].tolist() == [[[False, False, True]]] * 2
    assert record[3].ended.all()
    assert policy.log[7:9] == [("rows", [0]), ("rows", [1])]


def test_trained_opponents_with_continuous_actions_act_in_the_bounds_of_their_space() -> None:
    policy = Recorder(n_actions=0)
    policy.spec.action_dims = (2,)
    policy.act = lambda obs, avail: np.full((*obs.shape[:2], 2), [0.5, -3.0], np.float32)  # type: ignore[method-assign]
    env = toy("BoxOpponent", 2, lambda directory: policy, team=REDS, opponents="checkpoint:x")
    play(env, 2)
    given = [order["blue_0"] for order in orders(env)[-2:]]
    assert given and all(one.dtype == np.float32 and one.tolist() == [2.5, 1.0] for one in given)
    policy.spec.action_dims = (3,)
    with pytest.raises(UserError, match=r"acts in \[3\] numbers.*here act in \[2\]"):
        toy("BoxOpponent", 2, lambda directory: policy, team=REDS, opponents="checkpoint:x")


# ---- games of turns


def aec(num_envs: int = 1, kind: str = "Cycle", **settings: Any) -> PettingZooTeam:
    given = PettingZooTeam.Settings(module="tests.envs.toys_aec", kwargs={"kind": kind}, **settings)
    return PettingZooTeam(given, num_envs)


def test_a_game_of_cycles_is_played_through_pettingzoos_own_conversion() -> None:
    assert check_env(lambda n: aec(n)) == []
    env = aec(2, max_steps=4)
    assert (env.spec.n_agents, env.spec.obs_dim, env.spec.n_actions) == (2, 2, 3)
    obs = start(env)
    assert obs.obs[0, 0, 0] != obs.obs[1, 0, 0]
    for t in range(1, 4):
        step = env.step(np.array([[1, 2], [0, 2]]))
        assert step.agent_reward is not None
        assert step.agent_reward.tolist() == [[1, 2], [0, 2]]
        assert step.next.obs[:, :, 1].tolist() == [[t, t], [t, t]]
    last = env.step(np.array([[1, 2], [0, 2]]))
    assert last.truncated.all()
    assert last.final is not None
    assert last.final.obs[:, :, 1].tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize(
    ("module", "kwargs"), [("tests.envs.toys_aec", {"kind": "Turns"}), ("pettingzoo.classic.tictactoe_v3", {})]
)
def test_a_game_in_which_one_sees_what_the_other_just_did_is_refused(module: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"env\.module={module} is a game of turns.*is_parallelizable"):
        PettingZooTeam(PettingZooTeam.Settings(module=module, kwargs=kwargs, max_steps=9), 1)


@pytest.mark.parametrize("place", [f"{TOYS}:Toy", "tests.envs.toys_aec:not_aec", "tests.envs.toys_aec:Cycle"])
def test_a_class_or_function_of_any_name_can_be_named(place: str) -> None:
    env = PettingZooTeam(PettingZooTeam.Settings(module=place, kwargs={"max_cycles": 7}, team=["*_0"]), 1)
    assert (env.spec.episode_limit, env.spec.env_name) == (7, f"pettingzoo:{place}")
    assert play(env, 7)[-1].truncated[0]


# ---- what cannot be seeded, and pictures


@pytest.mark.parametrize("kind", ["Unseeded", "SeedlessReset", "RandomLater", "CarriesOver"])
def test_what_cannot_be_seeded_says_so(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        env = toy(kind)
    assert not env.spec.reproducible
    assert "cannot be seeded" in caplog.text
    assert len(play(env, 5)) == 5


def test_importing_a_module_is_logged_and_a_good_one_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        env = toy("Toy")
    assert env.spec.reproducible
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert TOYS in caplog.text


def test_not_a_number_is_passed_on_for_the_worker_to_see() -> None:
    assert np.isnan(play(toy("NotANumber"), 3)[2].next.obs).all()


def test_pictures_come_from_the_environment_where_it_makes_some() -> None:
    assert toy("Pictures").render(0) is None
    env = toy("Pictures", kwargs={"render_mode": "rgb_array"})
    play(env, 1)
    picture = env.render(0)
    assert picture is not None
    assert (picture.shape, picture.max()) == ((5, 6, 3), 1)


def test_the_last_moment_can_be_seen_although_the_next_episode_has_begun() -> None:
    env = toy("Pictures", kwargs={"render_mode": "rgb_array"}, max_steps=3)
    env.film(0)
    play(env, 3)
    last, now = env.last_picture(), env.render(0)
    assert last is not None and now is not None
    assert (last.max(), now.max()) == (3, 0)


def test_a_render_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    env = toy("Pictures", kwargs={"render_mode": "rgb_array"})

    def broken(_: Any) -> Any:
        raise OSError("no display")

    monkeypatch.setattr("tests.envs.toys.Pictures.render", broken)
    play(env, 1)
    assert env.render(0) is None
    assert "its render() failed with OSError: no display" in env.why_no_picture


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"module": "no_such_module_at_all"}, "there is no module no_such_module_at_all"),
        ({"module": "mpe2.no_such_task"}, r"there is no module mpe2\.no_such_task"),
        ({"module": "mpe2.simple_tag_v2"}, r"no module mpe2\.simple_tag_v2; did you mean simple_tag_v3\?"),
        ({"module": "tests.envs.toys_leaving"}, "cannot be imported: SystemExit: not today"),
        ({"module": "../evil"}, "is not the name of a Python module"),
        ({"module": "pettingzoo.mpe"}, "cannot be imported: ImportError"),
        ({"module": "json"}, r"json names no environment: it must be a module with a parallel_env or an env"),
        ({"module": f"{TOYS}:Nothing"}, r"tests\.envs\.toys has no Nothing"),
        ({"module": f"{TOYS}:NAMES"}, r"toys:NAMES names no environment.*or a class as in my_package"),
        ({"module": "games/tag.py"}, r"is not the name .*: PYTHONPATH=games … tag$"),
        ({"module": "/games/tag.py:Tag"}, r"is not a place .*: PYTHONPATH=/games … tag:Tag$"),
        ({"module": "tag.py"}, r"there is no module tag.*: PYTHONPATH=\$PWD … tag$"),
        (
            {"module": "tests.envs.toys_broken"},
            r"cannot be imported: KeyError: 'speed' \(toys_broken\.py:3, in <module>",
        ),
        ({"module": "mpe2.simple_tag_v3", "kwargs": {"wings": 2}}, r"cannot be made with env\.kwargs=.*wings"),
        ({"team": ["green_0"]}, "there is no agent green_0; the agents are red_0, red_1, blue_0"),
        ({"team": []}, "leaves nobody to learn"),
        ({"kwargs": {"kind": "Endless"}}, "env.max_steps is needed"),
        ({"kwargs": {"kind": "NoState"}, "state": "env"}, r"has no state\(\)"),
        ({"kwargs": {"kind": "Mixed"}}, "must all be Discrete, or all be float Boxes"),
        ({"kwargs": {"kind": "Several"}}, "MultiDiscrete"),
        ({"kwargs": {"kind": "Boundless"}}, "no fixed number of values"),
        ({"kwargs": {"kind": "LyingSpace"}}, "red_0 observes 3 numbers but its observation_space declares 2"),
        ({"kwargs": {"kind": "OldReset"}}, "Parallel API of PettingZoo"),
        ({"kwargs": {"kind": "Nobody"}, "max_steps": 3}, "names no possible_agents"),
        (
            {"kwargs": {"kind": "Breaks"}},
            r"failed in its first steps: RuntimeError: the simulator went away \(toys.py:\d+, in step\)",
        ),
        ({"kwargs": {"kind": "Leaves"}}, r"failed in its first steps: SystemExit: 3 \(toys.py"),
        ({"kwargs": {"kind": "Numbered"}}, r"possible_agents are \[0, 1\], but agents are named by text: write '0'"),
        ({"kwargs": {"kind": "NoSpace"}}, r"observation_space\('red_0'\) is \(3,\), which is no space of Gymnasium"),
        ({"kwargs": {"kind": "SpaceFails"}}, r"action_space\('red_0'\) failed: KeyError: 'red_0' \(toys.py"),
        ({"opponents": "rnadom"}, "did you mean random"),
        ({"opponents": "checkpoint:"}, "names no directory"),
        ({"module": "mpe2.simple_tag_v3", "team": ["agent_0"], "opponents": "scripted"}, "offers no scripted_policy"),
        ({"team": REDS, "opponents": "checkpoint:x"}, "needs a way to load policies"),
        ({"team": REDS, "opponents": "checkpoint:x", "kwargs": {"kind": "OddOpponent"}}, "or all vectors"),
        ({"team": REDS, "opponents": "still", "kwargs": {"kind": "Several"}}, "must all be Discrete"),
    ],
)
def test_refusals_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        PettingZooTeam(PettingZooTeam.Settings(**{"module": TOYS, **settings}), 1)


def test_observations_may_be_empty() -> None:
    assert toy("SeesNothing").spec.obs_range == (0, 0)
    assert check_env(lambda n: toy("SeesNothing", n)) == []


def test_what_is_no_reward_is_shown() -> None:
    env = toy("PaysInLists")
    start(env)
    with pytest.raises(RunFailed, match=r"must be numbers, one for each agent, but they are red_0: \[0.0\], red_1: "):
        env.step(np.zeros((1, 3), np.int64))


def test_bounded_observation_spaces_are_declared_and_checked() -> None:
    assert toy("Bounded").spec.obs_range == (0, 4)
    assert toy("Toy").spec.obs_range is None  # its Box has no limits
    assert toy("Unequal").spec.obs_range is None  # not all are Boxes
    problems = check_env(lambda n: toy("BeyondItsBounds", n))
    assert [problem.name for problem in problems] == ["beyond the range"]
    assert "is 3.0, declared are 0.0 to 2.5" in problems[0].sentence


def test_continuous_actions_of_unequal_sizes_are_padded() -> None:
    assert check_env(lambda n: toy("UnequalBoxes", n)) == []
    env = toy("UnequalBoxes")
    assert (env.spec.discrete, env.spec.action_dims) == (False, (1, 2, 2))
    start(env)
    env.step(np.array([[[1, 9], [-1, 0.5], [0, 0]]], np.float32))
    assert {name: action.tolist() for name, action in orders(env)[-1].items()} == {
        "red_0": [4],
        "red_1": [-1, 0.5],
        "blue_0": [0, 0],
    }


def test_opponents_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(UserError, match="agents 4 instead of 1, observation size 9 instead of 3"):
        toy("Toy", 1, lambda directory: Recorder(4, 9), team=REDS, opponents="checkpoint:x")
