"""What environments with the Parallel API show, and which part of it is one side's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phalanx.envs.parallel import Agent
from phalanx.envs.team import Bools, Floats


@dataclass
class Side:
    """Some agents (the team, or its opponents) and where their observations lie in the flat vector of all."""

    agents: list[Agent]
    slices: list[slice]
    width: int  # largest observation
    choices: int  # largest number of actions; 0 where they are continuous
    legal: Bools  # [n, choices]: each agent's own actions

    @classmethod
    def of(cls, agents: list[Agent], slices: dict[str, slice], discrete: bool) -> Side:
        sizes = [agent.choices if discrete else 0 for agent in agents]
        choices = max(sizes, default=0)
        legal = np.arange(choices) < np.array(sizes, dtype=np.int64)[:, None]
        width = max((agent.size for agent in agents), default=0)
        return cls(agents, [slices[agent.name] for agent in agents], width, choices, legal)

    def view(self, frame: Frame) -> tuple[Floats, Bools, Bools]:
        """obs [R, n, width], avail [R, n, choices] and alive [R, n], new arrays."""
        rows = len(frame.flat)
        obs = np.zeros((rows, len(self.agents), self.width), np.float32)
        for i, place in enumerate(self.slices):
            obs[:, i, : place.stop - place.start] = frame.flat[:, place]
        avail = np.repeat(self.legal[None], rows, axis=0)
        alive = np.ones((rows, len(self.agents)), np.bool_)
        for r in range(rows):
            shown, masks = frame.shown[r], frame.masks[r]
            if not masks and shown is frame.everyone:
                continue
            for i, agent in enumerate(self.agents):
                if agent.name not in shown:
                    alive[r, i] = False
                    avail[r, i] = False
                    avail[r, i, :1] = True
                elif agent.name in masks:
                    mask = masks[agent.name]
                    avail[r, i, : mask.size] = mask
        return obs, avail, alive


class Frame:
    """What R environments show: everything that an `Obs` is made from, in arrays of its own."""

    def __init__(self, flat: Floats, state: Floats | None, everyone: frozenset[str]) -> None:
        self.flat = flat  # [R, total]: every agent's observation, zeros for who is not there
        self.state = state  # [R, S] of env.state(), where it is asked for
        self.everyone = everyone
        self.shown: list[frozenset[str]] = [everyone] * len(flat)  # who is there
        self.masks: list[dict[str, Bools]] = [{} for _ in range(len(flat))]  # the masks that were given

    def row(self, r: int) -> Frame:
        copy = Frame(
            self.flat[r : r + 1].copy(), None if self.state is None else self.state[r : r + 1].copy(), self.everyone
        )
        copy.shown, copy.masks = [self.shown[r]], [self.masks[r]]
        return copy


def stacked(rows: list[Frame]) -> Frame:
    """What all of them show, one after the other."""
    states = [row.state for row in rows if row.state is not None]
    together = Frame(
        np.concatenate([row.flat for row in rows]), np.concatenate(states) if states else None, rows[0].everyone
    )
    together.shown = [row.shown[0] for row in rows]
    together.masks = [row.masks[0] for row in rows]
    return together
