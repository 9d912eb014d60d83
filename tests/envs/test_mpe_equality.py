"""Our particle tasks against mpe2, step by step, from `reset(seed)` on, with random actions for every agent."""

from __future__ import annotations

import itertools
from typing import Any

import mpe2.simple_adversary_v3
import mpe2.simple_spread_v3
import mpe2.simple_tag_v3
import mpe2.simple_world_comm_v3
import numpy as np
import numpy.typing as npt
import pytest

from phalanx.envs.mpe.adversary import SimpleAdversary
from phalanx.envs.mpe.physics import N_ACTIONS
from phalanx.envs.mpe.spread import SimpleSpread
from phalanx.envs.mpe.tag import SimpleTag
from phalanx.envs.mpe.task import ParticleTask
from phalanx.envs.mpe.world import SimpleWorld

SEEDS = (0, 1, 7, 123_456_789)
STEPS = 60  # long enough for agents to meet, collide and leave the arena
MESSAGE = 4  # size of the leader's message at the end of a predator's observation in simple_world_comm


class Reference:
    """One mpe2 episode; `rewards` are those of every agent at the last step."""

    def __init__(self, module: Any, seed: int, **kwargs: Any) -> None:
        self.env = module.parallel_env(max_cycles=STEPS, **kwargs)
        self.env.reset(seed=seed)
        self.agents = list(self.env.possible_agents)

    def step(self, actions: npt.NDArray[Any]) -> None:
        _, rewards, _, _, _ = self.env.step({name: int(a) for name, a in zip(self.agents, actions, strict=True)})
        self.rewards = np.array([rewards[name] for name in self.agents])

    def observations(self) -> list[npt.NDArray[np.float32]]:
        """What every agent sees, without the leader's message."""
        seen = [self.env.unwrapped.observe(name) for name in self.agents]
        speaks = self.agents[0].startswith("lead")
        return [
            o[:-MESSAGE] if speaks and "adversary" in name else o for name, o in zip(self.agents, seen, strict=True)
        ]


def play(env: ParticleTask, module: Any, **kwargs: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Plays both to the end from the same seeds: our rewards [T, E], mpe2's [T, E, A] and our contacts [T, E].

    Observations and states are compared on the way, to the bit; rewards of single agents nearly.
    """
    references = [Reference(module, seed, **kwargs) for seed in SEEDS]
    obs = env.reset([itertools.count(seed) for seed in SEEDS])
    rng = np.random.default_rng(5)
    ours, theirs, contacts = [], [], []
    for step in range(STEPS):
        for e, reference in enumerate(references):
            seen = reference.observations()
            np.testing.assert_array_equal(obs.state[e], np.concatenate(seen), err_msg=f"step {step}, seed {SEEDS[e]}")
            team = [seen[reference.agents.index(name)] for name in env.spec.agent_names]
            np.testing.assert_array_equal(obs.obs[e], np.stack(team))
        actions = rng.integers(N_ACTIONS, size=(len(SEEDS), len(references[0].agents)))
        if step > STEPS // 2:
            # Many hands push to the middle, or most pairs would never touch.
            towards = np.stack([toward_centre(env, e) for e in range(len(SEEDS))])
            actions = np.where(rng.random(actions.shape) < 0.7, towards, actions)
        for reference, row in zip(references, actions, strict=True):
            reference.step(row)
        outcome = env.step_all(actions)
        obs = outcome.next
        ours.append(outcome.reward)
        theirs.append([reference.rewards for reference in references])
        assert (outcome.agent_reward is not None) == env.spec.agent_rewards
        if outcome.agent_reward is not None:
            team = np.array(theirs[-1])[:, env.scene.team]
            np.testing.assert_allclose(outcome.agent_reward, team, rtol=1e-6, atol=1e-6)
        contacts.append(outcome.info.get("contacts", np.zeros(len(SEEDS), dtype=np.int64)))
    assert outcome.truncated.all()
    return np.array(ours), np.array(theirs), np.array(contacts)


def toward_centre(env: ParticleTask, e: int) -> npt.NDArray[Any]:
    """[A]: the action of each agent that pushes it most directly to the origin."""
    pos = env.world.pos[:, : env.world.n_agents, e]
    sideways = np.abs(pos[0]) > np.abs(pos[1])
    return np.where(sideways, np.where(pos[0] > 0, 1, 2), np.where(pos[1] > 0, 3, 4))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"predators": 2, "prey": 2, "obstacles": 1}, {"num_adversaries": 2, "num_good": 2, "num_obstacles": 1}),
        ({"predators": 1, "obstacles": 0}, {"num_adversaries": 1, "num_obstacles": 0}),
    ],
)
def test_simple_tag(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    settings = SimpleTag.Settings(name="simple_tag", max_steps=STEPS, reward="sparse", **ours)
    reward, reference, contacts = play(SimpleTag(settings, len(SEEDS)), mpe2.simple_tag_v3, **theirs)
    for predator in range(settings.predators):
        np.testing.assert_allclose(reward, reference[:, :, predator], atol=1e-6)
    assert contacts.any()
    np.testing.assert_array_equal(reward, 10 * contacts)


@pytest.mark.parametrize(("n", "local_ratio"), [(3, 0.5), (1, 0.5), (2, 0.0), (5, 0.8)])
def test_simple_spread(n: int, local_ratio: float) -> None:
    settings = SimpleSpread.Settings(name="simple_spread", max_steps=STEPS, agents=n, local_ratio=local_ratio)
    env = SimpleSpread(settings, len(SEEDS))
    reward, reference, _ = play(env, mpe2.simple_spread_v3, N=n, local_ratio=local_ratio)
    np.testing.assert_allclose(reward, reference.mean(axis=2), atol=1e-6)


@pytest.mark.parametrize("n", [2, 1, 4])
def test_simple_adversary(n: int) -> None:
    settings = SimpleAdversary.Settings(name="simple_adversary", max_steps=STEPS, good_agents=n)
    reward, reference, _ = play(SimpleAdversary(settings, len(SEEDS)), mpe2.simple_adversary_v3, N=n)
    for agent in range(1, n + 1):
        np.testing.assert_allclose(reward, reference[:, :, agent], atol=1e-6)


@pytest.mark.parametrize("reward", ["shaped", "sparse"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        (
            {"predators": 2, "prey": 3, "obstacles": 2, "food": 1, "forests": 4},
            {"num_adversaries": 2, "num_good": 3, "num_obstacles": 2, "num_food": 1, "num_forests": 4},
        ),
        ({"prey": 1, "obstacles": 0, "forests": 0}, {"num_good": 1, "num_obstacles": 0, "num_forests": 0}),
    ],
)
def test_simple_world_on_the_slices_it_shares_with_simple_world_comm(
    reward: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    settings = SimpleWorld.Settings.model_validate(
        {"name": "simple_world", "max_steps": STEPS, "reward": reward, **ours}
    )
    env = SimpleWorld(settings, len(SEEDS))
    got, reference, contacts = play(env, mpe2.simple_world_comm_v3, **theirs)
    assert contacts.any()
    # mpe2 shapes each predator by its own distance; all contacts count for each.
    predators = reference[:, :, : settings.predators]
    shaping = (predators - 5 * contacts[:, :, None]).sum(axis=2)
    assert (shaping < 0).all()
    np.testing.assert_allclose(got, 5 * contacts + (shaping if reward == "shaped" else 0.0), rtol=1e-6, atol=1e-6)


def test_shaping_of_simple_tag_is_what_mpe2_would_add() -> None:
    """mpe2 has the shaped reward of simple_tag in its source, behind a constant; computed here from its positions."""
    settings = SimpleTag.Settings(name="simple_tag", max_steps=STEPS, prey=2)
    env = SimpleTag(settings, 1)
    env.reset([itertools.count(3)])
    reference = Reference(mpe2.simple_tag_v3, 3, num_good=2)
    rng = np.random.default_rng(0)
    for _ in range(STEPS - 1):
        actions = rng.integers(N_ACTIONS, size=5)
        reference.step(actions)
        agents = reference.env.unwrapped.world.agents
        gaps = [min(np.linalg.norm(p.state.p_pos - g.state.p_pos) for g in agents[3:]) for p in agents[:3]]
        reward = env.step_all(actions[None]).reward[0]
        np.testing.assert_allclose(reward, reference.rewards[0] - 0.1 * sum(gaps), rtol=1e-6, atol=1e-6)
