"""Every promise of `TeamEnv`, broken on purpose: the conformance test must name it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from phalanx.envs.check import CHECKS, check_env, format_report
from phalanx.envs.team import BatchedTeamEnv, Bools, EntityView, Floats, Obs, Step, TeamSpec

Change = Callable[[Any], Any]


class Walk(BatchedTeamEnv):
    """A correct environment: two agents on a line, one of which may die; ends after 3 to 6 steps."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(
            TeamSpec(
                env_name="walk",
                n_agents=2,
                obs_dim=3,
                state_dim=4,
                n_actions=3,
                episode_limit=6,
                agent_names=("left", "right"),
                obs_dims=(3, 2),
                action_dims=(3, 2),
                group_ids=(0, 1),
                group_names=("l", "r"),
                has_win=True,
                metrics=("moved",),
            ),
            num_envs,
        )
        self.place = np.zeros((num_envs, 2), np.float32)
        self.length = np.zeros(num_envs, np.int64)
        self.dead = np.zeros(num_envs, np.bool_)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            rng = np.random.default_rng(seed)
            self.place[row] = rng.random(2)
            self.length[row] = rng.integers(3, 9)
            self.dead[row] = False

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        self.place += actions + 1
        self.dead = self._elapsed >= 1
        over = self._elapsed + 1 >= self.length
        return self.place.sum(axis=1), over, {"moved": actions.sum(axis=1), "win": over.copy()}

    def _observe(self) -> Obs:
        e = self.num_envs
        obs = np.zeros((e, 2, 3), np.float32)
        obs[:, :, 0], obs[:, :, 1], obs[:, 0, 2] = self.place, self._elapsed[:, None], 1
        obs[self.dead, 1] = 0
        avail = np.ones((e, 2, 3), np.bool_)
        avail[:, 1, 2] = False
        avail[self.dead, 1, 1:] = False
        state = np.repeat(self.place, 2, axis=1)
        return Obs(obs, state, avail, np.stack([np.ones(e, np.bool_), ~self.dead], axis=1))


def on_obs(change: Callable[[Obs], Obs]) -> type[Walk]:
    """Walk with every observation changed."""

    class Changed(Walk):
        def _observe(self) -> Obs:
            return change(super()._observe())

    return Changed


def on_step(change: Callable[[Step], Step], **spec: Any) -> type[Walk]:
    """Walk with every step changed."""

    class Changed(Walk):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.spec = replace(self.spec, **spec)

        def step(self, actions: npt.NDArray[Any]) -> Step:
            return change(super().step(actions))

    return Changed


def on_info(**info: Any) -> type[Walk]:
    return on_step(lambda step: replace(step, info={**step.info, **info}))


def on_spec(**spec: Any) -> type[Walk]:
    return on_step(lambda step: step, **spec)


def put(array: npt.NDArray[Any], where: Any, value: Any) -> npt.NDArray[Any]:
    array = array.copy()
    array[where] = value
    return array


class SameBuffer(Walk):
    """Returns the same array every time, filled anew."""

    buffer: npt.NDArray[Any] | None = None

    def _observe(self) -> Obs:
        obs = super()._observe()
        if self.buffer is None:
            self.buffer = obs.state
        self.buffer[:] = obs.state
        return replace(obs, state=self.buffer)


class MovesWhenDrawn(Walk):
    def render(self, index: int) -> npt.NDArray[np.uint8]:
        self.place[index] += 1
        return np.zeros((4, 5, 3), np.uint8)


def drawn(picture: Any) -> type[Walk]:
    """Walk that gives this picture."""

    class Drawn(Walk):
        def render(self, index: int) -> Any:
            return picture

    return Drawn


class SameReward(Walk):
    """Pays with the same array every time."""

    paid: npt.NDArray[Any] | None = None

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        reward, over, info = super()._advance(actions)
        if self.paid is None:
            self.paid = reward
        self.paid[:] = reward
        return self.paid, over, info


class ReadsWhatItGave(Walk):
    """Goes on from the array that the caller holds."""

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        self.place = self.place.copy()
        return super()._advance(actions)

    def _observe(self) -> Obs:
        obs = super()._observe()
        self.place = obs.state[:, ::2]
        return obs


class ReadsActionsLater(Walk):
    """Pays for the previous step's actions, which belong to the caller."""

    before: npt.NDArray[Any] | None = None

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        self.before = None
        return super().reset(seeds)

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        reward, over, info = super()._advance(actions)
        if self.before is not None:
            reward = reward + self.before.sum(axis=1).astype(np.float32)
        self.before = actions
        return reward, over, info


class WritesToActions(Walk):
    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        actions -= 1
        return step


class IgnoresSeeds(Walk):
    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super()._begin(rows, np.random.default_rng().integers(2**31, size=len(rows)).tolist())


class RemembersThePast(Walk):
    """A second reset does not start anew."""

    resets = 0.0

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super()._begin(rows, seeds)
        self.resets += 1
        self.place[rows] += self.resets


class OneGeneratorForAll(Walk):
    """Seeded, but by the first environment's seed: rows depend on who else is there."""

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        self.rng: np.random.Generator | None = None
        return super().reset(seeds)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        if self.rng is None:
            self.rng = np.random.default_rng(seeds[0])
        super()._begin(rows, self.rng.integers(2**31, size=len(rows)).tolist())


class Chaotic(Walk):
    """Whose rounding depends on how many are computed together, and whose episodes multiply it."""

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super()._begin(rows, seeds)
        self.length[rows] = 6
        self.place[rows] += np.float32(1e-6 * self.num_envs)

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        outcome = super()._advance(actions)
        self.place = (self.place * 5 % 1).astype(np.float32)
        return outcome


class FixedLength(Walk):
    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super()._begin(rows, seeds)
        self.length[rows] = 4


class TakesTwoSeeds(Walk):
    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super()._begin(rows, [next(self._seeds[row]) for row in rows])


class NeverEnds(Walk):
    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super()._begin(rows, seeds)
        self.length[rows] = 10**6
        self.spec = replace(self.spec, episode_limit=6)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        limit, self.spec = self.spec, replace(self.spec, episode_limit=10**6)
        step = super().step(actions)
        self.spec = limit
        return step


class NudgedByOthers(FixedLength):
    """The others show in the final observation alone."""

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        if step.final is None:
            return step
        return replace(step, final=replace(step.final, obs=put(step.final.obs, (..., 0), self.place.sum())))


class WrongFinalOrder(FixedLength):
    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        return (
            step if step.final is None else replace(step, final=step.final.rows(np.arange(len(step.final.obs))[::-1]))
        )


class FinalIsNext(Walk):
    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        return step if step.final is None else replace(step, final=step.next.rows(np.flatnonzero(step.ended)))


class FinalIsStale(Walk):
    def step(self, actions: npt.NDArray[Any]) -> Step:
        before = self._observe()
        step = super().step(actions)
        return step if step.final is None else replace(step, final=before.rows(np.flatnonzero(step.ended)))


class FinalStateIsNext(Walk):
    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        if step.final is None:
            return step
        return replace(step, final=replace(step.final, state=step.next.state[step.ended]))


class ReadsTheFinalState(FixedLength):
    """All episodes end at once, and the next ones go on from the state that the caller holds."""

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        self.place = self.place.copy()
        return super()._advance(actions)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        if step.final is not None:
            self.place = step.final.state[:, ::2]
        return step


class SameMetric(Walk):
    """Tells its metric with the same array every time."""

    told: npt.NDArray[Any] | None = None

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        reward, over, info = super()._advance(actions)
        if self.told is None:
            self.told = info["moved"]
        self.told[:] = info["moved"]
        return reward, over, {**info, "moved": self.told}


class LuckyWinner(Walk):
    """Everything comes from the seed but who wins."""

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        reward, over, info = super()._advance(actions)
        return reward, over, {**info, "win": over & (np.random.default_rng().random(len(over)) < 0.5)}


class LastMomentInFloats(Walk):
    """Draws well, but keeps the last moment's picture in other numbers."""

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        return np.zeros((4, 5, 3), np.uint8)

    def last_picture(self) -> Any:
        return None if self._last_picture is None else self._last_picture / 255


class SpecOfMany(Walk):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.spec = replace(self.spec, agent_names=("left", f"right{num_envs}"))


class SpecGrows(Walk):
    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super()._begin(rows, seeds)
        self.spec = replace(self.spec, versions={"walk": str(int(self.spec.versions.get("walk", "0")) + 1)})


class NoneAlone(Walk):
    def __init__(self, num_envs: int) -> None:
        if num_envs == 1:
            raise ValueError("too lonely")
        super().__init__(num_envs)


class DoesNotClose(Walk):
    def close(self) -> None:
        raise OSError("the door is stuck")


class Drives(Walk):
    """Continuous actions, which are cut."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.spec = replace(self.spec, discrete=False, n_actions=0, action_dims=(2, 1))

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        return super()._advance(self.force(actions).sum(axis=2))

    def force(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        cut: npt.NDArray[Any] = actions.clip(-1, 1) * np.array([[1, 1], [1, 0]], np.float32)
        return cut

    def _observe(self) -> Obs:
        return replace(super()._observe(), avail=np.ones((self.num_envs, 2, 0), np.bool_))


class DrivesTooFast(Drives):
    def force(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return actions * np.array([[1, 1], [1, 0]], np.float32)


class DrivesWithTheOthersWheel(Drives):
    def force(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return actions.clip(-1, 1)


class Raises(Walk):
    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        raise RuntimeError("out of order")


class WrongCount(Walk):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs + 1)


FAULTS: list[tuple[str, str, type[Walk]]] = [
    ("dtype", "float64", on_obs(lambda o: replace(o, obs=o.obs.astype(np.float64)))),
    ("dtype", "avail is int64", on_obs(lambda o: replace(o, avail=o.avail.astype(np.int64)))),
    ("dtype", "reward is float64", on_step(lambda s: replace(s, reward=s.reward.astype(np.float64)))),
    ("dtype", "terminated is int64", on_step(lambda s: replace(s, terminated=s.terminated.astype(np.int64)))),
    ("dtype", "is list", on_step(lambda s: replace(s, reward=s.reward.tolist()))),
    ("shape", "state has shape", on_obs(lambda o: replace(o, state=o.state[:, :3]))),
    ("shape", "alive has shape", on_obs(lambda o: replace(o, alive=o.alive[:, 0]))),
    ("shape", "obs has shape", on_obs(lambda o: replace(o, obs=np.repeat(o.obs, 2, axis=2)))),
    ("shape", r"avail has shape \(3, 2, 2\)", on_obs(lambda o: replace(o, avail=o.avail[:, :, :2]))),
    ("shape", "truncated has shape", on_step(lambda s: replace(s, truncated=s.truncated[:1]))),
    ("reward shape", r"\(3, 1\) instead of \(3,\)", on_step(lambda s: replace(s, reward=s.reward[:, None]))),
    ("reward shape", "agent_reward", on_step(lambda s: replace(s, agent_reward=np.zeros((3, 3), np.float32)))),
    ("reward shape", "is None, but spec.agent_rewards is set", on_spec(agent_rewards=True)),
    ("not a number", "is nan", on_obs(lambda o: replace(o, obs=put(o.obs, (0, 1, 0), np.nan)))),
    ("not a number", "state", on_obs(lambda o: replace(o, state=put(o.state, (0, 1), np.inf)))),
    ("not a number", "reward", on_step(lambda s: replace(s, reward=put(s.reward, 0, np.nan)))),
    ("beyond the range", r"reset: obs\[\d, 0, 2\] is 1.0, declared are 0 to 0.99", on_spec(obs_range=(0, 0.99))),
    ("beyond the range", r"step \d: state\[.*\] is .*, declared are 0 to 1$", on_spec(state_range=(0, 1))),
    ("no legal action", "agent 0 of environment 0", on_obs(lambda o: replace(o, avail=put(o.avail, (0, 0), False)))),
    ("dead agent", "agent 1", on_obs(lambda o: replace(o, avail=o.avail & o.alive[:, :, None]))),
    (
        "empty team",
        "reset: environment 0 begins",
        on_obs(lambda o: replace(o, alive=o.alive & (o.obs[:, :, 2] < 0))),
    ),
    ("padded action", "more than its 2 actions", on_obs(lambda o: replace(o, avail=put(o.avail, (0, 1, 2), True)))),
    ("padded observation", "more than its 2", on_obs(lambda o: replace(o, obs=put(o.obs, (0, 1, 2), 5)))),
    ("both ends", "both set", on_step(lambda s: replace(s, truncated=s.truncated | s.terminated))),
    ("final observation", "final is None", on_step(lambda s: replace(s, final=None))),
    ("final observation", "has 3 rows", on_step(lambda s: replace(s, final=s.final and s.next))),
    (
        "final observation",
        "no episode ended",
        on_step(lambda s: replace(s, final=s.final or s.next.rows(np.arange(1)))),
    ),
    ("final observation", "is not what it is alone: final", WrongFinalOrder),
    ("final observation", "first one of the next", FinalIsNext),
    ("final observation", "final obs was the one before the last action", FinalIsStale),
    ("final observation", "final state was the first one of the next", FinalStateIsNext),
    ("episode too long", "episode_limit=6", NeverEnds),
    ("metrics", "lacks moved", on_step(lambda s: replace(s, info={"win": s.info["win"]}))),
    ("metrics", "lacks win", on_step(lambda s: replace(s, info={"moved": s.info["moved"]}))),
    ("metrics", "shape", on_step(lambda s: replace(s, info={**s.info, "moved": np.zeros(())}))),
    ("metrics", r"info\[moved\] is object, not numbers", on_info(moved=np.array([None] * 3))),
    ("metrics", r"info\[win\] is \[0.5, ", on_info(win=np.full(3, 0.5))),
    ("not a number", r"info\[moved\]\[0\] is nan", on_info(moved=np.full(3, np.nan))),
    ("seeds", "seeds were taken", TakesTwoSeeds),
    ("seed ignored", "another episode", IgnoresSeeds),
    ("seed ignored", "another episode", RemembersThePast),
    ("seed ignored", r"another episode: info\[win\]", LuckyWinner),
    ("neighbours", "is not what it is alone: final obs", NudgedByOthers),
    ("neighbours", "is not what it is alone", OneGeneratorForAll),
    ("aliasing", "wrote to the state", SameBuffer),
    ("aliasing", "wrote to the reward", SameReward),
    ("aliasing", r"wrote to the info\[moved\]", SameMetric),
    ("aliasing", "changed what followed", ReadsWhatItGave),
    ("aliasing", "changed what followed", ReadsTheFinalState),
    ("aliasing", "changed what followed", ReadsActionsLater),
    ("aliasing", "or drawing, changed what followed", MovesWhenDrawn),
    ("picture", r"gave float64 \(4, 5, 3\), not bytes", drawn(np.zeros((4, 5, 3)))),
    ("picture", r"gave uint8 \(4, 5\)", drawn(np.zeros((4, 5), np.uint8))),
    ("picture", r"gave list \(1,\)", drawn([1])),
    ("picture", r"last_picture\(\) gave float64", LastMomentInFloats),
    ("actions not cut", "larger numbers .* gave another episode", DrivesTooFast),
    ("actions not cut", "gave another episode", DrivesWithTheOthersWheel),
    ("actions changed", "wrote to the actions", WritesToActions),
    ("crash", "RuntimeError: out of order", Raises),
    ("crash", "1 environments could not be made: ValueError: too lonely", NoneAlone),
    ("crash", "close: OSError: the door is stuck", DoesNotClose),
    ("groups", "3 entries for 2 agents", on_spec(group_ids=(0, 1, 1))),
    ("groups", r"uses groups \[0, 1\], 1 have names", on_spec(group_names=("all",))),
    ("groups", "repeats a name: all, all", on_spec(group_names=("all", "all"))),
    ("spec", "spec.obs_range goes from 9 to 0", on_spec(obs_range=(9, 0))),
    ("spec", "2 allies for 2 agents", on_spec(entities=EntityView(own=(0,), allies=((1,), (2,))))),
    ("spec", r"agent_names depends on how many .* \('left', 'right3'\), then \('left', 'right1'\)", SpecOfMany),
    ("spec", "spec.versions changed while it was played: {}, then {'walk'", SpecGrows),
    ("spec", "agent_names has 1", on_spec(agent_names=("left",))),
    ("spec", "repeats", on_spec(agent_names=("left", "left"))),
    ("spec", "obs_dim is 3", on_spec(obs_dims=(2, 2))),
    ("spec", "n_actions is 3", on_spec(action_dims=(2, 2))),
    ("spec", "num_envs says 4", WrongCount),
]


def test_rounding_that_grows_is_no_neighbour() -> None:
    """By chance the last bits differ with the number of environments, and a simulator makes much of them."""
    assert check_env(Chaotic, steps=60) == []


class Parity(FixedLength):
    """Shows whether the step is even: after four steps what was shown at first, of any episode."""

    def _observe(self) -> Obs:
        obs = super()._observe()
        return replace(obs, obs=put(obs.obs * 0, (..., 0), self._elapsed[:, None] % 2))


def test_what_repeats_with_the_episodes_is_no_lost_final_observation() -> None:
    assert check_env(Parity) == []


def test_a_correct_environment_has_no_problem() -> None:
    assert check_env(Walk) == []
    assert check_env(Drives) == []


@pytest.mark.parametrize(("name", "sentence", "fault"), FAULTS)
def test_every_fault_is_named(name: str, sentence: str, fault: type[Walk]) -> None:
    problems = {problem.name: problem.sentence for problem in check_env(fault)}
    assert name in problems
    assert re.search(sentence, problems[name])


def test_every_check_has_a_fault_that_shows_it() -> None:
    assert {name for name, _, _ in FAULTS} == set(CHECKS)


def test_what_cannot_be_seeded_is_not_blamed_for_it_when_it_says_so() -> None:
    class Honest(IgnoresSeeds):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.spec = replace(self.spec, reproducible=False)

    problems = check_env(Honest)
    assert problems == []
    report = format_report("walk", problems)
    assert report.startswith(
        f"walk: {len(CHECKS) - 2} of {len(CHECKS)} checks passed\n  not checked, as no episode could"
    )
    assert report.endswith(f"{CHECKS['seed ignored']}; {CHECKS['neighbours']}")


def test_what_cannot_be_seeded_is_looked_at_all_the_same() -> None:
    class HonestPainter(drawn([1])):  # type: ignore[misc]
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.spec = replace(self.spec, reproducible=False)

    assert [problem.name for problem in check_env(HonestPainter)] == ["picture"]


def test_the_environments_are_closed_even_after_a_crash() -> None:
    closed = []

    class Closes(Raises):
        def close(self) -> None:
            closed.append(self.num_envs)

    check_env(Closes)
    assert closed == [3]


def test_the_report_says_what_is_wrong_and_what_must_hold() -> None:
    assert format_report("walk", check_env(Walk)) == f"walk: all {len(CHECKS)} checks passed"
    report = format_report("walk", check_env(WritesToActions))
    assert report.splitlines()[0] == f"walk: 1 of {len(CHECKS)} checks failed"
    assert "actions changed: step 0 wrote to the actions" in report
    assert CHECKS["actions changed"] in report
