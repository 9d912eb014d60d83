"""What the conformance test plays: random legal actions, every array looked at, everything noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.envs.faults import FAULTS, in_words
from phalanx.envs.findings import Findings, finite, typed, within
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs, Step, TeamEnv

FIELDS = ("obs", "state", "avail", "alive")
OUTCOME = ("reward", "terminated", "truncated", "agent_reward")
KEPT_STEPS = 3  # for so many steps returned arrays are watched
PICTURES = 2
BEYOND = 1.5  # continuous actions are drawn up to here, and cut


class _CountedSeeds(Iterator[int]):
    def __init__(self, seed: int, row: int) -> None:
        self._seeds = EpisodeSeeds(seed, Purpose.EPISODE, row)
        self.taken = 0

    def __next__(self) -> int:
        self.taken += 1
        return next(self._seeds)


class Play:
    """Some vector steps of random legal actions; the actions of a row depend on the row's number alone.

    With `spoil` every array that was given or returned is overwritten; with `beyond` continuous actions are passed as
    they were drawn, before they are cut to [-1, 1] and to the agents' own sizes.
    """

    def __init__(
        self,
        env: TeamEnv,
        rows: list[int],
        seed: int,
        found: Findings,
        *,
        spoil: bool = False,
        beyond: bool = False,
    ) -> None:
        self._env, self._rows, self._found, self._spoil, self._beyond = env, rows, found, spoil, beyond
        self._spec = env.spec
        self._promised = (*env.spec.metrics, *(("win",) if env.spec.has_win else ()))  # keys of info
        self._seeds = [_CountedSeeds(seed, row) for row in rows]
        self._generators = [np.random.default_rng((seed, 7, row)) for row in rows]
        self._kept: list[tuple[int, str, npt.NDArray[Any], npt.NDArray[Any]]] = []  # step, name, array, copy
        self.complete = False  # every step was made
        self.trace: dict[int, list[dict[str, npt.NDArray[Any]]]] = {row: [] for row in rows}
        # Of each ended episode, whether what was seen last equals the next first one, and the one before it.
        self.finals: dict[str, list[tuple[bool, bool]]] = {"obs": [], "state": []}
        self.changed: dict[str, list[bool]] = {"obs": [], "state": []}  # in a step within an episode
        self.values: dict[str, set[bytes]] = {"obs": set(), "state": set()}  # everything seen
        self.firsts: dict[str, set[bytes]] = {"obs": set(), "state": set()}  # began later episodes

    def run(self, length: int) -> Play:
        try:
            self._run(length)
        except FAULTS as error:
            self._found.add("crash", in_words(error))
        return self

    def _run(self, length: int) -> None:
        self._env.film(0 if self._spoil else -1)
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
            self._same_kinds(before, step, t)
            self._untouched(t)
            self._record(before, step)
            ages += 1
            if (ages > self._spec.episode_limit).any():
                self._found.add(
                    "episode too long", f"an episode went on after spec.episode_limit={self._spec.episode_limit} steps"
                )
            ages[step.ended] = 0
            episodes += int(step.ended.sum())
            self._leave(t, passed, step)
            obs = step.next
        taken = sum(seeds.taken for seeds in self._seeds)
        if taken != episodes:
            self._found.add("seeds", f"{taken} seeds were taken for {episodes} episodes")
        self.complete = True

    def _choose(self, obs: Obs) -> npt.NDArray[Any]:
        if not self._spec.discrete:
            sizes = self._spec.action_dims
            drawn = [rng.uniform(-BEYOND, BEYOND, (len(sizes), max(sizes))) for rng in self._generators]
            actions = np.stack(drawn).astype(np.float32)
            own = np.arange(max(sizes)) < np.array(sizes)[:, None]
            return actions if self._beyond else np.where(own, actions.clip(-1, 1), np.float32(0))
        noise = np.stack([rng.random(obs.avail.shape[1:]) for rng in self._generators])
        chosen: npt.NDArray[np.int64] = np.where(obs.avail, noise, -1.0).argmax(axis=2)
        return chosen

    def _picture(self, t: int) -> None:
        """Of the first environment; that drawing changes nothing shows in what is played after it."""
        picture = self._env.render(0) if t < PICTURES else None
        if picture is not None:
            self._is_picture(picture, f"step {t}: render(0)")

    def _last_picture(self, t: int) -> None:
        picture = self._env.last_picture()
        if picture is not None:
            self._is_picture(picture, f"step {t}: last_picture()")
        self._env.film(-1)

    def _is_picture(self, picture: Any, what: str) -> None:
        kind, shape = getattr(picture, "dtype", type(picture).__name__), np.shape(picture)
        if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or not picture.size:
            self._found.add("picture", f"{what} gave {kind} {shape}, not bytes [height, width, 3]")

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
        self._kinds(obs, where)
        for i, size in enumerate(spec.obs_dims):
            if obs.obs[:, i, size:].any():
                self._found.add("padded observation", f"{where}: agent {i} shows more than its {size} numbers")
        if spec.discrete:
            self._masks(obs, where)
        return True

    def _kinds(self, obs: Obs, where: str) -> None:
        """Where groups vary, whoever lives sees its own."""
        if not self._spec.kind_columns:
            return
        shown = obs.obs[:, :, list(self._spec.kind_columns)]
        odd = obs.alive & ((shown == 1).sum(axis=2) != 1) | ((shown != 0) & (shown != 1)).any(axis=2)
        if odd.any():
            row, agent = np.argwhere(odd)[0]
            found = shown[row, agent].tolist()
            self._found.add(
                "groups", f"{where}: agent {agent} of environment {row} sees {found} in spec.kind_columns, not one 1"
            )

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

    def _same_kinds(self, before: Obs, step: Step, t: int) -> None:
        kinds, goes_on = list(self._spec.kind_columns), ~step.ended[:, None]
        changed = (before.obs[:, :, kinds] != step.next.obs[:, :, kinds]).any(axis=2)
        if (changed & goes_on & before.alive & step.next.alive).any():
            self._found.add("groups", f"step {t}: an agent's spec.kind_columns changed within an episode")

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

    def _told(self, step: Step) -> dict[str, npt.NDArray[Any]]:
        """What `info` has of that which the spec promises."""
        return {f"info[{key}]": np.asarray(step.info[key]) for key in self._promised if key in step.info}

    def _information(self, step: Step, where: str) -> None:
        for key in self._promised:
            if key not in step.info:
                self._found.add("metrics", f"{where}: info lacks {key}")
                continue
            values = np.asarray(step.info[key])
            if values.shape != (len(self._rows),):
                self._found.add("metrics", f"{where}: info[{key}] has shape {values.shape}")
            elif values.dtype.kind not in "biuf":
                self._found.add("metrics", f"{where}: info[{key}] is {values.dtype}, not numbers")
            elif key == "win" and not np.isin(values, (0, 1)).all():
                self._found.add("metrics", f"{where}: info[win] is {values.tolist()}, not won or lost")
            else:
                finite(self._found, f"{where}: info[{key}]", values)

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
        ended, told = np.flatnonzero(step.ended), self._told(step)
        for e, row in enumerate(self._rows):
            seen = {f: getattr(step.next, f)[e].copy() for f in FIELDS}
            seen |= {k: np.array(getattr(step, k)[e]) for k in ("reward", "terminated", "truncated")}
            seen |= {name: np.array(array[e]) for name, array in told.items()}
            for field, values in self.values.items():
                values.add(seen[field].tobytes())
            if step.agent_reward is not None:
                seen["agent_reward"] = step.agent_reward[e].copy()
            if e in ended and step.final is not None:
                j = int(np.searchsorted(ended, e))
                seen |= {f"final {f}": getattr(step.final, f)[j].copy() for f in FIELDS}
                for field, finals in self.finals.items():
                    last, first = getattr(step.final, field)[j], getattr(step.next, field)[e]
                    finals.append((_equal(last, first), _equal(last, getattr(before, field)[e])))
                    self.firsts[field].add(first.tobytes())
            else:
                for field, changed in self.changed.items():
                    changed.append(not _equal(getattr(before, field)[e], getattr(step.next, field)[e]))
            self.trace[row].append(seen)

    def _leave(self, t: int, passed: npt.NDArray[Any], step: Step) -> None:
        """What the environment must not look at again is spoilt, or watched."""
        if self._spoil:
            if step.ended[0]:
                self._last_picture(t)
            passed[:] = 0
            self._scribble(step, OUTCOME)
            if step.final is not None:
                self._scribble(step.final, FIELDS)
            return
        self._keep(t, step, OUTCOME)
        if step.final is not None:
            self._keep(t, step.final, FIELDS, "final ")
        self._kept += [(t, name, array, array.copy()) for name, array in self._told(step).items()]

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


def _equal(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> bool:
    return np.array_equal(left, right, equal_nan=True)
