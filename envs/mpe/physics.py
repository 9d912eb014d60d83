"""Batched particle physics: E worlds of round bodies in the plane, stepped together in float64.

The equations, and the order of every floating point operation, are those of mpe2's `World.step`, so that the two
agree to the bit; see `ParticleWorld.step` for the integrator of the older lineage.

Arrays have the environments last, so that every operation runs over long contiguous rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Integrator = Literal["mpe2", "original"]

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 1e2
CONTACT_MARGIN = 1e-3
N_ACTIONS = 5
DIRECTIONS: Doubles = np.array([[0.0, -1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0, 1.0]])
"""[2, 5]: where the actions nothing, left, right, down, up push."""
NOTHING = slice(0, 1)
"""The first action alone, for `ParticleWorld.foresee`."""


@dataclass(frozen=True)
class Bodies:
    """What moves and what stands in a world: agents first, then landmarks; all masses are 1."""

    sizes: tuple[float, ...]  # radius of each body
    push: tuple[float, ...]  # force of an agent's action, one for each agent
    max_speed: tuple[float, ...]  # one for each agent; inf where there is no limit
    solid: int  # the first so many bodies collide with one another (0, or at least all agents)

    @property
    def n_agents(self) -> int:
        return len(self.push)


class ParticleWorld:
    """State of E worlds with M bodies, A of them agents, and what observations and rewards are made from.

    Every number that may be observed lives in one buffer [F, E] of rows, so that all observations are one gather
    (`pos_rows`, `vel_rows`, `rel_rows` and `extra_rows` say which rows hold what). Views into it:

    pos [2, M, E], vel [2, A, E], rel [M-1, 2, A, E], extra [n_extra, E]: `rel[k, :, i]` is the position, seen from
    agent i, of the k-th of the other bodies in ascending order; `dist` [M-1, A, E] is its length. `extra` is the
    task's.
    """

    def __init__(self, bodies: Bodies, num_envs: int, integrator: Integrator, n_extra: int = 0) -> None:
        m, a = len(bodies.sizes), bodies.n_agents
        self.bodies, self.num_envs, self.n_bodies, self.n_agents = bodies, num_envs, m, a
        self._velocity_first = integrator == "original"
        ends = np.cumsum([2 * m, 2 * a, (m - 1) * 2 * a, n_extra])
        self.rows: Doubles = np.zeros((ends[-1], num_envs))
        pos, vel, rel, extra = np.split(self.rows, ends[:-1])
        self.pos = pos.reshape(2, m, num_envs)
        self.vel = vel.reshape(2, a, num_envs)
        self.rel = rel.reshape(m - 1, 2, a, num_envs)
        self.extra = extra
        self.dist: Doubles = np.zeros((m - 1, a, num_envs))
        self._first_vel, self._first_rel, self._first_extra = (int(end) for end in ends[:-1])
        agent = np.arange(a)
        k = np.arange(m - 1)[:, None]
        self.others: Rows = k + (k >= agent)  # [M-1, A]: which body `rel[k, :, i]` is about
        sizes = np.array(bodies.sizes)
        self.touch: Doubles = (sizes[agent] + sizes[self.others])[:, :, None]
        """[M-1, A, 1]: bodies touch where `dist` is below the sum of their radii."""
        self._moving = self.pos[:, :a]
        self._rel_bodies: Rows = self.others[:, None, :] + np.array([0, m])[:, None]  # rows of pos, one by one
        self._pos_flat = pos
        self._push: Doubles = np.array(bodies.push)[:, None]
        self._max_speed: Doubles = np.array(bodies.max_speed)[:, None]
        self._limited = bool(np.isfinite(self._max_speed).any())
        self._contacts = max(bodies.solid - 1, 0)  # of each agent, with the first so many other bodies
        self._forces: Doubles = np.zeros((1 + self._contacts, 2, a, num_envs))
        self._squares: Doubles = np.empty_like(self.rel)
        self._depth: Doubles = np.empty((self._contacts, a, num_envs))

    def pos_rows(self, body: int) -> list[int]:
        return [body, self.n_bodies + body]

    def vel_rows(self, agent: int) -> list[int]:
        return [self._first_vel + agent, self._first_vel + self.n_agents + agent]

    def rel_rows(self, agent: int, body: int) -> list[int]:
        """Rows of the position of `body` seen from `agent`; the two differ."""
        k = body - (body > agent)
        first = self._first_rel + 2 * k * self.n_agents + agent
        return [first, first + self.n_agents]

    def extra_rows(self, *extra: int) -> list[int]:
        return [self._first_extra + e for e in extra]

    def place(self, rows: Rows, positions: Doubles) -> None:
        """Puts the bodies of worlds `rows` at `positions` [rows, M, 2], at rest."""
        self.pos[:, :, rows] = positions.transpose(2, 1, 0)
        self.vel[:, :, rows] = 0.0
        self._look()

    def step(self, actions: npt.NDArray[Any]) -> None:
        """One step of 0.1 s; actions [A, E] in 0..4.

        The integrator `mpe2` moves bodies with the velocity they had and then changes the velocity; `original`
        (OpenAI's particle environments and their descendants) changes the velocity first.
        """
        force = self._force(actions)
        if self._velocity_first:
            self._accelerate(force)
            self._moving += self.vel * DT
        else:
            self._moving += self.vel * DT
            self._accelerate(force)
        self._look()

    def foresee(self, agents: slice, actions: slice = slice(None)) -> tuple[Doubles, Doubles]:
        """Where `actions` (of the five) would take `agents` if nothing touched them: (next, rest), [actions, 2, n, E].

        `next` is the position after the first move that the action has a part in, `rest` the one where the agent
        would come to a halt if it did nothing from then on.
        """
        push = DIRECTIONS.T[actions, :, None, None] * self._push[agents]
        speed: Doubles = self.vel[:, agents] * (1 - DAMPING) + push * DT
        if self._limited:
            length = np.sqrt(speed[:, 0] ** 2 + speed[:, 1] ** 2)
            speed *= (self._max_speed[agents] / np.maximum(length, self._max_speed[agents]))[:, None]
        here = self._moving[:, agents]
        start: Doubles = here if self._velocity_first else here + self.vel[:, agents] * DT
        return start + speed * DT, start + speed * (DT / DAMPING)

    def _force(self, actions: npt.NDArray[Any]) -> Doubles:
        """[2, A, E]: the agents' own push plus what the bodies they touch exert, summed in ascending order."""
        np.multiply(DIRECTIONS.take(actions, axis=1), self._push, out=self._forces[0])
        c = self._contacts
        if c == 0:
            own: Doubles = self._forces[0]
            return own
        dist, depth, contact = self.dist[:c], self._depth, self._forces[1:]
        np.subtract(dist, self.touch[:c], out=depth)
        depth /= -CONTACT_MARGIN
        np.logaddexp(0.0, depth, out=depth)
        depth *= CONTACT_MARGIN
        np.multiply(self.rel[:c], -CONTACT_FORCE, out=contact)
        contact /= dist[:, None]
        contact *= depth[:, None]
        total: Doubles = np.add.reduce(self._forces, axis=0)
        return total

    def _accelerate(self, force: Doubles) -> None:
        vel = self.vel
        vel *= 1 - DAMPING
        vel += force * DT
        if self._limited:
            speed = np.sqrt(vel[0] * vel[0] + vel[1] * vel[1])
            fast = speed > self._max_speed
            if fast.any():
                np.divide(vel, speed, out=vel, where=fast)
                np.multiply(vel, self._max_speed, out=vel, where=fast)

    def _look(self) -> None:
        """Brings `rel` and `dist` up to date with `pos`."""
        # The indices are right by construction; mode="clip" spares numpy the detour through a buffer.
        self._pos_flat.take(self._rel_bodies, axis=0, out=self.rel, mode="clip")
        np.subtract(self.rel, self._moving, out=self.rel)
        np.multiply(self.rel, self.rel, out=self._squares)
        np.add(self._squares[:, 0], self._squares[:, 1], out=self.dist)
        np.sqrt(self.dist, out=self.dist)
