"""What transformers over entities are made of. Tokens are [S, M, n, …]: stacks, rows, entities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from phalanx.algorithms.common.linear import affine


def project(tokens: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    """A linear layer on every token. tokens: [S, …, I]. Returns [S, …, O]."""
    flat = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
    return affine(flat, *layer).view(-1, *tokens.shape[1:-1], layer[0].shape[1])


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Scaled dot products, each head its part of the last axis. queries: [S, M, q, W], keys and values: [S, M, n, W].
    Returns [S, M, q, W]."""

    def by_head(x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[2], heads, x.shape[3] // heads).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(by_head(queries), by_head(keys), by_head(values))
    return mixed.transpose(1, 2).reshape(queries.shape)


def normalised(x: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Layer normalisation of every token. x: [S, M, n, H]; scale and offset: [S, H]."""
    if len(scale[0]) == 1:
        return functional.layer_norm(x, x.shape[-1:], scale[0][0], scale[1][0])
    plain = functional.layer_norm(x, x.shape[-1:])
    return torch.addcmul(scale[1][:, None, None], plain, scale[0][:, None, None])


def normalised_together(x: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Layer normalisation over tokens and features at once; scale and offset are those of features, so that tokens can
    still be interchanged. x: [S, M, n, H]; scale and offset: [S, H]."""
    plain = functional.layer_norm(x, x.shape[-2:])
    return torch.addcmul(scale[1][:, None, None], plain, scale[0][:, None, None])
