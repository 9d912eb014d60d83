"""What transformers over entities are made of. Tokens are [S, M, n, …]: stacks, rows, entities."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from phalanx.algorithms.common.linear import affine


def project(tokens: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    """A linear layer on every token. tokens: [S, …, I]. Returns [S, …, O]."""
    flat = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
    return affine(flat, *layer).view(-1, *tokens.shape[1:-1], layer[0].shape[1])


def attend(queries_keys_values: Tensor, heads: int) -> Tensor:
    """Scaled dot products, each head a part of H. queries_keys_values: [S, M, n, 3·H]. Returns [S, M, n, H]."""
    stacks, rows, count, width = queries_keys_values.shape
    parts = queries_keys_values.view(stacks * rows, count, 3, heads, width // (3 * heads))
    by_head = parts.permute(2, 0, 3, 1, 4).reshape(3, stacks * rows * heads, count, -1)
    if by_head.is_cuda:
        mixed = functional.scaled_dot_product_attention(by_head[0], by_head[1], by_head[2])
    else:
        mixed = cast(Tensor, _PackedAttention.apply(by_head))  # type: ignore[no-untyped-call]
    return mixed.view(stacks * rows, heads, count, -1).transpose(1, 2).reshape(stacks, rows, count, width // 3)


def folded(queries: Tensor, keys: Tensor, values: Tensor, unify: Tensor) -> tuple[Tensor, Tensor]:
    """Weights for `attend_folded`, of heads that are as wide as a token.

    queries, keys, values: [S, heads·H, H], unify: [S, H, heads·H]. As <W_q x, W_k y> is <W_k' W_q x, y>, and
    W_u (P W_v y) is (W_u W_v) (P y), the tokens themselves are keys and values. Returns [S, heads·H, H] and
    [S, H, heads·H].
    """
    stacks, _, size = queries.shape
    q, k, v = (weight.view(stacks, -1, size, size) for weight in (queries, keys, values))
    asking = (k.transpose(-1, -2) @ q).view(queries.shape)
    saying = (unify.view(stacks, size, -1, size).transpose(1, 2) @ v).transpose(1, 2).reshape(unify.shape)
    return asking, saying


def attend_folded(queries: Tensor, tokens: Tensor) -> Tensor:
    """queries: [S, M, q, heads·H], tokens: [S, M, n, H]. Returns what each head sees, [S, M, q, heads·H]."""
    count, size = tokens.shape[2:]
    flat = tokens.reshape(-1, count, size)
    each = queries.reshape(len(flat), -1, size)
    if each.is_cuda:
        return functional.scaled_dot_product_attention(each, flat, flat).view(queries.shape)
    return cast(Tensor, _TokenAttention.apply(each, flat)).view(queries.shape)  # type: ignore[no-untyped-call]


# Many small problems on a CPU, for which torch's blocked attention takes twice as long as plain products:


def _weights(queries: Tensor, keys: Tensor) -> Tensor:
    """queries: [R, q, D], keys: [R, n, D]. Returns [R, q, n]."""
    return torch.bmm(queries, keys.transpose(1, 2)).mul_(queries.shape[-1] ** -0.5).softmax(-1)


def _of_scores(grad: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """The gradient with respect to the products of queries and keys, [R, q, n]."""
    of_weights = torch.bmm(grad, values.transpose(1, 2))
    return torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(values.shape[-1] ** -0.5)


class _PackedAttention(torch.autograd.Function):
    """Of queries, keys and values [3, R, n, D]."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        weights = _weights(packed[0], packed[1])
        ctx.save_for_backward(packed, weights)
        return torch.bmm(weights, packed[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        packed, weights = ctx.saved_tensors
        scores = _of_scores(grads[0], packed[2], weights)
        of_packed = torch.empty_like(packed)
        torch.bmm(scores, packed[1], out=of_packed[0])
        torch.bmm(scores.transpose(1, 2), packed[0], out=of_packed[1])
        torch.bmm(weights.transpose(1, 2), grads[0], out=of_packed[2])
        return of_packed


class _TokenAttention(torch.autograd.Function):
    """Of queries [R, q, D] and tokens [R, n, D], which are keys and values."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, tokens: Tensor) -> Tensor:
        weights = _weights(queries, tokens)
        ctx.save_for_backward(queries, tokens, weights)
        return torch.bmm(weights, tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        queries, tokens, weights = ctx.saved_tensors
        scores = _of_scores(grads[0], tokens, weights)
        of_tokens = torch.bmm(weights.transpose(1, 2), grads[0])
        return torch.bmm(scores, tokens), of_tokens.baddbmm_(scores.transpose(1, 2), queries)


def normalised(x: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Layer normalisation of every token. x: [S, M, n, H]; scale and offset: [S, H]."""
    if len(scale[0]) == 1:
        return functional.layer_norm(x, x.shape[-1:], scale[0][0], scale[1][0])
    plain = functional.layer_norm(x, x.shape[-1:])
    return torch.addcmul(scale[1][:, None, None], plain, scale[0][:, None, None])


def normalised_together(x: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Layer normalisation over tokens and features at once; scale and offset are those of features, so that tokens can
    still be interchanged. x: [S, M, n, H]; scale and offset: [S, H]."""
    if len(scale[0]) == 1:
        shape = x.shape[-2:]
        return functional.layer_norm(x, shape, scale[0].expand(shape), scale[1].expand(shape))
    plain = functional.layer_norm(x, x.shape[-2:])
    return torch.addcmul(scale[1][:, None, None], plain, scale[0][:, None, None])
