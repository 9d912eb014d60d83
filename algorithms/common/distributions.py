"""What policies give: distributions over each agent's action, on tensors, with all randomness handed in as noise.

Shapes end with [..., N, X]: N agents and X numbers for each, A choices (discrete) or D components (continuous, the
smaller agents padded with zeros). What speaks of whole actions, such as `log_prob`, is [..., N].
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LOG_STD_RANGE = (-20.0, 2.0)  # of a tanh-Gaussian's deviations, as in soft actor-critic's authors' code
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Distribution(ABC):
    """Of the actions of several agents, each for itself."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The greedy action: int64 [..., N], or [..., N, D]."""

    @abstractmethod
    def sample(self, noise: Tensor) -> Tensor:
        """An action, like `mode`; noise: [..., N, X], see `gumbel` (discrete) and `normal` (continuous)."""

    @abstractmethod
    def differentiable(self, noise: Tensor | None = None) -> Tensor:
        """An action as centralised critics take it, [..., N, X], with gradients: one-hot where discrete. It is
        `sample(noise)` or, without noise, `mode()`."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """[..., N]: of actions like `mode`'s."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """[..., N], in nats."""

    @abstractmethod
    def kl(self, other: Distribution) -> Tensor:
        """[..., N]: KL(self ‖ other), of two distributions of the same kind."""

    def frozen(self: _Kind) -> _Kind:
        """A copy without gradients, which stays what it is when parameters are moved in place."""
        kept = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(kept, name, value.detach().clone())
        return kept


class Categorical(Distribution):
    """One of A choices; unavailable ones have probability zero and get no gradient.

    logits: [..., N, A]; avail: the same shape, bool, with something available in each row.
    """

    def __init__(self, logits: Tensor, avail: Tensor) -> None:
        # Finite, so that 0 · log 0 is 0; a quarter, so that noise and differences do not leave the range.
        self.logits = logits.masked_fill(~avail, torch.finfo(logits.dtype).min / 4)
        self.log_probs = torch.log_softmax(self.logits, -1)

    @property
    def probs(self) -> Tensor:
        """[..., N, A]."""
        return self.log_probs.exp()

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def sample(self, noise: Tensor) -> Tensor:
        return (self.logits + noise).argmax(-1)

    def differentiable(self, noise: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Straight-through Gumbel-softmax (Jang et al. 2017, arXiv 1611.01144): the one-hot action, with the gradient
        of softmax((logits + noise) / temperature)."""
        noisy = self.logits if noise is None else self.logits + noise
        soft = torch.softmax(noisy / temperature, -1)
        hard = torch.zeros_like(soft).scatter_(-1, noisy.argmax(-1, keepdim=True), 1.0)
        return hard + (soft - soft.detach())

    def log_prob(self, actions: Tensor) -> Tensor:
        """actions: int64 [..., N], or one-hot [..., N, A] with gradients."""
        if actions.is_floating_point():
            return (actions * self.log_probs).sum(-1)
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.log_probs).sum(-1)

    def kl(self, other: Distribution) -> Tensor:
        other = _same_kind(self, other)
        return (self.probs * (self.log_probs - other.log_probs)).sum(-1)


class Gaussian(Distribution):
    """Independent components, not squashed: the environment cuts actions to [-1, 1], densities are of what was drawn.

    mean: [..., N, D]; log_std: broadcast to it; used: bool, broadcast to it: components that agents have (the others
    are 0 and count for nothing), None: all.
    """

    def __init__(self, mean: Tensor, log_std: Tensor, used: Tensor | None = None) -> None:
        self.used = None if used is None else used.to(mean.dtype)
        self.mean, self.log_std = self._cut(mean), log_std

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self._cut(self.log_std.exp() * noise)

    def differentiable(self, noise: Tensor | None = None) -> Tensor:
        return self.mean if noise is None else self.sample(noise)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self._summed(
            -0.5 * ((actions - self.mean) * (-self.log_std).exp()).square() - self.log_std - _HALF_LOG_TAU
        )

    def entropy(self) -> Tensor:
        return self._summed((self.log_std + 0.5 + _HALF_LOG_TAU).expand_as(self.mean))

    def kl(self, other: Distribution) -> Tensor:
        other = _same_kind(self, other)
        ratio = (2 * (self.log_std - other.log_std)).exp()
        apart = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return self._summed(0.5 * (ratio + apart - 1) + other.log_std - self.log_std)

    def _cut(self, x: Tensor) -> Tensor:
        return x if self.used is None else x * self.used

    def _summed(self, x: Tensor) -> Tensor:
        return self._cut(x).sum(-1)


class TanhGaussian(Gaussian):
    """tanh of independent normal components (soft actor-critic, arXiv 1812.05905, appendix C): actions in (-1, 1).

    `log_std` is cut to `LOG_STD_RANGE`. `mode` is tanh of the mean, as usual, which is not the density's maximum.
    """

    def __init__(self, mean: Tensor, log_std: Tensor, used: Tensor | None = None) -> None:
        super().__init__(mean, log_std.clamp(*LOG_STD_RANGE), used)

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(super().sample(noise))

    def differentiable(self, noise: Tensor | None = None) -> Tensor:
        return self.mode() if noise is None else self.sample(noise)

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An action [..., N, D] and its log-probability [..., N], exact however near the action is to -1 or 1."""
        before = Gaussian.sample(self, noise)
        return torch.tanh(before), self._log_prob_before(before)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Of actions, which are taken for a little less than 1 where rounding made them 1."""
        limit = 1 - torch.finfo(actions.dtype).eps
        return self._log_prob_before(torch.atanh(actions.clamp(-limit, limit)))

    def entropy(self) -> Tensor:
        """There is no closed form."""
        raise NotImplementedError("a tanh-Gaussian's entropy is estimated: minus the log-probability of samples")

    def _log_prob_before(self, before: Tensor) -> Tensor:
        # log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)), without cancellation
        slope = 2 * (math.log(2) - before - torch.nn.functional.softplus(-2 * before))
        return Gaussian.log_prob(self, before) - self._summed(slope)


class Deterministic(Distribution):
    """tanh of what the network gives: one action in [-1, 1] per component. Has a mode, but no densities."""

    def __init__(self, raw: Tensor, used: Tensor | None = None) -> None:
        self.used = used
        self.actions = torch.tanh(raw if used is None else raw * used.to(raw.dtype))

    def mode(self) -> Tensor:
        return self.actions

    def sample(self, noise: Tensor) -> Tensor:
        """The action plus noise (already scaled), cut to [-1, 1]; its gradient is the mode's where it is not cut."""
        return (self.actions + (noise if self.used is None else noise * self.used.to(noise.dtype))).clamp(-1, 1)

    def differentiable(self, noise: Tensor | None = None) -> Tensor:
        return self.actions if noise is None else self.sample(noise)

    def log_prob(self, actions: Tensor) -> Tensor:
        """There is none."""
        raise NotImplementedError("a deterministic policy has no log-probabilities")

    def entropy(self) -> Tensor:
        """There is none."""
        raise NotImplementedError("a deterministic policy has no entropy")

    def kl(self, other: Distribution) -> Tensor:
        """There is none."""
        raise NotImplementedError("deterministic policies have no divergence")


def gumbel(rng: np.random.Generator, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard Gumbel noise from numpy's generator, of `like`'s precision and on its device."""
    return _moved(rng.gumbel(size=shape), like)


def normal(rng: np.random.Generator, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal noise from numpy's generator, of `like`'s precision and on its device."""
    return _moved(rng.standard_normal(shape), like)


def _moved(noise: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(noise).to(dtype=like.dtype, device=like.device)


_Kind = TypeVar("_Kind", bound=Distribution)


def _same_kind(one: _Kind, other: Distribution) -> _Kind:
    if not isinstance(other, type(one)):
        raise TypeError(f"a divergence is between distributions of one kind: {type(one)} and {type(other)}")
    return other
