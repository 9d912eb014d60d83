"""HyperMARL (Tessera et al. 2025, arXiv 2412.04233): an agent's layers are generated from who it is, never from what
it sees.

For each generated layer two heads of their own, one for the weight and one for the bias. `hyper_linear` takes the
one-hot identity: without the shared offset (`hyper.bias`) this is a layer of its own for each. `hyper_mlp` takes a
learned embedding, common to all heads, through a hidden layer (ReLU).

Initialisation: each row of a weight head is an orthogonal matrix of the layer's shape, drawn by itself, times the gain
that the layer would have had; bias heads, and the heads' own biases, are zero. So every generated bias begins as zero,
and with one-hot identities every generated weight is orthogonal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from phalanx.configs.settings import AgentSettings


class HyperNetwork(nn.Module):
    """S hypernetworks side by side, each of which knows some identities and generates the layers that it was given."""

    def __init__(self, stacks: int, identities: int, settings: AgentSettings) -> None:
        super().__init__()
        self.stacks, self.identities, self._chosen = stacks, identities, settings.hyper.layers
        self._shapes: dict[str, tuple[int, int]] = {}
        self._settings = settings
        self.weights, self.biases = nn.ModuleDict(), nn.ModuleDict()
        self.embeddings: nn.Parameter | None = None
        if settings.network == "hyper_mlp":
            table = torch.stack([orthogonal(identities, settings.hyper.embedding, math.sqrt(2)) for _ in range(stacks)])
            self.embeddings = nn.Parameter(table)

    def generates(self, name: str) -> bool:
        return self._chosen == "all" or name in self._chosen

    def add(self, name: str, inputs: int, outputs: int, gain: float) -> None:
        """A layer [outputs, inputs] to generate."""
        self._shapes[name] = (outputs, inputs)
        weight, self.biases[name] = self._head(outputs * inputs), self._head(outputs)
        self.weights[name] = weight
        for row in weight.kernel.data.flatten(0, 1):
            row.copy_(orthogonal(outputs, inputs, gain).flatten())

    def _head(self, size: int) -> LinearHead | MLPHead:
        hyper = self._settings.hyper
        if self._settings.network == "hyper_linear":
            return LinearHead(self.stacks, self.identities, size, hyper.bias)
        return MLPHead(self.stacks, hyper.embedding, hyper.width, size)

    def generate(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Weight [S·identities, out, in] and bias [S·identities, out] of every generated layer."""
        layers = {}
        for name, shape in self._shapes.items():
            weight, bias = self.weights[name](self.embeddings), self.biases[name](self.embeddings)
            layers[name] = weight.reshape(-1, *shape), bias.flatten(0, 1)
        return layers


class LinearHead(nn.Module):
    """The one-hot identity times a matrix: its row. Returns [S, identities, size]."""

    def __init__(self, stacks: int, identities: int, size: int, bias: bool) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(stacks, identities, size))
        self.bias = nn.Parameter(torch.zeros(stacks, 1, size)) if bias else None

    def forward(self, embeddings: Tensor | None) -> Tensor:
        return self.kernel if self.bias is None else self.kernel + self.bias


class MLPHead(nn.Module):
    """Linear, ReLU, Linear of the embeddings [S, identities, D]. Returns [S, identities, size]."""

    def __init__(self, stacks: int, inputs: int, width: int, size: int) -> None:
        super().__init__()
        # Normal with variance 1 / inputs, cut off at two deviations (LeCun; the constant makes up for the cut).
        first = torch.empty(stacks, inputs, width)
        nn.init.trunc_normal_(first, std=1.0, a=-2.0, b=2.0)
        self.first = nn.Parameter(first / (0.87962566 * math.sqrt(inputs)))
        self.first_bias = nn.Parameter(torch.zeros(stacks, 1, width))
        self.kernel = nn.Parameter(torch.zeros(stacks, width, size))
        self.bias = nn.Parameter(torch.zeros(stacks, 1, size))

    def forward(self, embeddings: Tensor) -> Tensor:
        features = torch.relu(torch.baddbmm(self.first_bias, embeddings, self.first))
        return torch.baddbmm(self.bias, features, self.kernel)


def orthogonal(rows: int, columns: int, gain: float) -> Tensor:
    """A matrix whose shorter side's vectors are orthogonal and `gain` long (Saxe et al. 2013)."""
    matrix = torch.empty(rows, columns)
    nn.init.orthogonal_(matrix, gain)
    return matrix
