"""HATRPO: sequential updates within a trust region (Kuba et al. 2022, arXiv 2109.11251)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from phalanx.algorithms.base import OptimiserStep
from phalanx.algorithms.common.distributions import Distribution
from phalanx.algorithms.haa2c import HAA2C
from phalanx.algorithms.on_policy import CRITIC
from phalanx.algorithms.on_policy_batch import Experience, Prepared, mean_over
from phalanx.algorithms.on_policy_settings import GroupedSettings
from phalanx.configs.settings import AlgorithmSettings

PROBE = (
    1e-2  # length of the step over which the divergence's gradient is differenced: float32 bears no much shorter one
)
SMALL = 1e-10


class HATRPOSettings(GroupedSettings):
    lr: float = Field(default=5e-4, gt=0, description="learning rate of the critic; the policies have none")
    epochs: int = Field(
        default=5, ge=1, description="how often the critic learns from each batch; the policies do once"
    )
    minibatches: int = Field(
        default=1, ge=1, description="parts that an epoch of the critic splits the batch's episodes into"
    )
    entropy: float = Field(default=0.0, ge=0, description="weight of the policies' entropy in what a step is to raise")
    kl_limit: float = Field(
        default=0.01, gt=0, description="δ, mean divergence from the old policy that a step may cause"
    )
    cg_iterations: int = Field(default=10, ge=1, description="iterations of the conjugate gradients")
    damping: float = Field(default=0.1, ge=0, description="added to the Fisher matrix's diagonal")
    line_search: int = Field(
        default=10, ge=1, description="step lengths that are tried, each shorter than the one before"
    )
    backtrack: float = Field(default=0.8, gt=0, lt=1, description="ratio of one tried length to the one before")
    accept: float = Field(
        default=0.5, ge=0, lt=1, description="share of the gain promised by the gradient that a step must reach"
    )


class HATRPO(HAA2C):
    """HAPPO whose turns are one step each of natural gradient: along F⁻¹ g, as long as the divergence's second order
    allows, shortened until the mean KL(π ‖ π_θ) is below δ and the objective has risen; otherwise not made.

    F v is the central difference of the divergence's gradient along v: it takes first derivatives alone, which is all
    that the compiled recurrence has. The policies move without an optimiser.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = HATRPOSettings
    settings: HATRPOSettings

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {CRITIC: list(self.critic.parameters())}

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.actors.parameters(), *self.critic.parameters()]

    def policy_parts(self, prepared: Prepared) -> list[Tensor | None]:
        return [None]

    def policy_step(
        self, experience: Experience, group: int, slots: list[int], agents: list[int], distribution: Distribution
    ) -> OptimiserStep:
        mask, prepared = experience.prepared.mask, experience.prepared
        parameters = list(self.actors.of_group(group).parameters())
        loss, metrics = self.policy_loss(experience, slots, agents, distribution)
        gradient, damping = _gradient(loss, parameters), self.settings.damping
        old, start = distribution.frozen(), _joined([p.detach() for p in parameters])

        def divergence() -> Tensor:
            return mean_over(old.kl(self.distribution(prepared, group))[..., slots], mask)

        def slope(at: Tensor) -> Tensor:
            _assign(parameters, at)
            return _gradient(divergence(), parameters)

        def fisher(v: Tensor) -> Tensor:
            size = PROBE / (v.norm() + SMALL)
            product: Tensor = (slope(start + size * v) - slope(start - size * v)) / (2 * size)
            return product + damping * v

        direction = conjugate_gradients(fisher, -gradient, self.settings.cg_iterations)
        curvature = float(direction @ fisher(direction))
        step = direction * math.sqrt(2 * self.settings.kl_limit / max(curvature, SMALL))
        with torch.no_grad():

            def outcome(share: float) -> tuple[float, float]:
                _assign(parameters, start + share * step)
                moved = self.distribution(prepared, group)
                after, _ = self.policy_loss(experience, slots, agents, moved)
                return float(loss - after), float(mean_over(old.kl(moved)[..., slots], mask))

            taken, kl = self._search(outcome, promised=-float(gradient @ step))
            _assign(parameters, start + taken * step)
        metrics |= {"kl": loss.new_tensor(kl), "step_taken": loss.new_tensor(taken)}
        return OptimiserStep(self.group_name(group), loss.detach(), metrics, made=True)

    def _search(self, outcome: Callable[[float], tuple[float, float]], promised: float) -> tuple[float, float]:
        """The first share of the step that is good enough, with its divergence; 0, 0 where none is. `outcome`: gain
        and divergence of a share."""
        share = 1.0
        for _ in range(self.settings.line_search):
            gain, kl = outcome(share)
            if kl <= self.settings.kl_limit and gain > 0 and gain >= self.settings.accept * share * promised:
                return share, kl
            share *= self.settings.backtrack
        return 0.0, 0.0


def conjugate_gradients(product: Callable[[Tensor], Tensor], wanted: Tensor, iterations: int) -> Tensor:
    """x with A x ≈ `wanted`, for a symmetric positive A of which only `product`, v -> A v, is known (Hestenes and
    Stiefel 1952)."""
    x, rest = torch.zeros_like(wanted), wanted.clone()
    direction, size = rest.clone(), rest @ rest
    for _ in range(iterations):
        if float(size) < SMALL * float(wanted @ wanted) + torch.finfo(wanted.dtype).tiny:
            break
        image = product(direction)
        length = size / (direction @ image)
        x += length * direction
        rest -= length * image
        before, size = size, rest @ rest
        direction = rest + (size / before) * direction
    return x


def _gradient(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return _joined([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def _assign(parameters: list[nn.Parameter], values: Tensor) -> None:
    """In place: the memory is shared with others."""
    start = 0
    for parameter in parameters:
        parameter.copy_(values[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()
