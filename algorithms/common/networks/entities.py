"""From flat inputs to entities, and from entities' values to actions' values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.networks.view import AgentView
from phalanx.envs.team import EntityView


@dataclass(frozen=True)
class EntityLayout:
    """Where entities lie in what an agent sees, and which actions are aimed at enemies.

    `own` is the agent itself with its last action and id, where it sees them. Kinds without entities are left out.
    """

    own: tuple[int, ...]
    kinds: dict[str, tuple[tuple[int, ...], ...]]  # "enemies", "allies", "objects": columns of each entity
    marks: tuple[tuple[float, ...], ...]  # of objects
    actions: int  # or other outputs
    aimed: tuple[int, ...]  # action aimed at each enemy, or ()

    @classmethod
    def of(cls, entities: EntityView, view: AgentView, outputs: int, *, aim: bool = True) -> EntityLayout:
        """For networks with so many outputs; without `aim` none of them belongs to an enemy."""
        kinds = {kind: getattr(entities, kind) for kind in ("enemies", "allies", "objects")}
        return cls(
            own=entities.own + tuple(range(view.obs, view.size)),
            kinds={kind: columns for kind, columns in kinds.items() if columns},
            marks=entities.object_marks,
            actions=outputs,
            aimed=entities.enemy_actions if aim else (),
        )

    @property
    def basic(self) -> tuple[int, ...]:
        """Actions that are aimed at nobody."""
        return tuple(action for action in range(self.actions) if action not in self.aimed)

    def size(self, kind: str) -> int:
        """How many numbers describe an entity."""
        marks = len(self.marks[0]) if kind == "objects" and self.marks else 0
        return len(self.kinds[kind][0]) + marks

    def count(self, kind: str) -> int:
        return len(self.kinds.get(kind, ()))


class EntityReader(nn.Module):
    """The layout's indices as tensors, which move with the network; no parameters and nothing to save."""

    _own: Tensor
    _marks: Tensor
    _order: Tensor

    def __init__(self, layout: EntityLayout) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("_own", torch.tensor(layout.own, dtype=torch.int64), persistent=False)
        for kind, entities in layout.kinds.items():
            self.register_buffer(f"_{kind}", torch.tensor(entities, dtype=torch.int64).flatten(), persistent=False)
        self.register_buffer("_marks", torch.tensor(layout.marks), persistent=False)
        order = torch.tensor(layout.basic + layout.aimed, dtype=torch.int64)
        self.register_buffer("_order", order.argsort(), persistent=False)

    def own(self, x: Tensor) -> Tensor:
        """x: [..., I]. Returns [..., own features]."""
        return x.index_select(-1, self._own)

    def entities(self, x: Tensor, kind: str) -> Tensor:
        """x: [..., I]. Returns [..., entities of the kind, features]."""
        features = x.index_select(-1, getattr(self, f"_{kind}")).view(*x.shape[:-1], self.layout.count(kind), -1)
        if kind != "objects" or not self.layout.marks:
            return features
        marks = self._marks.to(x.dtype).expand(*features.shape[:-1], -1)
        return torch.cat([features, marks], -1)

    def ordered(self, basic: Tensor, aimed: Tensor) -> Tensor:
        """Values of the basic actions [..., b] and of those aimed at each enemy [..., m]. Returns [..., A]."""
        if not self.layout.aimed:
            return basic
        return torch.cat([basic, aimed], -1).index_select(-1, self._order)
