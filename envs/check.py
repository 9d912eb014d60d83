"""The conformance test behind `phalanx check-env`: does an environment keep what `TeamEnv` promises?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.envs.faults import FAULTS, in_words
from phalanx.envs.findings import CHECKS, Findings, Problem, finite, typed, within
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs, Step, TeamEnv, TeamSpec

FIELDS = ("obs", "state", "avail", "alive")
OUTCOME = ("reward", "terminated", "truncated", "agent_reward")
ENVS = 3
KEPT_STEPS = 3  # for so many steps returned arrays are watched
PICTURES = 2
ROUNDING_GREW = 0.01  # the share of what is tolerated that rounding has reached before it is more


def check_env(make: Callable[[int], TeamEnv], seed: int = 0, steps: int | None = None) -> list[Problem]:
    """Plays random legal actions in `make(3)` and `make(1)`; each kind of problem is told once, where it is seen first.

    `steps` is how many vector steps each of the four plays lasts: by default two episodes or 300, whichever is less,
    but always longer than one episode. The environments are closed afterwards.
    """
    found = Findings()
    several = _built(make, ENVS, found)
    if several is None:
        return found.problems
    try:
        _check_spec(several.spec, found)
        limit = several.spec.episode_limit
        length = steps or max(limit + 2, min(2 * limit + 2, 300))
        rows = list(range(ENVS))
        first = _Play(several, rows, seed, found).run(length)
        if several.spec.reproducible and first.complete:
            _check_repeats(make, several, first, seed, length, found)
        _check_finals(first, found)
    finally:
        several.close()
    return found.problems


def format_report(title: str, problems: Sequence[Problem]) -> str:
    """Some lines for people: what is wrong, or that nothing is."""
    if not problems:
        return f"{title}: all {len(CHECKS)} checks passed"
    told = "\n".join(f"  {p.name}: {p.sentence} (must hold: {CHECKS[p.name]})" for p in problems)
    return f"{title}: {len(problems)} of {len(CHECKS)} checks failed\n{told}"


def _built(make: Callable[[int], TeamEnv], count: int, found: Findings) -> TeamEnv | None:
    env = make(count)
    if env.num_envs != count:
        found.add("spec", f"asked for {count} environments, num_envs says {env.num_envs}")
        env.close()
        return None
    return env


def _check_spec(spec: TeamSpec, found: Findings) -> None:
    n = spec.n_agents
    for key in ("agent_names", "obs_dims", "action_dims"):
        if len(getattr(spec, key)) != n:
            found.add("spec", f"spec.{key} has {len(getattr(spec, key))} entries for {n} agents")
    if len(set(spec.agent_names)) != len(spec.agent_names):
        found.add("spec", f"spec.agent_names repeats a name: {', '.join(spec.agent_names)}")
    if max(spec.obs_dims, default=0) != spec.obs_dim:
        found.add("spec", f"spec.obs_dim is {spec.obs_dim}, the largest of obs_dims {max(spec.obs_dims, default=0)}")
    actions = max(spec.action_dims, default=0) if spec.discrete else 0
    if actions != spec.n_actions:
        found.add("spec", f"spec.n_actions is {spec.n_actions} where {actions} follows from action_dims")
    if spec.group_ids or spec.group_names:
        if len(spec.group_ids) != n:
            found.add("groups", f"spec.group_ids has {len(spec.group_ids)} entries for {n} agents")
        elif set(spec.group_ids) != set(range(len(spec.group_names))):
            found.add(
                "groups",
                f"spec.group_ids uses groups {sorted(set(spec.group_ids))}, {len(spec.group_names)} have names",
            )


def _check_repeats(
    make: Callable[[int], TeamEnv], several: TeamEnv, first: _Play, seed: int, length: int, found: Findings
) -> None:
    """The same episodes again: in the same object, alone, and with every array spoilt that came back."""
    rows = list(range(ENVS))
    again = _Play(several, rows, seed, found).run(length)
    difference = _difference(first, again, rows, 0.0)
    if difference:
        found.add("seed ignored", f"the same seeds and actions gave another episode: {difference}")
        return
    spoilt = _Play(several, rows, seed, found, spoil=True).run(length)
    difference = _difference(first, spoilt, rows, 0.0)
    if difference:
        what = "writing to arrays that were given or returned, or drawing,"
        found.add("aliasing", f"{what} changed what followed: {difference}")
        return
    alone = _built(make, 1, found)
    if alone is None:
        return
    try:
        for row in (0, ENVS - 1):
            difference = _difference(first, _Play(alone, [row], seed, found).run(length), [row], 1e-4)
            if difference:
                name = "final observation" if "final" in difference else "neighbours"
                found.add(name, f"environment {row} beside {ENVS - 1} others is not what it is alone: {difference}")
                return
    finally:
        alone.close()


def _check_finals(play: _Play, found: Findings) -> None:
    """A final observation that is always the next episode's first one, or the one before the last action."""
    changed = np.array(play.changed, np.float64)
    if len(play.finals) < 2 or not changed.size or changed.mean() < 0.5:
        return
    for k, what in enumerate(("the first one of the next episode", "the one before the last action")):
        if all(equal[k] for equal in play.finals):
            found.add("final observation", f"in {len(play.finals)} ended episodes the final observation was {what}")


class _CountedSeeds(Iterator[int]):
    def __init__(self, seed: int, row: int) -> None:
        self._seeds = EpisodeSeeds(seed, Purpose.EPISODE, row)
        self.taken = 0

    def __next__(self) -> int:
        self.taken += 1
        return next(self._seeds)


class _Play:
    """Some vector steps of random legal actions; the actions of a row depend on the row's number alone."""

    def __init__(self, env: TeamEnv, rows: list[int], seed: int, found: Findings, spoil: bool = False) -> None:
        self._env, self._rows, self._found, self._spoil = env, rows, found, spoil
        self._spec = env.spec
        self._seeds = [_CountedSeeds(seed, row) for row in rows]
        self._generators = [np.random.default_rng((seed, 7, row)) for row in rows]
        self._kept: list[tuple[int, str, npt.NDArray[Any], npt.NDArray[Any]]] = []  # step, name, array, copy
        self.complete = False  # every step was made
        self.trace: dict[int, list[dict[str, npt.NDArray[Any]]]] = {row: [] for row in rows}
        self.finals: list[tuple[bool, bool]] = []  # equal to the next first one, equal to the one before
        self.changed: list[bool] = []  # whether the observation changed in a step within an episode

    def run(self, length: int) -> _Play:
        try:
            self._run(length)
        except FAULTS as error:
            self._found.add("crash", in_words(error))
        return self

    def _run(self, length: int) -> None:
        obs = self._env.reset(self._seeds)
        if not self._observation(obs, len(self._rows), "reset"):
            return
        ages, episodes = np.zeros(len(self._rows), np.int64), len(self._rows)
        self._somebody(obs, ages == 0, "reset")
        for t in range(length):
            self._keep(t, obs, FIELDS)
            before = obs.rows(np.arange(len(self._rows)))
            actions = self._choose(before)
            passed = actions.copy()
            if self._spoil:
                self._scribble(obs, FIELDS)
                self._picture(t)
            step = self._env.step(passed)
            if not np.array_equal(passed, actions):
                self._found.add("actions changed", f"step {t} wrote to the actions it was given")
            if not self._outcome(step, t):
                return
            self._somebody(step.next, step.ended, f"step {t}")
            self._untouched(t)
            self._record(before, step)
            ages += 1
            if (ages > self._spec.episode_limit).any():
                self._found.add(
                    "episode too long", f"an episode went on after spec.episode_limit={self._spec.episode_limit} steps"
                )
            ages[step.ended] = 0
            episodes += int(step.ended.sum())
            if self._spoil:
                passed[:] = 0
                self._scribble(step, OUTCOME)
            else:
                self._keep(t, step, OUTCOME)
                if step.final is not None:
                    self._keep(t, step.final, FIELDS, "final ")
            obs = step.next
        taken = sum(seeds.taken for seeds in self._seeds)
        if taken != episodes:
            self._found.add("seeds", f"{taken} seeds were taken for {episodes} episodes")
        self.complete = True

    def _choose(self, obs: Obs) -> npt.NDArray[Any]:
        if not self._spec.discrete:
            shape = (self._spec.n_agents, max(self._spec.action_dims))
            return np.stack([rng.uniform(-1, 1, shape).astype(np.float32) for rng in self._generators])
        noise = np.stack([rng.random(obs.avail.shape[1:]) for rng in self._generators])
        chosen: npt.NDArray[np.int64] = np.where(obs.avail, noise, -1.0).argmax(axis=2)
        return chosen

    def _picture(self, t: int) -> None:
        """Of the first environment; that drawing changes nothing shows in what is played after it."""
        picture = self._env.render(0) if t < PICTURES else None
        if picture is None:
            return
        kind, shape = getattr(picture, "dtype", type(picture).__name__), np.shape(picture)
        if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or not picture.size:
            self._found.add("picture", f"step {t}: render(0) gave {kind} {shape}, not bytes [height, width, 3]")

    # ---- one observation, one outcome

    def _observation(self, obs: Obs, rows: int, where: str) -> bool:
        """Whether the arrays can be used at all; tells what is wrong with them."""
        spec = self._spec
        n = spec.n_agents
        usable = typed(self._found, f"{where}: obs", obs.obs, np.float32, (rows, n, spec.obs_dim))
        usable &= typed(self._found, f"{where}: state", obs.state, np.float32, (rows, spec.state_dim))
        usable &= typed(self._found, f"{where}: avail", obs.avail, np.bool_, (rows, n, spec.n_actions))
        usable &= typed(self._found, f"{where}: alive", obs.alive, np.bool_, (rows, n))
        if not usable:
            return False
        finite(self._found, f"{where}: obs", obs.obs)
        finite(self._found, f"{where}: state", obs.state)
        within(self._found, f"{where}: obs", obs.obs, spec.obs_range)
        within(self._found, f"{where}: state", obs.state, spec.state_range)
        for i, size in enumerate(spec.obs_dims):
            if obs.obs[:, i, size:].any():
                self._found.add("padded observation", f"{where}: agent {i} shows more than its {size} numbers")
        if spec.discrete:
            self._masks(obs, where)
        return True

    def _masks(self, obs: Obs, where: str) -> None:
        for i, size in enumerate(self._spec.action_dims):
            if obs.avail[:, i, size:].any():
                self._found.add("padded action", f"{where}: agent {i} is offered more than its {size} actions")
        stuck = ~obs.avail.any(axis=2)
        for name, who in (("no legal action", stuck & obs.alive), ("dead agent", stuck & ~obs.alive)):
            if who.any():
                row, agent = np.argwhere(who)[0]
                self._found.add(name, f"{where}: agent {agent} of environment {row} has no legal action")

    def _somebody(self, obs: Obs, begun: npt.NDArray[np.bool_], where: str) -> None:
        """In episodes that have just begun (`begun`: [E]) there is somebody to act."""
        empty = np.flatnonzero(begun & ~obs.alive.any(axis=1))
        if len(empty):
            self._found.add("empty team", f"{where}: environment {empty[0]} begins an episode with no agent alive")

    def _outcome(self, step: Step, t: int) -> bool:
        e, n, where = len(self._rows), self._spec.n_agents, f"step {t}"
        usable = typed(self._found, f"{where}: terminated", step.terminated, np.bool_, (e,))
        usable &= typed(self._found, f"{where}: truncated", step.truncated, np.bool_, (e,))
        usable &= typed(self._found, f"{where}: reward", step.reward, np.float32, (e,), "reward shape")
        if step.agent_reward is not None:
            usable &= typed(
                self._found, f"{where}: agent_reward", step.agent_reward, np.float32, (e, n), "reward shape"
            )
        elif self._spec.agent_rewards:
            self._found.add("reward shape", f"{where}: agent_reward is None, but spec.agent_rewards is set")
            return False
        usable = self._observation(step.next, e, where) and usable
        if not usable:
            return False
        for what, rewards in (("reward", step.reward), ("agent_reward", step.agent_reward)):
            if rewards is not None:
                finite(self._found, f"{where}: {what}", rewards)
        if (step.terminated & step.truncated).any():
            self._found.add("both ends", f"{where}: terminated and truncated are both set")
        self._information(step, where)
        return self._final(step, where)

    def _information(self, step: Step, where: str) -> None:
        for key in (*self._spec.metrics, *(("win",) if self._spec.has_win else ())):
            if key not in step.info:
                self._found.add("metrics", f"{where}: info lacks {key}")
            elif np.shape(step.info[key]) != (len(self._rows),):
                self._found.add("metrics", f"{where}: info[{key}] has shape {np.shape(step.info[key])}")

    def _final(self, step: Step, where: str) -> bool:
        count = int(step.ended.sum())
        if step.final is None:
            if count:
                self._found.add("final observation", f"{where}: {count} episodes ended, but final is None")
            return not count
        if not count:
            self._found.add("final observation", f"{where}: no episode ended, but final is not None")
            return True
        if len(step.final.obs) != count:
            self._found.add(
                "final observation", f"{where}: {count} episodes ended, but final has {len(step.final.obs)} rows"
            )
            return False
        return self._observation(step.final, count, f"{where}, final")

    # ---- what happened

    def _record(self, before: Obs, step: Step) -> None:
        ended = np.flatnonzero(step.ended)
        for e, row in enumerate(self._rows):
            seen = {f: getattr(step.next, f)[e].copy() for f in FIELDS}
            seen |= {k: np.array(getattr(step, k)[e]) for k in ("reward", "terminated", "truncated")}
            if step.agent_reward is not None:
                seen["agent_reward"] = step.agent_reward[e].copy()
            if e in ended and step.final is not None:
                j = int(np.searchsorted(ended, e))
                seen |= {f"final {f}": getattr(step.final, f)[j].copy() for f in FIELDS}
                last = (step.final.obs[j], step.final.state[j])
                self.finals.append(
                    (
                        _all_equal(last, (step.next.obs[e], step.next.state[e])),
                        _all_equal(last, (before.obs[e], before.state[e])),
                    )
                )
            else:
                same = _all_equal((before.obs[e], before.state[e]), (step.next.obs[e], step.next.state[e]))
                self.changed.append(not same)
            self.trace[row].append(seen)

    def _keep(self, t: int, holder: Obs | Step, names: Sequence[str], prefix: str = "") -> None:
        if not self._spoil:
            arrays = [(prefix + name, getattr(holder, name)) for name in names]
            self._kept += [(t, name, array, array.copy()) for name, array in arrays if array is not None]

    def _untouched(self, t: int) -> None:
        for _, name, array, copy in self._kept:
            if not np.array_equal(array, copy, equal_nan=array.dtype.kind == "f"):
                self._found.add("aliasing", f"step {t} wrote to the {name} that was returned before")
        self._kept = [kept for kept in self._kept if kept[0] > t - KEPT_STEPS]

    def _scribble(self, holder: Obs | Step, names: Sequence[str]) -> None:
        for name in names:
            array = getattr(holder, name)
            if array is not None and array.flags.writeable:
                array[...] = 77 if array.dtype.kind == "f" else ~array


def _all_equal(left: Sequence[npt.NDArray[Any]], right: Sequence[npt.NDArray[Any]]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(left, right, strict=True))


def _difference(left: _Play, right: _Play, rows: list[int], tolerance: float) -> str | None:
    """The first place where two plays differ by more than the tolerance, or None. Differences that grew to it step by
    step are rounding's, which depends on how many environments are computed together: what follows is not compared."""
    for row in rows:
        before = 0.0  # the largest difference in this episode so far
        for t, (a, b) in enumerate(zip(left.trace[row], right.trace[row], strict=False)):
            apart = {key: _distance(a[key], b[key]) for key in a if key in b}
            beyond = next((key for key, distance in apart.items() if distance > tolerance), None)
            if a.keys() == b.keys() and beyond is None:
                ended = a["terminated"] | a["truncated"]
                before = 0.0 if ended else max(before, *apart.values())
                continue
            if before > ROUNDING_GREW * tolerance:
                break
            what = beyond if a.keys() == b.keys() else "episode end"
            return f"{what} at step {t} of environment {row}"
    return None


def _distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """How far apart two arrays are, where they are furthest: relative to large numbers, absolute for small ones."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(x - y) / (1 + np.abs(y)))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
