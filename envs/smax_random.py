"""jax's own random numbers (threefry, the same bits), computed in one fused operation instead of a loop.

On CPUs jax compiles each call as a loop of five small operations. In a simulator of small arrays, which draws in every
one of eight inner steps, these loops are a large part of the time.
"""

from __future__ import annotations

import importlib
from typing import Any

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def unrolled_threefry(jax: Any) -> Any:
    """An implementation of random numbers for `jax.random.wrap_key_data`: keys are two words, as jax's own are.

    Threefry-2x32 with 20 rounds (Salmon et al. 2011, Random123), counting as jax does by default
    (`jax_threefry_partitionable`).
    """
    define_prng_impl = importlib.import_module("jax.extend.random").define_prng_impl
    jnp = jax.numpy

    def mixed(keys: Any, high: Any, low: Any) -> tuple[Any, Any]:
        k = (keys[0], keys[1], keys[0] ^ keys[1] ^ jnp.uint32(PARITY))
        x, y = high + k[0], low + k[1]
        for turn in range(5):
            for distance in ROTATIONS[turn % 2]:
                x = x + y
                y = x ^ ((y << distance) | (y >> (32 - distance)))
            x = x + k[(turn + 1) % 3]
            y = y + k[(turn + 2) % 3] + jnp.uint32(turn + 1)
        return x, y

    def counted(shape: tuple[int, ...]) -> tuple[Any, Any]:
        size = 1
        for length in shape:
            size *= length
        low = jnp.arange(size, dtype=jnp.uint32).reshape(shape)
        return jnp.zeros_like(low), low

    def split(keys: Any, shape: tuple[int, ...]) -> Any:
        return jnp.stack(mixed(keys, *counted(shape)), axis=-1)

    def bits(keys: Any, bit_width: int, shape: tuple[int, ...]) -> Any:
        if bit_width != 32:
            raise NotImplementedError(f"the simulator asked for random numbers of {bit_width} bits, not 32")
        x, y = mixed(keys, *counted(shape))
        return x ^ y

    def seed(number: Any) -> Any:
        return jnp.stack([jnp.zeros((), jnp.uint32), jnp.asarray(number).astype(jnp.uint32)])

    def fold_in(keys: Any, data: Any) -> Any:
        return jnp.stack(mixed(keys, *seed(data)))

    return define_prng_impl(
        key_shape=(2,), seed=seed, split=split, random_bits=bits, fold_in=fold_in, name="unrolled_threefry"
    )
