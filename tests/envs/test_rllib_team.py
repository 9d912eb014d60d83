from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.envs.check import check_env
from phalanx.envs.rllib_team import RllibTeam
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs

CARS = ["car_*"]


def toy(kind: str, num_envs: int = 1, **settings: Any) -> RllibTeam:
    given = {"module": f"tests.envs.toys_rllib:{kind}", "max_steps": 4, **settings}
    return RllibTeam(RllibTeam.Settings(**given), num_envs)


def start(env: RllibTeam) -> Obs:
    return env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(env.num_envs)])


def orders(env: RllibTeam) -> Any:
    return env._envs[0].orders


@pytest.mark.parametrize("kind", ["Together", "Turns", "Leaves", "Old", "InDicts", "MaskedTurns"])
def test_conforms(kind: str) -> None:
    assert check_env(lambda n: toy(kind, n)) == []


@pytest.mark.parametrize("kind", ["Together", "Turns", "Leaves"])
@pytest.mark.parametrize("opponents", ["random", "still"])
def test_conforms_against_others(kind: str, opponents: str) -> None:
    assert check_env(lambda n: toy(kind, n, team=CARS, opponents=opponents)) == []


def test_everybody_at_once() -> None:
    env = toy("Together", 2, config={"length": 3}, max_steps=9)
    assert env.spec.agent_names == ("car_0", "car_1", "light")
    assert (env.spec.group_names, env.spec.group_ids) == (("car", "light"), (0, 0, 1))
    assert env.spec.action_dims == (3, 3, 2)
    obs = start(env)
    assert obs.obs[0, 0, 0] != obs.obs[1, 0, 0]
    steps = [env.step(np.array([[2, 1, 0], [0, 0, 1]])) for _ in range(3)]
    assert orders(env)[-1] == {"car_0": 2, "car_1": 1, "light": 0}
    assert steps[0].agent_reward is not None
    assert steps[0].agent_reward.tolist() == [[2, 11, 20], [0, 10, 21]]
    assert [step.truncated.tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2]
    assert steps[2].final is not None
    assert steps[2].final.obs[:, :, 1].tolist() == [[3] * 3] * 2


def test_who_is_not_asked_waits() -> None:
    env = toy("Turns")  # the toy asserts that nobody else acts
    obs = start(env)
    assert obs.alive.all()
    assert obs.avail[0].tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert obs.obs[0, 2].tolist() == [0, 0]  # it has not seen anything yet
    first = env.step(np.array([[1, 2, 0]]))
    assert first.next.avail[0].tolist() == [[True, False, False]] * 2 + [[True, True, False]]
    assert first.next.obs[0, :, 1].tolist() == [0, 0, 1]
    assert first.next.alive.all()
    second = env.step(np.array([[0, 0, 1]]))
    assert second.agent_reward is not None
    assert second.agent_reward[0, 2] == 5
    assert toy("Turns", team=CARS).spec.n_agents == 2


def test_who_waits_or_sees_nothing_while_the_episode_is_cut_off_has_seen_what_came_before() -> None:
    env = toy("Turns", config={"length": 3}, max_steps=9)
    start(env)
    *_, last = [env.step(np.array([[1, 2, 0]])) for _ in range(3)]
    assert last.truncated[0] and last.final is not None
    assert last.final.obs[0, :, 1].tolist() == [2, 2, 3]
    assert last.final.alive.all()
    assert last.final.avail[0].tolist() == [[True, False, False]] * 2 + [[True, True, False]]
    unseen = toy("EndsUnseen")
    start(unseen)
    *_, last = [unseen.step(np.array([[1, 2, 0]])) for _ in range(4)]
    assert last.final is not None
    assert last.final.obs[0, :, 1].tolist() == [3, 3, 3]


def test_masks_in_observations_give_way_where_one_waits() -> None:
    obs = start(toy("MaskedTurns"))
    assert obs.avail[0].tolist() == [[False, False, True], [True, False, False]]
    assert start(toy("InDicts")).avail[0].tolist() == [[False, False, True]] * 2


def test_agents_that_leave_and_ends_for_all() -> None:
    env = toy("Leaves")
    start(env)
    steps = [env.step(np.array([[1, 1, 1]])) for _ in range(3)]
    assert [step.next.alive[0].tolist() for step in steps] == [[True] * 3, [False, True, True], [True] * 3]
    assert steps[2].terminated[0]
    assert orders(env)[-1] == {"car_1": 1, "light": 1}
    assert steps[2].final is not None
    assert steps[2].final.alive[0].tolist() == [False, True, True]


def test_ids_may_be_numbers_that_only_the_first_observations_tell() -> None:
    env = toy("Old")
    assert env.spec.agent_names == ("0", "1")
    start(env)
    step = env.step(np.array([[1, 2]]))
    assert orders(env)[-1] == {0: 1, 1: 2}
    assert step.agent_reward is not None
    assert step.agent_reward.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"module": "tests.envs.toys_rllib"},
            r"is not a place module:Name; write it as in my_package\.my_module:MyEnv",
        ),
        ({"module": "tests.envs.toys_rllib:Nope"}, r"tests\.envs\.toys_rllib has no Nope"),
        ({"module": "tests.envs.toys_rllib:not_a_class"}, "is int, not a class"),
        ({"module": "no_such_module:Env"}, "there is no module no_such_module"),
        ({"module": "tests.envs.toys_rllib:Old", "config": {"length": 2}}, r"cannot be made with env\.config=.*length"),
        ({"module": "tests.envs.toys_rllib:Stranger"}, "shows something to ghost, but its agents are car_0, car_1"),
        ({"module": "tests.envs.toys_rllib:Spaceless"}, r"has neither action_spaces\['car_0'\] nor action_space"),
        ({"module": "tests.envs.toys_rllib:OldReset"}, r"since Ray 2\.3, whose reset .* returned dict"),
        ({"module": "tests.envs.toys_rllib:OldStep"}, r"whose step returns .* returned \(dict, dict, dict, dict\)"),
        ({"max_steps": None}, r"env\.max_steps is needed"),
        ({"team": ["bus"]}, "there is no agent bus; the agents are car_0, car_1, light"),
        ({"team": CARS, "opponents": "scripted"}, "offers no scripted_policy"),
    ],
)
def test_refusals_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        toy("Together", **settings)


def test_rllib_is_not_imported() -> None:
    code = (
        "import sys\nfrom phalanx.envs.rllib_team import RllibTeam\n"
        "RllibTeam(RllibTeam.Settings(module='tests.envs.toys_rllib:Together', max_steps=4), 1)\n"
        "print(*[m for m in ('ray', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_pictures_come_from_the_environment_where_it_makes_some() -> None:
    env = toy("Drawn")
    env.film(0)
    start(env)
    for age in (1, 2, 3):
        env.step(np.zeros((1, 3), np.int64))
        picture = env.render(0)
        assert picture is not None and (picture == age).all()
    env.step(np.zeros((1, 3), np.int64))
    last = env.last_picture()
    assert last is not None and (last == 4).all()
    plain = toy("Together")
    start(plain)
    assert plain.render(0) is None and "render_mode" in plain.why_no_picture
