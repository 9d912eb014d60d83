"""Masks, greedy actions and one-step targets, time first: [T, B, …]."""

from __future__ import annotations

import torch
from torch import Tensor

UNAVAILABLE = -9999999.0  # PyMARL's stand-in for an impossible action's value: finite, so that 0 · value stays 0


def transition_mask(filled: Tensor, terminated: Tensor) -> Tensor:
    """What is learned from: filled transitions up to and including the terminal one.

    filled: [B, T+1], terminated: [B, T], bool. Returns [T, B] bool.
    """
    mask = filled[:, :-1].clone()
    mask[:, 1:] &= ~terminated[:, :-1]
    return mask.t()


def mask_unavailable(values: Tensor, avail: Tensor) -> Tensor:
    """values, avail: [..., A]. Impossible actions get a value that no maximum picks."""
    return values.masked_fill(~avail, UNAVAILABLE)


def take(values: Tensor, actions: Tensor) -> Tensor:
    """values: [..., N, A], actions: [..., N]. The values of the actions, [..., N]."""
    return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def one_step_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """y = r + γ (1 − terminated) · next. reward, terminated: [T, B]; next_value: [..., T, B]."""
    return reward + gamma * torch.where(terminated, torch.zeros_like(next_value), next_value)
