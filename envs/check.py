"""The conformance test behind `phalanx check-env`: does an environment keep what `TeamEnv` promises?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs.check_play import Play
from phalanx.envs.faults import FAULTS, in_words
from phalanx.envs.findings import CHECKS, Findings, Problems
from phalanx.envs.team import TeamEnv, TeamSpec

ENVS = 3
MANY = 8  # different observations
COMPARED = ("seed ignored", "neighbours")  # checks that compare episodes with the same seed
ROUNDING_GREW = 0.01  # the share of what is tolerated that rounding has reached before it is more


def check_env(make: Callable[[int], TeamEnv], seed: int = 0, steps: int | None = None) -> Problems:
    """Plays random legal actions in `make(3)` and `make(1)`; each kind of problem is told once, where it is seen first.

    `steps` is how many vector steps each of the four plays lasts: by default two episodes or 300, whichever is less,
    but always longer than one episode. The environments are closed afterwards.
    """
    found = Findings()
    several = _built(make, ENVS, found)
    if several is None:
        return found.problems
    try:
        spec = several.spec
        _check_spec(spec, found)
        length = steps or max(spec.episode_limit + 2, min(2 * spec.episode_limit + 2, 300))
        first = Play(several, list(range(ENVS)), seed, found).run(length)
        _check_same(spec, several.spec, "changed while it was played", found)
        if first.complete:
            _check_repeats(make, several, first, seed, length, found)
        if not (first.complete and spec.reproducible):
            found.problems.unchecked = COMPARED if spec.discrete else (*COMPARED, "actions not cut")
        _check_finals(first, found)
    finally:
        _close(several, found)
    return found.problems


def format_report(title: str, problems: Problems) -> str:
    """Some lines for people: what is wrong, or that nothing is, and what was not looked at."""
    told = "".join(f"\n  {p.name}: {p.sentence} (must hold: {CHECKS[p.name]})" for p in problems)
    unchecked = "; ".join(CHECKS[name] for name in problems.unchecked)
    if unchecked:
        told += f"\n  not checked, as no episode could be played twice: {unchecked}"
    if problems:
        return f"{title}: {len(problems)} of {len(CHECKS)} checks failed{told}"
    passed = len(CHECKS) - len(problems.unchecked)
    return f"{title}: {f'{passed} of' if unchecked else 'all'} {len(CHECKS)} checks passed{told}"


def _built(make: Callable[[int], TeamEnv], count: int, found: Findings) -> TeamEnv | None:
    try:
        env = make(count)
    except (UserError, RunFailed):
        raise
    except FAULTS as error:
        found.add("crash", f"{count} environments could not be made: {in_words(error)}")
        return None
    if env.num_envs != count:
        found.add("spec", f"asked for {count} environments, num_envs says {env.num_envs}")
        _close(env, found)
        return None
    return env


def _close(env: TeamEnv, found: Findings) -> None:
    try:
        env.close()
    except FAULTS as error:
        found.add("crash", f"close: {in_words(error)}")


def _check_same(spec: TeamSpec, other: TeamSpec, how: str, found: Findings) -> None:
    for field in fields(spec):
        was, now = getattr(spec, field.name), getattr(other, field.name)
        if was != now:
            found.add("spec", f"spec.{field.name} {how}: {was}, then {now}")


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
    for key in ("obs_range", "state_range"):
        limits = getattr(spec, key)
        if limits is not None and not limits[0] <= limits[1]:
            found.add("spec", f"spec.{key} goes from {limits[0]} to {limits[1]}")
    if spec.entities is not None and len(spec.entities.allies) not in (0, n - 1):
        found.add("spec", f"spec.entities has {len(spec.entities.allies)} allies for {n} agents")
    _check_groups(spec, found)


def _check_groups(spec: TeamSpec, found: Findings) -> None:
    n = spec.n_agents
    if len(set(spec.group_names)) != len(spec.group_names):
        found.add("groups", f"spec.group_names repeats a name: {', '.join(spec.group_names)}")
    if spec.group_ids or (spec.group_names and not spec.groups_vary):
        if len(spec.group_ids) != n:
            found.add("groups", f"spec.group_ids has {len(spec.group_ids)} entries for {n} agents")
        elif set(spec.group_ids) != set(range(len(spec.group_names))):
            found.add(
                "groups",
                f"spec.group_ids uses groups {sorted(set(spec.group_ids))}, {len(spec.group_names)} have names",
            )


def _check_repeats(
    make: Callable[[int], TeamEnv], several: TeamEnv, first: Play, seed: int, length: int, found: Findings
) -> None:
    """The same episodes again: in the same object, alone, and with every array spoilt that came back."""
    rows, repeat = list(range(ENVS)), several.spec.reproducible
    difference = _difference(first, Play(several, rows, seed, found).run(length), rows, 0.0) if repeat else None
    if difference:
        found.add("seed ignored", f"the same seeds and actions gave another episode: {difference}")
        return
    spoilt = Play(several, rows, seed, found, spoil=True).run(length)
    if not repeat:
        return
    difference = _difference(first, spoilt, rows, 0.0)
    if difference:
        what = "writing to arrays that were given or returned, or drawing,"
        found.add("aliasing", f"{what} changed what followed: {difference}")
        return
    if not several.spec.discrete:
        beyond = Play(several, rows, seed, found, beyond=True).run(length)
        difference = _difference(first, beyond, rows, 0.0)
        if difference:
            found.add("actions not cut", f"larger numbers than the largest action gave another episode: {difference}")
    _check_alone(make, several.spec, first, seed, length, found)


def _check_alone(
    make: Callable[[int], TeamEnv], spec: TeamSpec, first: Play, seed: int, length: int, found: Findings
) -> None:
    """The first and the last environment's episodes again, in an object that holds nothing else."""
    alone = _built(make, 1, found)
    if alone is None:
        return
    try:
        _check_same(spec, alone.spec, f"depends on how many environments there are ({ENVS}, then 1)", found)
        for row in (0, ENVS - 1):
            play = Play(alone, [row], seed, found).run(length)
            difference = _difference(first, play, [row], 1e-4)
            if difference:
                name = "final observation" if _is_anothers_final(first, play, difference) else "neighbours"
                found.add(name, f"environment {row} beside {ENVS - 1} others is not what it is alone: {difference}")
                return
    finally:
        _close(alone, found)


def _is_anothers_final(first: Play, alone: Play, where: _Difference) -> bool:
    """Whether what the environment showed last, alone, was shown as that of another one beside others."""
    key = "final obs"
    seen = alone.trace[where.row][where.step].get(key)
    shown = [trace[where.step].get(key) for row, trace in first.trace.items() if row != where.row]
    return seen is not None and any(other is not None and np.array_equal(seen, other) for other in shown)


def _check_finals(play: Play, found: Findings) -> None:
    """A final observation or state that is always the next episode's first one, or the one before the last action."""
    for field, finals in play.finals.items():
        if len(finals) < 2 or 2 * sum(play.changed[field]) <= len(play.changed[field]):
            continue  # what seldom changes says nothing
        if len(play.values[field]) < MANY and len(play.firsts[field]) == 1:
            continue  # nor does what may look the same by chance, such as the parity of the steps
        for k, what in enumerate(("the first one of the next episode", "the one before the last action")):
            if all(equal[k] for equal in finals):
                found.add("final observation", f"in {len(finals)} ended episodes the final {field} was {what}")


@dataclass(frozen=True)
class _Difference:
    what: str
    step: int
    row: int

    def __str__(self) -> str:
        return f"{self.what} at step {self.step} of environment {self.row}"


def _difference(left: Play, right: Play, rows: list[int], tolerance: float) -> _Difference | None:
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
            return _Difference(beyond if beyond and a.keys() == b.keys() else "episode end", t, row)
    return None


def _distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """How far apart two arrays are, where they are furthest: relative to large numbers, absolute for small ones."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(x - y) / (1 + np.abs(y)))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
