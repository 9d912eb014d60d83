"""What an on-policy algorithm asks of the other sections: every episode once, in batches of the newest data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    from phalanx.configs.base import Settings
    from phalanx.configs.settings import RolloutSettings, RunSettings

OFF_POLICY_KEYS = {"replay": None, "exploration": None, "learner": ("batch_episodes",)}
"""section -> keys (None: all) that mean something else, or nothing, once a method of the other kind takes over."""
_NO_EFFECT = {
    "replay": (("min_episodes",), "waits for no more episodes than it learns from next"),
    "exploration": (("start", "end", "env_steps"), "explores by drawing from its policy"),
}
"""section -> keys without an effect, and what an on-policy method does instead."""


def filled(data: Any, rollout: type[RolloutSettings]) -> Any:
    """The data of a run with what follows from an on-policy algorithm where it was not given: `replay.sampling=once`,
    one sample per insert, batches as large as a round (streams x envs_per_stream), and room for the queue."""
    algorithm = data.get("algorithm") if isinstance(data, Mapping) else None
    if not getattr(algorithm, "on_policy", False):
        return data
    try:
        playing = rollout.model_validate(data.get("rollout", {}))
    except ValidationError:
        return data  # it is the rollout section that is wrong
    data = dict(data)
    learner, replay = data.get("learner", {}), data.get("replay", {})
    if isinstance(learner, Mapping):
        data["learner"] = learner = {"batch_episodes": playing.streams * playing.envs_per_stream, **learner}
    if isinstance(replay, Mapping):
        given = {"sampling": "once", "samples_per_insert": 1.0, **replay}
        batch = learner["batch_episodes"] if isinstance(learner, Mapping) else learner.batch_episodes
        if isinstance(batch, int):
            given = {"capacity_episodes": least_capacity(batch, playing.envs_per_stream), **given}
        data["replay"] = given
    return data


def without_what_follows(run: RunSettings) -> dict[str, Any]:
    """The run as data, without what `filled` would give it again: so that it follows settings that are changed."""
    data = run.model_dump()
    batch = run.rollout.streams * run.rollout.envs_per_stream
    if run.algorithm.on_policy and run.replay.capacity_episodes == run.least_capacity:
        del data["replay"]["capacity_episodes"]
    if run.algorithm.on_policy and run.learner.batch_episodes == batch:
        del data["learner"]["batch_episodes"]
    return data


def least_capacity(batch_episodes: int, envs_per_stream: int) -> int:
    """Episodes for which a queue needs room so that none is dropped unseen: two batches, of which one is the workers'
    lead, and the largest chunk."""
    return 2 * batch_episodes + 2 * envs_per_stream


def problem(run: RunSettings) -> str | None:
    """The sentence on a combination that cannot be; None where there is no such."""
    replay, name = run.replay, run.algorithm.name
    if not run.algorithm.on_policy:
        if replay.sampling != "once":
            return None
        return (
            f"replay.sampling=once is for on-policy methods, and algorithm.name={name} learns from old episodes too:"
            " set replay.sampling=uniform (or prioritised)"
        )
    why = f"algorithm.name={name} is on-policy and learns from every episode once"
    if replay.sampling != "once":
        return f"replay.sampling={replay.sampling} is impossible, because {why}: leave it out, or set once"
    if replay.samples_per_insert != 1:
        return f"replay.samples_per_insert={replay.samples_per_insert:g} is impossible, because {why}: leave it at 1"
    idle = _without_effect(run)
    if idle is not None:
        return idle
    batch, playing = run.learner.batch_episodes, run.rollout
    least = least_capacity(batch, playing.envs_per_stream)
    if replay.capacity_episodes < least:
        return (
            f"replay.capacity_episodes={replay.capacity_episodes} is too few, because {why} and none may make room"
            f" unseen: leave it out, or give at least {least} (two batches and a chunk)"
        )
    if run.mode == "sync" and batch != playing.streams * playing.envs_per_stream:
        return (
            f"learner.batch_episodes={batch} must be what a round plays, {playing.streams * playing.envs_per_stream}"
            " episodes (rollout.streams x rollout.envs_per_stream), because in mode=sync"
            f" algorithm.name={name} learns from the present policy's episodes only: leave it out, or set mode=async"
        )
    return None


def _without_effect(run: RunSettings) -> str | None:
    """The sentence on a setting that was changed for nothing."""
    for section, (keys, instead) in _NO_EFFECT.items():
        settings: Settings = getattr(run, section)
        for key in keys:
            given, default = getattr(settings, key), type(settings).model_fields[key].default
            if given != default:
                return (
                    f"{section}.{key}={given} has no effect, because algorithm.name={run.algorithm.name} is on-policy"
                    f" and {instead}: leave it at {default}"
                )
    return None
