"""Small feed-forward policies in plain numpy, kept in one file: trained opponents that need no learner to act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.team import Bools, Floats

LAYERS = "layer"


class FrozenPolicy:
    """A TeamPolicy of agents who share one network: linear layers with ReLU between them, then the best available
    action. layers: weight [out, in] and bias [out] of each. Nothing is remembered from one step to the next."""

    def __init__(self, layers: list[tuple[Floats, Floats]]) -> None:
        self.layers = layers

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers an agent sees, and among how many actions it chooses."""
        return self.layers[0][0].shape[1], self.layers[-1][0].shape[0]

    def reset(self, num_envs: int) -> None:
        """Nothing to forget."""

    def reset_rows(self, rows: npt.NDArray[Any]) -> None:
        """Nothing to forget."""

    def act(self, obs: Floats, avail: Bools) -> npt.NDArray[np.int64]:
        """Actions [E, n] for obs [E, n, O] and avail [E, n, A]."""
        values = np.where(avail, self.values(obs), -np.inf)
        chosen: npt.NDArray[np.int64] = values.argmax(-1)
        return chosen

    def values(self, obs: Floats) -> Floats:
        """The last layer's numbers, [..., A]."""
        x = obs.reshape(-1, obs.shape[-1])
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0)
        weight, bias = self.layers[-1]
        return (x @ weight.T + bias).reshape(*obs.shape[:-1], -1)

    def save(self, path: Path) -> None:
        """Writes all layers, as float32 arrays."""
        arrays: dict[str, Any] = {}
        for k, (weight, bias) in enumerate(self.layers):
            arrays[f"{LAYERS}{k}_weight"] = np.asarray(weight, np.float32)
            arrays[f"{LAYERS}{k}_bias"] = np.asarray(bias, np.float32)
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> FrozenPolicy:
        """What `save` wrote. UserError where it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                count = len(arrays.files) // 2
                layers = [(arrays[f"{LAYERS}{k}_weight"], arrays[f"{LAYERS}{k}_bias"]) for k in range(count)]
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise UserError(f"{path} is not a frozen policy: {(str(error).splitlines() or ['empty'])[0]}") from error
        if not layers:
            raise UserError(f"{path} is not a frozen policy: it has no layers")
        return cls(layers)
