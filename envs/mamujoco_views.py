"""What MaMuJoCo's agents see and do, the library's numbers without its loops.

gymnasium-robotics walks over joints, categories and bodies in Python in every step, for each agent anew; that takes
longer than the physics. Where every number comes from does not change, so it is found once: a step then reads each
source once, for all agents, and picks from what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

OF_JOINTS = {"qpos": "qpos_ids", "qvel": "qvel_ids", "qfrc_actuator": "qvel_ids"}
"""Categories that have one number for each joint -> the joint's attribute that says where."""

OF_BODIES = ("cvel", "cinert", "cfrc_ext")
"""Categories that have some numbers for each body; a joint knows its bodies."""

Read = Callable[[Any], Any]
"""MuJoCo's data -> some numbers."""


class Views:
    """The observations of all agents of one environment (a `MultiAgentMujocoEnv`): those of its own `_get_obs`."""

    def __init__(self, env: Any) -> None:
        self._body = env.single_agent_env.unwrapped
        self._names: list[str] = list(env.possible_agents)
        self._reads: list[Read] = []
        self._places: dict[Hashable, npt.NDArray[np.int64]] = {}  # where the numbers of each source are
        self._size = 0
        each = [self._order(env, near) for near in env.k_dicts]
        self._order_of_all = np.concatenate(each)
        ends = np.cumsum([0, *map(len, each)]).tolist()
        self._slices = list(map(slice, ends, ends[1:]))

    def __call__(self) -> dict[str, npt.NDArray[np.float64]]:
        data = self._body.data
        seen = np.concatenate([read(data) for read in self._reads])[self._order_of_all]
        return {name: seen[place] for name, place in zip(self._names, self._slices, strict=True)}

    def _order(self, env: Any, near: dict[int, Any]) -> npt.NDArray[np.int64]:
        """Where one agent's numbers are, in the library's order (`obsk.build_obs`): its own joints and those around
        them by their distance, then what belongs to nobody."""
        found: list[npt.NDArray[np.int64]] = []
        bodies: set[tuple[str, int]] = set()  # each is seen once
        for distance in sorted(near):
            for joint in near[distance]:
                for category in env.local_categories[distance]:
                    if category in joint.extra_obs or category in OF_JOINTS or category in OF_BODIES:
                        found += self._of(joint, category, bodies)
        bodies = set()
        for category in env.global_categories:
            for joint in env.mujoco_globals:
                found += self._of(joint, category, bodies)
        return np.concatenate(found)

    def _of(self, joint: Any, category: str, bodies: set[tuple[str, int]]) -> list[npt.NDArray[np.int64]]:
        own = joint.extra_obs.get(category)
        if own is not None:
            return [self._place((id(joint), category), lambda data: np.ravel(own(data)))]
        if category in OF_JOINTS:
            numbers = self._place(category, lambda data: getattr(data, category))
            return [numbers[[getattr(joint, OF_JOINTS[category])]]]
        new = [body for body in joint.bodies if (category, body) not in bodies]
        bodies.update((category, body) for body in new)
        return [self._of_body(joint, category, body) for body in new]

    def _of_body(self, joint: Any, category: str, body: int) -> npt.NDArray[np.int64]:
        changed = joint.body_fn
        if changed is None:
            return self._place((category, body), lambda data: np.ravel(getattr(data, category)[body]))
        return self._place(
            (category, body, id(joint)),
            lambda data: np.ravel(changed(body, getattr(data, category)[body].tolist())),
        )

    def _place(self, source: Hashable, read: Read) -> npt.NDArray[np.int64]:
        """Where the numbers of `source` are among all that are read."""
        if source not in self._places:
            count = len(read(self._body.data))
            self._places[source] = np.arange(self._size, self._size + count)
            self._reads.append(read)
            self._size += count
        return self._places[source]


class Joined:
    """The agents' actions as the body takes them: the environment's own `map_local_actions_to_global_action`."""

    def __init__(self, env: Any) -> None:
        self._by_library = env.map_local_actions_to_global_action
        self._names: list[str] = list(env.possible_agents)
        size = env.single_agent_env.action_space.shape[0]
        places = [joint.act_ids for part in env.agent_action_partitions for joint in part]
        self._places = np.array(places, np.int64) % size
        self._whole = sorted(self._places.tolist()) == list(range(size))

    def __call__(self, actions: dict[str, npt.NDArray[Any]]) -> Any:
        if not self._whole:
            return self._by_library(actions)  # it says what is wrong
        joined = np.empty(len(self._places))
        joined[self._places] = np.concatenate([actions[name] for name in self._names])
        return self._by_library(actions) if np.isnan(joined).any() else joined


def quickened(env: Any) -> Any:
    """`env`, whose observations and actions take these ways. As it is where it is built otherwise than expected: the
    library's own functions then stay."""
    try:
        views, joined = Views(env), Joined(env)
        same = _equal(views(), env._get_obs())
    except (AttributeError, TypeError, IndexError, ValueError):
        return env
    if same:
        env._get_obs, env.map_local_actions_to_global_action = views, joined
    return env


def _equal(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    pairs: Sequence[tuple[Any, Any]] = [(ours.get(name), seen) for name, seen in theirs.items()]
    return len(ours) == len(theirs) and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
