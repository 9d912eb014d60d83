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


def folded(queries: Tensor, keys: Tensor, values: Tensor, unify: Tensor) -> tuple[Tensor, Tensor]:
    """Weights for `attend_folded`, of heads that are as wide as a token.

    queries, keys, values: [S, heads·H, H], unify: [S, H, heads·H]. As <W_q x, W_k y> = <W_k' W_q x, y> and W_u (P W_v y) =
    (W_u W_v) (P y), the tokens themselves are keys and values. Returns [S, heads·H, H] and [S, H, heads·H].
    """
    stacks, _, size = queries.shape
    q, k, v = (weight.view(stacks, -1, size, size) for weight in (queries, keys, values))
    asking = (k.transpose(-1, -2) @ q).view(queries.shape)
    saying = (unify.view(stacks, size, -1, size).transpose(1, 2) @ v).transpose(1, 2).reshape(unify.shape)
    return asking, saying


def attend_folded(queries: Tensor, tokens: Tensor) -> Tensor:
    """queries: [S, M, q, heads·H], tokens: [S, M, n, H]. Returns what each head sees, [S, M, q, heads·H]."""
    stacks, rows, asking, width = queries.shape
    count, size = tokens.shape[2:]
    flat = tokens.reshape(-1, 1, count, size)
    mixed = functional.scaled_dot_product_attention(queries.reshape(-1, 1, asking * (width // size), size), flat, flat)
    return mixed.reshape(stacks, rows, asking, width)


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
